"""A frozen encoder: heads on encoded rows train as on an encoder that runs in every step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.helpers import (
    mood_rows,
    number,
    signal_after_step,
    two_tasks,
    write_csv,
    write_two_tasks,
)
from tests.training.test_resume import assert_same

import comity
from comity import ComityError, Recipe, load, train
from comity.evaluation.evaluate import task_outputs
from comity.runs.directory import RunDirectory
from comity.runs.entries import EvaluationEntry
from comity.training.events import Event, Listener, Planned, RowsEncoded, StepDone
from comity.training.interrupts import Interrupted
from comity.training.setup import prepare
from comity.training.trainer import Trainer

CORPUS = Path(comity.__file__).parent / "demo" / "corpus"
STAGES = [{"steps": 3, "lr": 1e-3}, {"steps": 4, "freeze": "encoder", "lr": 0.01}]
R_DROP = {"kind": "r-drop", "weight": 3.0}
COSENT = [{"loss": "cosent", "weight": 2.0}]


def recipe_of(checkpoint, **changes) -> Recipe:
    """A stage that trains the encoder, then one that freezes it; heads have dropout."""
    settings = {
        "train__epochs": ...,
        "train__evaluate_every": 2,
        "train__lr": ...,
        "stages": STAGES,
        "tasks__mood__head_dropout": 0.2,
        "tasks__alike__head_dropout": 0.2,
    }
    return two_tasks(checkpoint, **settings | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The two tasks, `mood` with a third class."""
    folder = tmp_path_factory.mktemp("data")
    write_two_tasks(folder)
    for file, rows in (("mood.csv", mood_rows(0, 36)), ("mood-dev.csv", mood_rows(1000, 12))):
        mixed = [(text, mood if n % 5 else "mixed") for n, (text, mood) in enumerate(rows)]
        write_csv(folder / file, ["text", "mood"], mixed)
    return folder


# --- steps ----------------------------------------------------------------------------------------

CASES = {
    "plain": {},
    "pooler, micro-batches, teacher": {
        "tasks__mood__pooling": "pooler",
        "tasks__mood__micro_batches": 3,
        "tasks__alike__pooling": "cls+mean",
        "tasks__alike__micro_batches": 2,
    },
    "r-drop, weights of classes": {
        "tasks__mood__consistency": R_DROP,
        "tasks__mood__class_weights": {"up": 3.0, "down": 0.5},
        "tasks__mood__loss": "one-vs-all",
        "tasks__mood__head_layers": 1,
    },
    "objectives": {"tasks__alike__objectives": COSENT, "train__loss_weighting": "uncertainty"},
    "interaction": {"tasks__alike__interaction": True, "tasks__alike__objectives": COSENT},
    "both": {
        "tasks__alike__view": "both",
        "tasks__alike__pooling": "cls+mean",
        "tasks__alike__embedding_pooling": "mean",
        "tasks__alike__objectives": COSENT,
        "tasks__alike__consistency": R_DROP,
    },
}


def losses_and_weights(trainer: Trainer, cached: bool) -> tuple[list[float], torch.Tensor]:
    """Those of all steps. Without `cached` each batch is sent through the encoder."""
    losses = []
    for plan in trainer.plans:
        trainer.progress.stage, trainer.progress.stage_step = plan.number, 0
        trainer.start_stage(plan)
        if not cached:
            trainer.task_gradients[plan.number].frozen = {}
        for planned in plan.steps:
            losses += [loss for _, loss in trainer.step(plan, planned).losses]
            trainer.progress.stage_step += 1
            trainer.progress.step += 1
    return losses, trainer.flat.masters.clone()


def with_soft_labels(trainer: Trainer) -> None:
    """Soft labels for `mood`, as a teacher would give."""
    draws = np.random.default_rng(0)
    for task_gradients in trainer.task_gradients:
        split = task_gradients.splits["mood"]
        soft = draws.dirichlet([1.0, 1.0, 1.0], len(split)).astype(np.float32)
        task_gradients.splits = {**task_gradients.splits, "mood": replace(split, soft=soft)}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_an_encoder_without_dropout(data, tiny_checkpoint, case):
    """The encoder that is frozen is the one that the first stage has trained."""
    recipe = recipe_of(tiny_checkpoint, encoder__dropout=0.0, **CASES[case])
    found = []
    for cached in (True, False):
        trainer = Trainer(prepare(recipe, data))
        if "teacher" in case:
            with_soft_labels(trainer)
        found.append(losses_and_weights(trainer, cached))
    (losses, weights), (expected, expected_weights) = found
    assert losses == pytest.approx(expected, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-5)


