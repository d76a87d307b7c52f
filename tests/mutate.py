"""Apply each one-line mutation of mutations.toml to a copy and run the tests that should fail.

    python tests/mutate.py [NAME ...] [--jobs 2]

A mutation is caught if a named test fails, and survives if all of them pass. The tests must pass
without it. Exits with 1 if a mutation survives, or no longer applies.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PASSED, FAILED = 0, 1  # exit codes of pytest
LIMIT = 600
"""Seconds for the tests of one mutation; a mutation may make a loop endless."""


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
    text = (ROOT / "tests" / "mutations.toml").read_text(encoding="utf-8")
    return [Mutation(**values) for values in tomllib.loads(text)["mutation"]]


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


def run_tests(project: Path, tests: Iterable[str]) -> int:
    """Run tests in a copy of the project; returns the exit code of pytest."""
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return FAILED
    if done.returncode not in (PASSED, FAILED):
        print(done.stdout[-3000:], done.stderr[-1000:], file=sys.stderr)
    return done.returncode


def apply(mutation: Mutation, project: Path) -> None:
    """Change the line in a copy of the project."""
    path = project / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.line) != 1:
        times = text.count(mutation.line)
        raise SystemExit(f"{mutation.name}: {mutation.file} contains the line {times} times, not 1")
    path.write_text(text.replace(mutation.line, mutation.becomes), encoding="utf-8")


def try_mutation(mutation: Mutation) -> str:
    """Returns "caught", "survived", or "error" if pytest could not run the tests."""
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_project(Path(folder) / "project")
        apply(mutation, project)
        code = run_tests(project, mutation.tests)
    return {PASSED: "survived", FAILED: "caught"}.get(code, "error")


def main() -> int:
    """Try the mutations and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names (default: all mutations)")
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at once (default: 2)")
    options = parser.parse_args()
    chosen = [
        mutation
        for mutation in mutations()
        if not options.names or any(part in mutation.name for part in options.names)
    ]
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_project(Path(folder) / "project")
        tests = dict.fromkeys(test for mutation in chosen for test in mutation.tests)
        if run_tests(project, tests) != PASSED:
            raise SystemExit("the tests fail without a mutation; run them first")
    counts: dict[str, int] = {"caught": 0, "survived": 0, "error": 0}
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, result in zip(chosen, pool.map(try_mutation, chosen), strict=True):
            counts[result] += 1
            print(f"{result:8}  {mutation.package:10}  {mutation.name}", flush=True)
    print(", ".join(f"{count} {result}" for result, count in counts.items()))
    return 0 if counts["caught"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
