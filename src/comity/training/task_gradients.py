"""Computes the task gradients of a step: batches, forward, losses, backward."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.labels import class_counts
from comity.data.packing import Template
from comity.data.splits import PAIR, Split, TaskData
from comity.evaluation.encoded_rows import EncodedRows
from comity.hardware import to_device
from comity.losses.task_losses import (
    Teaching,
    TextPairs,
    balanced_weights,
    consistency_loss,
    cross_entropy,
    objective_loss,
    task_loss,
    uncertainty_weighted,
)
from comity.model.encoder import Packed
from comity.model.masked_lm import mask_words
from comity.model.multitask import (
    MASKED,
    DropoutKeys,
    Encoded,
    ModelInput,
    MultiTaskModel,
    to_packed,
)
from comity.model.pooling import width_of
from comity.rng import DROPOUT, MASKING, generator, name_key, row_keys
from comity.training.gradients import Gradients
from comity.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class MicroBatch:
    """The rows of a batch that one backward pass sees, packed on the CPU.

    If several processes share the pass, these are the rows of one of them, which may have none.
    """

    task: str
    indices: NDArray[np.integer]  # of the rows in the split
    numbers: NDArray[np.integer]  # of the rows among all rows of the task in the step
    share: float  # of the batch's rows
    compared: NDArray[np.integer]  # indices of the rows that objectives compare: of all processes
    inputs: Packed  # the views that the head reads; with the view "both" the pairs
    texts: Packed | None  # both texts separately, if they are read next to the pair
    draws: int = 1  # how often what heads read is encoded, each time with another dropout draw
    both: bool = False  # whether a head reads `texts`, and not only objectives
    done: float = 0.0  # share of the stage's steps that came before

    @property
    def packed(self) -> list[Packed]:
        """Everything that is encoded, once for each draw."""
        texts = [] if self.texts is None else [self.texts]
        again = [self.inputs, *texts] if self.both else [self.inputs]
        return [self.inputs, *texts, *again * (self.draws - 1)]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Batch:
    """The rows that one task contributes to a step."""

    task: str
    split: Split
    micro_batches: list[MicroBatch]  # with the rows of all processes
    own: list[MicroBatch]  # the same with the rows of this process

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(map(len, self.micro_batches))

    @property
    def packed(self) -> list[Packed]:
        """Everything that all processes encode."""
        return [packed for micro_batch in self.micro_batches for packed in micro_batch.packed]

    @property
    def tokens(self) -> int:
        """The number of tokens in all views."""
        return sum(len(packed.ids) for packed in self.packed)

    @property
    def lines_by_file(self) -> dict[Path, list[int]]:
        """The line numbers of the rows, by file."""
        indices = np.concatenate([micro_batch.indices for micro_batch in self.micro_batches])
        return self.split.lines_by_file(indices)


class TaskGradients:
    """Runs the model forward and backward on the batches of a stage's steps.

    Args:
        model: the model.
        tasks: its tasks and their data.
        splits: the rows that the stage trains each task on.
        template: the special tokens of the encoder's input.
        seed: for dropout and masked words.
        device: where the model is.
        masking: the id of [MASK] and the vocabulary size, if the stage trains on masked words.
        ranks: the processes that share each pass.
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
        ranks: Ranks = ALONE,
    ):
        self.model = model
        self.tasks = tasks
        self.splits = splits
        self.template = template
        self.seed = seed
        self.device = device
        self.masking = masking
        self.frozen: Mapping[str, EncodedRows] = {}
        """The encoded training rows by task, for a stage that freezes the encoder."""
        self.ranks = ranks
        self.class_weights = {
            name: _class_weights(tasks[name], split, device) for name, split in splits.items()
        }

    def batches(
        self,
        chosen: Sequence[tuple[str, NDArray[np.integer]]],
        masked: bool = False,
        done: float = 0.0,
    ) -> list[Batch]:
        """The batches of a step, split into micro-batches of nearly equal size.

        Args:
            chosen: for each batch its task and the indices of its rows in the split.
            masked: for predicting masked words, which uses no objectives.
            done: share of the stage's steps that came before, for `teacher_anneal`.
        """
        counts: dict[str, int] = {}  # rows of each task in the step so far
        batches = []
        for task, indices in chosen:
            first = counts.get(task, 0)
            counts[task] = first + len(indices)
            batches.append(self._batch(task, indices, first, masked, done))
        return batches

    def _batch(
        self, task: str, indices: NDArray[np.integer], first: int, masked: bool, done: float
    ) -> Batch:
        """One batch, whose rows are numbered from `first` among the task's rows in the step."""
        data, spec, split = self.tasks[task], self.model.tasks[task], self.splits[task]
        views = spec.parts[0].views
        count = min(data.task.micro_batches, len(indices))
        needs_texts = data.task.trained_views != views and not masked
        draws = 1 if masked else data.task.draws

        def micro_batch(positions: NDArray[np.integer], whole: NDArray[np.integer]) -> MicroBatch:
            rows, numbers = indices[positions], first + positions
            inputs = self._packed(split, rows, views, data.max_length)
            texts = self._packed(split, rows, PAIR, data.max_length) if needs_texts else None
            share, compared = len(rows) / len(indices), indices[whole]
            about = draws, spec.both, done
            return MicroBatch(task, rows, numbers, share, compared, inputs, texts, *about)

        parts = np.array_split(np.arange(len(indices)), count)
        micro_batches = [micro_batch(part, part) for part in parts]
        own = micro_batches
        if self.ranks.size > 1:
            own = [micro_batch(self.ranks.part(part), part) for part in parts]
        return Batch(task, split, micro_batches, own)

    def _packed(
        self, split: Split, indices: NDArray[np.integer], views: tuple[str, ...], max_length: int
    ) -> Packed:
        if self.frozen:  # nothing is encoded in a step
            indices, views = indices[:0], views[:1]
        packed = split.pack(indices, views, self.template, max_length)
        return to_packed(packed, torch.device("cpu"))

    def fill(
        self, gradients: Gradients, batches: Sequence[Batch], one_row: bool, *keys: int
    ) -> tuple[list[float], list[str]]:
        """Compute the task gradients of a step: one forward and one backward pass for all tasks.

        A row of J is the gradient of the task's loss, averaged over the rows of its batch and
        multiplied by its loss weight. Both dropout draws of a task with `consistency` are in that
        pass, and both add to the task's row of J. With micro-batches there are as many passes, and
        an objective that compares rows compares those of one micro-batch. Several processes share
        each pass, and compare the rows of all.

        Args:
            gradients: receives a row of J for each task in the step, and the gradients of heads.
            batches: the batches of the step.
            one_row: add up all tasks in one row of J.
            keys: the integers that dropout depends on besides seed, task and row (the step).

        Returns:
            The loss of each batch, before the loss weight, and the tasks in the order of the rows.
        """
        tasks = list(dict.fromkeys(batch.task for batch in batches))
        packed = [packed for batch in batches for packed in batch.packed]
        words = np.unique(np.concatenate([each.ids.numpy() for each in packed]))
        gradients.begin(words, 1 if one_row else len(tasks))
        losses = torch.zeros(len(batches), device=self.device)
        for numbers, micro_batches in _passes(batches):
            draws = [self._draws(micro_batch, words, *keys) for micro_batch in micro_batches]
            inputs = list(itertools.chain(*draws))
            rows = [0 if one_row else tasks.index(each.task) for each in inputs]
            encoded = []
            if inputs:  # otherwise this process has no rows in the pass
                encoded = self._encode(micro_batches, inputs, rows, gradients)
            results = zip(self.model.outputs(inputs, encoded), encoded, strict=True)
            total = torch.zeros((), device=self.device)
            for number, micro_batch, own in zip(numbers, micro_batches, draws, strict=True):
                found = [next(results) for _ in own]
                if not found:
                    self._text_pairs(micro_batch, [])  # the other processes wait for it
                    continue
                outputs, texts = [output for output, _ in found], found[0][1].texts
                loss = self._loss(micro_batch, outputs, texts)
                divergence = self._divergence(micro_batch.task, outputs)
                losses[number] += (loss + divergence).detach() * micro_batch.share
                weighted = self._weighted(micro_batch.task, loss, divergence)
                total = total + weighted * micro_batch.share
            if inputs:
                total.backward()
        gradients.finish(self.ranks)
        self.ranks.sum(losses)
        return losses.tolist(), tasks

    def _encode(
        self,
        micro_batches: Sequence[MicroBatch],
        inputs: Sequence[ModelInput],
        rows: Sequence[int],
        gradients: Gradients,
    ) -> list[Encoded]:
        """What heads and objectives read, for each draw of each micro-batch.

        A frozen encoder has no dropout, so all draws of a row have its one vector.
        """
        if not self.frozen:
            return self.model.encode(inputs, gradients.touched_words, rows, gradients.add)
        return [
            self.frozen[each.task].take(each.indices, self.device)
            for each in micro_batches
            for _ in range(each.draws if len(each) else 0)
        ]

    def fill_masked(
        self, gradients: Gradients, batches: Sequence[Batch], *keys: int
    ) -> tuple[list[float], list[str]]:
        """Compute the gradient of predicting masked words in the batches' texts, as one row of J.

        Labels are not used. The decoder is tied to the word table, so the step touches every word.
        Arguments and results are those of `fill`.
        """
        words = np.arange(len(self.model.encoder.word_embeddings))
        gradients.begin(words)
        losses = torch.zeros(len(batches), device=self.device)
        masks = [[self._mask(part, *keys) for part in batch.own] for batch in batches]
        chosen = torch.tensor([sum(len(where) for _, where in own) for own in masks])
        self.ranks.sum(chosen)  # the words to predict in each batch
        for index, (numbers, micro_batches) in enumerate(_passes(batches)):
            present = [
                (number, part)
                for number, part in zip(numbers, micro_batches, strict=True)
                if len(part)
            ]
            if not present:
                continue
            inputs, positions, targets = [], [], []
            for number, micro_batch in present:
                original = self._input(micro_batch, words, *keys)
                masked_ids, masked_positions = masks[number][index]
                inputs.append(replace(original, packed=replace(original.packed, ids=masked_ids)))
                positions.append(masked_positions)
                targets.append(original.packed.ids[masked_positions])
            rows = [0] * len(inputs)
            logits = self.model.masked_logits(
                inputs, positions, gradients.touched_words, rows, gradients.add
            )
            total = torch.zeros((), device=self.device)
            for (number, _), predicted, correct in zip(present, logits, targets, strict=True):
                if len(correct):
                    share = len(correct) / int(chosen[number])
                    loss = cross_entropy(predicted, correct) * share
                else:
                    loss = predicted.sum()  # texts without any token have no word to predict
                losses[number] += loss.detach()
                total = total + loss
            total.backward()
        gradients.finish(self.ranks)
        if gradients.trains_words:
            # The gradient of the embedding went to the sink, and this is the decoder's.
            grad_decoder = gradients.touched_words.grad
            if grad_decoder is None:
                grad_decoder = torch.zeros_like(gradients.touched_words)
            self.ranks.sum(grad_decoder)
            gradients.add(0, gradients.touched_words, grad_decoder)
        self.ranks.sum(losses)
        return losses.tolist(), [MASKED]

    def _mask(self, micro_batch: MicroBatch, *keys: int) -> tuple[Tensor, Tensor]:
        """The ids `[N]` with some masked, and the positions `[M]` to predict."""
        if not len(micro_batch):
            nothing = torch.zeros(0, dtype=torch.int64)
            return nothing, nothing
        assert self.masking is not None  # setup checks it
        ids, offsets = micro_batch.inputs.ids.numpy(), micro_batch.inputs.offsets.numpy()
        special = (ids == self.template.cls_id) | (ids == self.template.sep_id)
        masked_ids, positions = ids.copy(), []
        task_key = name_key(micro_batch.task)
        views = self.model.tasks[micro_batch.task].parts[0].views
        sequences = [
            (name_key(view), row) for view in views for row in micro_batch.numbers.tolist()
        ]
        for sequence, (start, stop) in zip(sequences, itertools.pairwise(offsets), strict=True):
            draws = generator(MASKING, self.seed, *keys, task_key, *sequence)
            span = slice(start, stop)
            masked_ids[span], masked = mask_words(ids[span], special[span], *self.masking, draws)
            positions.append(masked + start)
        return (
            to_device(torch.from_numpy(masked_ids), self.device),
            to_device(torch.from_numpy(np.concatenate(positions)), self.device),
        )

    def _input(self, micro_batch: MicroBatch, words: NDArray[np.int64], *keys: int) -> ModelInput:
        """A micro-batch on the device, its ids replaced by their indices in `words`."""
        inputs = self._on_device(micro_batch.inputs, words)
        texts = None if micro_batch.texts is None else self._on_device(micro_batch.texts, words)
        dropout = self.dropout_keys(micro_batch, *keys)
        return ModelInput(micro_batch.task, inputs, len(micro_batch.indices), dropout, texts)

    def _draws(
        self, micro_batch: MicroBatch, words: NDArray[np.int64], *keys: int
    ) -> list[ModelInput]:
        """A micro-batch as `_input`, once for each dropout draw; objectives read the first.

        Nothing if this process has no rows of it.
        """
        if not len(micro_batch):
            return []
        first = self._input(micro_batch, words, *keys)
        texts = first.texts if micro_batch.both else None
        others = [
            replace(first, dropout=self.dropout_keys(micro_batch, *keys, draw=draw), texts=texts)
            for draw in range(1, micro_batch.draws)
        ]
        return [first, *others]

    def dropout_keys(self, micro_batch: MicroBatch, *keys: int, draw: int = 0) -> DropoutKeys:
        """A dropout key for each sequence and for each row in the head.

        They depend on seed, `keys` (the step), task, view, draw, and the row's number in the step.
        """
        task_key = name_key(micro_batch.task)

        def view_keys(views: Sequence[str]) -> Tensor:
            found = [
                row_keys(
                    DROPOUT,
                    self.seed,
                    *keys,
                    task_key,
                    name_key(view),
                    draw,
                    rows=micro_batch.numbers,
                )
                for view in views
            ]
            return to_device(torch.from_numpy(np.concatenate(found)), self.device)

        return DropoutKeys(
            packed=view_keys(self.model.tasks[micro_batch.task].parts[0].views),
            texts=None if micro_batch.texts is None else view_keys(PAIR),
            head=view_keys(["head"]),
        )

    def _on_device(self, packed: Packed, words: NDArray[np.int64]) -> Packed:
        indices = torch.from_numpy(np.searchsorted(words, packed.ids.numpy()))
        return Packed(
            to_device(indices, self.device),
            to_device(packed.segments, self.device),
            to_device(packed.offsets, self.device),
            packed.longest,
        )

    def _text_pairs(self, micro_batch: MicroBatch, texts: Sequence[Tensor]) -> TextPairs | None:
        """What objectives compare: the texts of a micro-batch, also those of other processes."""
        task, split = micro_batch.task, self.splits[micro_batch.task]
        if not self.tasks[task].task.objectives:
            return None
        spec, everyone = self.model.tasks[task], micro_batch.compared
        if not texts:
            width = width_of(spec.text_pooling, self.model.encoder.width)
            texts = [torch.zeros(0, width, device=self.device)] * 2
        first, second = (self.ranks.gather_rows(each, len(everyone)) for each in texts)
        closeness = spec.target.closeness(split.targets[everyone])
        return TextPairs(first, second, closeness, split.table.keys[split.rows[everyone]])

    def _loss(
        self, micro_batch: MicroBatch, outputs: Sequence[Tensor], texts: Sequence[Tensor]
    ) -> Tensor:
        """The mean loss of a micro-batch's rows: the heads' losses plus the task's objectives.

        `outputs` has one tensor for each dropout draw; a head's loss is the mean over them.
        """
        task, indices = micro_batch.task, micro_batch.indices
        split, target = self.splits[task], self.model.tasks[task].target
        labels = split.targets[indices]
        teaching = self._teaching(micro_batch)
        loss = task_loss(
            target,
            torch.cat(list(outputs)),
            np.concatenate([labels] * len(outputs)),
            self.class_weights[task],
            None if teaching is None else teaching.repeated(len(outputs)),
        )
        pairs = self._text_pairs(micro_batch, texts)
        labelled = split.has_label(micro_batch.compared)
        if pairs is not None and labelled.any():
            # Objectives compare labels. Their factor is that of the loss on labels, whose sum over
            # the labelled rows is divided by the number of all rows.
            pairs, share = pairs.take(labelled), float(labelled.mean())
            for objective in self.tasks[task].task.objectives:
                own = objective_loss(objective, target, pairs)
                loss = loss + objective.weight * share * own
        return loss

    def _teaching(self, micro_batch: MicroBatch) -> Teaching | None:
        """What teachers say about a micro-batch's rows; None without a teacher."""
        split, task = self.splits[micro_batch.task], self.tasks[micro_batch.task].task
        if split.soft is None:
            return None
        return Teaching(
            to_device(torch.from_numpy(split.soft[micro_batch.indices]), self.device),
            1 - micro_batch.done if task.teacher_anneal else task.teacher_weight,
            task.teacher_temperature,
            to_device(torch.from_numpy(split.has_label(micro_batch.indices)), self.device),
        )

    def _divergence(self, task: str, outputs: Sequence[Tensor]) -> Tensor:
        """The weighted loss between two dropout draws; 0 without a second one."""
        section = self.tasks[task].task
        if section.consistency is None:
            return torch.zeros((), device=self.device)
        divergence = consistency_loss(self.model.tasks[task].target, *outputs)
        return section.consistency.weight * divergence

    def _weighted(self, task: str, loss: Tensor, divergence: Tensor) -> Tensor:
        """The loss times the task's loss weight, from the recipe or learned.

        A learned weight belongs to a likelihood, which the divergence of two draws is not.
        """
        log_variance = self.model.log_variance(task)
        if log_variance is None:
            return (loss + divergence) * self.tasks[task].task.loss_weight
        target = self.model.tasks[task].target
        return uncertainty_weighted(loss, log_variance, target) + divergence


def _passes(batches: Sequence[Batch]) -> Iterator[tuple[list[int], list[MicroBatch]]]:
    """This process's micro-batches of each pass, with the numbers of their batches in the step.

    The first pass has the first micro-batch of every batch, the second pass the second, and so on.
    """
    for index in range(max(len(batch.own) for batch in batches)):
        numbers = [n for n, batch in enumerate(batches) if index < len(batch.own)]
        yield numbers, [batches[n].own[index] for n in numbers]


def _class_weights(data: TaskData, split: Split, device: torch.device) -> Tensor | None:
    """The class weights `[C]` that the recipe gives or that balance the training rows."""
    chosen = data.task.class_weights
    if chosen is None:
        return None
    if chosen == "balanced":
        labelled = split.has_label(np.arange(len(split)))
        counts = torch.from_numpy(class_counts(data.target, split.targets[labelled]))
        return balanced_weights(counts).float().to(device)
    weights = [chosen.get(name, 1.0) for name in data.target.classes]
    return torch.tensor(weights, dtype=torch.float32, device=device)
