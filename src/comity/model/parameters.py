"""Every parameter in one flat vector, every task's gradient a row of one matrix.

Layout: `[word table | embeddings | layer 1 | ... | pooler | head 1 | head 2 | ...]`. Within a layer
the decayed weights come first, then biases and LayerNorm. So freezing the lowest layers leaves the
trained part of the encoder one stretch, and gradient surgery, clipping, the optimizer and
checkpoints are all arithmetic on spans of numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHARED = ""  # the owner of everything that all tasks share; a task's name cannot be empty


@dataclass(frozen=True)
class OwnedParameter:
    """One parameter and where it belongs."""

    name: str
    parameter: nn.Parameter
    owner: str  # SHARED or the task that owns the head
    layer: int  # 0: embeddings, 1 to L: layers, L + 1: pooler and heads
    decays: bool
    is_word_table: bool = False


@dataclass
class Segment:
    """A stretch of the flat vector that one rule updates. `step` counts its own updates."""

    owner: str
    layer: int
    decays: bool
    is_word_table: bool
    start: int
    stop: int
    step: int = 0


class FlatParameters:
    """The masters, float32 `[P]`, and the compute buffer `[P]` that the modules' parameters view.

    Where the run computes in float32 the two are the same memory. Checkpoints, export and the
    optimizer read the masters; `refresh` brings an updated stretch into the compute buffer.
    """

    def __init__(self, pieces: Sequence[OwnedParameter], dtype: torch.dtype, device: torch.device):
        self.pieces = sorted(pieces, key=_layout_key(pieces))
        self.starts: dict[str, int] = {}
        total = sum(piece.parameter.numel() for piece in self.pieces)
        self.masters = torch.empty(total, dtype=torch.float32, device=device)
        same = dtype == torch.float32
        self.compute = self.masters if same else torch.empty(total, dtype=dtype, device=device)
        self.segments = self._lay_out()
        self.refresh(0, total)
        self.width = next((p.parameter.shape[1] for p in self.pieces if p.is_word_table), 1)
        self.table_stop = max((s.stop for s in self.segments if s.is_word_table), default=0)
        self.shared_stop = max((s.stop for s in self.segments if s.owner == SHARED), default=0)

    def _lay_out(self) -> list[Segment]:
        segments: list[Segment] = []
        start = 0
        for piece in self.pieces:
            stop = start + piece.parameter.numel()
            self.masters[start:stop] = piece.parameter.detach().flatten().to(self.masters)
            piece.parameter.data = self.compute[start:stop].view(piece.parameter.shape)
            self.starts[piece.name] = start
            rule = (piece.owner, piece.layer, piece.decays, piece.is_word_table)
            last = segments[-1] if segments else None
            if last and (last.owner, last.layer, last.decays, last.is_word_table) == rule:
                last.stop = stop
            else:
                segments.append(Segment(*rule, start, stop))
            start = stop
        return segments

    def refresh(self, start: int, stop: int) -> None:
        """Bring masters `[start, stop)` into the compute buffer."""
        if self.compute is not self.masters:
            self.compute[start:stop].copy_(self.masters[start:stop])

    @property
    def table(self) -> Tensor:
        """The word table's masters `[V, H]`."""
        return self.masters[: self.table_stop].view(-1, self.width)

    def trained_from(self, frozen_layers: int) -> int:
        """Where the trained part of the shared stretch begins, without the word table.

        Args:
            frozen_layers: how many of the layers numbered 0 (the embeddings), 1, 2, ... are frozen.
        """
        trained = [
            s.start
            for s in self.segments
            if s.owner == SHARED and s.layer >= frozen_layers and not s.is_word_table
        ]
        return min(trained, default=self.shared_stop)

    def masters_by_name(self) -> dict[str, Tensor]:
        """Each parameter's float32 master in its own shape (views, no copies)."""
        shapes = {piece.name: piece.parameter.shape for piece in self.pieces}
        return {
            name: self.masters[start : start + shapes[name].numel()].view(shapes[name])
            for name, start in self.starts.items()
        }


def _layout_key(pieces: Sequence[OwnedParameter]):
    owners = list(dict.fromkeys([SHARED, *(piece.owner for piece in pieces)]))

    def key(piece: OwnedParameter) -> tuple[int, bool, int, bool]:
        return (owners.index(piece.owner), not piece.is_word_table, piece.layer, not piece.decays)

    return key
