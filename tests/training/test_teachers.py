"""Teachers: soft labels compared with `Model.predict`, task gradients with autograd.

The reference of the gradients is the padded encoder of test_consistency.py. It takes the losses on
soft labels from torch's cross-entropy over all classes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import tomli_w
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from tests.helpers import (
    alike_rows,
    mood_rows,
    stop_at_evaluation,
    two_tasks,
    write_csv,
    write_two_tasks,
)
from tests.training.test_consistency import (
    CLASS_WEIGHTS,
    COSENT,
    R_DROP,
    STEP,
    Reference,
    gradient_of,
    make_trainer,
    require_gradients,
)
from tests.training.test_resume import assert_same
from torch import Tensor

from comity import ComityError, Recipe, load, train
from comity.cli.main import main
from comity.data.soft_labels import SoftLabels, write_soft_labels
from comity.data.splits import Split
from comity.data.task_sampling import PlannedBatch
from comity.data.token_cache import text_key
from comity.experiments.baseline import Baseline
from comity.runs.directory import RunDirectory
from comity.tables.reader import table_digest
from comity.targets import Target
from comity.training.arguments import resolve
from comity.training.events import RowsLabelled
from comity.training.setup import prepare
from comity.training.teachers import averaged, soft_targets
from comity.training.trainer import Trainer

Z = np.random.default_rng(3).normal(0, 1.5, (36, 2))
"""Logits of a teacher of `mood` for the rows of mood.csv; of the classes up and down."""

SCORES = np.random.default_rng(4).uniform(0, 1, 20)
"""Scores of a teacher of `alike` for the rows of alike.csv."""


def soft_labels(task: str, rows: list, values: np.ndarray, file: str = "another file", **changes):
    """Soft labels of some rows, which are found again by their texts."""
    keys = [[text_key(text) for text in row[:-1]] for row in rows]
    labels = SoftLabels(
        task=task,
        kind="classification" if values.ndim == 2 else "similarity",
        classes=("up", "down") if values.ndim == 2 else (),
        rows=np.arange(len(rows)),
        keys=np.array(keys, dtype=np.uint64),
        folds=np.ones(len(rows), dtype=np.int32),
        values=values,
        logits=None,
        count=2,
        seed=0,
        file=file,
        weights=({}, {}),
        recipe={},
        digests={},
        drop_leaks=False,
    )
    return replace(labels, **changes)


def write_teachers(folder: Path) -> dict[str, str]:
    """A file of soft labels for each of the two tasks; `mood` lacks the first 5 rows."""
    values = softmax(Z, axis=1)
    # In another order than the training file, so that rows must be found by their texts.
    mood = soft_labels("mood", mood_rows(5, 31)[::-1], values[:4:-1])
    write_soft_labels(folder / "mood.safetensors", mood)
    write_soft_labels(folder / "alike.safetensors", soft_labels("alike", alike_rows(0, 20), SCORES))
    return {f"tasks__{name}__teacher": f"{name}.safetensors" for name in ("mood", "alike")}


# --- task gradients -------------------------------------------------------------------------------


class TaughtReference(Reference):
    """The losses of one task in a step, those on labels mixed with those on soft labels."""

    def __init__(self, trainer: Trainer, batch, shares: dict[str, float], temperature: float):
        super().__init__(trainer, batch)
        self.share, self.temperature = shares[self.task], temperature
        self.rows = self.batch.split.rows[self.indices]

    def cross_entropy(self, outputs: Tensor) -> Tensor:
        labels, teacher = self.on_labels(outputs), self.on_soft_labels(outputs)
        taught = torch.from_numpy(self.rows >= (5 if self.task == "mood" else 0))
        share = torch.where(taught, self.share, 0.0)
        return ((1 - share) * labels + share * teacher).mean()

    def on_labels(self, outputs: Tensor) -> Tensor:
        """The loss of each row."""
        target = self.spec.target
        if target.kind == "classification":
            weights = torch.tensor([CLASS_WEIGHTS[target.classes[label]] for label in self.labels])
            both = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
            wanted = torch.from_numpy(self.labels).long()
            return F.cross_entropy(both, wanted, reduction="none") * weights
        if target.head == "bins":
            levels = torch.from_numpy(np.floor(self.labels + 0.5)).long()
            return F.cross_entropy(outputs, levels, reduction="none")
        return (outputs[:, 0] - torch.from_numpy(self.labels / 5).float()) ** 2

    def on_soft_labels(self, outputs: Tensor) -> Tensor:
        """The loss of each row."""
        target, t = self.spec.target, self.temperature
        if target.kind == "classification":
            assert target.classes == ("down", "up")
            both = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
            wanted = torch.from_numpy(Z[self.rows][:, ::-1].copy()).float().div(t).softmax(dim=1)
            return F.cross_entropy(both / t, wanted, reduction="none") * t * t
        scores = torch.from_numpy(SCORES[self.rows]).float()
        if target.head != "bins":
            return F.mse_loss(outputs[:, 0], scores, reduction="none")
        wanted = torch.zeros_like(outputs)
        for row, score in enumerate(scores * 5):
            below = min(int(score), 4)
            wanted[row, below], wanted[row, below + 1] = 1 - (score - below), score - below
        return F.cross_entropy(outputs, wanted, reduction="none")

    def losses(self) -> tuple[Tensor, Tensor]:
        if self.trainer.prepared.tasks[self.task].task.consistency is not None:
            return super().losses()
        return self.cross_entropy(self.outputs(0)), torch.zeros(())


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, {"mood": 0.5, "alike": 0.5}),
        ({"tasks__mood__consistency": ..., "tasks__mood__teacher_weight": 1.0}, {"mood": 1.0}),
        (
            {
                "tasks__mood__micro_batches": 3,
                "tasks__alike__micro_batches": 2,
                "tasks__mood__teacher_weight": 0.3,
            },
            {"mood": 0.3},
        ),
        ({"tasks__alike__head": "bins", "tasks__alike__teacher_weight": 0.9}, {"alike": 0.9}),
        ({"tasks__alike__head": "cosine", "tasks__alike__objectives": COSENT}, {}),
        # After 1 of 4 steps the teacher's share is 3/4.
        (
            {"tasks__mood__teacher_anneal": True, "tasks__alike__teacher_anneal": True},
            {"mood": 0.75, "alike": 0.75},
        ),
        ({"train__loss_weighting": "uncertainty"}, {}),
    ],
    ids=["regression", "one draw", "micro-batches", "bins", "cosine", "anneal", "learned"],
)
def test_task_gradients_with_teachers_equal_autograd(tmp_path, tiny_checkpoint, changes, shares):
    shares = {"mood": 0.5, "alike": 0.5} | shares
    trainer = make_trainer(
        tmp_path,
        tiny_checkpoint,
        **{
            **write_teachers(tmp_path),
            "tasks__mood__teacher_temperature": 2.0,
            "tasks__alike__pooling": "mean",
            "train__epochs": ...,
            "train__steps": 4,
            **changes,
        },
    )
    trainer.progress.stage_step = 1
    generator = torch.Generator().manual_seed(1)
    trainer.flat.masters[trainer.flat.shared_stop :].normal_(0, 0.3, generator=generator)
    trainer.flat.refresh(0, len(trainer.flat.masters))
    batches = trainer._batches(trainer.plans[0], [PlannedBatch(task, 0) for task in range(2)])
    # Some rows of the batch of `mood` have no soft label.
    untaught = [
        batch.split.rows[part.indices] < 5 for batch in batches[:1] for part in batch.micro_batches
    ]
    assert 0 < np.concatenate(untaught).sum() < 8
    losses, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, STEP)
    assert tasks == ["mood", "alike"]
    found, flat = trainer.gradients, trainer.flat
    require_gradients(flat)
    heads = torch.zeros_like(found.heads)
    for row, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        reference = TaughtReference(trainer, batch, shares, 2.0 if batch.task == "mood" else 1.0)
        own, consistency = reference.losses()
        assert loss == pytest.approx((own + consistency).item(), rel=1e-5)
        expected = gradient_of(reference.weighted(), flat)
        dense = expected[flat.table_stop : flat.shared_stop]
        assert dense.norm() > 1e-2
        torch.testing.assert_close(found.rows[row], dense, atol=1e-5, rtol=1e-3)
        heads += expected[flat.shared_stop :]
    torch.testing.assert_close(found.heads, heads, atol=1e-5, rtol=1e-4)


# --- soft labels of a run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, write_checkpoint) -> Path:
    """A run of both tasks with an encoder of another width, vocabulary and seed."""
    folder = tmp_path_factory.mktemp("teacher")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = [*words, *(f"##{word}" for word in words[5:]), "the", "good", "bad", "worst"]
    encoder = write_checkpoint(folder / "encoder", tokens, seed=5, hidden_size=48)
    write_two_tasks(folder)
    recipe = two_tasks(encoder, tasks__alike__scale=[0, 10], train__lr=3e-3)
    return train(recipe, folder, folder / "run", quiet=True).path


def trainer_of(recipe: Recipe, folder: Path, drop_leaks: bool = False) -> Trainer:
    return Trainer(prepare(recipe, folder, drop_leaks))


def assert_labelled(split: Split, texts: list, run: Path, task: str, order: list[str]) -> None:
    """The soft labels are what the run predicts for the texts `[rows of the file]`."""
    found = load(run).predict(task, [texts[row] for row in split.rows])
    if task == "mood":
        expected = [[each.probabilities[name] for name in order] for each in found]
    else:
        expected = [[float(each.label) / 10] for each in found]
    assert split.soft is not None and len(split.soft) == len(split) > 0
    np.testing.assert_allclose(split.soft, expected, atol=1e-6)
    assert np.ptp(split.soft[:, 0]) > 1e-3  # otherwise their order would not be tested


MOOD = [text for text, _ in mood_rows(0, 36)]
ALIKE = [(first, second) for first, second, _ in alike_rows(0, 20)]


def test_a_run_labels_by_the_names_of_classes_and_by_the_share_of_the_scale(
    tmp_path, tiny_checkpoint, teacher
):
    write_two_tasks(tmp_path)
    recipe = two_tasks(
        tiny_checkpoint,
        tasks__mood__teacher=str(teacher),
        tasks__mood__classes=["up", "down"],
        tasks__alike__teacher=[str(teacher)],
    )
    assert load(teacher).target("mood").classes == ("down", "up")
    tasks = trainer_of(recipe, tmp_path).prepared.tasks
    assert_labelled(tasks["mood"].train, MOOD, teacher, "mood", ["up", "down"])
    assert_labelled(tasks["alike"].train, ALIKE, teacher, "alike", [])
    assert tasks["mood"].dev.soft is None


def test_rows_keep_their_labels_where_leaks_are_dropped_and_where_dev_is_drawn(
    tmp_path, tiny_checkpoint, teacher
):
    write_two_tasks(tmp_path)
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], mood_rows(2, 3))
    recipe = two_tasks(
        tiny_checkpoint,
        tasks__mood__teacher=str(teacher),
        tasks__alike__teacher=str(teacher),
        tasks__alike__dev=0.3,
    )
    tasks = trainer_of(recipe, tmp_path, drop_leaks=True).prepared.tasks
    assert tasks["mood"].train.leaked == 3
    assert_labelled(tasks["mood"].train, MOOD, teacher, "mood", ["down", "up"])
    assert len(tasks["alike"].train) < 20
    assert_labelled(tasks["alike"].train, ALIKE, teacher, "alike", [])


def test_a_table_in_memory_and_the_file_of_a_stage_are_labelled(tmp_path, tiny_checkpoint, teacher):
    write_two_tasks(tmp_path)
    rows = [(label, f"again {text}") for text, label in mood_rows(40, 8)]
    write_csv(tmp_path / "more.csv", ["is", "said"], rows)
    frame = pandas.DataFrame(alike_rows(0, 20), columns=["a", "b", "score"])
    values = two_tasks(
        tiny_checkpoint,
        train__epochs=...,
        tasks__mood__teacher=str(teacher),
        tasks__alike__teacher=str(teacher),
        stages=[
            {"steps": 2, "data": {"mood": {"file": "more.csv", "text": "said", "label": "is"}}},
            {"steps": 2},
        ],
    ).to_dict()
    values["tasks"]["alike"]["train"] = frame
    job = resolve(values, tmp_path)
    tasks = Trainer(prepare(job.recipe, tmp_path, frames=job.frames)).prepared.tasks
    assert_labelled(tasks["alike"].train, ALIKE, teacher, "alike", [])
    assert_labelled(tasks["mood"].train, MOOD, teacher, "mood", ["down", "up"])
    more = tasks["mood"].stage_train["more.csv"]
    assert_labelled(more, [text for _, text in rows], teacher, "mood", ["down", "up"])


def test_rows_of_a_part_of_a_split_keep_their_soft_labels(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    recipe = two_tasks(tiny_checkpoint, **write_teachers(tmp_path))
    split = trainer_of(recipe, tmp_path).prepared.tasks["alike"].train
    part = split.take(np.array([3, 7]))
    assert part.soft is not None
    np.testing.assert_allclose(part.soft[:, 0], SCORES[[3, 7]], rtol=1e-6)


def test_several_teachers_are_averaged(tmp_path, tiny_checkpoint, teacher):
    write_two_tasks(tmp_path)
    files = write_teachers(tmp_path)
    recipe = two_tasks(
        tiny_checkpoint, tasks__mood__teacher=[str(teacher), files["tasks__mood__teacher"]]
    )
    soft = trainer_of(recipe, tmp_path).prepared.tasks["mood"].train.soft
    assert soft is not None
    first = [
        [p.probabilities["down"], p.probabilities["up"]]
        for p in load(teacher).predict("mood", MOOD)
    ]
    expected = np.array(first)
    expected[5:] = (expected[5:] + softmax(Z, axis=1)[5:, ::-1]) / 2  # the file lacks 5 rows
    np.testing.assert_allclose(soft, expected, atol=1e-6)


def test_a_file_made_from_the_same_file_is_read_by_its_rows(tmp_path, tiny_checkpoint):
    write_csv(tmp_path / "rows.csv", ["text", "mood"], mood_rows(0, 12) * 2)  # all texts twice
    write_two_tasks(tmp_path)
    labels = soft_labels(
        "mood",
        (mood_rows(0, 12) * 2)[4:],
        np.linspace([0.1, 0.9], [0.8, 0.2], 20),
        table_digest(tmp_path / "rows.csv"),
    )
    labels = replace(labels, rows=np.arange(4, 24))
    write_soft_labels(tmp_path / "soft.safetensors", labels)
    recipe = two_tasks(
        tiny_checkpoint, tasks__mood__train="rows.csv", tasks__mood__teacher="soft.safetensors"
    )
    soft = trainer_of(recipe, tmp_path).prepared.tasks["mood"].train.soft
    assert soft is not None
    assert np.isnan(soft[:4]).all()
    np.testing.assert_allclose(soft[4:], np.linspace([0.9, 0.1], [0.2, 0.8], 20), rtol=1e-6)


@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_probabilities_at_a_temperature_are_those_of_the_logits(tmp_path, tiny_checkpoint, kind):
    """Classes in another order than the teacher's."""
    logits = np.random.default_rng(6).normal(0, 3, (36, 3))
    names = ["x", "y", "z"]
    if kind == "classification":
        values, expected = softmax(logits, axis=1), softmax(logits / 3, axis=1)
        own = {"label": "label", "classes": names}
    else:
        values, expected = expit(logits), expit(logits / 3)
        own = {"labels": names}
    ends = [("x", 1, 0, 0), ("y", 0, 1, 0), ("z", 0, 1, 1)]
    rows = [(text, *ends[n % 3]) for n, (text, _) in enumerate(mood_rows(0, 36))]
    write_csv(tmp_path / "three.csv", ["text", "label", *names], rows)
    order = [2, 0, 1]
    labels = soft_labels(
        "mood",
        mood_rows(0, 36),
        values[:, order],
        kind=kind,
        classes=tuple(names[index] for index in order),
    )
    write_soft_labels(tmp_path / "soft.safetensors", labels)
    recipe = Recipe.from_dict(
        {
            "encoder": {"name": str(tiny_checkpoint)},
            "train": {"precision": "float32"},
            "tasks": {
                "mood": {
                    "kind": kind,
                    "train": "three.csv",
                    "dev": 0.2,
                    "text": "text",
                    **own,
                    "teacher": "soft.safetensors",
                    "teacher_temperature": 3.0,
                }
            },
        }
    )
    split = trainer_of(recipe, tmp_path).prepared.tasks["mood"].train
    assert split.soft is not None
    np.testing.assert_allclose(split.soft, expected[split.rows], rtol=1e-4, atol=1e-7)


