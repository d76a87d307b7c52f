"""The run directory: typed records, damage, and what a resumed run forgets."""

import json
import subprocess
from pathlib import Path

import pytest

from comity import ComityError
from comity.runs import (
    BestModel,
    EndEntry,
    RecordedScore,
    RunDirectory,
    SkippedEntry,
    TrainEntry,
    current_commit,
    is_finished,
)
from comity.targets import HeadSpec, Target
from tests.helpers import run_facts, two_tasks


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A run directory with a recipe and facts, before training."""
    directory = RunDirectory.create(tmp_path / "run")
    directory.write_recipe(two_tasks(Path("encoder")))
    target = Target("classification", "linear", classes=("down", "up"))
    directory.write_facts(run_facts({"mood": HeadSpec(target, ("first",))}, {"mood": "accuracy"}))
    return directory


def train_entry(step: int) -> TrainEntry:
    return TrainEntry(
        step=step,
        examples=8 * step,
        loss={"mood": None},
        gradient_norm=None,
        skipped=0,
        examples_per_second=1.0,
        tokens_per_second=2.0,
    )


def test_facts_are_read_as_they_were_written(run):
    target = Target("classification", "linear", classes=("down", "up"))
    expected = run_facts({"mood": HeadSpec(target, ("first",))}, {"mood": "accuracy"})
    assert run.facts() == expected
    assert json.loads((run.path / "run.json").read_text())["format"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-9], "cannot be read; the run is damaged"),
        (lambda text: text.replace('"seed": 0', '"seed": "x"'), "seed is missing or has the wrong"),
        (lambda text: text.replace('"tokenizer"', '"other"', 1), "inputs.tokenizer is missing"),
        (lambda text: text.replace('"format": 3', '"format": 2'), "another version of comity"),
        (lambda text: "[]", "the whole file is missing or has the wrong type"),
    ],
)
def test_a_damaged_run_is_one_sentence(run, change, said):
    path = run.path / "run.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ComityError) as caught:
        RunDirectory.open(run.path)
    (message,) = caught.value.messages
    assert said in message
    assert str(run.path) in message
    assert "\n" not in message


def test_damage_to_best_json_is_one_sentence(run):
    (run.path / "best.json").write_text('{"folder": "best-000007"}')
    with pytest.raises(ComityError, match=r"best\.json: step is missing") as caught:
        run.best()
    assert len(caught.value.messages) == 1


def test_metrics_are_typed_and_a_cut_line_is_left_out(run):
    entries = [train_entry(2), SkippedEntry(step=3, task="mood", lines=[4, 5])]
    for entry in entries:
        run.log(entry)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"type": "train", "step": 4, "exam')
    assert run.metrics() == entries
    assert run.entries(SkippedEntry) == entries[1:]
    assert not is_finished(run.path)


def test_a_resumed_run_forgets_the_steps_it_repeats(run):
    for step in (1, 2, 3):
        run.log(train_entry(step))
    end = EndEntry(step=3, examples=24, skipped=0, stopped_early=False)
    run.log(end)
    assert is_finished(run.path)
    run.forget_after(2)
    assert run.metrics() == [train_entry(1), train_entry(2)]
    assert not is_finished(run.path)


def test_only_the_newest_best_model_is_kept(run):
    for step in (3, 5):
        best = BestModel(f"best-{step:06d}", step, "mean", RecordedScore("mean", 0.5), {})
        run.write_best(best, lambda folder: (folder / "weights").write_text("1") and None)
    assert run.best().step == 5
    assert [path.name for path in run.path.glob("best-*")] == ["best-000005"]


def test_an_incomplete_checkpoint_is_not_the_newest(run):
    for step in (3, 12):
        folder = run.path / f"checkpoint-{step:06d}"
        run.write_checkpoint(step, lambda folder: (folder / "state").write_text("1") and None)
        assert run.newest_checkpoint() == folder
    (run.path / "checkpoint-000012" / "state").write_text("2")
    with pytest.raises(ComityError, match="no complete checkpoint"):
        run.newest_checkpoint()


def test_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert current_commit() is None  # no commit yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    log = subprocess.run([*git, "log", "--format=%H"], capture_output=True, text=True, check=True)
    assert current_commit() == log.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert current_commit() is None


@pytest.mark.parametrize(
    "damage",
    [lambda line: line.replace(b'"loss"', b'"lsos"'), lambda line: b"\xff\xfe", lambda line: b"{"],
)
def test_a_damaged_line_of_metrics_is_an_error_and_not_lost(run, damage):
    for step in (1, 2, 3):
        run.log(train_entry(step))
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage(lines[1]), lines[2]]) + b"\n")
    before = path.read_bytes()
    for read in (run.metrics, lambda: run.forget_after(3)):
        with pytest.raises(ComityError, match=r"metrics\.jsonl:2: .* the run is damaged"):
            read()
    assert path.read_bytes() == before


def test_a_file_is_not_a_run_directory_and_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    for claim in (RunDirectory.check_new, RunDirectory.create):
        with pytest.raises(ComityError, match="is a file"):
            claim(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
