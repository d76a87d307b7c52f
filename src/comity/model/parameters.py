"""All parameters of a model in one flat vector.

Layout: `[word table | embeddings | layer 1 | ... | pooler | head 1 | head 2 | ...]`. Within a layer
the weights that decay come first, then biases and LayerNorm. If the lowest layers are frozen, the
trained part of the encoder is still one contiguous span. Gradient surgery, clipping, the optimizer
and checkpoints all work on slices of this vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Numbers in 64 bytes of float32."""

SHARED = ""  # the owner of parameters that all tasks share; the name of a task cannot be empty


@dataclass(frozen=True)
class OwnedParameter:
    """A parameter with its owner, its layer and whether weight decay applies."""

    name: str
    parameter: nn.Parameter
    owner: str  # SHARED, or the task that owns the head
    layer: int  # 0: embeddings, 1 to L: layers, L + 1: pooler and heads
    decays: bool
    is_word_table: bool = False


@dataclass
class Segment:
    """A span of the flat vector whose parameters are all updated alike."""

    owner: str
    layer: int
    decays: bool
    is_word_table: bool
    start: int
    stop: int
    step: int = 0  # updates so far


class FlatParameters:
    """The float32 master copy `[P]` of all parameters, and the compute buffer `[P]`.

    The modules' parameters are views of the compute buffer, which is the master copy itself if the
    run computes in float32. Checkpoints, export and the optimizer use the master copy; `refresh`
    copies updated values to the compute buffer.
    """

    def __init__(
        self, parameters: Sequence[OwnedParameter], dtype: torch.dtype, device: torch.device
    ):
        self.parameters = sorted(parameters, key=_layout_key(parameters))
        self.starts: dict[str, int] = {}
        total = sum(map(_size, self.parameters))
        self.masters = torch.zeros(total, dtype=torch.float32, device=device)
        same = dtype == torch.float32
        self.compute = self.masters if same else torch.empty(total, dtype=dtype, device=device)
        self.segments = self._lay_out()
        self.refresh(0, total)
        tables = [owned.parameter for owned in self.parameters if owned.is_word_table]
        self.width = tables[0].shape[1] if tables else 1
        self.table_stop = max((s.stop for s in self.segments if s.is_word_table), default=0)
        self.shared_stop = max((s.stop for s in self.segments if s.owner == SHARED), default=0)

    def _lay_out(self) -> list[Segment]:
        """Copy all values to the master copy and make the modules' parameters views."""
        segments: list[Segment] = []
        start = 0
        for owned in self.parameters:
            parameter = owned.parameter
            end, stop = start + parameter.numel(), start + _size(owned)
            self.masters[start:end] = parameter.detach().flatten().to(self.masters)
            parameter.data = self.compute[start:end].view(parameter.shape)
            self.starts[owned.name] = start
            rule = (owned.owner, owned.layer, owned.decays, owned.is_word_table)
            last = segments[-1] if segments else None
            if last and (last.owner, last.layer, last.decays, last.is_word_table) == rule:
                last.stop = stop
            else:
                segments.append(Segment(*rule, start, stop))
            start = stop
        return segments

    def refresh(self, start: int, stop: int) -> None:
        """Copy the masters `[start, stop)` to the compute buffer."""
        if self.compute is not self.masters:
            self.compute[start:stop].copy_(self.masters[start:stop])

    @property
    def table(self) -> Tensor:
        """The masters of the word table, `[V, H]`."""
        return self.masters[: self.table_stop].view(-1, self.width)

    def trained_from(self, frozen_layers: int) -> int:
        """The index where the trained shared parameters begin, after the word table.

        Args:
            frozen_layers: how many layers are frozen, counting the embeddings as layer 0.
        """
        trained = [
            segment.start
            for segment in self.segments
            if segment.owner == SHARED
            and segment.layer >= frozen_layers
            and not segment.is_word_table
        ]
        return min(trained, default=self.shared_stop)

    def masters_by_name(self) -> dict[str, Tensor]:
        """The float32 master of each parameter in its own shape (a view, not a copy)."""
        shapes = {owned.name: owned.parameter.shape for owned in self.parameters}
        return {
            name: self.masters[start : start + shapes[name].numel()].view(shapes[name])
            for name, start in self.starts.items()
        }


def _size(owned: OwnedParameter) -> int:
    """The numbers of a parameter, with zeros so that the next one starts at a multiple of 64 bytes.

    Memory that torch allocates is aligned so, and products of tensors with another alignment can
    round differently: a loaded model computes the same numbers as the run. The word table has no
    padding, since its part of a gradient consists of whole rows.
    """
    numbers = owned.parameter.numel()
    return numbers if owned.is_word_table else -(-numbers // ALIGNMENT) * ALIGNMENT


def _layout_key(
    parameters: Sequence[OwnedParameter],
) -> Callable[[OwnedParameter], tuple[int, bool, int, bool]]:
    """The sort key of the flat layout."""
    owners = list(dict.fromkeys([SHARED, *(owned.owner for owned in parameters)]))

    def key(owned: OwnedParameter) -> tuple[int, bool, int, bool]:
        return (owners.index(owned.owner), not owned.is_word_table, owned.layer, not owned.decays)

    return key