def test_a_score_is_split_between_two_neighbouring_levels():
    bins = Target("similarity", "bins", scale=(0.0, 5.0))
    expected = [
        [0, 0, 0.5, 0.5, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0.7, 0.3, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    found = soft_targets(bins, np.array([0.5, 0.0, 0.26, 1.0]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.isnan(soft_targets(bins, np.array([np.nan]))).all()
    shifted = Target("similarity", "bins", scale=(2.0, 4.0))
    np.testing.assert_allclose(soft_targets(shifted, np.array([0.25])), [[0.5, 0.5, 0]])


def test_numbers_are_exchanged_in_the_unit_of_the_label():
    student = Target("regression", "regression", mean=10.0, deviation=4.0)
    np.testing.assert_allclose(soft_targets(student, np.array([12.0, 8.0])), [[0.5], [-0.5]])


def test_the_mean_is_over_the_teachers_that_label_a_row():
    nan = np.nan
    found = averaged([np.array([0.2, nan, nan]), np.array([0.4, 0.6, nan])])
    np.testing.assert_allclose(found, [0.3, 0.6, nan])


# --- whole runs -----------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_and_the_rows_are_labelled_once(
    tmp_path, tiny_checkpoint, teacher
):
    write_two_tasks(tmp_path)
    recipe = two_tasks(
        tiny_checkpoint,
        train__balancer="pcgrad",
        train__epochs=...,
        train__steps=6,
        train__evaluate_every=2,
        tasks__mood__teacher=str(teacher),
        tasks__mood__teacher_anneal=True,
        tasks__mood__consistency=R_DROP,
        tasks__alike__teacher=str(teacher),
        tasks__alike__max_length=99,
    )
    events = []
    whole = train(recipe, tmp_path, tmp_path / "whole", on_event=events.append)
    stop = stop_at_evaluation(2)

    def listen(event):
        events.append(event)
        stop(event)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "run", on_event=listen)
    assert_same(train(recipe, tmp_path, tmp_path / "run", resume=True), whole)
    labelled = [event for event in events if isinstance(event, RowsLabelled)]
    assert len(labelled) == len({(event.task, event.rows) for event in labelled})
    facts = RunDirectory.open(tmp_path / "run").facts()
    assert [each.path for each in facts.inputs.teachers["mood"]] == [str(teacher)]


def test_a_run_is_not_resumed_with_another_teacher(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    changes = write_teachers(tmp_path)
    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=2, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "run", on_event=stop_at_evaluation(1))
    write_soft_labels(
        tmp_path / "mood.safetensors", soft_labels("mood", mood_rows(0, 36), softmax(-Z, axis=1))
    )
    with pytest.raises(ComityError) as caught:
        train(recipe, tmp_path, tmp_path / "run", resume=True)
    assert caught.value.messages == [
        "tasks.mood.teacher: a teacher has changed since the run was started; restore the old one, "
        "or start a new run"
    ]


def test_masked_words_are_predicted_without_the_teacher(tmp_path, tiny_checkpoint):
    """The first stage ends with the same encoder; the head of the second one differs."""
    write_two_tasks(tmp_path)
    stages = [{"train_on": "masked-words", "steps": 2}, {"steps": 1}]
    runs = []
    for changes in (write_teachers(tmp_path), {}):
        recipe = two_tasks(tiny_checkpoint, train__epochs=..., stages=stages, **changes)
        trainer = Trainer(prepare(recipe, tmp_path))
        losses = []
        for plan in trainer.plans:
            trainer.start_stage(plan)
            losses.append([trainer.step(plan, step).losses for step in plan.steps])
        runs.append(losses)
    (masked, labels), (same_masked, other_labels) = runs
    assert masked == same_masked
    assert labels != other_labels


def test_check_says_who_teaches_and_warns_once_of_teachers_that_know_the_rows(
    tmp_path, tiny_checkpoint, teacher
):
    write_two_tasks(tmp_path)
    files = write_teachers(tmp_path)
    both = {f"tasks__{name}__teacher": str(teacher) for name in ("mood", "alike")}
    sure = (
        "mood, alike: a teacher labels rows that it was trained on, and is too sure of them; the "
        "soft labels of comity baseline --folds are for unseen rows"
    )
    assert prepare(two_tasks(tiny_checkpoint, **both), tmp_path).notes == [
        f"mood: learns from {teacher}, which labels 36 of 36 rows of {tmp_path / 'mood.csv'}",
        f"alike: learns from {teacher}, which labels 20 of 20 rows of {tmp_path / 'alike.csv'}",
        sure,
    ]
    assert prepare(two_tasks(tiny_checkpoint, **files), tmp_path).notes == [
        "mood: learns from mood.safetensors, which labels 31 of 36 rows of "
        f"{tmp_path / 'mood.csv'}",
        "alike: learns from alike.safetensors, which labels 20 of 20 rows of "
        f"{tmp_path / 'alike.csv'}",
    ]


def test_a_baseline_trains_without_teachers(tmp_path, tiny_checkpoint, capsys):
    write_two_tasks(tmp_path)
    recipe = two_tasks(tiny_checkpoint, tasks__mood__teacher="not/there.safetensors")
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe.to_dict()))
    baseline = Baseline(path, tmp_path, tmp_path / "out", seeds=1)
    assert baseline.notes == ["mood: is trained without its teacher here"]
    assert not any(
        task.teachers for run in baseline.series.runs for task in run.recipe.tasks.values()
    )
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "not/there.safetensors: there is no such run or file" in capsys.readouterr().err