def test_the_dropout_of_a_frozen_encoder_is_off(data, tiny_checkpoint):
    """Losses do not depend on its rates, but on those of heads."""

    def losses(**changes) -> list[float]:
        recipe = recipe_of(tiny_checkpoint, stages=STAGES[1:], **changes)
        return losses_and_weights(Trainer(prepare(recipe, data)), True)[0]

    assert losses(encoder__dropout=0.0) == losses(encoder__dropout=0.5)
    assert losses() != losses(tasks__mood__head_dropout=0.0)


def test_only_the_rows_of_the_steps_are_encoded_each_once(data, tiny_checkpoint):
    """The plan's tokens and bytes, by hand; and nothing is encoded in a step."""
    stages = [{"steps": 2, "freeze": "encoder"}]
    recipe = recipe_of(tiny_checkpoint, stages=stages, tasks__mood__consistency=R_DROP)
    events: list[Event] = []
    trainer = Trainer(prepare(recipe, data), events.append)
    (plan,) = trainer.plans
    batches = [plan.tasks[0].batches.batch(number)[1] for number in range(2)]
    rows = np.unique(np.concatenate(batches))  # 16 of 36
    split = plan.splits[0]
    (packed,) = split.pack(rows, ("first",), trainer.prepared.template, 128)
    assert plan.counts[0].tokens == len(packed.ids)

    trainer.start_stage(plan)
    encoded = trainer.task_gradients[0].frozen["mood"]
    assert encoded.rows.tolist() == rows.tolist()
    last = [event for event in events if isinstance(event, RowsEncoded) and event.task == "mood"]
    assert (last[-1].done, last[-1].rows) == (16, 16)
    done = trainer.step(plan, plan.steps[0])
    assert (done.tokens, done.examples) == (0, 16)

    trainer.evaluate({name: task.dev for name, task in trainer.prepared.tasks.items()})
    trainer.evaluate(trainer.train_samples)
    assert trainer.frozen is not None
    kept = [*trainer.task_gradients[0].frozen.values(), *trainer.frozen._evaluated.values()]
    memory = trainer.plan().memory_bytes["encoded rows"]
    assert memory == sum(vectors.nbytes for rows in kept for vectors in rows.vectors)


def test_tokens_of_rows_that_are_seen_again_count_once(data, tiny_checkpoint):
    trainer = Trainer(prepare(recipe_of(tiny_checkpoint), data))
    plan = trainer.plans[1]
    (packed,) = plan.splits[1].pack(np.arange(20), ("pair",), trainer.prepared.template, 128)
    counts = plan.counts[1]
    assert (counts.examples, counts.rows, counts.tokens) == (28, 20, len(packed.ids))


def test_a_plan_says_what_a_frozen_encoder_means_and_estimates_its_time(data, tiny_checkpoint):
    events: list[Event] = []
    stages = [{"steps": 40, "lr": 1e-3}, {"name": "heads", "steps": 500, "freeze": "encoder"}]
    trainer = Trainer(prepare(recipe_of(tiny_checkpoint, stages=stages), data), events.append)
    before = trainer.flat.masters.clone()
    plan = trainer.plan(estimate_time=True)
    assert plan.seconds is not None
    assert plan.seconds > 0
    assert torch.equal(trainer.flat.masters, before)
    assert [type(event) for event in events] == [Planned]  # timing is not training
    assert plan.notes == []
    assert trainer.prepared.notes[0] == (
        "heads: the whole encoder is frozen, so each row is encoded once, without dropout; only "
        "heads are trained, with their own dropout"
    )
    short = Trainer(prepare(recipe_of(tiny_checkpoint), data)).plan()
    assert short.notes == [
        "stage 2: 4 steps may be too few for heads to converge; further ones take little time, so "
        "set more epochs"
    ]


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(data, tiny_checkpoint, tmp_path_factory) -> RunDirectory:
    """A run that was never interrupted."""
    return train(recipe_of(tiny_checkpoint), data, tmp_path_factory.mktemp("whole") / "run")


def signal_when(found: Callable[[Event], bool]) -> Listener:
    """A listener that sends this process a signal at the first event that is found."""
    stop = signal_after_step(0)
    sent: list[Event] = []

    def listen(event: Event) -> None:
        if not sent and found(event):
            sent.append(event)
            stop(StepDone(0, (), 0, 0, 0.0))

    return listen


def test_a_run_that_is_resumed_in_a_frozen_stage_is_the_same(
    data, tiny_checkpoint, whole, tmp_path
):
    recipe = recipe_of(tiny_checkpoint)
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", on_event=signal_after_step(6))
    assert_same(train(recipe, data, tmp_path / "run", resume=True), whole)


