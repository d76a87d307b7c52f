"""From the batches of a step to its task gradients: forward, losses, backward."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.labels import class_counts
from comity.data.packing import Template
from comity.data.splits import PAIR, Split, TaskData
from comity.losses.task_losses import (
    TextPairs,
    balanced_weights,
    cross_entropy,
    head_loss,
    objective_loss,
    uncertainty_weighted,
)
from comity.model.encoder import Packed
from comity.model.masked_lm import mask_words
from comity.model.multitask import MASKED, DropoutKeys, ModelInput, MultiTaskModel, to_packed
from comity.rng import DROPOUT, MASKING, generator, name_key, row_keys
from comity.training.gradients import Gradients

DRAW = 0
"""The number of a row's draw of dropout in a step; there is one."""


@dataclass(frozen=True)
class MicroBatch:
    """The rows of a batch that one backward pass sees, packed on the CPU."""

    task: str
    indices: NDArray[np.integer]  # of the rows in the split
    numbers: NDArray[np.integer]  # of the rows among all rows of the task in the step
    share: float  # of the batch's rows
    inputs: Packed  # what the head reads
    texts: Packed | None  # the two texts apart, for objectives where the head reads a pair

    @property
    def packed(self) -> list[Packed]:
        """Everything that is encoded."""
        return [self.inputs] if self.texts is None else [self.inputs, self.texts]


@dataclass(frozen=True)
class Batch:
    """The rows that one task contributes to a step."""

    task: str
    split: Split
    micro_batches: list[MicroBatch]

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return sum(len(part.indices) for part in self.micro_batches)

    @property
    def tokens(self) -> int:
        """Tokens in the batch, over all views."""
        return sum(len(packed.ids) for part in self.micro_batches for packed in part.packed)

    @property
    def lines(self) -> list[int]:
        """The lines of the rows in their file."""
        indices = np.concatenate([part.indices for part in self.micro_batches])
        return sorted(self.split.table.lines[self.split.rows[indices]].tolist())


