"""The training loop: what it sees, keeps, skips and resumes; and the training cases."""

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import (
    alike_rows,
    dev_scores,
    mood_rows,
    number,
    stop_after_step,
    stop_at_evaluation,
    two_tasks,
    write_csv,
    write_two_tasks,
)

from comity import ComityError, Recipe, load, train
from comity.data.task_sampling import PlanCounts
from comity.evaluation.evaluate import task_outputs
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, EndEntry, EvaluationEntry, SkippedEntry
from comity.runs.lock import LOCK
from comity.runs.summary import run_summary
from comity.training.events import Evaluated, Event, Planned, StepSkipped
from comity.training.plan import plan_stage
from comity.training.setup import prepare
from comity.training.task_gradients import TaskGradients
from comity.training.trainer import Trainer


class Recorder:
    """A listener that keeps the plan's counts; it also records the rows of each training batch."""

    def __init__(self, monkeypatch):
        self.rows: dict[str, list[list[int]]] = {}
        self.counts: dict[str, PlanCounts] = {}
        make_batches = Trainer._batches

        def recorded(trainer, plan, planned):
            batches = make_batches(trainer, plan, planned)
            for batch in batches:
                indices = [i for part in batch.micro_batches for i in part.indices.tolist()]
                self.rows.setdefault(batch.task, []).append(indices)
            return batches

        monkeypatch.setattr(Trainer, "_batches", recorded)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.counts = {
                name: c for stage in event.plan.stages for name, c in stage.tasks.items()
            }