def test_a_signal_stops_a_run_while_it_encodes(data, tiny_checkpoint, whole, tmp_path):
    """In the second stage, and before the first step of a run."""
    recipe, encodes = recipe_of(tiny_checkpoint), lambda event: isinstance(event, RowsEncoded)
    with pytest.raises(Interrupted, match="stopped at step 3 of 7"):
        train(recipe, data, tmp_path / "run", on_event=signal_when(encodes))
    assert_same(train(recipe, data, tmp_path / "run", resume=True), whole)

    recipe = recipe_of(tiny_checkpoint, stages=STAGES[1:])
    with pytest.raises(Interrupted, match="stopped at step 0 of 4"):
        train(recipe, data, tmp_path / "first", on_event=signal_when(encodes))
    again = train(recipe, data, tmp_path / "first", resume=True)
    assert_same(again, train(recipe, data, tmp_path / "expected"))


def test_evaluations_equal_those_of_the_loaded_model(data, tiny_checkpoint, tmp_path):
    """Also those of an average that still holds weights of the stage before."""
    stages = [STAGES[0], {**STAGES[1], "lr": 2e-3}]  # so that the error falls until the end
    kept = [stages[0], {**stages[1], "keep_optimizer_state": True}]
    best = {"tasks__alike__metric": "mae", "train__select_by": "alike"}
    for name, changes in {
        "none": {"stages": stages},
        "ema": {"train__average": "ema", "stages": stages},
        "kept": {"train__average": "ema", "stages": kept},
    }.items():
        run = train(recipe_of(tiny_checkpoint, **best, **changes), data, tmp_path / name)
        model, step = load(run.path), run.best().step
        assert step == 7
        (entry,) = [entry for entry in run.entries(EvaluationEntry) if entry.step == step]
        for task in ("mood", "alike"):
            assert model.evaluate(task).loss == number(entry.tasks[task].loss)


def test_dev_rows_are_encoded_once(data, tiny_checkpoint, tmp_path, monkeypatch):
    """An evaluation in a frozen stage gives the outputs of `task_outputs`, without the encoder."""
    trainer = Trainer(prepare(recipe_of(tiny_checkpoint, stages=STAGES[1:]), data))
    trainer.start_stage(trainer.plans[0])
    dev = {name: task.dev for name, task in trainer.prepared.tasks.items()}
    trainer.evaluate(dev)
    trainer.step(trainer.plans[0], trainer.plans[0].steps[0])
    expected = {
        name: task_outputs(trainer.model, name, split, trainer.prepared.template, 128)
        for name, split in dev.items()
    }
    monkeypatch.setattr(trainer.model, "encode", None)
    _, found = trainer.evaluate(dev)
    for name in dev:
        assert np.array_equal(found[name], expected[name])


def test_an_extended_run_is_a_longer_run(data, tiny_checkpoint, whole, tmp_path):
    """The added stage freezes the encoder too."""
    recipe = recipe_of(tiny_checkpoint)
    run = train(recipe, data, tmp_path / "run")
    train(recipe, data, run.path, resume=True, extend={"steps": 3})
    longer = [*STAGES, {**STAGES[1], "steps": 3, "keep_optimizer_state": True}]
    expected = train(recipe_of(tiny_checkpoint, stages=longer), data, tmp_path / "longer")
    assert_same(run, expected)


# --- settings -------------------------------------------------------------------------------------


def test_r_drop_needs_the_dropout_of_the_head(data, tiny_checkpoint):
    changes = {"tasks__mood__consistency": R_DROP, "tasks__mood__head_dropout": 0.0}
    prepare(recipe_of(tiny_checkpoint, **changes), data)  # the first stage has other dropout
    with pytest.raises(ComityError) as caught:
        prepare(recipe_of(tiny_checkpoint, stages=STAGES[1:], **changes), data)
    assert caught.value.messages == [
        "tasks.mood.consistency: has no effect here (a frozen encoder has no dropout, and that of "
        "the head is 0); raise head_dropout, or remove it"
    ]


def test_heads_reach_logistic_regression_on_the_same_vectors(minilm):
    """The demo's sentiment rows, 10 epochs at the default learning rate."""
    task = {"kind": "classification", "text": "text", "label": "sentiment"}
    files = {which: f"sentiment-{which}.csv" for which in ("train", "dev")}
    settings = {"freeze": "encoder", "epochs": 10, "precision": "float32"}
    values = {"encoder": {"name": str(minilm)}, "train": settings, "tasks": {"mood": task | files}}
    trainer = Trainer(prepare(Recipe.from_dict(values), CORPUS))
    data = trainer.prepared.tasks["mood"]
    losses_and_weights(trainer, True)
    score = trainer.evaluate({"mood": data.dev})[0]["mood"].score.value
    assert trainer.frozen is not None
    (train_vectors,) = trainer.task_gradients[0].frozen["mood"].vectors
    ((dev_vectors,),) = (rows.vectors for rows in trainer.frozen._evaluated.values())
    regression = LogisticRegression(max_iter=1000).fit(train_vectors, data.train.targets)
    assert number(score) > regression.score(dev_vectors, data.dev.targets) - 0.02
