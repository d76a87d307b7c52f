"""Runs that a process trains until it is killed, and that a new process resumes."""

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.runs.directory import RunDirectory
from comity.training.events import Evaluated, Event, StepDone, ignore

TIMES = ("examples_per_second", "tokens_per_second")
"""What two equal runs may differ in."""


def start(*arguments: Any) -> multiprocessing.Process:
    """A new process that calls `_train(*arguments)`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["comity.training.train", "tests.torture.kill"])
    process = context.Process(target=_train, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def trained(*arguments: Any) -> int:
    """Train in a new process; returns its exit code, which is negative for a signal."""
    process = start(*arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(recipe: Any, data: Path, out: Path, stop: "Stop | None" = None) -> None:
    """Train or resume a run in this process, which kills itself at `stop`."""
    import torch

    from comity.training.train import train

    torch.set_num_threads(1)
    try:
        train(recipe, data, out, resume="auto", on_event=stop.install() if stop else ignore)
    except ComityError:
        sys.exit(2)


@dataclasses.dataclass(frozen=True)
class Stop:
    """Where a process kills itself, without a chance to write anything."""

    step: int
    where: str = "after the step"

    def install(self) -> Callable[[Event], None]:
        """A listener that kills the process, or lets it be killed while it writes."""

        def listen(event: Event) -> None:
            if self.where == "after the evaluation":
                if isinstance(event, Evaluated) and event.step == self.step:
                    kill()
            elif isinstance(event, StepDone) and event.step == self.step:
                kill() if self.where == "after the step" else kill_in(PLACES[self.where])

        return listen


PLACES = {
    "in a checkpoint": ("comity.training.checkpoint", "save_file"),
    "before its manifest": ("comity.files", "sha256_of"),
    "before it is renamed": ("comity.files", "_sync"),
    "in the predictions": ("comity.training.trainer", "write_predictions"),
    "in the best model": ("comity.training.trainer", "save_model"),
    "in metrics.jsonl": ("comity.runs.directory", "append"),
}
"""A function that is called while files are written, and that does half of its work."""


def kill_in(place: tuple[str, str]) -> None:
    """Replace a function so that its next call kills the process."""
    import importlib

    module, name = place
    found = importlib.import_module(module)
    original = getattr(found, name)

    def half(*arguments: Any, **keywords: Any) -> None:
        if name == "append":  # half a line
            path, text = arguments
            original(path, text[: len(text) // 2])
        elif name in ("save_file", "save_model", "write_predictions"):
            original(*arguments, **keywords)
        kill()

    setattr(found, name, half)


def kill() -> None:
    """Kill this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # the signal is on its way


def digest(run: Path) -> str:
    """SHA-256 of the result of a run: weights, moments, entries but for times, predictions."""
    found = hashlib.sha256()
    directory = RunDirectory(run)
    for entry in directory.metrics():
        values = {k: v for k, v in dataclasses.asdict(entry).items() if k not in TIMES}
        found.update(repr(values).encode())
    found.update(repr(directory.best()).encode())
    newest = directory.checkpoints()[0]
    files = [
        newest / "state.safetensors",
        *sorted(directory.kept_model().rglob("*.safetensors")),
        *sorted((run / "predictions").rglob("*.csv")),
    ]
    for file in files:
        found.update(file.relative_to(run).as_posix().encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def leftovers(run: Path) -> list[str]:
    """Files and folders that a killed process has left."""
    return [p.name for p in run.rglob(".*") if p.name != ".lock"]
