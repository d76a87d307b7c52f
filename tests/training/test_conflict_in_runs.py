"""Conflict between tasks, as runs measure and record it."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from tests.helpers import (
    number,
    stop_after_step,
    stop_at_evaluation,
    two_tasks,
    write_two_tasks,
)
from tests.training.test_trainer import same, weights

from comity import train
from comity.evaluation.evaluate import task_outputs
from comity.files import read_record, write_record
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, StageConflictEntry
from comity.runs.summary import run_summary
from comity.training.plan import memory
from comity.training.setup import prepare
from comity.training.task_gradients import TaskGradients
from comity.training.trainer import Trainer

TASKS = ["mood", "alike"]


@pytest.fixture
def folder(tmp_path):
    """The data of the two tasks."""
    write_two_tasks(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "changes",
    [
        {"train__balancer": "sum"},
        {"train__balancer": "pcgrad"},
        {"train__balancer": "sum", "train__task_sampling": "sequential"},
    ],
)
def test_probes_change_nothing(folder, tmp_path, tiny_checkpoint, changes):
    runs = []
    for every in (0, 2):
        recipe = two_tasks(
            tiny_checkpoint,
            train__conflict_every=every,
            train__steps=6,
            train__epochs=...,
            **changes,
        )
        runs.append(train(recipe, folder, tmp_path / f"run{every}"))
    assert same(weights(runs[0]), weights(runs[1]))
    without, with_probes = (probes(run) for run in runs)
    assert not without
    assert [entry.step for entry in with_probes] == [1, 2, 4, 6]


@pytest.mark.parametrize("every", [0, 1, 3, 7])
def test_the_number_of_probes_of_a_plan(folder, tmp_path, tiny_checkpoint, every):
    stages = [{"steps": 4}, {"steps": 3, "tasks": ["mood"]}, {"steps": 3}, {"steps": 1}]
    recipe = two_tasks(
        tiny_checkpoint, train__conflict_every=every, train__epochs=..., stages=stages
    )
    plans = Trainer(prepare(recipe, folder)).plans
    counts = [plan.probes(before, every) for plan, before in zip(plans, (0, 4, 7, 10), strict=True)]
    steps = [entry.step for entry in probes(train(recipe, folder, tmp_path / "run"))]
    ends = ((1, 4), (5, 7), (8, 10), (11, 11))
    assert counts == [sum(first <= s <= last for s in steps) for first, last in ends]
    assert counts[1] == 0  # one task


def test_the_estimated_time_has_steps_probes_and_evaluations(folder, tiny_checkpoint, monkeypatch):
    """On a clock by which a token of a step takes 1 s, a probe 100 s, a token of dev 0.1 s."""
    recipe = two_tasks(
        tiny_checkpoint, train__epochs=..., train__steps=90, train__conflict_every=10,
        train__evaluate_every=30, train__eval_train_rows=7,
    )  # fmt: skip
    monkeypatch.setattr("comity.training.trainer.TIMED_ROWS", 3)
    trainer = Trainer(prepare(recipe, folder))
    now = [0.0]
    monkeypatch.setattr("comity.training.trainer.time.perf_counter", lambda: now[0])
    fill, measure = trainer._fill, trainer._measure

    def tokens(name, split):
        return split.lengths(trainer.model.tasks[name].views, 128).sum()

    def timed_fill(plan, batches, *keys):
        now[0] += sum(batch.tokens for batch in batches)
        return fill(plan, batches, *keys)

    def timed_measure(plan):
        now[0] += 100
        return measure(plan)

    def timed_outputs(model, name, split, *rest):
        now[0] += tokens(name, split) / 10
        return task_outputs(model, name, split, *rest)

    monkeypatch.setattr(trainer, "_fill", timed_fill)
    monkeypatch.setattr(trainer, "_measure", timed_measure)
    monkeypatch.setattr("comity.training.trainer.task_outputs", timed_outputs)
    trained = sum(count.tokens for count in trainer.plans[0].counts)
    dev = sum(tokens(name, data.dev) for name, data in trainer.prepared.tasks.items())
    sample = sum(tokens(*item) for item in trainer.train_samples.items())
    # Probes come after steps 1, 10, 20, ..., 90.
    expected = trained + 10 * 100 + 3 * (dev + sample) / 10
    assert trainer.time_left() == pytest.approx(expected)


def probes(run: RunDirectory) -> list[ConflictEntry]:
    return [entry for entry in run.entries(ConflictEntry) if entry.steps is None]


def test_a_probe_has_two_batches_of_each_task(folder, tmp_path, tiny_checkpoint, monkeypatch):
    filled = []
    fill = TaskGradients.fill

    def recorded(self, gradients, batches, one_row, *keys):
        if len(keys) > 1:
            filled.extend(
                (batch.task, {*itertools.chain(*(m.indices.tolist() for m in batch.micro_batches))})
                for batch in batches
            )
        return fill(self, gradients, batches, one_row, *keys)

    monkeypatch.setattr(TaskGradients, "fill", recorded)
    recipe = two_tasks(tiny_checkpoint, train__conflict_every=3, train__steps=6, train__epochs=...)
    run = train(recipe, folder, tmp_path / "run")
    assert [entry.step for entry in probes(run)] == [1, 3, 6]
    assert [task for task, _ in filled] == [*TASKS, *TASKS] * 3
    for first in range(0, len(filled), 4):
        mood, alike, other_mood, other_alike = (rows for _, rows in filled[first : first + 4])
        assert not mood & other_mood
        assert not alike & other_alike
    assert len({tuple(sorted(rows)) for task, rows in filled if task == "mood"}) > 2


@pytest.mark.parametrize("frozen", ["nothing", "embeddings", 1])
def test_a_probe_compares_gradients_of_plain_autograd(folder, tmp_path, tiny_checkpoint, frozen):
    """Without dropout: `sum`'s gradient of one batch at a time, products over the flat vector."""
    changes = {"encoder__dropout": 0.0, "train__freeze": frozen, "train__conflict_every": 1}
    trainer = Trainer(prepare(two_tasks(tiny_checkpoint, **changes), folder))
    trainer.directory = RunDirectory.create(tmp_path / "run")
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    trainer.probe(plan)
    vectors = []
    for name, batches in [trainer._probe_batches(task) for task in plan.tasks]:
        for rows in batches:
            (batch,) = trainer.task_gradients[0].batches([(name, rows)])
            trainer.task_gradients[0].fill(trainer.gradients, [batch], True, 0)
            flat = trainer.flat
            spans = [(max(trainer.gradients.start, flat.table_stop), flat.shared_stop)]
            spans += [(0, flat.table_stop)] if trainer.gradients.trains_words else []
            vectors.append(torch.cat([trainer.gradients.combined(*s, [1.0], 1.0) for s in spans]))
    mood, other_mood, alike, other_alike = (vector.double() for vector in vectors)

    def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(one @ other / one.norm() / other.norm())

    (entry,) = probes(trainer.directory)
    expected = (cosine(mood, other_alike) + cosine(alike, other_mood)) / 2
    assert entry.cosines[0][1] == pytest.approx(expected, abs=1e-5)
    own = [cosine(mood, other_mood), cosine(alike, other_alike)]
    assert entry.reliability == pytest.approx(own, abs=1e-5)
    products = trainer.progress.conflict.probes[0].products
    assert np.ravel(products) == pytest.approx(
        [float(a @ b) for a in (mood, alike) for b in (other_mood, other_alike)], rel=1e-4
    )
    names = ["embeddings", "layer 1", "layer 2", "pooler"]
    assert list(entry.layers or {}) == names[{"nothing": 0, "embeddings": 1, 1: 2}[frozen] :]
    (pair,) = trainer.progress.conflict.summary(1, 0, "stage 1", None).pairs
    assert sum(number(layer.part) for layer in pair.layers) == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_without_layers_can_be_resumed(folder, tmp_path, tiny_checkpoint):
    """As earlier versions wrote it: later probes have layers, and only they are counted."""
    changes = {"train__steps": 6, "train__epochs": ..., "train__conflict_every": 2}
    recipe = two_tasks(
        tiny_checkpoint, train__balancer="pcgrad", train__evaluate_every=3, **changes
    )
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        Trainer(prepare(recipe, folder), stop_after_step(5)).run(run)
    checkpoint = run.usable_checkpoint()[0]
    values = read_record(checkpoint / "state.json")
    conflict = values["progress"]["conflict"]
    for name in ("layers", "effects", "turn", "weights"):
        del conflict[name]
    for probe in conflict["probes"]:
        del probe["layers"], probe["parts"]

    def save(building):
        shutil.copy(checkpoint / "state.safetensors", building)
        write_record(building / "state.json", values)

    run.write_checkpoint(3, save)
    resumed = train(recipe, folder, run.path, resume=True)
    last = resumed.entries(StageConflictEntry)[-1]
    assert (last.probes, last.pairs[0].observed) == (4, 6)  # probes at steps 1, 2, 4 and 6
    assert {layer.observed for layer in last.pairs[0].layers} == {2}
    assert [effect.steps for effect in last.effects] == [3, 3]


