"""Apply each one-line mutation of mutations.toml to a copy and run the tests that should fail.

    python tests/mutate.py [NAME ...] [--jobs 2]

A mutation is caught if a named test fails, and survives if all of them pass. The tests must pass
without it, and every package needs a mutation. Exits with 1 if a mutation survives, or no longer
applies.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "comity"
MUTATIONS = ROOT / "tests" / "mutations.toml"
LIMIT = 300
"""Seconds for the tests of one mutation; a mutation may make a loop endless."""

CAUGHT, SURVIVED, ERROR = "caught", "survived", "error"


@dataclass(frozen=True)
class Mutation:
    """One line changed in one file."""

    name: str  # what goes wrong
    file: str
    line: str  # must occur once
    becomes: str
    tests: list[str]  # arguments of pytest

    @property
    def package(self) -> str:
        """The part of comity that is changed."""
        return Path(self.file).relative_to("src/comity").parts[0].removesuffix(".py")


def mutations() -> list[Mutation]:
    """All mutations of mutations.toml."""
    values = tomllib.loads(MUTATIONS.read_text(encoding="utf-8"))
    return [Mutation(**mutation) for mutation in values["mutation"]]


def mutated(mutation: Mutation) -> str:
    """The text of the file with the line changed.

    Raises:
        ValueError: the line does not occur once, or the change is none or is not Python.
    """
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    times = text.count(mutation.line)
    if times != 1:
        raise ValueError(f"{mutation.file} contains the line {times} times, not once")
    changed = text.replace(mutation.line, mutation.becomes)
    try:
        same = _parsed(text) == _parsed(changed)
    except SyntaxError as error:
        raise ValueError(f"the changed line is not Python ({error.msg})") from None
    if same:
        raise ValueError("nothing changes")
    return changed


@lru_cache(maxsize=8)
def _parsed(text: str) -> str:
    return ast.dump(ast.parse(text))


def mistakes(found: Sequence[Mutation]) -> list[str]:
    """What is wrong with mutations.toml, and which package has no mutation."""
    sentences = []
    for mutation in found:
        try:
            mutated(mutation)
        except ValueError as error:
            sentences.append(f"{mutation.name}: {error}")
    names = Counter(mutation.name for mutation in found)
    sentences += [f"{name}: occurs {times} times" for name, times in names.items() if times > 1]
    missing = packages() - {mutation.package for mutation in found}
    return sentences + [f"{name}: has no mutation" for name in sorted(missing)]


def packages() -> set[str]:
    """The packages of comity, and its modules that are in no package."""
    modules = {path.stem for path in SOURCE.glob("*.py")}
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    return folders | {name for name in modules if not name.startswith("__")}


def copy_of_project(folder: Path) -> Path:
    """Copy the files that the tests need, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir() and not (folder.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(shared)
    return folder


class Passed:
    """A plugin of pytest that counts the tests that passed."""

    count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test, not its fixtures."""
        self.count += report.when == "call" and report.passed


def run_tests(project: Path, tests: Iterable[str]) -> str:
    """Run tests in a copy of the project: "survived" if all pass, "caught" if one fails.

    Call it once in a process, since imported modules stay. "error" means that no test ran.
    """
    multiprocessing.current_process().daemon = False  # so that tests may start processes
    os.chdir(project)
    os.environ |= {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    sys.path[0] = str(project / "src")  # in place of the folder of this file
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    passed = Passed()
    # With this profile hypothesis draws the same examples each time, and has no deadline.
    options = ["-x", "-p", "no:cacheprovider", "--hypothesis-profile=ci"]
    with tempfile.TemporaryFile("w+") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        code = pytest.main([*options, *tests], plugins=[passed])
        signal.alarm(0)
        if code == pytest.ExitCode.TESTS_FAILED:
            return CAUGHT
        if code == pytest.ExitCode.OK and passed.count:
            return SURVIVED
        output.seek(0)
        return f"{ERROR}: {output.read()[-3000:]}"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"the tests took more than {LIMIT} seconds")


def try_mutation(mutation: Mutation) -> str:
    """What `run_tests` returns for a copy with the mutation."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_project(Path(folder) / "project")
        (project / mutation.file).write_text(mutated(mutation), encoding="utf-8")
        return run_tests(project, mutation.tests)


def try_tests(tests: Sequence[str]) -> str:
    """What `run_tests` returns for an unchanged copy."""
    with tempfile.TemporaryDirectory() as folder:
        return run_tests(copy_of_project(Path(folder) / "project"), tests)


def pool(jobs: int) -> Any:
    """Processes for one task each; they inherit the libraries, which take seconds to import."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for library in ("hypothesis", "scipy.stats", "sklearn.metrics", "torch", "transformers"):
        importlib.import_module(library)
    return multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1)


def main() -> int:
    """Try the mutations and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at once (default: 2)")
    options = parser.parse_args()
    known = mutations()
    if wrong := mistakes(known):
        raise SystemExit("\n".join(["mutations.toml must be corrected:", *wrong]))
    chosen = [
        mutation
        for mutation in known
        if not options.names or any(part in mutation.name for part in options.names)
    ]
    if not chosen:
        raise SystemExit("no mutation has such a name")
    by_file: dict[str, dict[str, None]] = defaultdict(dict)
    for test in (test for mutation in chosen for test in mutation.tests):
        by_file[test.partition("::")[0]][test] = None
    counts = dict.fromkeys((CAUGHT, SURVIVED, ERROR), 0)
    with pool(options.jobs) as processes:
        unchanged = processes.imap(try_tests, map(list, by_file.values()), chunksize=1)
        for file, result in zip(by_file, unchanged, strict=True):
            if result != SURVIVED:
                raise SystemExit(f"{file}: the tests fail without a mutation; run them first")
        results = processes.imap(try_mutation, chosen, chunksize=1)
        for mutation in chosen:
            # A process that a mutation has killed never answers.
            result, _, output = results.next(timeout=2 * LIMIT).partition(": ")
            counts[result] += 1
            print(f"{result:8}  {mutation.package:11}  {mutation.name}", flush=True)
            if output:
                print(output, file=sys.stderr)
    print(", ".join(f"{count} {result}" for result, count in counts.items()))
    return 0 if counts[CAUGHT] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
