"""Several runs at once: the same runs as one after another, and what ends their processes."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import torch
from tests.helpers import two_tasks, write_two_tasks

from comity import Recipe
from comity.cli.main import main
from comity.errors import ComityError
from comity.experiments.jobs import train_at_once
from comity.experiments.sweep import Sweep
from comity.runs.directory import RunDirectory
from comity.terminal.progress import JobsDisplay
from comity.training.events import Event, Listener, StepDone, StopRequested
from comity.training.interrupts import Interrupted, Interrupts
from comity.training.plan import PlannedRun
from comity.training.train import train

RATES = "train.lr=1e-3,3e-3"


@dataclass(frozen=True)
class Job:
    """A run that a test function trains in another process."""

    name: str
    out: Path = Path()
    recipe: Recipe | None = None


def display(*names: str) -> JobsDisplay:
    return JobsDisplay([PlannedRun(name, "to train", 8, 64, 640) for name in names])


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint) -> Path:
    """A recipe on disk, its data beside it."""
    write_two_tasks(tmp_path / "data")
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(two_tasks(tiny_checkpoint).to_dict()))
    return path


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    folders = [str(recipe), "--data", str(recipe.parent / "data"), "--out", str(out)]
    return ["sweep", *folders, "--set", *more]


def digest(run: Path) -> str:
    """SHA-256 of the kept weights of a run, and of its predictions."""
    found = hashlib.sha256()
    kept = RunDirectory.open(run).kept_model()
    for file in [
        *sorted(kept.glob("*.safetensors")),
        *sorted((run / "predictions").rglob("*.csv")),
    ]:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def table(out: Path) -> list[dict[str, str]]:
    with (out / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def wait_for(file: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    assert file.is_file()


# --- the same runs --------------------------------------------------------------------------------


def test_each_run_is_the_run_alone_with_its_share_of_the_threads(
    recipe, tmp_path, capsys, monkeypatch
):
    # Two threads for all are one for each. A new process would take two by itself.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    try:
        assert main([*command(recipe, tmp_path / "together", RATES), "--jobs", "2"]) == 0
    finally:
        torch.set_num_threads(1)
    for name, rate in (("train.lr=0.001", "1e-3"), ("train.lr=0.003", "3e-3")):
        point = Recipe.load(recipe, [f"train.lr={rate}"])
        alone = train(point, tmp_path / "data", tmp_path / "alone" / name)
        run = tmp_path / "together" / name
        assert RunDirectory.open(run).facts().machine.threads == 1
        assert digest(run) == digest(alone.path)
        assert not list(run.glob("checkpoint-*"))  # a finished run needs none
    assert [row["train.lr"] for row in table(tmp_path / "together")] == ["0.001", "0.003"]
    shown = capsys.readouterr().err
    for number, rate in enumerate(("0.001", "0.003"), start=1):
        assert f"run {number} of 2: train.lr={rate}\n" in shown
        assert f"\ntrain.lr={rate}: step 4: dev mood accuracy" in shown
        assert f"\ntrain.lr={rate}: finished\n" in shown


def test_the_threads_do_not_depend_on_how_many_runs_are_left(recipe, tmp_path, monkeypatch):
    asked = []

    def fail(train, runs, jobs, display):
        asked.append((len(runs), jobs))
        return [f"{run.name}: is wrong" for run in runs]

    monkeypatch.setattr("comity.experiments.runner.train_at_once", fail)
    sweep = Sweep(recipe, ["train.lr=1e-3,3e-3,5e-3"], tmp_path / "data", tmp_path / "out")
    with pytest.raises(ComityError):
        sweep.train(quiet=True, jobs=9)
    sweep.series.not_needed = {"train.lr=0.001", "train.lr=0.003"}
    with pytest.raises(ComityError) as caught:
        sweep.train(quiet=True, jobs=2)
    assert asked == [(3, 3), (1, 2)]
    assert caught.value.messages == ["train.lr=0.005: is wrong"]


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "two", ""])
def test_a_number_of_jobs_that_makes_no_sense_is_one_sentence(recipe, tmp_path, capsys, number):
    assert main([*command(recipe, tmp_path / "out", RATES), "--jobs", number]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --jobs must be a whole number of at least 1, got {number}"


# --- the end of a process -------------------------------------------------------------------------


def _end_as_named(job: Job, on_event: Listener) -> None:
    os.kill(os.getpid(), signal.SIGINT)  # of a terminal; only the parent may act on it
    if job.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "no disk":
        raise OSError(28, "No space left on device", "recipe.toml")
    if job.name == "two errors":
        raise ComityError("a: is wrong", "b: is wrong too")


@pytest.mark.slow
def test_a_run_that_fails_or_is_killed_stops_no_other(capsys):
    names = ("killed", "no disk", "two errors")
    assert train_at_once(_end_as_named, [Job(name) for name in names], 2, display(*names)) == [
        "killed: its process was ended by SIGKILL; repeat the command to resume it, with fewer "
        "--jobs if the memory was full",
        "no disk: recipe.toml: No space left on device; free some space or choose another --out",
        "two errors: a: is wrong",
        "two errors: b: is wrong too",
    ]
    ends = [line for line in capsys.readouterr().err.splitlines() if line.endswith(": failed")]
    assert sorted(ends) == ["killed: failed", "no disk: failed", "two errors: failed"]


def _stop_all_after_step_3(job: Job, on_event: Listener) -> None:
    """Train a run until all are at step 3; then one sends Ctrl-C to the parent."""
    ready = job.out.parent.parent / f"{job.name}.ready"
    stopped = []

    def listen(event: Event) -> None:
        on_event(event)
        if isinstance(event, StopRequested):
            stopped.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            ready.write_text("")
            while len(list(ready.parent.glob("*.ready"))) < 2:
                time.sleep(0.02)
            if job.name == "train.lr=0.001":
                os.kill(os.getppid(), signal.SIGINT)
            while not stopped:  # until the parent has passed it on
                time.sleep(0.02)

    assert job.recipe is not None
    train(job.recipe, ready.parent / "data", job.out, on_event=listen)


@pytest.mark.slow
def test_an_interrupt_leaves_checkpoints_and_the_command_resumes(recipe, tmp_path, capsys):
    sweep = Sweep(recipe, [RATES], tmp_path / "data", tmp_path / "out")
    points = [Job(point.name, sweep.out / point.name, point.recipe) for point in sweep.points]
    names = [*(job.name for job in points), "later"]
    with pytest.raises(Interrupted) as caught:
        train_at_once(_stop_all_after_step_3, [*points, Job("later")], 2, display(*names))
    assert caught.value.exit_code == 130
    shown = capsys.readouterr().err
    assert "SIGINT: every run stops after its current step, with a checkpoint\n" in shown
    assert "later" not in shown  # no run starts after the signal
    assert [RunDirectory.open(job.out).status().step for job in points] == [3, 3]
    sweep.train(quiet=True)
    for job in points:
        assert job.recipe is not None
        alone = train(job.recipe, tmp_path / "data", tmp_path / "alone" / job.name)
        assert digest(job.out) == digest(alone.path)
        assert f"{job.name}: stopped\n" in shown


def _ignore_the_stop(job: Job, on_event: Listener) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGINT)
    while not (job.out / "told").is_file():
        time.sleep(0.02)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(5.0)
    (job.out / "outlived").write_text("")


@pytest.mark.slow
def test_a_second_signal_kills(tmp_path, monkeypatch):
    monkeypatch.setattr("comity.training.interrupts.REPEATED", -1.0)
    shown = display("stubborn")
    shown.stop_requested = lambda signal: (tmp_path / "told").write_text(signal)
    with pytest.raises(Interrupted, match="stopped by a second SIGINT"):
        train_at_once(_ignore_the_stop, [Job("stubborn", tmp_path)], 1, shown)
    assert not (tmp_path / "outlived").exists()


def _wait_for_a_stop(job: Job, on_event: Listener) -> None:
    """As a run between two steps: ends with a sentence at the first signal."""
    with Interrupts(lambda name: None) as interrupts:
        (job.out / f"{job.name}.begun").write_text(str(os.getpid()))
        while interrupts.received is None:
            time.sleep(0.02)
        (job.out / f"{job.name}.saved").write_text(signal.Signals(interrupts.received).name)


@pytest.mark.slow
def test_a_process_whose_parent_is_killed_stops_with_a_checkpoint(tmp_path):
    code = f"""
from pathlib import Path
from tests.experiments.test_jobs import Job, _wait_for_a_stop, display
from comity.experiments.jobs import train_at_once
train_at_once(_wait_for_a_stop, [Job("one", Path({str(tmp_path)!r}))], 1, display("one"))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_for(tmp_path / "one.begun")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "one.saved")
    assert (tmp_path / "one.saved").read_text() == "SIGTERM"