def test_a_run_records_what_the_balancer_did(folder, tmp_path, tiny_checkpoint, monkeypatch):
    weighed, weigh = [], Trainer._weigh

    def recorded(self, plan, tasks, gramian):
        found = weigh(self, plan, tasks, gramian)
        weighed.append((gramian.numpy(), np.array(found[0])))
        return found

    monkeypatch.setattr(Trainer, "_weigh", recorded)
    changes = {"train__steps": 7, "train__epochs": ..., "train__evaluate_every": 3}
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad", **changes)
    run = train(recipe, folder, tmp_path / "run")
    weights = np.array([weight for _, weight in weighed])
    entries = [entry for entry in run.entries(ConflictEntry) if entry.steps is not None]
    for entry, span in zip(entries, (weights[:3], weights[3:6], weights[6:]), strict=True):
        assert entry.weights == pytest.approx(span.mean(0), abs=1e-6)
    last = run.entries(StageConflictEntry)[-1]
    assert last.balancer == "pcgrad"
    conflicts = [gramian[0, 1] < 0 for gramian, _ in weighed]
    assert last.changed == pytest.approx(np.mean(conflicts))
    assert [effect.weight for effect in last.effects] == pytest.approx(weights.mean(0))
    for row, effect in enumerate(last.effects):
        against = [(gramian @ weight)[row] < -1e-9 for gramian, weight in weighed]
        assert effect.update_opposed == np.mean(against)
        assert effect.sum_opposed == np.mean([g[row].sum() < 0 for g, _ in weighed])


