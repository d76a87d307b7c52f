"""One encoder and a head for each task: rows of token ids in, a task's outputs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from comity.flat import SHARED, Piece
from comity.model.encoder import Encoder, Group, Packed, Read
from comity.model.heads import CosineHead, LinearHead, make_head, mean_pool
from comity.model.shared import Sink, Stretches
from comity.seeds import INITIALISATION, name_key, torch_generator
from comity.targets import Target


@dataclass(frozen=True)
class TaskModel:
    """What the model knows of one task: what it predicts, and which views its head reads."""

    target: Target
    views: tuple[str, ...]  # "first", "second" or "pair"
    pooling: str = "mean"  # of the cosine head
    dropout: float = 0.1  # of the head

    @property
    def embeds(self) -> bool:
        """Whether training shapes the embedding of a text alone."""
        return self.target.head == "cosine"


@dataclass(frozen=True)
class TaskInput:
    """A batch of one task: `count` rows for each view its head reads, view after view."""

    task: str
    packed: Packed
    count: int
    dropout_seed: int | None = None  # None: no dropout (evaluation)


class MultiTaskModel(nn.Module):
    """The encoder, shared, and `heads[task]`.

    Example:
        (outputs,) = model([TaskInput("sentiment", packed, count=32)])
    """

    def __init__(self, encoder: nn.Module, tasks: Mapping[str, TaskModel], seed: int = 0):
        super().__init__()
        self.encoder: Encoder = encoder  # type: ignore[assignment]
        self.tasks = dict(tasks)
        self.heads = nn.ModuleList(
            make_head(
                task.target.head,
                self.encoder.width,
                task.target.outputs,
                task.dropout,
                task.pooling,
            )
            for task in tasks.values()
        )
        for name, head in zip(tasks, self.heads, strict=True):
            if isinstance(head, LinearHead):
                head.initialise(torch_generator(INITIALISATION, seed, name_key(name)))

    def head(self, task: str) -> nn.Module:
        """The head of a task. (A ModuleDict would forbid names with dots.)"""
        return self.heads[list(self.tasks).index(task)]

    def forward(
        self,
        inputs: Sequence[TaskInput],
        words: Tensor | None = None,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """Outputs `[count, outputs]` of each input's head, all encoded in one pass.

        words: the gathered rows of the word table that the inputs' ids index, if any.
        rows, sink: where the gradients of the shared parameters go; see `Encoder`.
        """
        heads = [self.head(given.task) for given in inputs]
        groups = [
            Group(given.packed, cast(Read, head.read), given.dropout_seed)
            for given, head in zip(inputs, heads, strict=True)
        ]
        hidden = self.encoder(groups, words, rows, sink)
        vectors = self._vectors(groups, heads, hidden, rows, sink)
        outputs = []
        for given, head, of_task in zip(inputs, heads, vectors, strict=True):
            generator = None
            if given.dropout_seed is not None:
                device = given.packed.ids.device
                generator = torch.Generator(device).manual_seed(given.dropout_seed ^ 1)
            outputs.append(head(list(of_task.split(given.count)), generator))
        return outputs

    def heads_together(self, tasks: Sequence[str], packed: Packed, count: int) -> list[Tensor]:
        """Outputs of several tasks that read the same views alike, the texts encoded once."""
        heads = [self.head(task) for task in tasks]
        group = Group(packed, cast(Read, heads[0].read))
        (vectors,) = self._vectors([group], heads[:1], self.encoder([group]), None, None)
        return [head(list(vectors.split(count)), None) for head in heads]

    def reads(self, task: str) -> tuple[Any, ...]:
        """What a task's head reads; tasks that agree in it can share one encoding."""
        spec, head = self.tasks[task], self.head(task)
        return spec.views, head.read, spec.pooling if spec.embeds else None

    def _vectors(
        self,
        groups: Sequence[Group],
        heads: Sequence[nn.Module],
        hidden: list[Tensor],
        rows: Sequence[int] | None,
        sink: Sink | None,
    ) -> list[Tensor]:
        """One vector `[B, H]` a sequence: pooled by the encoder (all in one go), or embedded."""
        vectors = list(hidden)
        pooled = [n for n, head in enumerate(heads) if not isinstance(head, CosineHead)]
        for number, (group, head) in enumerate(zip(groups, heads, strict=True)):
            if isinstance(head, CosineHead) and group.read == "all":
                vectors[number] = mean_pool(hidden[number], group.packed.offsets)
        if pooled:
            counts = [len(hidden[number]) for number in pooled]
            stretches = None
            if rows is not None and sink is not None:
                ends = np.cumsum([0, *counts]).tolist()
                bounds = [(rows[n], *ends[i : i + 2]) for i, n in enumerate(pooled)]
                stretches = Stretches(bounds, sink)
            together = self.encoder.pool(torch.cat([hidden[n] for n in pooled]), stretches)
            for number, of_task in zip(pooled, together.split(counts), strict=True):
                vectors[number] = of_task
        return vectors

    def embed(self, packed: Packed, pooling: str) -> Tensor:
        """Embeddings `[B, H]` float32 of packed texts, by mean pooling or the [CLS] state."""
        read: Read = "all" if pooling == "mean" else "cls"
        (hidden,) = self.encoder([Group(packed, read)])
        return mean_pool(hidden, packed.offsets) if read == "all" else hidden.float()

    def pieces(self) -> list[Piece]:
        """Every parameter with its owner and layer, for the flat vector."""
        pieces = []
        top = 0
        for name, parameter in self.encoder.named_parameters():  # type: ignore[attr-defined]
            layer = self.encoder.layer_of(name)
            top = max(top, layer)
            table = parameter is self.encoder.word_embeddings
            pieces.append(
                Piece(f"encoder.{name}", parameter, SHARED, layer, parameter.dim() > 1, table)
            )
        for task, head in zip(self.tasks, self.heads, strict=True):
            for name, parameter in head.named_parameters():
                decays = parameter.dim() > 1
                pieces.append(Piece(f"heads.{task}.{name}", parameter, task, top, decays))
        return pieces


def to_packed(parts: Sequence, device: torch.device) -> Packed:
    """Views packed one by one (`PackedRows`) joined into one packed pass on `device`."""
    ids = np.concatenate([part.ids for part in parts])
    segments = np.concatenate([part.segments for part in parts])
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    offsets = np.concatenate([[0], *ends])
    return Packed(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(segments).to(device),
        torch.from_numpy(offsets).to(device),
        max(part.longest for part in parts),
    )
