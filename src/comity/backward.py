"""From the batches of a step to its task gradients: forward and backward passes, nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.batches import Template
from comity.data.labels import class_counts
from comity.data.splits import Split, TaskData
from comity.flat import Gradients
from comity.model.encoder import Packed
from comity.model.multitask import MultiTaskModel, TaskInput, to_packed
from comity.objectives import balanced_weights, head_loss
from comity.seeds import DROPOUT, integer, name_key


@dataclass(frozen=True)
class Chunk:
    """The rows of one backward pass: a batch is cut into `accumulate` of them."""

    places: NDArray[np.int64]  # in the split
    inputs: Packed  # on the CPU


@dataclass(frozen=True)
class Batch:
    """The rows of one turn."""

    task: str
    split: Split
    parts: list[Chunk]

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return sum(len(part.places) for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens in the batch, over all views."""
        return sum(len(part.inputs.ids) for part in self.parts)

    @property
    def lines(self) -> list[int]:
        """Where the rows stand in their file."""
        places = np.concatenate([part.places for part in self.parts])
        return sorted(self.split.table.lines[self.split.rows[places]].tolist())


class Backward:
    """Runs the model forward and backward on batches, into the rows of a step's gradients."""

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskData],
        template: Template,
        seed: int,
        device: torch.device,
    ):
        self.model = model
        self.tasks = tasks
        self.template = template
        self.seed = seed
        self.device = device
        self._class_weights: dict[tuple[str, int], Tensor | None] = {}

    def batch(self, task: str, split: Split, places: NDArray[np.int64]) -> Batch:
        """The rows at `places`, packed, in `accumulate` parts of nearly equal size."""
        data, views = self.tasks[task], self.model.tasks[task].views
        count = min(data.task.accumulate, len(places))
        parts = []
        for of_part in np.array_split(places, count):
            packed = split.pack(of_part, views, self.template, data.max_length)
            parts.append(Chunk(of_part, to_packed(packed, torch.device("cpu"))))
        return Batch(task, split, parts)

    def fill(
        self, gradients: Gradients, batches: Sequence[Batch], together: bool, *keys: int
    ) -> tuple[list[float], list[str]]:
        """Fill a row for each task present, or one row for all of them (`together`).

        A row is the gradient of the task's loss, times the task's weight, averaged over the
        examples of its batch. All tasks go forward and backward in one pass; where batches are cut
        into parts, there is a pass for each part. Dropout is drawn for `keys`, the task and the
        part.

        Returns the loss of each batch, before the weight, and the tasks of the rows in order.
        """
        words = np.unique(np.concatenate([p.inputs.ids.numpy() for b in batches for p in b.parts]))
        tasks = list(dict.fromkeys(batch.task for batch in batches))
        gradients.begin(words, 1 if together else len(tasks))
        losses = torch.zeros(len(batches), device=self.device)
        # A task's own turns are counted, so that its dropout does not depend on other tasks.
        names = [batch.task for batch in batches]
        nth = [names[:turn].count(name) for turn, name in enumerate(names)]
        for number in range(max(len(batch.parts) for batch in batches)):
            turns = [turn for turn, batch in enumerate(batches) if number < len(batch.parts)]
            inputs = [self._input(batches[turn], nth[turn], number, words, *keys) for turn in turns]
            rows = [0 if together else tasks.index(given.task) for given in inputs]
            outputs = self.model(inputs, gradients.leaf, rows, gradients.add)
            total = torch.zeros((), device=self.device)
            for turn, of_turn in zip(turns, outputs, strict=True):
                loss = self._loss(batches[turn], batches[turn].parts[number], of_turn)
                losses[turn] += loss.detach()
                total = total + loss * self.tasks[batches[turn].task].task.weight
            total.backward()
        gradients.finish()
        return losses.tolist(), tasks

    def _input(
        self, batch: Batch, turn: int, number: int, words: NDArray[np.int64], *keys: int
    ) -> TaskInput:
        """A part of a batch on the device, its ids counted among the step's words."""
        part = batch.parts[number]
        local = torch.from_numpy(np.searchsorted(words, part.inputs.ids.numpy()))
        packed = Packed(
            local.to(self.device),
            part.inputs.segments.to(self.device),
            part.inputs.offsets.to(self.device),
            part.inputs.longest,
        )
        draw = integer(DROPOUT, self.seed, *keys, name_key(batch.task), turn, number)
        return TaskInput(batch.task, packed, len(part.places), draw)

    def _loss(self, batch: Batch, part: Chunk, outputs: Tensor) -> Tensor:
        """The part's share of the batch's mean loss."""
        target = self.model.tasks[batch.task].target
        wanted = np.ascontiguousarray(target.trained_on(batch.split.targets[part.places]))
        weights = self._weights_of(batch.task, batch.split)
        loss = head_loss(target, outputs, torch.from_numpy(wanted).to(self.device), weights)
        return loss * (len(part.places) / batch.rows)

    def _weights_of(self, task: str, split: Split) -> Tensor | None:
        """Class weights of the rows that a stage trains on, made once."""
        key = (task, id(split))
        if key not in self._class_weights:
            self._class_weights[key] = _class_weights(self.tasks[task], split, self.device)
        return self._class_weights[key]


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