class TaskGradients:
    """Runs the model forward and backward on the batches of a stage's steps.

    Args:
        splits: the rows that the stage trains each task on.
        masking: the id of [MASK] and the size of the vocabulary, where a stage masks words.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskData],
        splits: Mapping[str, Split],
        template: Template,
        seed: int,
        device: torch.device,
        masking: tuple[int, int] | None = None,
    ):
        self.model = model
        self.tasks = tasks
        self.splits = splits
        self.template = template
        self.seed = seed
        self.device = device
        self.masking = masking
        self.class_weights = {
            name: _class_weights(tasks[name], split, device) for name, split in splits.items()
        }

    def batches(
        self, chosen: Sequence[tuple[str, NDArray[np.integer]]], masked: bool = False
    ) -> list[Batch]:
        """The batches of a step, from the task and the indices of the rows of each.

        Each is cut into micro-batches of nearly equal size. `masked`: for predicting masked words,
        which uses no objectives.
        """
        seen: dict[str, int] = {}
        batches = []
        for task, indices in chosen:
            first = seen.get(task, 0)
            seen[task] = first + len(indices)
            batches.append(self._batch(task, indices, first, masked))
        return batches

    def _batch(self, task: str, indices: NDArray[np.integer], first: int, masked: bool) -> Batch:
        data, views, split = self.tasks[task], self.model.tasks[task].views, self.splits[task]
        count = min(data.task.micro_batches, len(indices))
        apart = data.task.trained_views != views and not masked
        numbers = np.arange(first, first + len(indices))
        micro_batches = []
        parts = np.array_split(indices, count), np.array_split(numbers, count)
        for own, own_numbers in zip(*parts, strict=True):
            inputs = self._packed(split, own, views, data.max_length)
            texts = self._packed(split, own, PAIR, data.max_length) if apart else None
            share = len(own) / len(indices)
            micro_batches.append(MicroBatch(task, own, own_numbers, share, inputs, texts))
        return Batch(task, split, micro_batches)

    def _packed(
        self, split: Split, indices: NDArray[np.integer], views: tuple[str, ...], max_length: int
    ) -> Packed:
        packed = split.pack(indices, views, self.template, max_length)
        return to_packed(packed, torch.device("cpu"))

    def fill(
        self, gradients: Gradients, batches: Sequence[Batch], together: bool, *keys: int
    ) -> tuple[list[float], list[str]]:
        """Fill a row of J for each task present, or one row for all of them (`together`).

        A row is the gradient of the task's loss, times its loss weight, averaged over the examples
        of its batch. All tasks share one forward and one backward pass, or one for each
        micro-batch. An objective that compares rows with each other compares those of one
        micro-batch. Dropout and masked words are functions of `keys` (the step) and each row.

        Returns the loss of each batch, before the loss weight, and the tasks of the rows in order.
        """
        tasks = list(dict.fromkeys(batch.task for batch in batches))
        words = _distinct_words(batches)
        gradients.begin(words, 1 if together else len(tasks))
        losses = torch.zeros(len(batches), device=self.device)
        for present, parts in _passes(batches):
            inputs = [self._input(part, words, *keys) for part in parts]
            rows = [0 if together else tasks.index(part.task) for part in parts]
            encoded = self.model.encode(inputs, gradients.leaf, rows, gradients.add)
            outputs = self.model.outputs(inputs, encoded)
            total = torch.zeros((), device=self.device)
            results = zip(present, parts, outputs, encoded, strict=True)
            for number, part, output, vectors in results:
                loss = self._loss(part, output, vectors.texts)
                losses[number] += loss.detach() * part.share
                total = total + self._weighted(part.task, loss) * part.share
            total.backward()
        gradients.finish()
        return losses.tolist(), tasks

    def fill_masked(
        self, gradients: Gradients, batches: Sequence[Batch], *keys: int
    ) -> tuple[list[float], list[str]]:
        """Fill one row of J with the gradient of predicting masked words in the batches' texts.

        Labels are not used. The decoder is tied to the word table, so the step touches all of it.
        Returns as `fill` does.
        """
        words = np.arange(len(self.model.encoder.word_embeddings))
        gradients.begin(words)
        losses = torch.zeros(len(batches), device=self.device)
        for present, parts in _passes(batches):
            inputs, positions, targets = [], [], []
            for part in parts:
                whole = self._input(part, words, *keys)
                masked_ids, masked_positions = self._mask(part, *keys)
                inputs.append(replace(whole, packed=replace(whole.packed, ids=masked_ids)))
                positions.append(masked_positions)
                targets.append(whole.packed.ids[masked_positions])
            rows = [0] * len(parts)
            logits = self.model.masked_logits(
                inputs, positions, gradients.leaf, rows, gradients.add
            )
            total = torch.zeros((), device=self.device)
            results = zip(present, parts, logits, targets, strict=True)
            for number, part, predicted, correct in results:
                # Texts without any token have no word to predict.
                loss = cross_entropy(predicted, correct) if len(correct) else predicted.sum()
                losses[number] += loss.detach() * part.share
                total = total + loss * part.share
            total.backward()
        if gradients.leaf.grad is not None:  # the decoder's; the embedding's went to the sink
            gradients.add(0, gradients.leaf, gradients.leaf.grad)
        gradients.finish()
        return losses.tolist(), [MASKED]

    def _mask(self, part: MicroBatch, *keys: int) -> tuple[Tensor, Tensor]:
        """The micro-batch's ids with some masked, and the positions to predict."""
        assert self.masking is not None  # setup checks it
        ids, offsets = part.inputs.ids.numpy(), part.inputs.offsets.numpy()
        special = (ids == self.template.cls_id) | (ids == self.template.sep_id)
        masked_ids, positions = ids.copy(), []
        views = self.model.tasks[part.task].views
        named = [(name_key(view), row) for view in views for row in part.numbers.tolist()]
        for names, (start, stop) in zip(named, itertools.pairwise(offsets), strict=True):
            draws = generator(MASKING, self.seed, *keys, name_key(part.task), *names)
            own = mask_words(ids[start:stop], special[start:stop], *self.masking, draws)
            masked_ids[start:stop] = own[0]
            positions.append(own[1] + start)
        return (
            torch.from_numpy(masked_ids).to(self.device),
            torch.from_numpy(np.concatenate(positions)).to(self.device),
        )

    def _input(self, part: MicroBatch, words: NDArray[np.int64], *keys: int) -> ModelInput:
        """A micro-batch on the device, its ids counted among the step's words."""
        inputs, *texts = [self._on_device(packed, words) for packed in part.packed]
        dropout = self._dropout_keys(part, *keys)
        count = len(part.indices)
        return ModelInput(part.task, inputs, count, dropout, texts[0] if texts else None)

    def _dropout_keys(self, part: MicroBatch, *keys: int) -> DropoutKeys:
        """A key for each sequence and each head row, from step, task, view, draw and row."""

        def of_views(views: Sequence[str]) -> Tensor:
            each = [
                row_keys(DROPOUT, self.seed, *keys, *named, rows=part.numbers)
                for named in ((name_key(part.task), name_key(view), DRAW) for view in views)
            ]
            return torch.from_numpy(np.concatenate(each)).to(self.device)

        return DropoutKeys(
            packed=of_views(self.model.tasks[part.task].views),
            texts=None if part.texts is None else of_views(PAIR),
            head=of_views(["head"]),
        )

    def _on_device(self, packed: Packed, words: NDArray[np.int64]) -> Packed:
        local = torch.from_numpy(np.searchsorted(words, packed.ids.numpy()))
        return Packed(
            local.to(self.device),
            packed.segments.to(self.device),
            packed.offsets.to(self.device),
            packed.longest,
        )

    def _loss(self, part: MicroBatch, outputs: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """The mean loss of the micro-batch's rows: the head's, plus the task's objectives."""
        task, indices = part.task, part.indices
        split, target = self.splits[task], self.model.tasks[task].target
        labels = split.targets[indices]
        wanted = np.ascontiguousarray(target.trained_on(labels))
        weights = self.class_weights[task]
        loss = head_loss(target, outputs, torch.from_numpy(wanted).to(self.device), weights)
        objectives = self.tasks[task].task.objectives
        if objectives:
            keys = split.table.keys[split.rows[indices]]
            pairs = TextPairs(texts[0], texts[1], target.closeness(labels), keys)
            for objective in objectives:
                loss = loss + objective.weight * objective_loss(objective, target, pairs)
        return loss

    def _weighted(self, task: str, loss: Tensor) -> Tensor:
        """The loss times the task's loss weight, the recipe's or the learned one."""
        log_variance = self.model.log_variance(task)
        if log_variance is None:
            return loss * self.tasks[task].task.loss_weight
        return uncertainty_weighted(loss, log_variance, self.model.tasks[task].target)


def _passes(batches: Sequence[Batch]) -> Iterator[tuple[list[int], list[MicroBatch]]]:
    """The micro-batches of each pass, with the positions of their batches in the step.

    The first pass has the first micro-batch of every batch, and so on.
    """
    for number in range(max(len(batch.micro_batches) for batch in batches)):
        present = [k for k, batch in enumerate(batches) if number < len(batch.micro_batches)]
        yield present, [batches[k].micro_batches[number] for k in present]


def _distinct_words(batches: Sequence[Batch]) -> NDArray[np.int64]:
    """The ids `[U]` of the words in the batches, sorted."""
    packed = [packed for batch in batches for part in batch.micro_batches for packed in part.packed]
    return np.unique(np.concatenate([one.ids.numpy() for one in packed]))


def _class_weights(data: TaskData, split: Split, device: torch.device) -> Tensor | None:
    """The weights `[C]` that the recipe gives or that the training counts call for."""
    chosen = data.task.class_weights
    if chosen is None:
        return None
    if chosen == "balanced":
        counts = torch.from_numpy(class_counts(data.target, split.targets))
        return balanced_weights(counts).float().to(device)
    weights = [chosen.get(name, 1.0) for name in data.target.classes]
    return torch.tensor(weights, dtype=torch.float32, device=device)
