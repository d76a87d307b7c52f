"""A frozen encoder: each row is encoded once in a stage, and heads train from its vectors.

The encoder has no dropout then, since a row has one vector in all epochs; heads keep theirs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from comity.data.packing import Template
from comity.data.splits import Split, TaskData
from comity.data.task_sampling import PlannedBatch
from comity.evaluation.encoded_rows import EncodedRows
from comity.evaluation.evaluate import by_length
from comity.model.multitask import MultiTaskModel
from comity.model.pooling import width_of
from comity.training.plan import StagePlan

Progress = Callable[[str, int, int], None]
"""Receives a task, how many of its rows are encoded, and how many will be."""


class FrozenEncoder:
    """Encodes rows once, for as long as the weights of the encoder stay as they are."""

    def __init__(self, model: MultiTaskModel, tasks: Mapping[str, TaskData], template: Template):
        self.model = model
        self.tasks = tasks
        self.template = template
        self._evaluated: dict[tuple[str, int], EncodedRows] = {}  # by task and id() of the split

    def training_rows(
        self,
        plan: StagePlan,
        steps: Sequence[Sequence[PlannedBatch]],
        progress: Progress = lambda task, done, rows: None,
    ) -> dict[str, EncodedRows]:
        """Encode the training rows that some steps of a stage use, by task."""
        used = _used_rows(plan, steps)
        encoded = {}
        for task, split, rows in zip(plan.tasks, plan.splits, used, strict=True):

            def report(done: int, name: str = task.name, total: int = len(rows)) -> None:
                progress(name, done, total)

            views = self.tasks[task.name].task.trained_views
            encoded[task.name] = self._encode(task.name, split, rows, views, report)
        return encoded

    @torch.inference_mode()
    def outputs(self, task: str, split: Split) -> NDArray[np.float64]:
        """The same as `task_outputs`; the rows are encoded in the first call."""
        spec, key = self.model.tasks[task], (task, id(split))
        if key not in self._evaluated:
            self._evaluated[key] = self._encode(task, split, np.arange(len(split)), spec.views)
        encoded, outputs = self._evaluated[key], np.zeros((len(split), spec.target.outputs))
        head, device = self.model.head(task), self.model.encoder.word_embeddings.device
        # In the batches of `task_outputs`: products of other sizes may round differently.
        for indices in by_length(split.lengths(spec.views, self.tasks[task].max_length)):
            found = head(encoded.take(indices, device).views, None)
            outputs[indices] = found.cpu().double().numpy()
        return outputs

    def _encode(
        self,
        task: str,
        split: Split,
        rows: NDArray[np.integer],
        views: tuple[str, ...],
        progress: Callable[[int], None] = lambda done: None,
    ) -> EncodedRows:
        max_length = self.tasks[task].max_length
        return EncodedRows.of_task(
            self.model, task, split, rows, views, self.template, max_length, progress
        )


def _used_rows(
    plan: StagePlan, steps: Sequence[Sequence[PlannedBatch]]
) -> list[NDArray[np.integer]]:
    """The indices of the rows of each task that the steps use, sorted."""
    used = [np.zeros(len(split), dtype=np.bool_) for split in plan.splits]
    for step in steps:
        for batch in step:
            _, rows = plan.tasks[batch.task].batches.batch(batch.number)
            used[batch.task][rows] = True
    return [np.flatnonzero(each) for each in used]


def encoded_bytes(
    plan: StagePlan,
    model: MultiTaskModel,
    tasks: Mapping[str, TaskData],
    evaluated: Mapping[str, int],
) -> int:
    """Bytes of the vectors of a stage that freezes the encoder, 0 for another stage.

    `evaluated` is the number of rows by task that evaluations encode.
    """
    if not plan.freezes_encoder:
        return 0

    def numbers(task: str, trained: bool) -> int:
        spec, section = model.tasks[task], tasks[task].task
        texts = len(section.trained_views) - len(spec.views) if trained else 0
        poolings = [*spec.poolings, *[spec.embedding_pooling] * texts]
        return sum(width_of(pooling, model.encoder.width) for pooling in poolings)

    trained = sum((c.rows - c.rows_never_seen) * numbers(c.name, True) for c in plan.counts)
    return 4 * (trained + sum(n * numbers(task, False) for task, n in evaluated.items()))
