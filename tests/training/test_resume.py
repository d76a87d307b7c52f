"""Stopped runs: what a signal saves, which checkpoint is used, and what a resumed run repeats."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from tests.helpers import (
    signal_after_step,
    stop_at_evaluation,
    two_tasks,
)

from comity import ComityError, Recipe, load, train
from comity.cli.main import main
from comity.evaluation.evaluate import task_outputs
from comity.runs.directory import RunDirectory
from comity.runs.entries import EndEntry, EvaluationEntry
from comity.runs.summary import run_summary
from comity.training.events import Event, Resumed, StopRequested
from comity.training.interrupts import Interrupted, Interrupts
from comity.training.optim import FlatAdamW
from comity.training.setup import prepare
from comity.training.train import extended
from comity.training.trainer import Trainer

STAGES = [{"steps": 4}, {"steps": 4, "lr": 5e-4}]


def recipe_of(encoder: Path, **changes) -> Recipe:
    """Two stages of 4 steps, evaluated after every second step."""
    settings = {"train__epochs": ..., "train__evaluate_every": 2, "train__balancer": "pcgrad"}
    return two_tasks(encoder, **({**settings, "stages": STAGES} | changes))


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint) -> Recipe:
    return recipe_of(tiny_checkpoint)


@pytest.fixture(scope="module")
def whole(data, recipe, tmp_path_factory) -> RunDirectory:
    """A run that was never interrupted."""
    return train(recipe, data, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def broken(data, recipe, tmp_path_factory) -> Path:
    """A run that was killed after step 6, with the checkpoints of steps 4 and 6."""
    out = tmp_path_factory.mktemp("broken") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, out, on_event=stop_at_evaluation(3))
    assert [path.name for path in RunDirectory(out).checkpoints()] == [
        "checkpoint-000006", "checkpoint-000004"
    ]  # fmt: skip
    return out


@pytest.fixture
def copy(broken, tmp_path) -> RunDirectory:
    """A copy of the killed run."""
    return RunDirectory(shutil.copytree(broken, tmp_path / "run"))


def state(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[0] / "state.safetensors")


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    """Weights, moments, balancer state, evaluations and the kept model are the same."""
    one, two = state(run), state(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.entries(EvaluationEntry) == other.entries(EvaluationEntry)
    assert run.best() == other.best()


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8])
def test_a_signal_saves_first_and_the_resumed_run_is_the_same(data, recipe, whole, tmp_path, step):
    """Before the first evaluation, when one is due, between two, and at the end of a stage."""
    with pytest.raises(Interrupted, match=f"stopped at step {step} of 8") as caught:
        train(recipe, data, tmp_path / "run", on_event=signal_after_step(step))
    assert caught.value.exit_code == 143
    run = RunDirectory(tmp_path / "run")
    assert run.status().step == step
    summary = run_summary(run)
    assert not summary.finished
    assert summary.best is None or step > 2
    assert f"unfinished: step {step} of 8; continue with comity train --resume" in summary.status
    assert_same(train(recipe, data, run.path, resume=True), whole)
    assert run.status().sentence == "finished: step 8 of 8"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_during_an_evaluation_waits_for_one_task_only(
    data, recipe, whole, tmp_path, monkeypatch
):
    evaluated = []

    def outputs_then_signal(model, name, *arguments, **options):
        evaluated.append(name)
        if len(evaluated) == 5:  # of the second evaluation, the first task on dev
            os.kill(os.getpid(), signal.SIGINT)
        return task_outputs(model, name, *arguments, **options)

    from comity.training import trainer

    monkeypatch.setattr(trainer, "task_outputs", outputs_then_signal)
    with pytest.raises(Interrupted) as caught:
        train(recipe, data, tmp_path / "run")
    assert caught.value.exit_code == 130
    assert len(evaluated) == 5
    assert_same(train(recipe, data, tmp_path / "run", resume=True), whole)


def test_a_real_signal_to_a_new_process(data, recipe, whole, tmp_path):
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    run = tmp_path / "a run"
    command = ["train", str(tmp_path / "recipe.toml"), "--data", str(data), "--out", str(run)]
    code = f"""
