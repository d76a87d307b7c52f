"""From the batches of a step to its task gradients: forward, losses, backward."""

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
from comity.model.multitask import MASKED, ModelInput, MultiTaskModel, to_packed
from comity.rng import DROPOUT, MASKING, generator, integer, name_key
from comity.training.gradients import Gradients


@dataclass(frozen=True)
class MicroBatch:
    """The rows of a batch that one backward pass sees, packed on the CPU."""

    indices: NDArray[np.integer]  # of the rows in the split
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

    def batch(self, task: str, indices: NDArray[np.integer], masked: bool = False) -> Batch:
        """The rows of a task at `indices`, packed, in micro-batches of nearly equal size.

        `masked`: for predicting masked words, which uses no objectives.
        """
        data, views, split = self.tasks[task], self.model.tasks[task].views, self.splits[task]
        count = min(data.task.micro_batches, len(indices))
        apart = data.task.trained_views != views and not masked
        micro_batches = []
        for own in np.array_split(indices, count):
            inputs = self._packed(split, own, views, data.max_length)
            texts = self._packed(split, own, PAIR, data.max_length) if apart else None
            micro_batches.append(MicroBatch(own, len(own) / len(indices), inputs, texts))
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
        micro-batch. Dropout is a function of `keys`, the task and the micro-batch.

        Returns the loss of each batch, before the loss weight, and the tasks of the rows in order.
        """
        tasks = list(dict.fromkeys(batch.task for batch in batches))
        words = _distinct_words(batches)
        gradients.begin(words, 1 if together else len(tasks))
        losses = torch.zeros(len(batches), device=self.device)
        for parts in _passes(batches):
            inputs = [self._input(part, words, *keys) for part in parts]
            rows = [0 if together else tasks.index(part.task) for part in parts]
            encoded = self.model.encode(inputs, gradients.leaf, rows, gradients.add)
            outputs = self.model.outputs(inputs, encoded)
            total = torch.zeros((), device=self.device)
            for part, output, vectors in zip(parts, outputs, encoded, strict=True):
                loss = self._loss(part, output, vectors.texts)
                losses[part.batch_index] += loss.detach() * part.rows.share
                total = total + self._weighted(part.task, loss) * part.rows.share
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
        for parts in _passes(batches):
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
            for part, predicted, correct in zip(parts, logits, targets, strict=True):
                # Texts without any token have no word to predict.
                loss = cross_entropy(predicted, correct) if len(correct) else predicted.sum()
                losses[part.batch_index] += loss.detach() * part.rows.share
                total = total + loss * part.rows.share
            total.backward()
        if gradients.leaf.grad is not None:  # the decoder's; the embedding's went to the sink
            gradients.add(0, gradients.leaf, gradients.leaf.grad)
        gradients.finish()
        return losses.tolist(), [MASKED]

    def _mask(self, part: "_Part", *keys: int) -> tuple[Tensor, Tensor]:
        """The micro-batch's ids with some masked, and the positions to predict."""
        assert self.masking is not None  # setup checks it
        ids = part.rows.inputs.ids.numpy()
        special = (ids == self.template.cls_id) | (ids == self.template.sep_id)
        draws = generator(MASKING, self.seed, *keys, *part.keys)
        masked_ids, positions = mask_words(ids, special, *self.masking, draws)
        return (
            torch.from_numpy(masked_ids).to(self.device),
            torch.from_numpy(positions).to(self.device),
        )

    def _input(self, part: "_Part", words: NDArray[np.int64], *keys: int) -> ModelInput:
        """A micro-batch on the device, its ids counted among the step's words."""
        inputs, *texts = [self._on_device(packed, words) for packed in part.rows.packed]
        draw = integer(DROPOUT, self.seed, *keys, *part.keys)
        count = len(part.rows.indices)
        return ModelInput(part.task, inputs, count, draw, texts[0] if texts else None)

    def _on_device(self, packed: Packed, words: NDArray[np.int64]) -> Packed:
        local = torch.from_numpy(np.searchsorted(words, packed.ids.numpy()))
        return Packed(
            local.to(self.device),
            packed.segments.to(self.device),
            packed.offsets.to(self.device),
            packed.longest,
        )

    def _loss(self, part: "_Part", outputs: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """The mean loss of the micro-batch's rows: the head's, plus the task's objectives."""
        task, indices = part.task, part.rows.indices
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


@dataclass(frozen=True)
class _Part:
    """A micro-batch in its step."""

    task: str
    batch_index: int  # among the batches of the step
    keys: tuple[int, ...]  # that its draws are a function of, besides seed and step
    rows: MicroBatch


def _passes(batches: Sequence[Batch]) -> Iterator[list[_Part]]:
    """The micro-batches of each forward and backward pass: the first of every batch, and so on."""
    names = [batch.task for batch in batches]
    for number in range(max(len(batch.micro_batches) for batch in batches)):
        parts = []
        for index, batch in enumerate(batches):
            if number < len(batch.micro_batches):
                # A task's own batches are counted, so that its draws do not depend on others.
                keys = (name_key(batch.task), names[:index].count(batch.task), number)
                parts.append(_Part(batch.task, index, keys, batch.micro_batches[number]))
        yield parts


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
