"""From the batches of a step to its task gradients: forward and backward passes, nothing else."""

from collections.abc import Callable, Mapping, Sequence
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
class Chunk:
    """The rows of one backward pass: a batch is cut into `micro_batches` of them."""

    places: NDArray[np.integer]  # in the split
    inputs: Packed  # on the CPU, as the next
    texts: Packed | None  # the two texts apart, for objectives where the head reads a pair

    @property
    def packs(self) -> list[Packed]:
        """All that is encoded."""
        return [self.inputs] if self.texts is None else [self.inputs, self.texts]


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
        return sum(len(pack.ids) for part in self.parts for pack in part.packs)

    @property
    def lines(self) -> list[int]:
        """Where the rows stand in their file."""
        places = np.concatenate([part.places for part in self.parts])
        return sorted(self.split.table.lines[self.split.rows[places]].tolist())


@dataclass(frozen=True)
class Part:
    """Part `number` of the batch of a task's `turn`, each counted from 0 in its step."""

    batch: Batch
    turn: int
    number: int

    @property
    def chunk(self) -> Chunk:
        """Its rows."""
        return self.batch.parts[self.number]

    @property
    def share(self) -> float:
        """Of the batch's rows."""
        return len(self.chunk.places) / self.batch.rows

    @property
    def keys(self) -> tuple[int, ...]:
        """What it draws by, beside the seed and the step."""
        return name_key(self.batch.task), self.turn, self.number


LossesOf = Callable[[Sequence[Part]], list[tuple[Tensor, Tensor]]]