# --- bad input ------------------------------------------------------------------------------------


def messages(changes: dict, folder: Path, checkpoint: Path) -> list[str]:
    with pytest.raises(ComityError) as caught:
        prepare(two_tasks(checkpoint, **changes), folder)
    return caught.value.messages


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("teacher_weight", 0, "expected a number above 0, got 0"),
        ("teacher_weight", 1.5, "expected a number at most 1, got 1.5"),
        ("teacher_temperature", 0, "expected a number above 0, got 0"),
        ("teacher", [], "expected text in quotes or at least 1 entry, got []"),
        ("teacher", 3, "expected text in quotes or a list, got 3"),
        ("teacher", ["a", "a"], "names a teacher twice; remove one"),
    ],
)
def test_a_wrong_value_is_one_sentence(tmp_path, tiny_checkpoint, key, value, problem):
    changes = {"tasks__mood__teacher": "x", f"tasks__mood__{key}": value}
    (message,) = messages(changes, tmp_path, tiny_checkpoint)
    assert message == f"recipe: tasks.mood.{key}: {problem}"


@pytest.mark.parametrize(
    ("task", "changes", "key", "reason"),
    [
        ("mood", {"teacher_weight": 0.2}, "teacher_weight", "the task has no teacher"),
        (
            "alike",
            {"teacher": "x", "teacher_temperature": 2.0},
            "teacher_temperature",
            "teachers of scores and numbers have no logits",
        ),
        (
            "mood",
            {"teacher": "x", "teacher_weight": 0.2, "teacher_anneal": True},
            "teacher_weight",
            "teacher_anneal sets the share",
        ),
        ("mood", {"teacher": "x", "eval_only": True}, "teacher", "the task is eval_only"),
    ],
)
def test_a_key_without_effect_is_an_error(tmp_path, tiny_checkpoint, task, changes, key, reason):
    found = messages(
        {f"tasks__{task}__{name}": value for name, value in changes.items()},
        tmp_path,
        tiny_checkpoint,
    )
    assert f"recipe: tasks.{task}.{key}: has no effect here ({reason}); remove it" in found


