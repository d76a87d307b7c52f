"""One forward pass of an encoder over several groups of packed sequences.

The groups are laid end to end in one tensor `[N, ...]`, so that every dense product is one large
product. An `EncoderPass` knows which rows belong to which group, how attention arranges them, which
task gradient each group adds to, and its dropout. An encoder layer computes through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model import task_gradient_ops as ops
from comity.model.attention import attention
from comity.model.attention_layout import AttentionLayout
from comity.model.dropout import (
    ATTENTION,
    TOKEN_STRIDE,
    add_dropped,
    attention_mask,
    drops,
    keep_mask,
    site_keys,
)
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
    dropout_keys: Tensor | None  # [B], one for each sequence; None: no dropout

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
        dropout: what its dropout masks are drawn from.
    """

    def __init__(
        self,
        groups: Sequence[GroupRows],
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
        indices: Tensor | None = None,
        dropout: "_Dropout | None" = None,
    ):
        self.groups = groups
        self._dropout = dropout
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
            packed, tokens = group.packed, len(group.packed.ids)
            end = start + -(-tokens // ROUNDING) * ROUNDING
            layout = AttentionLayout.of(packed.offsets, tokens, packed.longest, heads, dtype)
            keys = group.dropout_keys
            found.append(GroupRows(start, start + tokens, end, layout, group.read, keys))
            start = end
        return cls(found, rows, sink, dropout=_Dropout.of(found))

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
        read = torch.cat(indices)
        dropout = self._dropout and self._dropout.select(read)
        return EncoderPass(groups, self._rows, self._sink, read, dropout)

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

    def add_dropped(
        self, residual: Tensor | None, values: Tensor, rate: float, layer: int, site: int
    ) -> Tensor:
        """`residual + dropout(values)`, both `[N, H]`; without a residual only the second."""
        if self._dropout is not None and drops(rate):
            keys = site_keys(self._dropout.keys, layer, site)[self._dropout.sequences]
            counters = self._dropout.counters
            mask = keep_mask(keys, counters, values.shape[1], rate, values.dtype)
            return add_dropped(residual, values, rate, mask)
        return values if residual is None else values + residual

    def attend(self, query_key_value: Tensor, rate: float, layer: int) -> Tensor:
        """Self-attention within each sequence: `[N, 3 H]` to `[N, H]`. `rate`: dropout."""
        contexts = []
        for group, own in zip(self.groups, self.split(query_key_value), strict=True):
            layout = group.layout
            query, key, value = layout.pad(own, 3)
            mask = _attention_mask(group, query, rate, layer)
            context = attention(query, key, value, layout.key_bias, mask, rate)
            contexts.append(layout.unpad(context))
        return self.join(contexts)

    def attend_to(
        self, tokens: "EncoderPass", query: Tensor, key_value: Tensor, rate: float, layer: int
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
            mask = _attention_mask(group, asked, rate, layer)
            context = attention(asked, key, value, layout.key_bias, mask, rate)
            if group.read == "all":
                contexts.append(layout.unpad(context))
            else:
                contexts.append(context.view(-1, asking.shape[1]))
        return self.join(contexts)


@dataclass(frozen=True)
class _Dropout:
    """The keys of all sequences of a pass, and each row's sequence and first counter."""

    keys: Tensor  # [B]
    sequences: Tensor  # [N]
    counters: Tensor  # [N] int32

    @classmethod
    def of(cls, groups: Sequence[GroupRows]) -> "_Dropout | None":
        """None where no group has dropout keys."""
        keys, sequences, positions = [], [], []
        before = 0
        for group in groups:
            if group.dropout_keys is None:
                return None
            keys.append(group.dropout_keys)
            sequences.append(F.pad(group.layout.sequences + before, (0, group.padding)))
            positions.append(F.pad(group.layout.positions, (0, group.padding)))
            before += len(group.dropout_keys)
        counters = torch.cat(positions).to(torch.int32) * TOKEN_STRIDE
        return cls(torch.cat(keys), torch.cat(sequences), counters)

    def select(self, indices: Tensor) -> "_Dropout":
        """The same for the rows at `indices`."""
        return replace(self, sequences=self.sequences[indices], counters=self.counters[indices])


def _attention_mask(group: GroupRows, query: Tensor, rate: float, layer: int) -> Tensor | None:
    """The mask `[B heads, queries, longest]` of a group's attention weights."""
    if group.dropout_keys is None or not drops(rate):
        return None
    keys, layout = site_keys(group.dropout_keys, layer, ATTENTION), group.layout
    return attention_mask(keys, layout.heads, query.shape[1], layout.longest, rate, query.dtype)


def _spans(groups: Sequence[GroupRows], rows: Sequence[int], sink: Sink) -> Spans:
    """The span of each group; neighbours that add to the same row of J as one larger product."""
    joined: list[tuple[int, int, int]] = []
    for row, group in zip(rows, groups, strict=True):
        if joined and joined[-1][0] == row:
            joined[-1] = (row, joined[-1][1], group.end)
        else:
            joined.append((row, group.start, group.end))
    return Spans(joined, sink)
