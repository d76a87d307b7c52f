"""One forward pass of an encoder over several groups of packed sequences.

The groups are laid end to end in one tensor `[N, ...]`, so that every dense product is one large
product. An `EncoderPass` knows which rows belong to which group, how attention arranges them, which
task gradient each group adds to, and its dropout. An encoder layer computes through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from comity.model import task_gradient_ops as ops
from comity.model.attention import attention
from comity.model.attention_layout import AttentionLayout
from comity.model.dropout import add_dropped, dropout_mask
from comity.model.encoder import Group, Read
from comity.model.task_gradient_ops import Sink, Spans

ROUNDING = 32
"""The tokens of a group are padded to a multiple of this, so that the shapes of products recur: a
CPU's matrix library compiles a kernel for each shape that it meets, and keeps it in memory."""


@dataclass(frozen=True)
class GroupRows:
    """The rows of one group: tokens from `start` to `stop`, padding from `stop` to `end`.

    Attention leaves padding out, so padding has no effect and no gradient.
    """

    start: int
    stop: int
    end: int
    layout: AttentionLayout
    read: Read
    generator: torch.Generator | None

    @property
    def padding(self) -> int:
        """Rows of padding."""
        return self.end - self.stop


class EncoderPass:
    """The groups of a pass, and the operations of an encoder on their rows.

    Args:
        groups: where each group's rows are.
        rows, sink: the row of J that each group adds to, and what takes the gradients of the shared
            parameters; without a sink gradients go where autograd puts them.
        indices: in a pass over the positions that a caller reads, those positions in the whole
            pass, `[M]`.
    """

    def __init__(
        self,
        groups: Sequence[GroupRows],
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
        indices: Tensor | None = None,
    ):
        self.groups = groups
        self.indices = indices
        self._rows = rows
        self._sink = sink
        self._spans = None if rows is None or sink is None else _spans(groups, rows, sink)

    @classmethod
    def over(
        cls,
        groups: Sequence[Group],
        heads: int,
        dtype: torch.dtype,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> "EncoderPass":
        """Lay `groups` end to end. `heads` attention heads compute in `dtype`."""
        found = []
        start = 0
        for group in groups:
            packed, generator = group.packed, None
            if group.dropout_seed is not None:
                generator = torch.Generator(device=packed.ids.device)
                generator.manual_seed(group.dropout_seed)
            tokens = len(packed.ids)
            end = start + -(-tokens // ROUNDING) * ROUNDING
            layout = AttentionLayout.of(packed.offsets, tokens, packed.longest, heads, dtype)
            found.append(GroupRows(start, start + tokens, end, layout, group.read, generator))
            start = end
        return cls(found, rows, sink)

    def of_positions_read(self) -> "EncoderPass | None":
        """The pass over the positions that callers read, or None where they read all of them."""
        if all(group.read == "all" for group in self.groups):
            return None
        groups, indices = [], []
        start = 0
        for group in self.groups:
            if group.read == "all":
                moved = start - group.start
                found = replace(group, start=start, stop=group.stop + moved, end=group.end + moved)
                device = group.layout.cls.device
                indices.append(torch.arange(group.start, group.end, device=device))
            else:
                end = start + len(group.layout.cls)
                found = replace(group, start=start, stop=end, end=end)
                indices.append(group.layout.cls + group.start)
            groups.append(found)
            start = found.end
        return EncoderPass(groups, self._rows, self._sink, torch.cat(indices))

    def select(self, values: Tensor) -> Tensor:
        """The rows `[M, W]` of the positions read, from those of the whole pass, `[N, W]`."""
        assert self.indices is not None
        return values.index_select(0, self.indices)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Each group's rows of `[N, W]`, without padding."""
        sizes = [size for g in self.groups for size in (g.stop - g.start, g.padding)]
        return values.split(sizes)[::2]

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`, with zeros as padding; `[n]` or `[n, W]` for each group."""
        padded = []
        for group, own in zip(self.groups, values, strict=True):
            padded += [own, own.new_zeros(group.padding, *own.shape[1:])]
        return torch.cat(padded)

    def linear(self, inputs: Tensor, layer: nn.Linear, outputs: slice = slice(None)) -> Tensor:
        """A dense layer, `[N, I]` to `[N, O]`, or only its `outputs`."""
        return ops.linear(inputs, layer, self._spans, outputs)

    def norm(self, inputs: Tensor, layer: nn.LayerNorm) -> Tensor:
        """LayerNorm of `[N, H]`."""
        return ops.norm(inputs, layer, self._spans)

    def look_up(self, indices: Tensor, table: Tensor) -> Tensor:
        """Rows `[N, H]` of a table `[T, H]`."""
        return ops.look_up(indices, table, self._spans)

    def add_dropped(self, residual: Tensor | None, values: Tensor, rate: float) -> Tensor:
        """`residual + dropout(values)`, both `[N, H]`; without a residual only the second."""
        draws = [(g.end - g.start, g.generator) for g in self.groups if g.generator is not None]
        if draws and round(256 * rate):
            mask = dropout_mask(values.shape, rate, draws, values.dtype)
            return add_dropped(residual, values, rate, mask)
        return values if residual is None else values + residual

    def attend(self, query_key_value: Tensor, rate: float) -> Tensor:
        """Self-attention within each sequence: `[N, 3 H]` to `[N, H]`. `rate`: dropout."""
        contexts = []
        for group, own in zip(self.groups, self.split(query_key_value), strict=True):
            layout = group.layout
            query, key, value = layout.pad(own, 3)
            context = attention(query, key, value, layout.key_bias, rate, group.generator)
            contexts.append(layout.unpad(context))
        return self.join(contexts)

    def attend_to(
        self, tokens: "EncoderPass", query: Tensor, key_value: Tensor, rate: float
    ) -> Tensor:
        """Attention of the positions read, `query [M, H]`, to all tokens, `key_value [N, 2 H]`."""
        contexts = []
        queries, keys_values = self.split(query), tokens.split(key_value)
        for group, asking, own in zip(self.groups, queries, keys_values, strict=True):
            layout = group.layout
            key, value = layout.pad(own, 2)
            if group.read == "all":
                (asked,) = layout.pad(asking, 1)
            else:  # one query for each sequence and head
                asked = asking.reshape(-1, 1, asking.shape[1] // layout.heads)
            context = attention(asked, key, value, layout.key_bias, rate, group.generator)
            if group.read == "all":
                contexts.append(layout.unpad(context))
            else:
                contexts.append(context.view(-1, asking.shape[1]))
        return self.join(contexts)


def _spans(groups: Sequence[GroupRows], rows: Sequence[int], sink: Sink) -> Spans:
    """The span of each group; neighbours that add to the same row of J as one larger product."""
    joined: list[tuple[int, int, int]] = []
    for row, group in zip(rows, groups, strict=True):
        if joined and joined[-1][0] == row:
            joined[-1] = (row, joined[-1][1], group.end)
        else:
            joined.append((row, group.start, group.end))
    return Spans(joined, sink)
