"""Teachers: soft labels compared with `Model.predict`, task gradients with autograd.

The reference of the gradients is the padded encoder of test_consistency.py. It takes the losses on
soft labels from torch's cross-entropy over all classes.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
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
    LOSS_WEIGHT,
    R_DROP,
    STEP,
    Reference,
    divergence,
    make_trainer,
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
from comity.recipe.recipe import Recipe as RecipeClass
from comity.runs.directory import RunDirectory
from comity.tables.reader import table_digest
from comity.targets import Target
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
    untaught = [batch.split.rows[part.indices] < 5 for batch in batches[:1] for part in batch.micro_batches]
    assert 0 < np.concatenate(untaught).sum() < 8
    losses, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, STEP)
    assert tasks == ["mood", "alike"]
    found, flat = trainer.gradients, trainer.flat
    names = [owned.name for owned in flat.parameters]
    parameters = [owned.parameter.requires_grad_() for owned in flat.parameters]
    heads = torch.zeros_like(found.heads)
    for row, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        reference = TaughtReference(trainer, batch, shares, 2.0 if batch.task == "mood" else 1.0)
        own, consistency = reference.losses()
        assert loss == pytest.approx((own + consistency).item(), rel=1e-5)
        gradients = torch.autograd.grad(reference.weighted(), parameters, allow_unused=True)
        expected = torch.zeros_like(flat.masters)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                start = flat.starts[name]
                expected[start : start + gradient.numel()] = gradient.flatten()
        dense = expected[flat.table_stop : flat.shared_stop]
        assert dense.norm() > 1e-2
        torch.testing.assert_close(found.rows[row], dense, atol=1e-5, rtol=1e-3)
        heads += expected[flat.shared_stop :]
    torch.testing.assert_close(found.heads, heads, atol=1e-5, rtol=1e-4)