def test_a_teacher_that_does_not_fit_is_an_error_before_training(
    tmp_path, tiny_checkpoint, teacher
):
    write_two_tasks(tmp_path)
    files = write_teachers(tmp_path)

    def error(task: str, **changes) -> str:
        changes = {f"tasks__{task}__{name}": value for name, value in changes.items()}
        (message,) = messages(changes, tmp_path, tiny_checkpoint)
        prefix = f"tasks.{task}.teacher: "
        assert message.startswith(prefix)
        return message.removeprefix(prefix)

    assert error("mood", teacher="runs/none") == (
        "runs/none: there is no such run or file; name a run directory, or soft labels of comity "
        "baseline --folds"
    )
    assert error("mood", teacher=str(tmp_path)) == (
        f"{tmp_path}: not a run (it has no run.json); name a directory written by comity train"
    )
    assert error("mood", teacher="mood.csv") == (
        f"{tmp_path / 'mood.csv'}: does not hold soft labels, or is damaged; name a file of comity "
        "baseline --folds, or repeat that command"
    )
    assert error("mood", teacher=files["tasks__alike__teacher"]) == (
        "alike.safetensors: holds soft labels of the task alike; name those of mood"
    )
    write_csv(
        tmp_path / "three.csv", ["text", "mood"], [*mood_rows(0, 36), ("it is so so", "so so")]
    )
    assert error("mood", teacher=str(teacher), train="three.csv") == (
        f"{teacher}: has the classes down, up, but mood has down, so so, up; name a teacher with "
        "the same classes"
    )
    fewer = soft_labels("mood", mood_rows(0, 36), np.ones((36, 3)) / 3, classes=("a", "up", "down"))
    write_soft_labels(tmp_path / "fewer.safetensors", fewer)
    assert "has the classes a, up, down, but mood has down, up;" in error(
        "mood", teacher="fewer.safetensors"
    )
    others = soft_labels("mood", mood_rows(500, 36), softmax(Z, axis=1))
    write_soft_labels(tmp_path / "others.safetensors", others)
    assert error("mood", teacher="others.safetensors") == (
        "others.safetensors: has none of the training rows of mood; make soft labels for these rows"
    )
    kind = replace(soft_labels("mood", mood_rows(0, 36), softmax(Z, axis=1)), kind="multi-label")
    write_soft_labels(tmp_path / "kind.safetensors", kind)
    assert error("mood", teacher="kind.safetensors") == (
        "kind.safetensors: predicts multi-label, but mood is classification; name a teacher of the "
        "same kind"
    )


