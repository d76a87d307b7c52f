"""The run directory: typed records, damage, and what a resumed run forgets."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers import end_entry, run_facts, two_tasks

from comity import ComityError
from comity.files import read_record, write_record
from comity.runs.directory import RunDirectory, is_finished
from comity.runs.entries import BestModel, RecordedScore, SkippedEntry, TrainEntry
from comity.runs.facts import current_commit
from comity.targets import HeadSpec, Target


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A run directory with a recipe and facts, before training."""
    directory = RunDirectory.create(tmp_path / "run")
    directory.write_recipe(two_tasks(Path("encoder")))
    target = Target("classification", "linear", classes=("down", "up"))
    directory.write_facts(run_facts({"mood": HeadSpec(target, ("first",))}, {"mood": "accuracy"}))
    return directory


def plain(text: str, old: str, new: str) -> str:
    """A record of an earlier version, which has no digest, with a change."""
    values = json.loads(text)
    del values["sha256"]
    return json.dumps(values).replace(old, new, 1)


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
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "has changed since it was written"),
        (lambda text: plain(text, '"seed": 0', '"seed": "x"'), "seed is missing or has the wrong"),
        (lambda text: plain(text, '"tokenizer"', '"other"'), "inputs.tokenizer is missing"),
        (lambda text: plain(text, '"format": 3', '"format": 2'), "another version of comity"),
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
    run.log(end_entry(3))
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


def test_a_flipped_byte_in_the_kept_model_is_found(run):
    best = BestModel("best-000003", 3, "mean", RecordedScore("mean", 0.5), {})
    run.write_best(best, lambda folder: (folder / "weights").write_bytes(b"123") and None)
    assert run.kept_model() == run.path / "best-000003"
    (run.path / "best-000003" / "weights").write_bytes(b"133")
    with pytest.raises(ComityError, match="is damaged: weights has changed since it was written"):
        run.kept_model()


def save(folder: Path) -> None:
    (folder / "state").write_text("1")


def test_a_damaged_checkpoint_is_not_the_newest(run):
    for step in (3, 12):
        run.write_checkpoint(step, save)
        assert run.find_checkpoint() == (run.path / f"checkpoint-{step:06d}", [])
    (run.path / "checkpoint-000012" / "state").write_text("2")
    found, (note,) = run.find_checkpoint()
    assert found == run.path / "checkpoint-000003"
    assert "checkpoint-000012: cannot be used: state has changed since it was written" in note
    (run.path / "checkpoint-000003" / "state").write_text("12")
    found, notes = run.find_checkpoint()
    assert found is None
    assert "state has 2 bytes instead of 1" in notes[1]
    with pytest.raises(ComityError, match="so start it again with comity train") as caught:
        run.usable_checkpoint()
    assert caught.value.messages[:2] == notes


def test_ck_02_steps_are_compared_as_numbers(run):
    steps = [900, 1000, 1100, 9900, 10000, 10100, 999999, 1000000]
    for step in steps:
        run.write_checkpoint(step, save)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-1000000", "checkpoint-999999"]
    (run.path / "checkpoint-final").mkdir()  # the user's own
    run.write_checkpoint(1000001, save)
    assert (run.path / "checkpoint-final").exists()


def test_a_checkpoint_with_a_higher_step_is_not_deleted(run):
    """It was skipped when the run was resumed, so it may be another run's."""
    run.write_checkpoint(99, save)
    for step in (3, 6, 9):
        run.write_checkpoint(step, save)
    steps = [int(path.name[-6:]) for path in run.checkpoints()]
    assert steps == [99, 9, 6]


def test_the_advice_after_a_full_disk_needs_a_checkpoint(run):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ComityError, match=r"No space left .* --overwrite"):
        run.write_checkpoint(3, full)
    run.write_checkpoint(3, save)
    with pytest.raises(ComityError, match=r"No space left .* comity train --resume"):
        run.write_checkpoint(6, full)
    assert not list(run.path.glob(".*"))


def test_an_edited_recipe_is_refused_and_a_comment_is_not(tmp_path):
    directory = RunDirectory.create(tmp_path / "run")
    recipe = two_tasks(Path("encoder"))
    directory.write_facts(replace(run_facts(), recipe=recipe.to_dict()))
    directory.write_recipe(recipe)
    path = directory.path / "recipe.toml"
    path.write_text(f"# mine\n{path.read_text()}")
    assert directory.recipe() == recipe
    path.write_text(path.read_text().replace("epochs = 1", "epochs = 2"))
    with pytest.raises(
        ComityError, match=r"edited .*epochs is 1 in run\.json and 2 in recipe\.toml"
    ):
        directory.recipe()


def test_a_directory_that_is_not_empty(run, tmp_path):
    taken = run.path.parent / "taken"
    (taken / "lost+found").mkdir(parents=True)
    with pytest.raises(
        ComityError, match=r"is not empty \(lost\+found\) and is not a run"
    ) as caught:
        RunDirectory.check_new(taken)
    assert "--resume" not in str(caught.value)
    with pytest.raises(ComityError, match="holds a run without a checkpoint; choose another"):
        RunDirectory.check_new(run.path)
    run.write_checkpoint(3, save)
    with pytest.raises(ComityError, match=r"holds an unfinished run; continue it with .*--resume"):
        RunDirectory.check_new(run.path)
    run.log(end_entry(3))
    with pytest.raises(ComityError, match="holds a finished run; choose another") as caught:
        RunDirectory.check_new(run.path)
    assert "--resume" not in str(caught.value)
    (run.path / "run.json").write_text("x")
    with pytest.raises(ComityError, match="holds a damaged run"):
        RunDirectory.check_new(run.path)


def test_only_a_run_is_overwritten(run, tmp_path):
    run.write_checkpoint(3, save)
    (run.path / "predictions").symlink_to(tmp_path, target_is_directory=True)
    (run.path / "thesis.tex").write_text("mine")
    with pytest.raises(ComityError, match=r"thesis\.tex: does not belong to a run"):
        RunDirectory.create(run.path, overwrite=True)
    assert run.checkpoints()
    (run.path / "thesis.tex").rename(tmp_path / "thesis.tex")
    assert list(RunDirectory.create(run.path, overwrite=True).path.iterdir()) == []
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    (run.path / "recipe.toml").write_text("mine")  # not a run: it has no run.json
    with pytest.raises(ComityError, match="is not a run"):
        RunDirectory.create(run.path, overwrite=True)


def test_parents_of_a_run_are_made(tmp_path):
    assert RunDirectory.create(tmp_path / "a" / "b" / "run").path.is_dir()


def test_a_run_directory_has_a_name_in_utf_8(tmp_path):
    with pytest.raises(ComityError, match="not UTF-8"):
        RunDirectory.check_new(tmp_path / "caf\udce9")
    RunDirectory.check_new(tmp_path / os.fsdecode("café".encode()))


def test_a_record_notices_every_changed_byte(tmp_path):
    path = tmp_path / "record.json"
    values = {"a": 1, "b": {"c": ["x", None, 0.5]}}
    write_record(path, values)
    assert read_record(path) == values
    content = path.read_bytes()
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        try:
            found = read_record(path)
        except ComityError:
            continue
        assert found == values or "sha256" not in json.loads(path.read_text()), index


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
