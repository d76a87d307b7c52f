"""One encoder and a head for each task: rows of token ids in, a task's outputs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from comity.flat import SHARED, Piece
from comity.model.encoder import Encoder, Packed, Read
from comity.model.heads import CosineHead, LinearHead, make_head, mean_pool
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


class MultiTaskModel(nn.Module):
    """The encoder, shared, and `heads[task]`.

    Example:
        outputs = model("sentiment", packed, count=32, dropout_seed=None)
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
        task: str,
        packed: Packed,
        count: int,
        dropout_seed: int | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """Outputs `[count, outputs]` of a task for a batch that holds `count` rows per view.

        packed: the sequences of all views in one pass, view after view.
        dropout_seed: None for evaluation; a head's masks follow from the same integer.
        words: the gathered rows of the word table that `packed.ids` index, if any.
        """
        head = self.head(task)
        read: Read = head.read  # type: ignore[assignment]
        readings = self._read(packed, count, read, dropout_seed, words, head)
        generator = None
        if dropout_seed is not None:
            generator = torch.Generator(packed.ids.device).manual_seed(dropout_seed ^ 1)
        return head(readings, generator)

    def _read(
        self,
        packed: Packed,
        count: int,
        read: Read,
        dropout_seed: int | None,
        words: Tensor | None,
        head: nn.Module,
    ) -> list[Tensor]:
        """What the head reads of each view, `[count, H]` each."""
        hidden = self.encoder(
            packed.ids, packed.segments, packed.offsets, packed.longest, dropout_seed, read, words
        )
        if isinstance(head, CosineHead):
            vectors = mean_pool(hidden, packed.offsets) if read == "all" else hidden
        else:
            vectors = self.encoder.pool(hidden)
        views = (len(packed.offsets) - 1) // count
        return [vectors[view * count : (view + 1) * count] for view in range(views)]

    def embed(self, packed: Packed, pooling: str) -> Tensor:
        """Embeddings `[B, H]` float32 of packed texts, by mean pooling or the [CLS] state."""
        read: Read = "all" if pooling == "mean" else "cls"
        hidden = self.encoder(
            packed.ids, packed.segments, packed.offsets, packed.longest, None, read
        )
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