@pytest.fixture
def folder(tmp_path):
    write_two_tasks(tmp_path / "data")
    return tmp_path / "data"


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    """The tensors of the last checkpoint."""
    return load_file(run.checkpoints()[0] / "state.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def start(recipe: Recipe, folder: Path, out: Path) -> None:
    """Start a run and break it off, without a signal, after its first checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, out, on_event=stop_at_evaluation(1))


def test_a_run_learns_and_is_kept(folder, tmp_path, tiny_checkpoint):
    changes = {"train__epochs": 30, "train__lr": 3e-3, "train__evaluate_every": 20}
    recipe = two_tasks(tiny_checkpoint, encoder__dropout=0.0, train__balancer="pcgrad", **changes)
    run = train(recipe, folder, tmp_path / "run")
    names = {path.name.split("-")[0] for path in run.path.iterdir()}
    names.remove(LOCK)
    assert names == {"recipe.toml", "run.json", "data.json", "metrics.jsonl", "predictions",
                     "best.json", "best", "checkpoint"}  # fmt: skip
    assert run.recipe() == recipe
    evaluations = run.entries(EvaluationEntry)
    assert [entry.step for entry in evaluations] == [20, 40, 60, 80, 100, 120, 121]
    last = evaluations[-1]
    assert dev_scores(run, "mood")[121] > 0.9
    assert dev_scores(run, "alike")[121] > 0.9
    assert number(last.train["mood"].value) > 0.9
    losses = [number(entry.tasks["mood"].loss) for entry in evaluations]
    assert losses[-1] < losses[0]
    conflict = run.entries(ConflictEntry)[0]
    assert conflict.tasks == ["mood", "alike"]
    assert conflict.cosines[0][0] == pytest.approx(1.0)
    facts = run.facts()
    assert facts.command is None
    assert facts.tasks["mood"].head.target.classes == ("down", "up")
    assert facts.versions["torch"] == torch.__version__
    assert len(facts.inputs.files) == 4


def test_the_kept_model_gives_the_scores_that_were_written(folder, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint, train__epochs=3), folder, tmp_path / "run")
    model = load(run.path)
    for task, score in run.best().tasks.items():
        assert model.evaluate(task).score.value == pytest.approx(score.value, abs=1e-6)


def test_the_same_seed_gives_the_same_run_however_often_it_is_evaluated(
    folder, tmp_path, tiny_checkpoint
):
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad", train__steps=6, train__epochs=...)
    runs = [train(recipe, folder, tmp_path / f"run{n}") for n in range(2)]
    changes = {"train__evaluate_every": 1, "train__eval_train_rows": 3}
    often = two_tasks(
        tiny_checkpoint, train__balancer="pcgrad", train__steps=6, train__epochs=..., **changes
    )
    runs.append(train(often, folder, tmp_path / "often"))
    first = weights(runs[0])
    assert all(same(first, weights(run)) for run in runs[1:])
    other = two_tasks(
        tiny_checkpoint, train__balancer="pcgrad", train__steps=6, train__epochs=..., train__seed=1
    )
    assert not same(first, weights(train(other, folder, tmp_path / "other")))


@pytest.mark.parametrize("task_sampling", ["round-robin", "sequential", "proportional"])
def test_a_resumed_run_ends_where_the_whole_one_does(
    folder, tmp_path, tiny_checkpoint, task_sampling
):
    """Stopped between evaluations; two stages, so that the stage is resumed too."""
    changes = {
        "train__task_sampling": task_sampling,
        "train__evaluate_every": 2,
        "stages": [{"steps": 5}, {"steps": 5, "lr": 5e-4}],
    }
    recipe = two_tasks(tiny_checkpoint, train__epochs=..., **changes)
    whole = train(recipe, folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, tmp_path / "broken", on_event=stop_after_step(8))
    resumed = train(recipe, folder, tmp_path / "broken", resume=True)
    assert same(weights(whole), weights(resumed))
    assert whole.entries(EvaluationEntry) == resumed.entries(EvaluationEntry)
    assert whole.best() == resumed.best()


def test_resuming_a_finished_run_does_nothing(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint)
    run = train(recipe, folder, tmp_path / "run")
    before, lines = weights(run), run.metrics()
    assert same(before, weights(train(recipe, folder, tmp_path / "run", resume=True)))
    assert run.metrics() == lines


def test_a_resumed_run_wants_its_own_recipe(folder, tmp_path, tiny_checkpoint):
    train(two_tasks(tiny_checkpoint), folder, tmp_path / "run")
    with pytest.raises(ComityError, match="another recipe"):
        train(two_tasks(tiny_checkpoint, train__lr=1e-5), folder, tmp_path / "run", resume=True)


def test_a_resumed_run_wants_its_own_encoder(folder, tmp_path, write_checkpoint):
    encoder = write_checkpoint(tmp_path / "encoder")
    start(two_tasks(encoder), folder, tmp_path / "run")
    tokens = (encoder / "vocab.txt").read_text().splitlines()
    (encoder / "vocab.txt").write_text("\n".join([*tokens[:9], *tokens[:8:-1]]) + "\n")
    with pytest.raises(ComityError, match="its tokenizer has changed"):
        train(two_tasks(encoder), folder, tmp_path / "run", resume=True)


def test_a_resumed_run_computes_in_the_dtype_it_recorded(
    folder, tmp_path, tiny_checkpoint, monkeypatch
):
    recipe = two_tasks(tiny_checkpoint, train__precision="auto", train__epochs=2)
    monkeypatch.setattr("comity.hardware.processor_class", lambda: "AMX")
    start(recipe, folder, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    monkeypatch.setattr("comity.hardware.processor_class", lambda: "other")
    events = []
    train(recipe, folder, run.path, resume=True, on_event=events.append)
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert planned.plan.precision == run.facts().precision == "bfloat16"


def test_a_task_may_be_named_shared(folder, tmp_path, tiny_checkpoint):
    section = two_tasks(tiny_checkpoint).to_dict()["tasks"]["alike"]
    changes = {
        "tasks__shared": section,
        "tasks__alike": ...,
        "train__task_sampling": "proportional",
    }
    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=2, **changes)
    whole = train(recipe, folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, tmp_path / "broken", on_event=stop_after_step(5))
    resumed = train(recipe, folder, tmp_path / "broken", resume=True)
    assert same(weights(whole), weights(resumed))


def test_outputs_that_are_not_finite_have_no_score(folder, tmp_path, tiny_checkpoint):
    trainer = Trainer(prepare(two_tasks(tiny_checkpoint), folder))
    with torch.no_grad():
        next(trainer.model.head("mood").parameters()).fill_(math.nan)
    dev = {name: data.dev for name, data in trainer.prepared.tasks.items()}
    evaluations, _ = trainer.evaluate(dev)
    assert evaluations["mood"].score.value is None
    assert "not finite for 12 of 12 rows" in str(evaluations["mood"].score.reason)
    assert evaluations["alike"].score.value is not None


def test_evaluation_at_the_end_of_the_longest_tasks_passes(folder, tiny_checkpoint):
    changes = {"train__epoch_ends": "longest", "train__epochs": 3}
    (plan,) = Trainer(prepare(two_tasks(tiny_checkpoint, **changes), folder)).plans
    assert plan.evaluations == {5, 10, 15}  # 36 rows in batches of 8


def test_the_folders_of_a_killed_write_are_deleted(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=1)
    start(recipe, folder, tmp_path / "run")
    (tmp_path / "run" / ".checkpoint-000009-x").mkdir()
    train(recipe, folder, tmp_path / "run", resume=True)
    assert {path.name for path in (tmp_path / "run").glob(".*")} == {LOCK}


def test_a_resumed_run_wants_the_data_it_was_started_on(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint)
    start(recipe, folder, tmp_path / "run")
    write_csv(folder / "mood.csv", ["text", "mood"], mood_rows(1, 36))
    with pytest.raises(ComityError, match=r"mood.csv: has changed"):
        train(recipe, folder, tmp_path / "run", resume=True)


def test_no_run_is_overwritten(folder, tmp_path, tiny_checkpoint):
    train(two_tasks(tiny_checkpoint), folder, tmp_path / "run")
    with pytest.raises(ComityError, match="not empty"):
        train(two_tasks(tiny_checkpoint), folder, tmp_path / "run")
    with pytest.raises(ComityError, match="no such directory"):
        train(two_tasks(tiny_checkpoint), folder, tmp_path / "none", resume=True)


def test_frozen_parts_do_not_move(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, train__freeze=1)
    prepared = prepare(recipe, folder)
    trainer = Trainer(prepared)
    before = {k: v.clone() for k, v in trainer.flat.masters_by_name().items()}
    trainer.run(RunDirectory.create(tmp_path / "run"))
    for name, after in trainer.flat.masters_by_name().items():
        frozen = name.startswith(("encoder.embeddings", "encoder.word", "encoder.layers.0"))
        frozen |= name.startswith("encoder.") and trainer.model.encoder.layer_of(name[8:]) <= 1
        assert torch.equal(before[name], after) == frozen, name


def test_a_loss_that_is_not_finite_skips_the_step_and_stops_after_ten(
    folder, tmp_path, tiny_checkpoint, monkeypatch
):
    recipe = two_tasks(tiny_checkpoint, train__epochs=9)
    poisoned = {1, 3}  # steps, counted from 0
    fill = TaskGradients.fill

    def fill_with_nan(task_gradients, gradients, batches, together, step, *keys):
        losses, tasks = fill(task_gradients, gradients, batches, together, step, *keys)
        if step in poisoned and not keys:
            gradients.rows[0, 0] = math.nan
            losses[0] = math.nan
        return losses, tasks

    monkeypatch.setattr(TaskGradients, "fill", fill_with_nan)
    events = []
    run = train(recipe, folder, tmp_path / "some", on_event=events.append)
    told = [event for event in events if isinstance(event, StepSkipped)]
    assert [(event.step, event.task) for event in told] == [(2, "mood"), (4, "mood")]
    assert all("mood.csv, lines " in event.where for event in told)
    (end,) = run.entries(EndEntry)
    assert end.skipped == 2
    assert all(torch.isfinite(v).all() for v in weights(run).values())
    skipped = run.entries(SkippedEntry)
    assert [entry.step for entry in skipped] == [2, 4]
    assert skipped[0].task == "mood"
    assert all(2 <= int(line) <= 37 for line in skipped[0].lines)
    poisoned |= set(range(99))
    with pytest.raises(ComityError, match=r"mood\.csv, lines .* 10 steps in a row"):
        train(recipe, folder, tmp_path / "all")
    assert len(RunDirectory.open(tmp_path / "all").entries(SkippedEntry)) == 10


@pytest.mark.parametrize("part", ["rows", "heads", "losses"])
def test_a_loss_or_gradient_that_is_infinite_skips_the_step(
    folder, tmp_path, tiny_checkpoint, monkeypatch, part
):
    """Each of them alone: of the encoder, of a head, or a loss whose gradient is finite."""
    fill = TaskGradients.fill

    def fill_with_infinity(task_gradients, gradients, batches, together, step, *keys):
        losses, tasks = fill(task_gradients, gradients, batches, together, step, *keys)
        if step == 1:
            {"rows": gradients.rows[0], "heads": gradients.heads, "losses": losses}[part][0] = (
                math.inf
            )
        return losses, tasks

    monkeypatch.setattr(TaskGradients, "fill", fill_with_infinity)
    recipe = two_tasks(tiny_checkpoint, train__epochs=..., train__steps=3)
    run = train(recipe, folder, tmp_path / "run")
    assert [entry.step for entry in run.entries(SkippedEntry)] == [2]
    assert all(torch.isfinite(v).all() for v in weights(run).values())


def test_a_full_disk_is_one_error_and_the_run_can_be_resumed(
    folder, tmp_path, tiny_checkpoint, monkeypatch
):
    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    def fill(event: Event) -> None:
        if isinstance(event, Evaluated) and event.step == 2:
            monkeypatch.setattr("comity.training.checkpoint.save_file", full)

    with pytest.raises(ComityError, match=r"No space left on device.*comity train --resume"):
        train(recipe, folder, tmp_path / "run", on_event=fill)
    monkeypatch.undo()
    monkeypatch.setattr(RunDirectory, "log", full)
    with pytest.raises(ComityError, match=r"No space left on device.*--overwrite"):
        train(recipe, folder, tmp_path / "early")
    monkeypatch.undo()
    assert load(tmp_path / "run").predict("mood", ["good"])
    whole = train(recipe, folder, tmp_path / "whole")
    resumed = train(recipe, folder, tmp_path / "run", resume=True)
    assert whole.best() == resumed.best()
    assert {path.name for path in (tmp_path / "run").glob(".*")} == {LOCK}


def test_timing_leaves_no_trace(folder, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, train__epochs=40, train__balancer="pcgrad")
    trainer = Trainer(prepare(recipe, folder))
    before = trainer.flat.masters.clone()
    assert trainer.time_left() is not None
    assert (trainer.flat.masters == before).all()
    assert not trainer.optimizer.first.any()
    assert all(segment.step == 0 for segment in trainer.flat.segments)


def test_patience_stops_a_run_that_no_longer_gains(folder, tmp_path, tiny_checkpoint):
    changes = {"train__patience": 2, "train__epochs": 30, "train__lr": 1e-9}
    run = train(two_tasks(tiny_checkpoint, **changes), folder, tmp_path / "run")
    assert len(run.entries(EvaluationEntry)) < 30
    (end,) = run.entries(EndEntry)
    assert end.stopped_early


def test_the_named_task_selects_the_model(folder, tmp_path, tiny_checkpoint):
    changes = {"train__select_by": "alike", "train__epochs": 4}
    run = train(two_tasks(tiny_checkpoint, **changes), folder, tmp_path / "run")
    alike = dev_scores(run, "alike")
    assert run.best().step == max(alike, key=alike.__getitem__)
    for task, best in run_summary(run).best_of_task.items():
        scores = dev_scores(run, task)
        assert (best.step, best.value) == max(scores.items(), key=lambda pair: pair[1])


def test_leaks_are_named_and_dropped(folder, tiny_checkpoint):
    moods = [("  THE house   number 0 is good", "up"), ("a film is bad", "down")]
    write_csv(folder / "mood-dev.csv", ["text", "mood"], moods)
    first, second, _ = alike_rows(3, 1)[0]
    alike = [(second, first, 1), ("x", "y", 2), ("the house number 1 is great", "z", 3)]
    write_csv(folder / "alike-dev.csv", ["a", "b", "score"], alike)
    recipe = two_tasks(tiny_checkpoint)
    prepared = prepare(recipe, folder)
    assert len(prepared.tasks["mood"].train) == 36
    shown = "\n".join(prepared.leaks)
    assert "1 training row of mood and 1 dev row of mood have the same input" in shown
    assert "1 training row of alike and 1 dev row of alike have the same input" in shown
    assert "1 training row of mood and 1 dev row of alike have the same input" in shown
    assert "alike.csv:5 and" in shown
    dropped = prepare(recipe, folder, drop_leaks=True)
    assert len(dropped.tasks["mood"].train) == 34
    assert len(dropped.tasks["alike"].train) == 19
    assert any("2 training rows are also in a dev set" in note for note in dropped.notes)


def test_splitting_off_dev_keeps_duplicates_on_one_side(tmp_path, tiny_checkpoint):
    rows = [(f"the {word}", "up" if n % 2 else "down") for n, word in enumerate("abcdefghij" * 6)]
    rows += [(text.upper() + "  ", label) for text, label in rows]
    write_csv(tmp_path / "mood.csv", ["text", "mood"], rows)
    write_two = {"tasks__mood__dev": 0.3, "tasks__alike": ...}
    data = prepare(two_tasks(tiny_checkpoint, **write_two), tmp_path).tasks["mood"]
    train_keys = set(data.train.table.keys[data.train.rows].ravel().tolist())
    dev_keys = set(data.dev.table.keys[data.dev.rows].ravel().tolist())
    assert not train_keys & dev_keys
    assert len(data.train) + len(data.dev) == 120
    assert len(data.dev) == 36
    other = prepare(two_tasks(tiny_checkpoint, train__split_seed=5, **write_two), tmp_path).tasks[
        "mood"
    ]
    assert set(other.dev.rows.tolist()) != set(data.dev.rows.tolist())


def test_two_tasks_of_one_table_split_it_alike(tmp_path, tiny_checkpoint):
    rows = [(f"text {n}", "up" if n % 2 else "down", n % 3 or "") for n in range(60)]
    write_csv(tmp_path / "t.csv", ["text", "mood", "kind"], rows)
    task = {"kind": "classification", "train": "t.csv", "dev": 0.25, "text": "text"}
    kind = {**task, "label": "kind", "missing_labels": "skip"}
    tasks = {"mood": {**task, "label": "mood"}, "kind": kind}
    recipe = Recipe.from_dict({"encoder": {"name": str(tiny_checkpoint)}, "tasks": tasks})
    prepared = prepare(recipe, tmp_path)
    assert prepared.leaks == []
    assert len(prepared.tasks["mood"].dev) == 15
    assert set(prepared.tasks["kind"].dev.rows) < set(prepared.tasks["mood"].dev.rows)


def test_a_stages_own_file_is_looked_at_too(folder, tiny_checkpoint):
    rows = [(mood_rows(1000, 1)[0][0], "up"), ("", "down"), ("nice tea", ""), ("sad tea", "down")]
    write_csv(folder / "other.csv", ["text", "mood"], [*rows, ("good tea", "up")])
    changes = {"tasks__mood__missing_labels": "skip", "stages": [{"data": {"mood": "other.csv"}}]}
    prepared = prepare(two_tasks(tiny_checkpoint, **changes), folder)
    assert any("other.csv:2" in leak for leak in prepared.leaks)
    assert any("1 row of" in note and "other.csv" in note for note in prepared.notes)
    assert any("empty text" in note and "other.csv:3" in note for note in prepared.notes)
    dropped = prepare(two_tasks(tiny_checkpoint, **changes), folder, drop_leaks=True)
    assert len(dropped.tasks["mood"].stage_train["other.csv"]) == 3


@pytest.mark.parametrize(
    "changes", [{"tasks__mood__dev": 0.5}, {"tasks__mood__empty_texts": "drop"}]
)
def test_one_class_that_is_left_is_an_error(tmp_path, tiny_checkpoint, changes):
    write_csv(tmp_path / "mood.csv", ["text", "mood"], [("", "up"), ("bad", "down")])
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], [("bad", "down")])
    with pytest.raises(ComityError, match="only one class"):
        prepare(two_tasks(tiny_checkpoint, tasks__alike=..., **changes), tmp_path)


def test_a_pairs_first_text_alone_can_leak(folder, tiny_checkpoint):
    write_csv(folder / "alike.csv", ["a", "b", "score"], [("same", "x", 1), ("y", "z", 4)])
    write_csv(folder / "alike-dev.csv", ["a", "b", "score"], [("same", "w", 1), ("v", "u", 2)])
    assert not prepare(two_tasks(tiny_checkpoint), folder).leaks
    recipe = two_tasks(tiny_checkpoint, tasks__alike__view="first")
    assert len(prepare(recipe, folder).leaks) == 1


def test_more_frozen_layers_than_there_are(folder, tiny_checkpoint):
    with pytest.raises(ComityError, match="cannot freeze 3 layers"):
        prepare(two_tasks(tiny_checkpoint, train__freeze=3), folder)


def test_pairs_that_share_a_text_stay_together(tmp_path, tiny_checkpoint):
    rows = [(f"q {n // 3}", f"r {n}", n % 5) for n in range(60)]
    rows += [("r 0", "q 19", 1.0)]  # joins the first group and the last
    write_csv(tmp_path / "alike.csv", ["a", "b", "score"], rows)
    changes = {"tasks__alike__dev": 0.25, "tasks__mood": ...}
    data = prepare(two_tasks(tiny_checkpoint, **changes), tmp_path).tasks["alike"]
    sides = [set(s.table.keys[s.rows].ravel().tolist()) for s in (data.train, data.dev)]
    assert not sides[0] & sides[1]
    assert 10 <= len(data.dev) <= 15


def test_a_row_is_held_in_a_few_bytes(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint)
    prepared = prepare(recipe, folder)
    plan = plan_stage(0, recipe.stages[0], prepared.tasks, recipe.train)
    for task, split in zip(plan.tasks, plan.splits, strict=True):
        targets = 4 if split.targets.dtype.kind == "i" else 8
        held = split.rows.nbytes + split.targets.nbytes + task.batches.lengths.nbytes
        assert held == len(split) * (4 + targets + 4)
        order = task.batches.batches(0)
        assert sum(batch.nbytes for batch in order) == 4 * len(split)
    (folder / "tags.csv").write_text("text,tags\ngood,a;b\nbad,b\n")
    task = {"kind": "multi-label", "train": "tags.csv", "dev": "tags.csv", "text": "text"}
    recipe = Recipe.from_dict(
        {
            "encoder": {"name": str(tiny_checkpoint)},
            "tasks": {"tags": {**task, "label": "tags", "separator": ";"}},
        }
    )
    assert prepare(recipe, folder).tasks["tags"].train.targets.nbytes == 2 * 2


def test_a_second_start_reads_the_cache(folder, tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    recipe = two_tasks(tiny_checkpoint)
    first = prepare(recipe, folder).tasks["mood"]
    monkeypatch.setattr("comity.data.token_cache.open_table", None)  # reading again would fail
    second = prepare(recipe, folder).tasks["mood"]
    assert np.array_equal(first.train.table.texts[0].ids, second.train.table.texts[0].ids)
    assert np.array_equal(first.train.targets, second.train.targets)
    monkeypatch.undo()
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    (folder / "mood.csv").write_text((folder / "mood.csv").read_text().replace("up", "over"))
    (folder / "mood-dev.csv").write_text(
        (folder / "mood-dev.csv").read_text().replace("up", "over")
    )
    assert prepare(recipe, folder).tasks["mood"].target.classes == ("down", "over")


def test_a_damaged_cache_is_built_anew(folder, tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    recipe = two_tasks(tiny_checkpoint)
    first = prepare(recipe, folder).tasks["mood"].train.table.texts[0].ids.copy()
    for path in (tmp_path / "cache").rglob("ids-0"):
        path.write_bytes(path.read_bytes()[:-2])
    again = prepare(recipe, folder).tasks["mood"].train.table.texts[0].ids
    assert np.array_equal(first, again)


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(
    folder, tmp_path, tiny_checkpoint, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "file"))
    assert len(prepare(two_tasks(tiny_checkpoint), folder).tasks["mood"].train) == 36


# --- the training cases -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("similarity", "bins"),
        ("similarity", "regression"),
        ("similarity", "cosine"),
        ("regression", "regression"),
        ("classification", "linear"),
    ],
)
def test_tr_04_a_last_batch_of_one_row(shared, tmp_path, tiny_checkpoint, monkeypatch, kind, head):
    folder = shared / "cases" / "files" / "TR-04"
    task = {"kind": kind, "head": head, "train": "seventeen.csv", "dev": "seventeen.csv"}
    task |= {"texts": ["a", "b"], "label": "score"}
    settings = {"precision": "float32", "batch_size": 8, "epochs": 1, "lr": 1e-3}
    recipe = Recipe.from_dict(
        {"encoder": {"name": str(tiny_checkpoint)}, "train": settings, "tasks": {"t": task}}
    )
    seen = Recorder(monkeypatch)
    run = train(recipe, folder, tmp_path / "run", on_event=seen)
    assert sorted(map(len, seen.rows["t"])) == [1, 8, 8]
    assert sorted(chain.from_iterable(seen.rows["t"])) == list(range(17))
    model = load(run.path)
    pairs = [(f"Item {n} on the left.", f"Item {n} on the right shelf.") for n in range(17)]
    together = model.outputs("t", pairs)
    alone = np.concatenate([model.outputs("t", [pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    split = prepare(recipe, folder).tasks["t"].train
    spec = model._model
    few = task_outputs(spec, "t", split, model._template, 128, batch_tokens=200)
    one = task_outputs(spec, "t", split, model._template, 128, batch_tokens=1)
    assert few.shape[0] == 17
    np.testing.assert_allclose(few, one, atol=1e-5)


@pytest.mark.parametrize("task_sampling", ["round-robin", "proportional", "temperature"])
def test_tr_06_three_tasks_of_unequal_size(
    shared, tmp_path, tiny_checkpoint, monkeypatch, task_sampling
):
    folder = shared / "cases" / "files" / "TR-06"
    names = ["big", "mid", "small"]
    task = {"kind": "classification", "text": "text", "label": "label"}
    tasks = {n: {**task, "train": f"{n}.csv", "dev": f"{n}.csv"} for n in names}
    settings = {"precision": "float32", "batch_size": 4, "task_sampling": task_sampling}
    settings |= {"steps": 10} if task_sampling == "round-robin" else {"epochs": 1}
    recipe = Recipe.from_dict(
        {"encoder": {"name": str(tiny_checkpoint)}, "train": settings, "tasks": tasks}
    )
    seen = Recorder(monkeypatch)
    train(recipe, folder, tmp_path / "run", on_event=seen)
    counted = {name: sum(map(len, batches)) for name, batches in seen.rows.items()}
    assert {name: c.examples for name, c in seen.counts.items()} == {
        name: counted.get(name, 0) for name in names
    }
    for name, count in seen.counts.items():
        rows = list(chain.from_iterable(seen.rows.get(name, [])))
        assert count.rows_never_seen == count.rows - len(set(rows))
    if task_sampling == "round-robin":
        assert counted == {"big": 40, "mid": 34, "small": 30}
        passes = [list(chain(*seen.rows["mid"][p : p + 3])) for p in (0, 3, 6)]
        assert all(sorted(one) == list(range(10)) for one in passes)
        assert passes[0] != passes[1] != passes[2]
    if task_sampling == "proportional":
        assert counted == {"big": 40, "mid": 10, "small": 3}


def test_tr_08_two_tasks_with_the_same_classes(shared, tmp_path, minilm):
    folder = shared / "cases" / "files" / "TR-08"
    task = {"kind": "classification", "text": "text", "label": "label"}
    tasks = {n: {**task, "train": f"{n}.csv", "dev": f"{n}.csv"} for n in ("weather", "kitchen")}
    settings = {"steps": 60, "lr": 2e-4, "head_lr": 2e-3, "precision": "float32", "batch_size": 4}
    recipe = Recipe.from_dict(
        {"encoder": {"name": "minilm", "dropout": 0.0}, "train": settings, "tasks": tasks}
    )
    run = train(recipe, folder, tmp_path / "run")
    model = load(run.path)
    for name in ("weather", "kitchen"):
        assert model.evaluate(name).score.value == 1.0
    heads = load_file(run.path / run.best().folder / "heads.safetensors")
    weather, kitchen = (heads[f"{name}.output.weight"] for name in ("weather", "kitchen"))
    assert weather.shape == kitchen.shape
    assert not torch.equal(weather, kitchen)


def test_tr_02_a_metric_without_a_value_never_wins(shared, tmp_path, tiny_checkpoint):
    folder = shared / "cases" / "files" / "TR-02"
    task = {"kind": "similarity", "texts": ["a", "b"], "label": "score", "train": "train.tsv"}
    settings = {"precision": "float32", "batch_size": 2, "epochs": 2}
    for dev, reason in (
        ("dev-constant.tsv", "all 3 gold scores are 3.0"),
        ("dev-one-row.tsv", "one row"),
    ):
        recipe = Recipe.from_dict(
            {
                "encoder": {"name": str(tiny_checkpoint)},
                "train": settings,
                "tasks": {"t": {**task, "dev": dev}},
            }
        )
        run = train(recipe, folder, tmp_path / dev)
        text = (run.path / "metrics.jsonl").read_text()
        assert "NaN" not in text
        evaluation = next(json.loads(x) for x in text.splitlines() if '"evaluation"' in x)
        assert evaluation["tasks"]["t"]["value"] is None
        assert evaluation["tasks"]["t"]["reason"] == reason
        assert evaluation["mean"] is None
        found = load(run.path).evaluate("t").to_dict()
        assert (found["value"], found["reason"]) == (None, reason)
