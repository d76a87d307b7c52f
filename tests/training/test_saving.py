"""Training continues where a file of the run cannot be written, and loses nothing."""

import errno
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import two_tasks

from comity import ComityError, train
from comity.files import append
from comity.runs.directory import RunDirectory
from comity.runs.entries import EvaluationEntry, TrainEntry
from comity.training.events import SavingFailed, SavingWorks


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint):
    """8 steps, an evaluation after every second one."""
    return two_tasks(
        tiny_checkpoint, train__epochs=..., train__steps=8, train__evaluate_every=2,
        train__checkpoint_every=1, train__keep_checkpoints=9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, recipe, tmp_path_factory) -> RunDirectory:
    """A run on a disk with space."""
    return train(recipe, data, tmp_path_factory.mktemp("whole") / "run")


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


class Disk:
    """Fills up after step 4 of a run, when the checkpoints of steps 1 and 2 are surely written.

    It has space again after step `until`.
    """

    def __init__(self, monkeypatch, target: str, until: int):
        self.monkeypatch, self.target, self.until = monkeypatch, target, until
        self.events = []

    def __call__(self, event) -> None:
        self.events.append(event)
        step = getattr(event, "step", None)
        if type(event).__name__ == "StepDone" and step == 4:
            self.monkeypatch.setattr(self.target, full)
        if type(event).__name__ == "StepDone" and step == self.until:
            self.monkeypatch.undo()

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def contents(run: RunDirectory) -> dict[str, bytes]:
    """Every file that does not hold times, digests of such files or the run's id."""
    files = [*run.path.glob("best-*/**/*.safetensors"), *run.path.glob("predictions/*/*.csv")]
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files}


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    assert contents(run) == contents(other) != {}
    assert run.entries(EvaluationEntry) == other.entries(EvaluationEntry)
    assert [e.loss for e in run.entries(TrainEntry)] == [e.loss for e in other.entries(TrainEntry)]
    assert run.best() == other.best()
    newest = [load_file(r.checkpoints()[0] / "state.safetensors") for r in (run, other)]
    assert all(torch.equal(newest[0][name], newest[1][name]) for name in newest[1])
    assert run.status().sentence == "finished: step 8 of 8"


TARGETS = [
    "comity.files._sync",  # of a folder: best model, predictions, checkpoint
    "comity.runs.directory.append",  # metrics.jsonl
    "comity.training.trainer.save_model",  # the best model alone
    "comity.training.checkpoint.save_file",  # the checkpoint alone
    "comity.training.trainer.write_predictions",  # the predictions alone
    "comity.files.write_record",  # every manifest
]


@pytest.mark.parametrize("target", TARGETS)
def test_what_could_not_be_written_is_written_later(
    data, recipe, whole, tmp_path, monkeypatch, target
):
    disk = Disk(monkeypatch, target, until=7)
    run = train(recipe, data, tmp_path / "run", on_event=disk)
    assert_same(run, whole)
    assert [event.reason for event in disk.of(SavingFailed)] == ["No space left on device"]
    assert len(disk.of(SavingWorks)) == 1
    assert not list(run.path.glob(".*-*")), "an unfinished folder is left"


@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_stays_full_is_an_error_at_the_end_and_the_run_can_be_resumed(
    data, recipe, whole, tmp_path, monkeypatch, target
):
    disk = Disk(monkeypatch, target, until=99)
    with pytest.raises(ComityError, match=r"No space left on device.*--resume") as caught:
        train(recipe, data, tmp_path / "run", on_event=disk)
    assert len(caught.value.messages) == 1
    assert len(disk.of(SavingFailed)) == 1
    monkeypatch.undo()
    assert RunDirectory(tmp_path / "run").find_checkpoint()[0] is not None
    assert_same(train(recipe, data, tmp_path / "run", resume=True), whole)


def test_no_checkpoint_is_ahead_of_the_metrics(data, recipe, tmp_path, monkeypatch):
    """Else a resumed run would never write what was waiting."""
    disk = Disk(monkeypatch, "comity.runs.directory.append", until=99)
    with pytest.raises(ComityError, match="No space left"):
        train(recipe, data, tmp_path / "run", on_event=disk)
    run = RunDirectory(tmp_path / "run")
    assert max(int(folder.name[-6:]) for folder in run.checkpoints()) == 3
    assert max(entry.step for entry in run.metrics()) == 2


def test_a_best_model_that_waits_keeps_its_weights(data, recipe, tmp_path, monkeypatch):
    """The model of step 4 cannot be written before steps 5 and 6 have changed the weights."""

    def best_is_4(trainer, *_):
        return trainer.progress.step == 4

    with pytest.MonkeyPatch.context() as select:
        select.setattr("comity.training.trainer.Trainer._select", best_is_4)
        select.setattr("comity.training.trainer.selected", lambda scores, *_: scores["mood"])
        whole = train(recipe, data, tmp_path / "whole")
        disk = Disk(monkeypatch, "comity.training.trainer.save_model", until=6)
        run = train(recipe, data, tmp_path / "run", on_event=disk)
    assert run.best().step == 4
    assert contents(run) == contents(whole)


def test_the_user_is_told_once(data, recipe, tmp_path, monkeypatch, capsys):
    disk = Disk(monkeypatch, "comity.training.checkpoint.save_file", until=6)
    train(recipe, data, tmp_path / "run", on_event=disk, quiet=True)
    told = capsys.readouterr().err
    assert told.count("cannot be written (No space left on device); training continues") == 1
    assert told.count("The run can be written again") == 1


def test_an_entry_is_written_whole_or_not_at_all(tmp_path):
    """A file system with a limit accepts the first bytes of a line only."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            append(path, "a second line\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.filename == str(path)
    assert path.read_text() == "first\n"