def test_a_sum_has_no_weights_to_record(folder, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint, train__balancer="sum"), folder, tmp_path / "run")
    last = run.entries(StageConflictEntry)[-1]
    assert (last.balancer, last.effects, last.changed) == ("sum", [], None)


def test_steps_are_logged_where_they_were_measured(folder, tmp_path, tiny_checkpoint, monkeypatch):
    """With a balancer: one entry per train entry, the mean cosine of the steps since the last."""
    gramians, fill = [], Trainer._fill

    def recorded(self, plan, batches, *keys):
        losses, tasks, gramian = fill(self, plan, batches, *keys)
        gramians.append(gramian)
        return losses, tasks, gramian

    monkeypatch.setattr(Trainer, "_fill", recorded)
    changes = {"train__steps": 7, "train__epochs": ..., "train__evaluate_every": 3}
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad", **changes)
    run = train(recipe, folder, tmp_path / "run")
    entries = [entry for entry in run.entries(ConflictEntry) if entry.steps is not None]
    assert [(entry.step, entry.steps) for entry in entries] == [(3, 3), (6, 3), (7, 1)]
    found = [float(g[0, 1] / (g[0, 0] * g[1, 1]).sqrt()) for g in gramians]
    for entry, span in zip(entries, (found[:3], found[3:6], found[6:]), strict=True):
        assert entry.cosines[0][1] == pytest.approx(np.mean(span), abs=1e-5)
    assert [entry.step for entry in probes(run)] == [1]
    (pair,) = run.entries(StageConflictEntry)[-1].pairs
    assert pair.observed == 7
    assert pair.cosine == pytest.approx(np.mean(found), abs=1e-5)