import sys
from tests.helpers import signal_after_step
from comity.cli.main import main
from comity.terminal.progress import Display
Display.step_done = lambda self, event, listen=signal_after_step(3): listen(event)
sys.exit(main({command!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "SIGTERM: training stops after this step, with a checkpoint",
        f"stopped at step 3 of 8; continue with comity train --resume '{run}'",
    ]
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert_same(RunDirectory(run), whole)


def test_a_second_signal_stops_at_once(monkeypatch):
    seen = []
    with Interrupts(seen.append) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)  # the same Ctrl-C, passed on by a wrapper
        monkeypatch.setattr("comity.training.interrupts.REPEATED", -1.0)
        with pytest.raises(Interrupted, match="stopped by a second SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == ["SIGINT"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_the_process_ignores_stay_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(lambda name: None) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_is_announced(data, recipe, tmp_path):
    events: list[Event] = []
    stop = signal_after_step(1)

    def listen(event: Event) -> None:
        events.append(event)
        stop(event)

    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", on_event=listen)
    assert StopRequested("SIGTERM") in events


# --- damaged and foreign checkpoints --------------------------------------------------------------


def cut(folder: Path) -> None:
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "state.json").unlink()


def empty_a_file(folder: Path) -> None:
    (folder / "state.safetensors").write_bytes(b"")


def half_a_folder(folder: Path) -> None:
    newer = folder.with_name("checkpoint-10000")
    newer.mkdir()
    content = (folder / "state.safetensors").read_bytes()
    (newer / "state.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "name", "reason", "used"),
    [
        (cut, "checkpoint-000006", "state.safetensors has", "checkpoint-000004"),
        (flip, "checkpoint-000006", "state.safetensors has changed", "checkpoint-000004"),
        (lose_a_file, "checkpoint-000006", "state.json is missing", "checkpoint-000004"),
        (empty_a_file, "checkpoint-000006", "has 0 bytes instead of", "checkpoint-000004"),
        (half_a_folder, "checkpoint-10000", "it has no manifest.json", "checkpoint-000006"),
    ],
)
def test_ck_02_a_damaged_checkpoint_is_skipped(
    data, recipe, whole, copy, damage, name, reason, used
):
    damage(copy.path / "checkpoint-000006")
    events: list[Event] = []
    run = train(recipe, data, copy.path, resume=True, on_event=events.append)
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    (note,) = resumed.notes
    assert note.startswith(f"{copy.path / name}: cannot be used: ")
    assert reason in note
    assert note.endswith(f"skipped; the run continues from {used}")
    shutil.rmtree(run.path / "checkpoint-10000", ignore_errors=True)
    assert_same(run, whole)


def test_ck_02_a_checkpoint_of_another_run_is_skipped(data, recipe, whole, copy, tmp_path):
    """Even of one that was trained with the same recipe."""
    foreign = copy.path / "checkpoint-000007"
    shutil.copytree(whole.path / "checkpoint-000008", foreign)
    events: list[Event] = []
    run = train(recipe, data, copy.path, resume=True, on_event=events.append)
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert resumed.step == 6
    assert resumed.notes == (
        f"{foreign}: cannot be used: it belongs to another run; skipped; the run continues from "
        "checkpoint-000006",
    )
    assert_same(run, whole)


def test_without_a_usable_checkpoint_nothing_is_started_anew(data, recipe, copy):
    for checkpoint in copy.checkpoints():
        cut(checkpoint)
    before = sorted(path.name for path in copy.path.rglob("*"))
    with pytest.raises(ComityError, match="all checkpoints are damaged, so start it again with"):
        train(recipe, data, copy.path, resume=True)
    assert sorted(path.name for path in copy.path.rglob("*")) == before
    assert load(copy.path).predict("mood", ["good"])
    shutil.rmtree(copy.path / "checkpoint-000004")
    shutil.rmtree(copy.path / "checkpoint-000006")
    with pytest.raises(ComityError, match="there is no checkpoint, so start it again with"):
        train(recipe, data, copy.path, resume=True)


@pytest.mark.parametrize("keep", [1, 3])
def test_the_recipe_says_how_many_checkpoints_stay(data, tiny_checkpoint, tmp_path, keep):
    settings = {"train__keep_checkpoints": keep, "train__evaluate_every": 1}
    run = train(recipe_of(tiny_checkpoint, **settings), data, tmp_path / "run")
    steps = [int(path.name[-6:]) for path in run.checkpoints()]
    assert steps == list(range(8, 8 - keep, -1))


def test_a_run_of_an_earlier_version_can_be_resumed(data, recipe, whole, copy):
    """It has no id and no digests of records, and its manifests list files only."""
    for path in copy.path.rglob("manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text())["files"]))
    for name in ("run.json", "best.json"):
        values = json.loads((copy.path / name).read_text())
        for key in ("sha256", "id", "recipe", "steps"):
            values.pop(key, None)
        (copy.path / name).write_text(json.dumps(values))
    assert "unfinished: step 6; continue" in run_summary(copy).status
    assert load(copy.path).predict("mood", ["good"])
    assert_same(train(recipe, data, copy.path, resume=True), whole)


# --- other recipes, finished runs, longer runs ----------------------------------------------------


def test_an_edited_recipe_is_refused_with_the_difference(data, tiny_checkpoint, copy):
    path = copy.path / "recipe.toml"
    path.write_text(path.read_text().replace("batch_size = 8", "batch_size = 4"))
    said = r"was edited .*train.batch_size is 8 in run.json and 4 in recipe.toml"
    with pytest.raises(ComityError, match=said):
        train(recipe_of(tiny_checkpoint), data, copy.path, resume=True)
    with pytest.raises(ComityError, match=said):
        run_summary(copy)


def test_another_recipe_is_refused_with_the_difference(data, tiny_checkpoint, whole, copy):
    other = recipe_of(tiny_checkpoint, train__lr=0.5)
    for run in (copy, whole):
        with pytest.raises(ComityError, match=r"train.lr is 0.001 in the run and 0.5 in"):
            train(other, data, run.path, resume=True)


def test_a_finished_run_reads_and_writes_nothing(recipe, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    assert train(recipe, "nowhere", whole.path, resume=True).path == whole.path
    assert {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")} == before


def test_an_extended_run_is_a_run_of_the_extended_recipe(data, recipe, whole, tmp_path):
    """Extended by 2 steps and interrupted in them."""
    longer = extended(recipe, {"steps": 2})
    assert [(stage.steps, stage.lr) for stage in longer.stages] == [
        (4, 1e-3), (4, 5e-4), (2, 5e-4)
    ]  # fmt: skip
    expected = train(longer, data, tmp_path / "expected")
    run = RunDirectory(shutil.copytree(whole.path, tmp_path / "run"))
    with pytest.raises(Interrupted, match="step 9 of 10"):
        stop = signal_after_step(9)
        train(recipe, data, run.path, resume=True, extend={"steps": 2}, on_event=stop)
    assert "unfinished: step 9 of 10" in run_summary(run).status
    assert run.recipe() == longer
    with pytest.raises(ComityError, match="cannot be extended yet; first finish it with comity"):
        train(longer, data, run.path, resume=True, extend={"steps": 2})  # the command again
    assert run.recipe() == longer
    assert_same(train(longer, data, run.path, resume=True), expected)
    assert [end.step for end in run.entries(EndEntry)] == [10]


def test_an_extension_of_a_run_that_stopped_early_starts_the_new_stage(
    data, tiny_checkpoint, tmp_path
):
    changes = {"train__patience": 2, "train__lr": 1e-9, "train__evaluate_every": 1}
    changes["train__select_by"] = "mood"  # accuracy stays the same
    recipe = recipe_of(tiny_checkpoint, stages=[{"steps": 9}], **changes)
    run = train(recipe, data, tmp_path / "run")
    assert run.status().sentence == "finished: step 3 of 9 (stopped early)"
    train(recipe, data, run.path, resume=True, extend={"steps": 1})
    assert [entry.step for entry in run.entries(EvaluationEntry)] == [1, 2, 3, 4]


def test_extensions_that_make_no_sense(data, recipe, whole, tmp_path):
    with pytest.raises(ComityError, match="extend needs resume"):
        train(recipe, data, tmp_path / "run", extend={"steps": 1})
    with pytest.raises(ComityError, match="exclude each other"):
        train(recipe, data, whole.path, resume=True, overwrite=True)
    with pytest.raises(ComityError, match="must be epochs or steps"):
        extended(recipe, {"hours": 1})
    with pytest.raises(ComityError, match=r"extended recipe: .*steps"):
        extended(recipe, {"steps": -1})
    run = RunDirectory(shutil.copytree(whole.path, tmp_path / "copy"))
    for checkpoint in run.checkpoints():
        shutil.rmtree(checkpoint)
    with pytest.raises(ComityError, match="no undamaged checkpoint, so it cannot be extended"):
        train(recipe, data, run.path, resume=True, extend={"steps": 1})


# --- state that a resumed run or a new stage needs ------------------------------------------------


def never_gains(encoder: Path, stages: list[dict[str, int]]) -> Recipe:
    """The first evaluation is the best one, and three without a gain stop the run."""
    changes = {"train__patience": 3, "train__lr": 1e-9, "train__evaluate_every": 1}
    changes["train__select_by"] = "mood"  # accuracy stays the same
    return recipe_of(encoder, stages=stages, **changes)


@pytest.mark.parametrize("stop", [stop_at_evaluation(3), signal_after_step(3)])
def test_a_resumed_run_keeps_counting_evaluations_without_a_gain(
    data, tiny_checkpoint, tmp_path, stop: Callable[[Event], None]
):
    recipe = never_gains(tiny_checkpoint, [{"steps": 9}])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=stop)
    run = train(recipe, data, tmp_path / "run", resume=True)
    assert [entry.step for entry in run.entries(EvaluationEntry)] == [1, 2, 3, 4]


def test_patience_restarts_in_each_stage(data, tiny_checkpoint, tmp_path):
    recipe = never_gains(tiny_checkpoint, [{"steps": 3}, {"steps": 9}])
    run = train(recipe, data, tmp_path / "run")
    assert [entry.step for entry in run.entries(EvaluationEntry)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        ({"keep_optimizer_state": True}, True),
        ({}, False),
        ({"keep_optimizer_state": True, "tasks": ["alike", "mood"]}, False),
        ({"keep_optimizer_state": True, "balancer": "pcgrad"}, False),
    ],
)
def test_the_balancers_state_is_kept_with_the_optimizers(
    data, tiny_checkpoint, tmp_path, monkeypatch, second, kept
):
    """Where the stage before has the same balancer and the same tasks in the same order."""
    stages = [{"steps": 2}, {"steps": 1, **second}]
    recipe = recipe_of(tiny_checkpoint, train__balancer="gradvac", stages=stages)
    trainer = Trainer(prepare(recipe, data))
    started = []
    start = trainer.start_stage

    def start_stage(plan):
        before = dict(trainer.balancer_state)
        start(plan)
        counts = [segment.step for segment in trainer.flat.segments]
        after, moments = dict(trainer.balancer_state), bool(trainer.optimizer.first.any())
        started.append((before, after, moments, counts))

    monkeypatch.setattr(trainer, "start_stage", start_stage)
    trainer.run(RunDirectory.create(tmp_path / "run"))
    (_, empty, _, _), (before, after, moments, counts) = started
    assert empty == {}
    assert before
    assert after == (before if kept else {})
    assert moments == (max(counts) > 0) == bool(second.get("keep_optimizer_state"))


def test_the_kept_model_has_all_digits_of_a_bf16_run(data, tiny_checkpoint, tmp_path):
    """It is written from the float32 masters, not from the buffer that computes."""
    recipe = recipe_of(tiny_checkpoint, train__precision="bf16", stages=[{"steps": 1}])
    trainer = Trainer(prepare(recipe, data))
    run = RunDirectory.create(tmp_path / "run")
    trainer.run(run)
    masters = trainer.flat.masters_by_name()
    heads = load_file(run.kept_model() / "heads.safetensors")
    encoder = load_file(run.kept_model() / "encoder" / "model.safetensors")
    for name, tensor in heads.items():
        assert torch.equal(tensor, masters[f"heads.{name}"])
    for tensors in (heads, encoder):
        rounded = [torch.equal(t, t.bfloat16().float()) for t in tensors.values()]
        assert not all(rounded)


# --- weights that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 3])
def test_a_model_with_weights_that_are_not_finite_is_never_kept(
    data, recipe, tmp_path, monkeypatch, step
):
    """From step 2 there is no model at all; from step 3 the one of step 2 stays."""
    update, updates = FlatAdamW.update, []

    def poisoned(optimizer, *arguments):
        update(optimizer, *arguments)
        updates.append(1)
        if len(updates) == step:
            optimizer.flat.masters[-1] = float("nan")

    monkeypatch.setattr(FlatAdamW, "update", poisoned)
    with pytest.raises(ComityError, match=r"weights are no longer finite .*lower learning rate"):
        train(recipe, data, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    assert run.has_best() == (step == 3)
    for checkpoint in run.checkpoints():
        tensors = load_file(checkpoint / "state.safetensors").values()
        assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    if step == 3:
        assert run.best().step == 2
        assert load(run.path).evaluate("mood").score.value is not None
