"""One command that starts a run or resumes it, checkpoints between evaluations, memory errors."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import signal_after_step, stop_after_step, two_tasks

from comity import ComityError, Recipe, train
from comity.cli.main import main
from comity.runs.directory import RunDirectory
from comity.runs.entries import TrainEntry
from comity.training.events import StepDone
from comity.training.interrupts import Interrupted
from comity.training.task_gradients import TaskGradients


def recipe_of(encoder: Path, **changes) -> Recipe:
    """6 steps, with an evaluation after the last one."""
    settings = {"train__epochs": ..., "train__steps": 6, "train__evaluate_every": 6}
    return two_tasks(encoder, **{**settings, **changes})


def checkpoints(run: Path) -> list[int]:
    return sorted(int(folder.name.split("-")[1]) for folder in RunDirectory(run).checkpoints())


# --- checkpoint_every -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [1, 2, 3, 4]), (2, [2, 4]), ("0 min", [1, 2, 3, 4]), ("9 min", [])]
)
def test_checkpoints_come_every_so_many_steps_or_minutes(
    data, tiny_checkpoint, tmp_path, every, expected
):
    recipe = recipe_of(tiny_checkpoint, train__checkpoint_every=every, train__keep_checkpoints=9)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=stop_after_step(5))
    assert checkpoints(tmp_path / "run") == expected


def test_the_minutes_are_those_since_the_last_checkpoint(
    data, tiny_checkpoint, tmp_path, monkeypatch
):
    now = [0.0]
    # Not time.monotonic itself: the event loops of other threads would stop.
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("comity.training.trainer.time", clock)

    def listen(event):
        if isinstance(event, StepDone):
            now[0] += 30
            stop_after_step(6)(event)

    recipe = recipe_of(tiny_checkpoint, train__checkpoint_every="1 min", train__keep_checkpoints=9)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=listen)
    assert checkpoints(tmp_path / "run") == [2, 4]


@pytest.mark.parametrize("value", [0, -1, "10", "10 h", "ten min", "-1 min", 1.5])
def test_other_values_are_refused(tiny_checkpoint, value):
    with pytest.raises(ComityError, match=r"train\.checkpoint_every"):
        recipe_of(tiny_checkpoint, train__checkpoint_every=value)


def test_the_error_says_how_minutes_are_written(tiny_checkpoint):
    with pytest.raises(ComityError) as caught:
        recipe_of(tiny_checkpoint, train__checkpoint_every="10 h")
    assert caught.value.messages == [
        'recipe: train.checkpoint_every: expected a whole number or minutes such as "10 min", got '
        '"10 h"'
    ]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_records_the_same_averages(data, tiny_checkpoint, tmp_path, step):
    """Those of the steps before the checkpoint and after it are averages over both."""
    recipe = recipe_of(tiny_checkpoint, train__checkpoint_every=1)
    whole = train(recipe, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", on_event=signal_after_step(step))
    run = train(recipe, data, tmp_path / "run", resume=True)
    (one,), (two,) = (r.entries(TrainEntry) for r in (whole, run))
    assert (one.step, one.loss, one.gradient_norm, one.lr) == (
        two.step, two.loss, two.gradient_norm, two.lr
    )  # fmt: skip


def test_a_checkpoint_is_of_the_step_at_which_it_was_started(
    data, tiny_checkpoint, tmp_path, monkeypatch
):
    """It is written while the weights change."""

    def write_slowly(*arguments):
        time.sleep(0.2)
        save_file(*arguments)

    monkeypatch.setattr("comity.training.checkpoint.save_file", write_slowly)
    recipe = recipe_of(tiny_checkpoint, train__checkpoint_every=3)
    whole = train(recipe, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=stop_after_step(5))
    assert checkpoints(tmp_path / "run") == [3]
    run = train(recipe, data, tmp_path / "run", resume=True)
    one, two = (load_file(r.checkpoints()[0] / "state.safetensors") for r in (whole, run))
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- --or-resume ----------------------------------------------------------------------------------


@pytest.fixture
def words(data, tiny_checkpoint, tmp_path) -> list[str]:
    """The command."""
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe_of(tiny_checkpoint).to_dict()))
    return [
        "train", str(tmp_path / "recipe.toml"), "--data", str(data), "--out", str(tmp_path / "run"),
        "--or-resume", "--quiet",
    ]  # fmt: skip


def test_the_same_command_starts_resumes_and_finishes(
    words, data, tiny_checkpoint, tmp_path, capsys
):
    recipe = Recipe.load(tmp_path / "recipe.toml")
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", resume="auto", on_event=signal_after_step(3))
    started = RunDirectory(tmp_path / "run").facts().id
    assert main(words) == 0
    run = RunDirectory(tmp_path / "run")
    assert (run.status().sentence, run.facts().id) == ("finished: step 6 of 6", started)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(words) == 0
    assert "has already finished, so nothing is trained" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    assert {p.name for p in after if after[p] != before.get(p)} <= {".lock"}


def test_without_a_run_the_command_starts_one(words, tmp_path):
    assert main(words) == 0
    assert RunDirectory(tmp_path / "run").is_finished()


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(words, data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(
            Recipe.load(tmp_path / "recipe.toml"), data, tmp_path / "run",
            on_event=stop_after_step(2),
        )  # fmt: skip
    assert checkpoints(tmp_path / "run") == []
    assert main(words) == 0
    assert RunDirectory(tmp_path / "run").is_finished()


def test_a_changed_recipe_is_refused(words, data, tmp_path, capsys):
    with pytest.raises(Interrupted):
        train(
            Recipe.load(tmp_path / "recipe.toml"), data, tmp_path / "run",
            on_event=signal_after_step(2),
        )  # fmt: skip
    assert main([*words, "--set", "train.lr=1e-5"]) == 2
    assert "was started with another recipe (train.lr" in capsys.readouterr().err
    assert main([*words, "--drop-leaks"]) == 2
    assert "was started without --drop-leaks" in capsys.readouterr().err


def test_damaged_checkpoints_are_not_overwritten(words, data, tmp_path, capsys):
    with pytest.raises(Interrupted):
        train(
            Recipe.load(tmp_path / "recipe.toml"), data, tmp_path / "run",
            on_event=signal_after_step(2),
        )  # fmt: skip
    (tmp_path / "run" / "checkpoint-000002" / "state.json").unlink()
    assert main(words) == 2
    assert "holds a run without a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--overwrite"], "--or-resume and --overwrite exclude each other"),
        (["--extend", "epochs=1"], "--extend needs --resume"),
        (["--resume", "run"], "no such directory"),
    ],
)
def test_options_that_exclude_each_other(words, capsys, more, message):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err


# --- memory ---------------------------------------------------------------------------------------


def torch_error():
    torch.empty(2**60)


def numpy_error():
    np.empty(2**57, dtype=np.uint8)


def cuda_error():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fail", [torch_error, numpy_error, cuda_error])
def test_a_step_that_does_not_fit_into_memory_is_one_sentence(
    data, tiny_checkpoint, tmp_path, monkeypatch, fail
):
    """It names the step, the batch, what to set, and how to resume; what was saved stays."""
    fill = TaskGradients.fill

    def fails_in_step_4(self, gradients, batches, together, *keys):
        if keys == (3,):
            fail()
        return fill(self, gradients, batches, together, *keys)

    recipe = recipe_of(tiny_checkpoint, train__checkpoint_every=1)
    whole = train(recipe, data, tmp_path / "whole")
    monkeypatch.setattr(TaskGradients, "fill", fails_in_step_4)
    with pytest.raises(ComityError) as caught:
        train(recipe, data, tmp_path / "run")
    (sentence,) = caught.value.messages
    assert "out of memory in step 4, whose largest batch has 8 rows and" in sentence
    assert "tasks.mood.micro_batches = 2" in sentence or "tasks.alike.micro_batches" in sentence
    assert f"comity train --resume {tmp_path / 'run'}" in sentence
    monkeypatch.undo()
    run = train(recipe, data, tmp_path / "run", resume=True)
    assert run.best() == whole.best()


def test_an_evaluation_that_does_not_fit_into_memory_is_one_sentence(
    data, tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("comity.training.trainer.task_outputs", lambda *_, **__: torch_error())
    with pytest.raises(ComityError, match="out of memory in the evaluation of mood after step 6"):
        train(recipe_of(tiny_checkpoint), data, tmp_path / "run")


def test_other_errors_stay_as_they_are(data, tiny_checkpoint, tmp_path, monkeypatch):
    def wrong_shapes(*_):
        return torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr(TaskGradients, "fill", wrong_shapes)
    with pytest.raises(RuntimeError, match="size"):
        train(recipe_of(tiny_checkpoint), data, tmp_path / "run")