@pytest.mark.parametrize("balancer", ["sum", "gradvac"])
@pytest.mark.parametrize("stop", [lambda: stop_at_evaluation(1), lambda: stop_after_step(5)])
def test_a_resumed_run_has_the_same_conflict(folder, tmp_path, tiny_checkpoint, balancer, stop):
    changes = {"train__steps": 6, "train__epochs": ..., "train__conflict_every": 2}
    recipe = two_tasks(
        tiny_checkpoint, train__balancer=balancer, train__evaluate_every=3, **changes
    )
    whole = train(recipe, folder, tmp_path / "whole")
    run = RunDirectory.create(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        Trainer(prepare(recipe, folder), stop()).run(run)
    resumed = train(recipe, folder, run.path, resume=True)
    for kind in (ConflictEntry, StageConflictEntry):
        assert resumed.entries(kind) == whole.entries(kind)
    assert state(resumed) == state(whole)


def state(run: RunDirectory) -> dict:
    """The conflict in the last checkpoint."""
    text = (run.usable_checkpoint()[0] / "state.json").read_text()
    return json.loads(text)["progress"]["conflict"]


def test_each_stage_has_its_own_summary(folder, tmp_path, tiny_checkpoint):
    stages = [
        {"name": "alone", "tasks": ["mood"], "epochs": 1},
        {"name": "words", "train_on": "masked-words", "steps": 2},
        {"name": "together", "steps": 4},
        {"name": "surgery", "steps": 5, "balancer": "pcgrad"},
        {"name": "one by one", "steps": 6, "task_sampling": "sequential"},
        {"name": "heads", "steps": 3, "freeze": "encoder"},
    ]
    recipe = two_tasks(tiny_checkpoint, stages=stages, train__epochs=..., train__conflict_every=50)
    run = train(recipe, folder, tmp_path / "run")
    found = {entry.name: entry for entry in run_summary(run).conflict}
    assert list(found) == ["together", "surgery", "one by one", "heads"]
    assert {name: entry.pairs[0].observed for name, entry in found.items()} == {
        "together": 1, "surgery": 5, "one by one": 1, "heads": 0
    }  # fmt: skip
    assert {name: entry.from_steps for name, entry in found.items()} == {
        "together": False, "surgery": True, "one by one": False, "heads": False
    }  # fmt: skip
    assert {name: entry.probes for name, entry in found.items()} == {
        "together": 1, "surgery": 1, "one by one": 1, "heads": 0
    }  # fmt: skip
    assert found["heads"].unprobed == "nothing is shared: the encoder is frozen"
    assert all(pair.conflicts is None for entry in found.values() for pair in entry.pairs)


def test_a_run_of_one_task_has_no_conflict(folder, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint, tasks__alike=...), folder, tmp_path / "run")
    assert run_summary(run).conflict == []
    assert run.entries(ConflictEntry) == []


def test_a_task_with_a_single_batch_cannot_be_probed(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, tasks__alike__batch_size=20)
    (entry,) = run_summary(train(recipe, folder, tmp_path / "run")).conflict
    assert entry.unprobed == "no probes: alike has fewer than two batches of training rows"


def test_the_memory_of_probes_is_one_row_per_task_and_one_more(folder, tiny_checkpoint):
    rows = {}
    for balancer in ("sum", "pcgrad"):
        for every in (0, 10):
            changes = {"train__balancer": balancer, "train__conflict_every": every}
            trainer = Trainer(prepare(two_tasks(tiny_checkpoint, **changes), folder))
            flat = trainer.flat
            heads = len(flat.masters) - flat.shared_stop
            numbers = memory(flat, trainer.plans, every, 0)["task gradients"] // 4 - heads
            rows[balancer, every] = numbers / (flat.shared_stop - flat.table_stop)
    assert rows == {("sum", 0): 1, ("sum", 10): 3, ("pcgrad", 0): 2, ("pcgrad", 10): 3}


def test_conflict_of_earlier_versions_can_be_read(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    line = {"type": "conflict", "step": 5, "tasks": TASKS, "cosines": [[1, 0], [0, 1]]}
    (run.path / "metrics.jsonl").write_text(json.dumps(line | {"share_of_steps": 0.5}) + "\n")
    (entry,) = run.entries(ConflictEntry)
    assert (entry.step, entry.reliability) == (5, None)
