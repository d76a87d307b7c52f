"""Faults that a run meets, each with what it has to do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from comity.runs.directory import RunDirectory
from tests.helpers import write_two_tasks
from tests.torture.cover import FEATURES, recipe_of
from tests.torture.kill import digest

CHOICE = {name: values[0] for name, values in FEATURES.items()} | {"stages": "two"}


@dataclass(frozen=True)
class Found:
    """What happened."""

    sentence: str
    survived: bool = False
    tried: bool = True


class Job:
    """A recipe with its data in a folder, trained by the command line in new processes."""

    def __init__(self, folder: Path, encoder: Path, **changes: object):
        self.folder = folder
        self.data = folder / "data"
        self.run = folder / "run"
        write_two_tasks(self.data)
        recipe = recipe_of(CHOICE, encoder, self.data).to_dict()
        recipe["train"] |= changes
        (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))

    def train(
        self,
        out: Path,
        environment: Mapping[str, str] | None = None,
        limit: Callable[[], None] | None = None,
        setup: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Start or resume the run in `out`; `setup` is Python that the process executes first."""
        words = ["train", "recipe.toml", "--data", "data", "--out", str(out), "--or-resume"]
        code = f"import sys; {setup}\nfrom comity.cli.main import main; sys.exit(main({words!r}))"
        # Environment variables that Python needs to find the packages.
        needed = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        base = dict(os.environ) if environment is None else dict(environment)
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=base | needed,
            capture_output=True,
            text=True,
            preexec_fn=limit,
        )

    def expected(self) -> str:
        """The digest of an undisturbed run."""
        whole = self.folder / "whole"
        done = self.train(whole)  # trains only once
        assert done.returncode == 0, done.stderr
        return digest(whole)

    def ends_the_same(self, out: Path | None = None) -> bool:
        """Whether the run, started or resumed now, ends as an undisturbed one."""
        out = out or self.run
        done = self.train(out)
        return done.returncode == 0 and digest(out) == self.expected()


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed on standard error."""
    return (done.stderr.strip().splitlines() or ["(nothing)"])[-1]


def is_one_sentence(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command failed with an error that the user can fix."""
    return done.returncode == 2 and "Traceback" not in done.stderr


def full_disk(folder: Path, encoder: Path) -> Found:
    """The disk is full from some instant on."""
    job, small = Job(folder, encoder), folder / "small"
    small.mkdir()
    job.expected()
    needed = sum(file.stat().st_size for file in (folder / "whole").rglob("*") if file.is_file())
    size = f"size={int(0.8 * needed)}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        return Found("not tried: a small file system cannot be mounted here", tried=False)
    try:
        done = job.train(small / "run")
        told = "training continues" in done.stderr
        partial = [path.name for path in (small / "run").glob(".*-*")]
        moved = shutil.copytree(small / "run", folder / "moved") if is_one_sentence(done) else None
        same = moved is not None and job.ends_the_same(moved)
        return Found(last_line(done)[-100:], told and same and not partial)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def no_memory(folder: Path, encoder: Path) -> Found:
    """Memory runs out in a step."""
    job = Job(folder, encoder)
    limit = "import comity.training.task_gradients as t; f = t.TaskGradients.fill\n"
    limit += "def fill(self, gradients, batches, together, *keys):\n"
    limit += "    import resource, torch\n"
    limit += "    if keys == (3,):\n"
    limit += "        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))\n"
    limit += "        torch.empty(2**30)\n"
    limit += "    return f(self, gradients, batches, together, *keys)\n"
    limit += "t.TaskGradients.fill = fill\n"
    done = job.train(job.run, setup=limit)
    good = is_one_sentence(done) and "out of memory in step 4" in done.stderr
    return Found(last_line(done)[-100:], good and job.ends_the_same())


def bare_environment(folder: Path, encoder: Path) -> Found:
    """There is no environment: no home directory, no locale, no terminal."""
    job = Job(folder, encoder)
    done = job.train(job.run, environment={"HOME": "/nonexistent", "LC_ALL": "C"})
    return Found(f"exit code {done.returncode}", done.returncode == 0 and job.ends_the_same())


def odd_path(folder: Path, encoder: Path) -> Found:
    """Folders have spaces, quotes and letters outside ASCII in their names."""
    odd = folder / "a 'folder' named ü [x]"
    odd.mkdir()
    job = Job(odd, encoder)
    done = job.train(job.run)
    return Found(f"exit code {done.returncode}", done.returncode == 0 and job.ends_the_same())


def clock(folder: Path, encoder: Path) -> Found:
    """The clock jumps back by a day at every look."""
    job = Job(folder, encoder, checkpoint_every="0.001 min")
    jump = "import time, itertools; n = itertools.count()\n"
    jump += "now = time.time; time.time = lambda: now() - 86400 * next(n)\n"
    done = job.train(job.run, setup=jump)
    return Found(f"exit code {done.returncode}", done.returncode == 0 and job.ends_the_same())


def readonly_cache(folder: Path, encoder: Path) -> Found:
    """The folder of the token cache cannot be written."""
    job = Job(folder, encoder)
    (folder / "cache").write_text("a file where a folder should be")
    done = job.train(job.run, environment={**os.environ, "COMITY_CACHE": str(folder / "cache")})
    return Found(f"exit code {done.returncode}", done.returncode == 0 and job.ends_the_same())


def data_changes(folder: Path, encoder: Path) -> Found:
    """A data file changes while the run is stopped."""
    job = Job(folder, encoder)
    stop = "import os, signal; import comity.terminal.progress as p\n"
    stop += "p.Display.step_done = lambda self, e: e.step == 3 and os.kill(os.getpid(), 9)\n"
    job.train(job.run, setup=stop)
    file = job.data / "mood.csv"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"good", b"great"))
    done = job.train(job.run)
    refused = is_one_sentence(done) and "changed" in done.stderr
    file.write_bytes(before)
    return Found(last_line(done)[-100:], refused and job.ends_the_same())


def two_processes(folder: Path, encoder: Path) -> Found:
    """Two processes train in one directory."""
    job = Job(folder, encoder)
    second = "import comity.terminal.progress as p, subprocess, sys, os\n"
    second += "def once(self, e):\n"
    second += "    if e.step == 3:\n"
    second += (
        "        c = [sys.executable, '-m', 'comity', 'train', 'recipe.toml', '--data', 'data']\n"
    )
    second += (
        "        d = subprocess.run([*c, '--out', 'run', '--or-resume'], capture_output=True)\n"
    )
    second += "        print('second', d.returncode, b'another process' in d.stderr)\n"
    second += "p.Display.step_done = once\n"
    done = job.train(job.run, setup=second)
    refused = "second 2 True" in done.stdout
    same = done.returncode == 0 and digest(job.run) == job.expected()
    return Found("the second is refused" if refused else done.stdout[:60], refused and same)


def not_finite(folder: Path, encoder: Path) -> Found:
    """The loss is not finite any more."""
    job = Job(folder, encoder, lr=1e30, max_grad_norm=0)
    done = job.train(job.run)
    finite = not RunDirectory(job.run).is_finished()
    return Found(last_line(done)[-100:], is_one_sentence(done) and finite)


FAULTS: list[Callable[[Path, Path], Found]] = [
    full_disk,
    no_memory,
    not_finite,
    data_changes,
    two_processes,
    bare_environment,
    odd_path,
    clock,
    readonly_cache,
]