class Backward:
    """Runs the model forward and backward on batches, into the rows of a step's gradients."""

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskData],
        template: Template,
        seed: int,
        device: torch.device,
        masking: tuple[int, int] | None = None,
    ):
        """`masking`: the id of [MASK] and the number of tokens, where a stage masks words."""
        self.model = model
        self.tasks = tasks
        self.template = template
        self.seed = seed
        self.device = device
        self.masking = masking
        self._class_weights: dict[tuple[str, int], Tensor | None] = {}

    def batch(
        self, task: str, split: Split, places: NDArray[np.integer], masked: bool = False
    ) -> Batch:
        """The rows at `places`, packed, in `micro_batches` parts of nearly equal size.

        `masked`: for guessing words, where objectives play no part.
        """
        data, views = self.tasks[task], self.model.tasks[task].views
        count = min(data.task.micro_batches, len(places))
        apart = data.task.trained_views != views and not masked
        parts = []
        for of_part in np.array_split(places, count):
            inputs = self._packed(split, of_part, views, data.max_length)
            texts = self._packed(split, of_part, PAIR, data.max_length) if apart else None
            parts.append(Chunk(of_part, inputs, texts))
        return Batch(task, split, parts)

    def _packed(
        self, split: Split, places: NDArray[np.integer], views: tuple[str, ...], max_length: int
    ) -> Packed:
        packed = split.pack(places, views, self.template, max_length)
        return to_packed(packed, torch.device("cpu"))

    def fill(
        self, gradients: Gradients, batches: Sequence[Batch], together: bool, *keys: int
    ) -> tuple[list[float], list[str]]:
        """Fill a row for each task present, or one row for all of them (`together`).

        A row is the gradient of the task's loss, times the task's weight, averaged over the
        examples of its batch. All tasks go forward and backward in one pass; where batches are cut
        into parts, there is a pass for each part. (An objective that compares rows with each other
        compares those of one part: accumulation adds no negatives.) Dropout is drawn for `keys`,
        the task and the part.

        Returns the loss of each batch, before the weight, and the tasks of the rows in order.
        """
        packs = [pack for batch in batches for part in batch.parts for pack in part.packs]
        words = np.unique(np.concatenate([pack.ids.numpy() for pack in packs]))
        tasks = list(dict.fromkeys(batch.task for batch in batches))
        gradients.begin(words, 1 if together else len(tasks))

        def losses_of(parts: Sequence[Part]) -> list[tuple[Tensor, Tensor]]:
            inputs = [self._input(part, words, *keys) for part in parts]
            rows = [0 if together else tasks.index(given.task) for given in inputs]
            encoded = self.model.encode(inputs, gradients.leaf, rows, gradients.add)
            losses = []
            for part, of_part, vectors in zip(
                parts, self.model.outputs(inputs, encoded), encoded, strict=True
            ):
                loss = self._loss(part.batch, part.chunk, of_part, vectors.texts)
                losses.append((loss, self._weighed(part.batch.task, loss)))
            return losses

        losses = self._descend(batches, losses_of)
        gradients.finish()
        return losses, tasks

    def fill_masked(
        self, gradients: Gradients, batches: Sequence[Batch], *keys: int
    ) -> tuple[list[float], list[str]]:
        """Fill one row with the gradient of guessing masked words in the batches' texts.

        Labels play no part. The tied decoder reaches every word, so the step touches the whole word
        table. Returns as `fill` does.
        """
        words = np.arange(len(self.model.encoder.word_embeddings))
        gradients.begin(words)

        def losses_of(parts: Sequence[Part]) -> list[tuple[Tensor, Tensor]]:
            inputs, places, wanted = [], [], []
            for part in parts:
                given = self._input(part, words, *keys)
                hidden, chosen = self._mask(part, *keys)
                inputs.append(replace(given, packed=replace(given.packed, ids=hidden)))
                places.append(chosen)
                wanted.append(given.packed.ids[chosen])
            rows = [0] * len(parts)
            logits = self.model.masked_logits(inputs, places, gradients.leaf, rows, gradients.add)
            # A part whose texts have no token has nothing to guess.
            losses = [
                cross_entropy(of_part, correct) if len(correct) else of_part.sum()
                for of_part, correct in zip(logits, wanted, strict=True)
            ]
            return [(loss, loss) for loss in losses]

        losses = self._descend(batches, losses_of)
        if gradients.leaf.grad is not None:  # the decoder's; the embedding's went to the sink
            gradients.add(0, gradients.leaf, gradients.leaf.grad)
        gradients.finish()
        return losses, [MASKED]

    def _descend(self, batches: Sequence[Batch], losses_of: LossesOf) -> list[float]:
        """A backward pass for each part of the batches; the loss of each batch, before weights.

        `losses_of` gives two losses for each part, plain and weighed; the weighed one is followed.
        """
        losses = torch.zeros(len(batches), device=self.device)
        # A task's own turns are counted, so that its draws do not depend on other tasks.
        names = [batch.task for batch in batches]
        nth = [names[:turn].count(name) for turn, name in enumerate(names)]
        for number in range(max(len(batch.parts) for batch in batches)):
            turns = [turn for turn, batch in enumerate(batches) if number < len(batch.parts)]
            parts = [Part(batches[turn], nth[turn], number) for turn in turns]
            total = torch.zeros((), device=self.device)
            for turn, part, (loss, weighed) in zip(turns, parts, losses_of(parts), strict=True):
                losses[turn] += loss.detach() * part.share
                total = total + weighed * part.share
            total.backward()
        return losses.tolist()

    def _mask(self, part: Part, *keys: int) -> tuple[Tensor, Tensor]:
        """The part's ids with some hidden, and the places that are to be guessed."""
        assert self.masking is not None  # `prepare` sees to it
        ids = part.chunk.inputs.ids.numpy()
        special = (ids == self.template.cls_id) | (ids == self.template.sep_id)
        draws = generator(MASKING, self.seed, *keys, *part.keys)
        found = mask_words(ids, special, *self.masking, draws)
        hidden, places = (torch.from_numpy(array).to(self.device) for array in found)
        return hidden, places

    def _input(self, part: Part, words: NDArray[np.int64], *keys: int) -> ModelInput:
        """A part of a batch on the device, its ids counted among the step's words."""
        inputs, *texts = [self._on_device(pack, words) for pack in part.chunk.packs]
        draw = integer(DROPOUT, self.seed, *keys, *part.keys)
        rows = len(part.chunk.places)
        return ModelInput(part.batch.task, inputs, rows, draw, texts[0] if texts else None)

    def _on_device(self, pack: Packed, words: NDArray[np.int64]) -> Packed:
        local = torch.from_numpy(np.searchsorted(words, pack.ids.numpy()))
        return Packed(
            local.to(self.device),
            pack.segments.to(self.device),
            pack.offsets.to(self.device),
            pack.longest,
        )

    def _loss(self, batch: Batch, part: Chunk, outputs: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """The mean loss of the part's rows: the head's, and those of the task's objectives."""
        target = self.model.tasks[batch.task].target
        targets = batch.split.targets[part.places]
        wanted = np.ascontiguousarray(target.trained_on(targets))
        weights = self._weights_of(batch.task, batch.split)
        loss = head_loss(target, outputs, torch.from_numpy(wanted).to(self.device), weights)
        objectives = self.tasks[batch.task].task.objectives
        if objectives:
            keys = batch.split.table.keys[batch.split.rows[part.places]]
            pairs = TextPairs(texts[0], texts[1], target.closeness(targets), keys)
            for objective in objectives:
                loss = loss + objective.weight * objective_loss(objective, target, pairs)
        return loss

    def _weighed(self, task: str, loss: Tensor) -> Tensor:
        """The loss times the task's weight, the recipe's or the learned one."""
        log_variance = self.model.log_variance(task)
        if log_variance is None:
            return loss * self.tasks[task].task.loss_weight
        return uncertainty_weighted(loss, log_variance, self.model.tasks[task].target)

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