def test_a_run_without_the_task_or_with_other_texts_is_refused(tmp_path, tiny_checkpoint, teacher):
    write_two_tasks(tmp_path)
    values = two_tasks(tiny_checkpoint, tasks__mood__teacher=str(teacher)).to_dict()
    values["tasks"]["tone"] = values["tasks"].pop("mood")
    with pytest.raises(ComityError) as caught:
        prepare(Recipe.from_dict(values), tmp_path)
    assert caught.value.messages == [
        f"tasks.tone.teacher: {teacher}: has no task tone, only mood, alike; name a run of tone"
    ]
    rows = [(text, "yes", label) for text, label in mood_rows(0, 36)]
    write_csv(tmp_path / "pairs.csv", ["text", "other", "mood"], rows)
    (message,) = messages(
        {
            "tasks__mood__teacher": str(teacher),
            "tasks__mood__text": ...,
            "tasks__mood__texts": ["text", "other"],
            "tasks__mood__train": "pairs.csv",
            "tasks__mood__dev": 0.2,
            "tasks__mood__split": "rows",
        },
        tmp_path,
        tiny_checkpoint,
    )
    assert message == (
        f"tasks.mood.teacher: {teacher}: reads 1 text in each row, but mood has 2 texts; name a "
        "teacher that reads as many"
    )
