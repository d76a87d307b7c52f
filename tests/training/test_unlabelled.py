"""`unlabelled`: rows that only a teacher labels, in gradients, plans, runs, leaks and messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tomli_w
import torch
import torch.nn.functional as F
from scipy.special import softmax
from tests.helpers import alike_rows, mood_rows, stop_at_evaluation, two_tasks, write_csv
from tests.helpers import write_two_tasks as write_labelled
from tests.training.test_consistency import (
    CLASS_WEIGHTS,
    COSENT,
    R_DROP,
    STEP,
    Reference,
    divergence,
    gradient_of,
    make_trainer,
    require_gradients,
)
from tests.training.test_resume import assert_same
from tests.training.test_teachers import soft_labels
from torch import Tensor

from comity import ComityError, Recipe, load, train
from comity.cli.main import main
from comity.data.soft_labels import write_soft_labels
from comity.data.task_sampling import PlannedBatch
from comity.experiments.baseline import Baseline
from comity.losses.embedding_losses import cosent
from comity.runs.directory import RunDirectory
from comity.training.arguments import resolve
from comity.training.setup import prepare
from comity.training.trainer import Trainer

MOOD, ALIKE = mood_rows(0, 36), alike_rows(0, 20)
MORE_MOOD, MORE_ALIKE = mood_rows(100, 12), alike_rows(100, 9)

Z = np.random.default_rng(7).normal(0, 1.5, (48, 2))
"""Logits of a teacher of `mood` for MOOD and MORE_MOOD; of the classes up and down."""

SCORES = np.random.default_rng(8).uniform(0, 1, 29)
"""Scores of a teacher of `alike` for ALIKE and MORE_ALIKE."""

KEYS: dict[str, Any] = {
    f"tasks__{name}__{key}": f"{start}{name}.{end}"
    for name in ("mood", "alike")
    for key, start, end in (("unlabelled", "more-", "csv"), ("teacher", "", "safetensors"))
}


def write_unlabelled(folder: Path) -> None:
    """The two tasks' files, their unlabelled files and teachers; that of `mood` lacks 5 rows.

    The unlabelled files have other columns too, and the label of `mood` in one is not a class.
    """
    write_labelled(folder)
    write_csv(folder / "more-mood.csv", ["mood", "text"], [("?", text) for text, _ in MORE_MOOD])
    write_csv(folder / "more-alike.csv", ["b", "x", "a"], [(b, 0, a) for a, b, _ in MORE_ALIKE])
    values = softmax(Z, axis=1)
    write_soft_labels(
        folder / "mood.safetensors", soft_labels("mood", [*MOOD, *MORE_MOOD][5:], values[5:])
    )
    write_soft_labels(
        folder / "alike.safetensors", soft_labels("alike", [*ALIKE, *MORE_ALIKE], SCORES)
    )


# --- task gradients -------------------------------------------------------------------------------


class RowByRow(Reference):
    """The losses of one task in a step, from those of its rows."""

    share = 0.5  # of the teacher

    def loss_of(self, row: int, output: Tensor, label: float) -> Tensor:
        """What the row of this number, labelled ones first, adds to the sum over rows."""
        if self.spec.target.kind == "classification":
            both = torch.stack([torch.zeros(()), output[0]])  # down and up
            labels = F.cross_entropy(both[None], torch.tensor([int(label)]))
            labels = labels * CLASS_WEIGHTS[self.spec.target.classes[int(label)]]
            wanted = torch.from_numpy(softmax(Z[row][::-1] / 2)).float()
            teacher = -(wanted * (both / 2).log_softmax(dim=0)).sum() * 4
            count, first = len(MOOD), 5
        else:
            labels = (output[0] - label / 5) ** 2
            teacher = (output[0] - float(SCORES[row])) ** 2
            count, first = len(ALIKE), 0
        if row >= count:
            return self.share * teacher
        return labels if row < first else (1 - self.share) * labels + self.share * teacher

    def head_loss(self, outputs: Tensor) -> Tensor:
        rows = self.batch.split.rows[self.indices].tolist()
        found = map(self.loss_of, rows, outputs, self.labels.tolist())
        return torch.stack(list(found)).sum() / len(rows)

    def losses(self) -> tuple[Tensor, Tensor]:
        section = self.trainer.prepared.tasks[self.task].task
        draws = [self.outputs(draw) for draw in range(section.draws)]
        loss = torch.stack([self.head_loss(draw) for draw in draws]).mean()
        if section.objectives:
            labelled = np.flatnonzero(self.batch.split.rows[self.indices] < len(ALIKE))
            first, second = (self.vector(view, 0, "mean")[labelled] for view in ("first", "second"))
            own = cosent(first, second, torch.from_numpy(self.labels[labelled] / 5).float())
            assert own > 0.1
            loss = loss + own * len(labelled) / len(self.indices)
        if section.consistency is None:
            return loss, torch.zeros(())
        return loss, 3.0 * divergence(self.spec.target, *draws)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"tasks__alike__objectives": COSENT}, 0.5),
        (
            {
                "tasks__mood__consistency": R_DROP,
                "tasks__mood__micro_batches": 3,
                "tasks__mood__teacher_weight": 0.7,
                "tasks__alike__teacher_weight": 0.7,
            },
            0.7,
        ),
        # After 1 of 4 steps the teacher's share is 3/4, of unlabelled rows too.
        ({"tasks__mood__teacher_anneal": True, "tasks__alike__teacher_anneal": True}, 0.75),
    ],
    ids=["objective", "two draws", "anneal"],
)
def test_task_gradients_with_unlabelled_rows_equal_autograd(
    tmp_path, tiny_checkpoint, changes, share
):
    write_unlabelled(tmp_path)
    trainer = make_trainer(
        tmp_path,
        tiny_checkpoint,
        **{
            **KEYS,
            "tasks__mood__teacher_temperature": 2.0,
            "tasks__mood__consistency": ...,
            "tasks__alike__consistency": ...,
            "tasks__alike__pooling": "mean",
            "train__epochs": ...,
            "train__steps": 4,
            "train__batch_size": 12,
            **changes,
        },
    )
    trainer.progress.stage_step = 1
    generator = torch.Generator().manual_seed(1)
    trainer.flat.masters[trainer.flat.shared_stop :].normal_(0, 0.3, generator=generator)
    trainer.flat.refresh(0, len(trainer.flat.masters))
    batches = trainer._batches(trainer.plans[0], [PlannedBatch(task, 0) for task in range(2)])
    losses, _ = trainer.task_gradients[0].fill(trainer.gradients, batches, False, STEP)
    found, flat = trainer.gradients, trainer.flat
    require_gradients(flat)
    heads = torch.zeros_like(found.heads)
    for row, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        rows = batch.split.rows[np.concatenate([part.indices for part in batch.micro_batches])]
        assert 0 < (rows >= (36, 20)[row]).sum() < 12  # the batch mixes both kinds
        reference = RowByRow(trainer, batch)
        reference.share = share
        own, consistency = reference.losses()
        assert loss == pytest.approx((own + consistency).item(), rel=1e-5)
        expected = gradient_of(reference.weighted(), flat)
        words = expected[: flat.table_stop].view(-1, flat.width)
        torch.testing.assert_close(found.word_rows[row], words[found.words], atol=1e-5, rtol=1e-3)
        dense = expected[flat.table_stop : flat.shared_stop]
        assert dense.norm() > 1e-2
        torch.testing.assert_close(found.rows[row], dense, atol=1e-5, rtol=1e-3)
        heads += expected[flat.shared_stop :]
    torch.testing.assert_close(found.heads, heads, atol=1e-5, rtol=1e-4)


# --- data and plan --------------------------------------------------------------------------------


def test_the_plan_counts_unlabelled_rows_and_class_weights_do_not(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    write_csv(tmp_path / "mood.csv", ["text", "mood"], [*MOOD[:30], *[MOOD[0]] * 6])
    recipe = two_tasks(tiny_checkpoint, tasks__mood__class_weights="balanced", **KEYS)
    trainer = Trainer(prepare(recipe, tmp_path))
    plan = trainer.plans[0]
    # An epoch is as many examples as all tasks have rows: 48 and 29.
    assert sum(count.rows for count in plan.counts) == 77
    assert sum(count.examples for count in plan.counts) >= 77
    seen = set()
    for number in range(plan.tasks[0].batches.per_pass(0)):
        seen |= set(plan.tasks[0].batches.batch(number)[1].tolist())
    assert seen == set(range(48))
    labels = [label for _, label in [*MOOD[:30], *[MOOD[0]] * 6]]
    expected = [36 / (2 * labels.count(name)) for name in ("down", "up")]
    assert expected[0] != expected[1]
    weights = trainer.task_gradients[0].class_weights["mood"]
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_numbers_are_standardised_and_dev_is_drawn_from_labelled_rows(tmp_path, tiny_checkpoint):
    rows = [(text, 10.0 + number) for number, (text, _) in enumerate(MOOD)]
    write_csv(tmp_path / "mood.csv", ["text", "mood"], rows)
    write_csv(tmp_path / "more-mood.csv", ["text"], [(text,) for text, _ in MORE_MOOD])
    values = np.linspace(0, 1000, 48)
    labels = soft_labels("mood", [*MOOD, *MORE_MOOD], values, kind="regression")
    write_soft_labels(tmp_path / "mood.safetensors", labels)
    keys = {key: value for key, value in KEYS.items() if "mood" in key}
    recipe = two_tasks(
        tiny_checkpoint, tasks__mood__kind="regression", tasks__mood__dev=0.25, **keys
    ).only(["mood"])
    data = Trainer(prepare(recipe, tmp_path)).prepared.tasks["mood"]
    assert (len(data.train), len(data.dev)) == (27, 9)
    targets = 10.0 + data.train.rows
    assert data.target.mean == pytest.approx(targets.mean())
    assert data.target.deviation == pytest.approx(targets.std())
    assert data.unlabelled is not None
    assert data.unlabelled.soft is not None
    expected = (values[36:] - targets.mean()) / targets.std()
    np.testing.assert_allclose(data.unlabelled.soft[:, 0], expected, rtol=1e-5)


def test_texts_of_both_files_are_read_from_disk(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    trainer = Trainer(prepare(two_tasks(tiny_checkpoint, **KEYS), tmp_path))
    vocabulary = (tiny_checkpoint / "vocab.txt").read_text().split("\n")
    split = trainer.plans[0].splits[1]
    packed = split.pack(np.array([25, 3, 20]), ("pair",), trainer.prepared.template, 64)[0]
    texts = []
    for start, stop in zip(packed.offsets, packed.offsets[1:], strict=False):
        words = [vocabulary[index] for index in packed.ids[start:stop]]
        texts.append(" ".join(words).replace(" ##", "").replace("[CLS] ", "").split(" [SEP]")[:2])
    rows = (MORE_ALIKE[5], ALIKE[3], MORE_ALIKE[0])
    assert texts == [[a.lower(), f" {b.lower()}"] for a, b, _ in rows]
    assert split.lines_by_file(np.array([25, 3, 20])) == {
        tmp_path / "alike.csv": [5],
        tmp_path / "more-alike.csv": [2, 7],
    }


def test_a_table_in_memory_may_be_unlabelled(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    values = two_tasks(tiny_checkpoint, **KEYS).to_dict()
    frame = pandas.DataFrame(
        {"a": [a for a, _, _ in MORE_ALIKE], "b": [b for _, b, _ in MORE_ALIKE]}
    )
    values["tasks"]["alike"]["unlabelled"] = frame
    job = resolve(values, tmp_path)
    prepared = Trainer(prepare(job.recipe, tmp_path, frames=job.frames)).prepared
    data = prepared.tasks["alike"]
    assert data.unlabelled is not None
    assert data.unlabelled.soft is not None
    np.testing.assert_allclose(data.unlabelled.soft[:, 0], SCORES[20:], rtol=1e-6)
    assert prepared.inputs().in_memory == ["alike unlabelled"]


def test_a_stage_with_a_file_of_its_own_leaves_unlabelled_rows_out(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    write_csv(tmp_path / "stage.csv", ["text", "mood"], MOOD[10:20])
    recipe = two_tasks(
        tiny_checkpoint,
        train__epochs=...,
        stages=[
            {"train_on": "masked-words", "steps": 1},
            {"steps": 1, "data": {"mood": "stage.csv"}},
        ],
        **KEYS,
    )
    plans = Trainer(prepare(recipe, tmp_path)).plans
    assert [len(split) for plan in plans for split in plan.splits] == [48, 29, 10, 29]


# --- leaks ----------------------------------------------------------------------------------------


def test_unlabelled_rows_that_are_in_dev_are_leaks(tmp_path, tiny_checkpoint, capsys):
    write_unlabelled(tmp_path)
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], [*MORE_MOOD[2:5], *mood_rows(1000, 9)])
    recipe = two_tasks(tiny_checkpoint, **KEYS)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    (leak,) = prepare(recipe, tmp_path).leaks
    assert leak.startswith(
        "leak: 3 training rows of mood (unlabelled) and 3 dev rows of mood have the same input, "
        f"such as {tmp_path / 'more-mood.csv'}:4 and {tmp_path / 'mood-dev.csv'}:2"
    )
    trainer = Trainer(prepare(recipe, tmp_path, drop_leaks=True))
    data = trainer.prepared.tasks["mood"]
    assert data.unlabelled is not None
    assert (len(data.unlabelled), data.unlabelled.leaked, len(data.train)) == (9, 3, 36)
    kept = [*range(36, 38), *range(41, 48)]
    assert data.unlabelled.soft is not None
    np.testing.assert_allclose(data.unlabelled.soft, softmax(Z, axis=1)[kept][:, ::-1], rtol=1e-5)
    assert len(trainer.plans[0].splits[0]) == 45
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], MORE_MOOD)
    with pytest.raises(ComityError) as caught:
        prepare(recipe, tmp_path, drop_leaks=True)
    assert caught.value.messages == [
        f"{tmp_path / 'more-mood.csv'}: each row of this file is also in a dev set; name other "
        "rows in tasks.mood.unlabelled"
    ]


# --- whole runs -----------------------------------------------------------------------------------


def test_a_run_labels_the_rows_and_a_resumed_run_is_the_same(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    teacher = train(two_tasks(tiny_checkpoint, train__lr=3e-3), tmp_path, tmp_path / "teacher")
    recipe = two_tasks(
        tiny_checkpoint,
        train__balancer="pcgrad",
        train__evaluate_every=4,
        tasks__mood__class_weights="balanced",
        tasks__mood__teacher_anneal=True,
        **KEYS | {f"tasks__{name}__teacher": str(teacher.path) for name in ("mood", "alike")},
    )
    data = Trainer(prepare(recipe, tmp_path)).prepared.tasks["alike"]
    scores = [
        each.label / 5 for each in load(teacher).predict("alike", [r[:2] for r in MORE_ALIKE])
    ]
    assert data.unlabelled is not None
    assert data.unlabelled.soft is not None
    np.testing.assert_allclose(data.unlabelled.soft[:, 0], scores, atol=1e-6)
    whole = train(recipe, tmp_path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "run", on_event=stop_at_evaluation(1))
    assert_same(train(recipe, tmp_path, tmp_path / "run", resume=True), whole)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "other", on_event=stop_at_evaluation(1))
    with (tmp_path / "more-mood.csv").open("a") as file:
        file.write("?,the fish number 200 is good\n")
    with pytest.raises(ComityError) as caught:
        train(recipe, tmp_path, tmp_path / "other", resume=True)
    assert caught.value.messages == [
        f"{tmp_path / 'more-mood.csv'}: has changed since the run was started; restore the old "
        "data, or start a new run"
    ]


def test_labels_in_the_file_are_not_read(tmp_path, tiny_checkpoint, capsys):
    write_unlabelled(tmp_path)
    recipe = two_tasks(tiny_checkpoint, **KEYS)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    first = train(recipe, tmp_path, tmp_path / "first")
    rows = [(label, text) for text, label in MORE_MOOD]
    write_csv(tmp_path / "more-mood.csv", ["mood", "text"], rows)
    assert_same(train(recipe, tmp_path, tmp_path / "second"), first)
    assert main(["check", str(tmp_path / "recipe.toml")]) == 0
    shown = capsys.readouterr().out
    assert (
        f"mood: labels in {tmp_path / 'more-mood.csv'} are not read, the teacher alone labels its "
        "rows"
    ) in shown
    assert any(line.split()[1:4] == ["unlabelled", "│", "12"] for line in shown.splitlines()) or (
        "unlabelled" in shown
    )
    assert f"31 of 36 rows of {tmp_path / 'mood.csv'}, 12 of 12 rows of" in shown
    assert main(["report", str(first.path), "--out", str(tmp_path / "report")]) == 0
    assert "more-mood.csv" in (tmp_path / "report" / "report.html").read_text()


def test_a_baseline_leaves_unlabelled_rows_out(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(two_tasks(tiny_checkpoint, **KEYS).to_dict()))
    baseline = Baseline(path, tmp_path, tmp_path / "out", seeds=1)
    tasks = [task for run in baseline.series.runs for task in run.recipe.tasks.values()]
    assert len(tasks) == 2
    assert not any(task.teachers or task.unlabelled for task in tasks)


# --- bad input ------------------------------------------------------------------------------------


def errors_of(folder: Path, checkpoint: Path, **changes: Any) -> list[str]:
    with pytest.raises(ComityError) as caught:
        prepare(two_tasks(checkpoint, **{**KEYS, **changes}), folder)
    return caught.value.messages


def test_a_row_without_any_label_is_an_error_before_training(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    write_soft_labels(
        tmp_path / "mood.safetensors",
        soft_labels("mood", [*MOOD, *MORE_MOOD[:10]], softmax(Z[:46], axis=1)),
    )
    assert errors_of(tmp_path, tiny_checkpoint) == [
        f"{tmp_path / 'more-mood.csv'}, lines 12 and 13: no teacher labels 2 rows of 12; name a "
        "run in tasks.mood.teacher, which labels any row, or remove these rows"
    ]


def test_wrong_files_are_errors(tmp_path, tiny_checkpoint):
    write_unlabelled(tmp_path)
    path = tmp_path / "more-mood.csv"
    write_csv(path, ["txet", "mood"], MORE_MOOD)
    (message,) = errors_of(tmp_path, tiny_checkpoint)
    assert message.startswith(f'{path}:1: no column "text"')
    assert '"txet"' in message
    write_csv(path, ["text", "mood"], [])
    (message,) = errors_of(tmp_path, tiny_checkpoint)
    assert message.startswith(f"{path}: ")
    write_csv(path, ["text"], [("",), (" ",)])
    (message,) = errors_of(tmp_path, tiny_checkpoint, tasks__mood__empty_texts="drop")
    assert message == (
        f"{path}: has no row for the task mood; add rows, or remove tasks.mood.unlabelled"
    )
    path.unlink()
    (message,) = errors_of(tmp_path, tiny_checkpoint)
    assert message.startswith(f"{path}: there is no such file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tasks__mood__teacher": ...},
            "has no effect here (the task has no teacher); remove it",
        ),
        ({"tasks__mood__eval_only": True}, "has no effect here (the task is eval_only); remove it"),
        (
            {"tasks__mood__unlabelled": "mood.csv"},
            "is the file of train; name a file of other rows",
        ),
        (
            {"tasks__mood__unlabelled": "mood-dev.csv"},
            "is the file of dev; name a file of other rows",
        ),
        ({"tasks__mood__unlabelled": 3}, "expected text in quotes or a list, got 3"),
        (
            {"stages": [{"data": {"mood": "stage.csv"}}]},
            "has no effect here (every stage trains the task on a file of its own); remove it",
        ),
    ],
)
def test_wrong_recipes(tiny_checkpoint, changes, message):
    with pytest.raises(ComityError) as caught:
        two_tasks(tiny_checkpoint, **{**KEYS, **changes})
    assert f"recipe: tasks.mood.unlabelled: {message}" in caught.value.messages


def test_a_run_of_unlabelled_rows_is_no_proof_that_a_teacher_knows_their_labels(
    tmp_path, tiny_checkpoint
):
    """A teacher that was itself taught on the file has not seen labels there."""
    write_unlabelled(tmp_path)
    teacher = train(two_tasks(tiny_checkpoint, **KEYS), tmp_path, tmp_path / "teacher")
    write_csv(tmp_path / "mood.csv", ["text", "mood"], mood_rows(300, 36))
    write_csv(tmp_path / "alike.csv", ["a", "b", "score"], alike_rows(300, 20))
    recipe = two_tasks(tiny_checkpoint, **KEYS | {"tasks__mood__teacher": str(teacher.path)})
    recipe = Recipe.from_dict(recipe.only(["mood"]).to_dict())
    assert not any("too sure" in note for note in prepare(recipe, tmp_path).notes)
    assert RunDirectory.open(teacher.path).facts().inputs.files["mood unlabelled"]
