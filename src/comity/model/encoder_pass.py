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
    attention_counters,
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
    attention_dropout: "AttentionDropout | None"

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
        dropout: "HiddenDropout | None" = None,
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
        layers: int,
        heads: int,
        dtype: torch.dtype,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> "EncoderPass":
        """Lay `groups` end to end, for `layers` layers of `heads` heads, computed in `dtype`."""
        keys = _site_keys(groups, layers)
        found = []
        start = 0
        for group, own_keys in zip(groups, keys, strict=True):
            packed, tokens = group.packed, len(group.packed.ids)
            end = start + -(-tokens // ROUNDING) * ROUNDING
            layout = AttentionLayout.of(packed.offsets, tokens, packed.longest, heads, dtype)
            attention = AttentionDropout.of(own_keys, layout)
            found.append(GroupRows(start, start + tokens, end, layout, group.read, attention))
            start = end
        return cls(found, rows, sink, dropout=HiddenDropout.of(keys, found))

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
            keys = self._dropout.keys[layer, site, self._dropout.sequences]
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
class HiddenDropout:
    """What the masks of a pass's hidden states are drawn from."""

    keys: Tensor  # [layers + 1, sites, B], of all sequences
    sequences: Tensor  # [N], the sequence of each row
    counters: Tensor  # [N] int32, each row's first counter

    @classmethod
    def of(
        cls, keys: Sequence[Tensor | None], groups: Sequence[GroupRows]
    ) -> "HiddenDropout | None":
        """None where a group has no keys."""
        known = [own for own in keys if own is not None]
        if len(known) < len(groups):
            return None
        sequences, positions = [], []
        before = 0
        for own, group in zip(known, groups, strict=True):
            sequences.append(F.pad(group.layout.sequences + before, (0, group.padding)))
            positions.append(F.pad(group.layout.positions, (0, group.padding)))
            before += own.shape[-1]
        counters = torch.cat(positions).to(torch.int32) * TOKEN_STRIDE
        return cls(torch.cat(known, dim=-1), torch.cat(sequences), counters)

    def select(self, indices: Tensor) -> "HiddenDropout":
        """The same for the rows at `indices`."""
        return replace(self, sequences=self.sequences[indices], counters=self.counters[indices])


@dataclass(frozen=True)
class AttentionDropout:
    """What the masks of a group's attention weights are drawn from."""

    keys: Tensor  # [layers + 1, sites, B]
    counters: Tensor  # [heads, longest, words]
    longest: int

    @classmethod
    def of(cls, keys: Tensor | None, layout: AttentionLayout) -> "AttentionDropout | None":
        """None without keys."""
        if keys is None:
            return None
        counters = attention_counters(layout.heads, layout.longest, keys.device)
        return cls(keys, counters, layout.longest)

    def mask(self, query: Tensor, rate: float, layer: int) -> Tensor:
        """`[B heads, queries, longest]` for the first of the queries, or for all of them."""
        counters = self.counters[:, : query.shape[1]]
        keys = self.keys[layer, ATTENTION]
        return attention_mask(keys, counters, self.longest, rate, query.dtype)


def _site_keys(groups: Sequence[Group], layers: int) -> list[Tensor | None]:
    """For each group the keys `[layers + 1, sites, B]`, the embeddings first; None: no dropout."""
    keys = [group.dropout_keys for group in groups]
    known = [own for own in keys if own is not None]
    if not known:
        return keys
    split = iter(site_keys(torch.cat(known), layers + 1).split([len(own) for own in known], -1))
    return [None if own is None else next(split) for own in keys]


def _attention_mask(group: GroupRows, query: Tensor, rate: float, layer: int) -> Tensor | None:
    if group.attention_dropout is None or not drops(rate):
        return None
    return group.attention_dropout.mask(query, rate, layer)


def _spans(groups: Sequence[GroupRows], rows: Sequence[int], sink: Sink) -> Spans:
    """The span of each group; neighbours that add to the same row of J as one larger product."""
    joined: list[tuple[int, int, int]] = []
    for row, group in zip(rows, groups, strict=True):
        if joined and joined[-1][0] == row:
            joined[-1] = (row, joined[-1][1], group.end)
        else:
            joined.append((row, group.start, group.end))
    return Spans(joined, sink)
