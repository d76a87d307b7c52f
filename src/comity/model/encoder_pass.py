"""One forward pass of an encoder over several groups of packed sequences.

The tokens of all groups are concatenated in one tensor `[N, ...]`, so that every dense layer is one
large product. An `EncoderPass` holds the span of each group, its attention layout, its task
gradient and its dropout, and offers the operations that encoder layers are made of.
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
"""The tokens of a group are padded to a multiple of this, so that few different shapes occur: a
CPU's matrix library compiles a kernel for every shape and keeps it in memory."""


@dataclass(frozen=True)
class GroupSpan:
    """The span of one group: tokens from `start` to `stop`, padding from `stop` to `end`.

    Attention skips the padding, so it has no effect and no gradient.
    """

    start: int
    stop: int
    end: int
    layout: AttentionLayout
    read: Read
    attention_dropout: "AttentionDropout | None"

    @property
    def padding(self) -> int:
        """The number of padding tokens."""
        return self.end - self.stop

    def attention_mask(self, query: Tensor, rate: float, layer: int) -> Tensor | None:
        """The dropout mask of a layer's attention weights `[B heads, queries, longest]`.

        `query [B heads, queries, d]` holds all queries of each sequence or only the first. None
        if nothing is dropped.
        """
        if self.attention_dropout is None or not drops(rate):
            return None
        return self.attention_dropout.mask(query, rate, layer)


class EncoderPass:
    """The groups of a pass, and the operations of an encoder on their tokens.

    Args:
        groups: the span of each group.
        rows: the row of J that each group adds to.
        sink: receives the gradients of the shared parameters for each row of J; without it autograd
            accumulates them as usual.
        indices: for a pass over the positions that callers read (`read_pass`), these positions in
            the whole pass, `[M]`.
        dropout: keys and counters of the hidden states' dropout masks.
    """

    def __init__(
        self,
        groups: Sequence[GroupSpan],
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
    def from_groups(
        cls,
        groups: Sequence[Group],
        layers: int,
        heads: int,
        dtype: torch.dtype,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> "EncoderPass":
        """Concatenate groups, for an encoder with `layers` layers of `heads` heads in `dtype`."""
        keys = _site_keys(groups, layers)
        spans = []
        start = 0
        for group, group_keys in zip(groups, keys, strict=True):
            packed, tokens = group.packed, len(group.packed.ids)
            end = start + -(-tokens // ROUNDING) * ROUNDING
            layout = AttentionLayout.from_offsets(
                packed.offsets, tokens, packed.longest, heads, dtype
            )
            attention = AttentionDropout.from_keys(group_keys, layout)
            spans.append(GroupSpan(start, start + tokens, end, layout, group.read, attention))
            start = end
        return cls(spans, rows, sink, dropout=HiddenDropout.from_keys(keys, spans))

    def read_pass(self) -> "EncoderPass | None":
        """The pass over only the positions that callers read, or None if they read all of them."""
        if all(group.read == "all" for group in self.groups):
            return None
        groups, indices = [], []
        start = 0
        for group in self.groups:
            if group.read == "all":
                shift = start - group.start
                span = replace(group, start=start, stop=group.stop + shift, end=group.end + shift)
                device = group.layout.cls.device
                indices.append(torch.arange(group.start, group.end, device=device))
            else:
                end = start + len(group.layout.cls)
                span = replace(group, start=start, stop=end, end=end)
                indices.append(group.layout.cls + group.start)
            groups.append(span)
            start = span.end
        read = torch.cat(indices)
        dropout = self._dropout and self._dropout.select(read)
        return EncoderPass(groups, self._rows, self._sink, read, dropout)

    def select(self, values: Tensor) -> Tensor:
        """The vectors `[M, W]` at the positions read, from those of the whole pass, `[N, W]`."""
        assert self.indices is not None
        return values.index_select(0, self.indices)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """The span of each group in `values [N, W]`, without padding."""
        sizes = [size for g in self.groups for size in (g.stop - g.start, g.padding)]
        return values.split(sizes)[::2]

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`, with zeros as padding; `[n]` or `[n, W]` for each group."""
        padded = []
        for group, unpadded in zip(self.groups, values, strict=True):
            padded += [unpadded, unpadded.new_zeros(group.padding, *unpadded.shape[1:])]
        return torch.cat(padded)

    def linear(self, inputs: Tensor, layer: nn.Linear, outputs: slice = slice(None)) -> Tensor:
        """A dense layer, `[N, I]` to `[N, O]`; `outputs` selects some of its outputs."""
        return ops.linear(inputs, layer, self._spans, outputs)

    def norm(self, inputs: Tensor, layer: nn.LayerNorm) -> Tensor:
        """LayerNorm of `[N, H]`."""
        return ops.norm(inputs, layer, self._spans)

    def look_up(self, indices: Tensor, table: Tensor) -> Tensor:
        """The vectors `[N, H]` at `indices [N]` of a table `[T, H]`."""
        return ops.look_up(indices, table, self._spans)

    def add_dropped(
        self, residual: Tensor | None, values: Tensor, rate: float, layer: int, site: int
    ) -> Tensor:
        """`residual + dropout(values)`, both `[N, H]`, or `dropout(values)` without a residual."""
        if self._dropout is not None and drops(rate):
            keys = self._dropout.keys[layer, site, self._dropout.sequences]
            counters = self._dropout.counters
            mask = keep_mask(keys, counters, values.shape[1], rate, values.dtype)
            return add_dropped(residual, values, rate, mask)
        return values if residual is None else values + residual

    def attend(self, query_key_value: Tensor, rate: float, layer: int) -> Tensor:
        """Self-attention within each sequence, `[N, 3 H]` to `[N, H]`, with a dropout rate."""
        contexts = []
        for group, packed in zip(self.groups, self.split(query_key_value), strict=True):
            layout = group.layout
            query, key, value = layout.pad(packed, 3)
            mask = group.attention_mask(query, rate, layer)
            context = attention(query, key, value, layout.key_bias, mask, rate)
            contexts.append(layout.unpad(context))
        return self.join(contexts)

    def attend_to(
        self, tokens: "EncoderPass", query: Tensor, key_value: Tensor, rate: float, layer: int
    ) -> Tensor:
        """Attention of the positions read, `query [M, H]`, to all tokens, `key_value [N, 2 H]`."""
        contexts = []
        queries, keys_values = self.split(query), tokens.split(key_value)
        for group, packed_query, packed_key_value in zip(
            self.groups, queries, keys_values, strict=True
        ):
            layout = group.layout
            key, value = layout.pad(packed_key_value, 2)
            width = packed_query.shape[1]
            if group.read == "all":
                (padded_query,) = layout.pad(packed_query, 1)
            else:  # one query for each sequence and head
                padded_query = packed_query.reshape(-1, 1, width // layout.heads)
            mask = group.attention_mask(padded_query, rate, layer)
            context = attention(padded_query, key, value, layout.key_bias, mask, rate)
            unpadded = layout.unpad(context) if group.read == "all" else context.view(-1, width)
            contexts.append(unpadded)
        return self.join(contexts)


@dataclass(frozen=True)
class HiddenDropout:
    """Keys and counters of the dropout masks of a pass's hidden states."""

    keys: Tensor  # [layers + 1, sites, B], of all sequences
    sequences: Tensor  # [N], the sequence of each token
    counters: Tensor  # [N] int32, the first counter of each token

    @classmethod
    def from_keys(
        cls, keys: Sequence[Tensor | None], groups: Sequence[GroupSpan]
    ) -> "HiddenDropout | None":
        """From the keys `[layers + 1, sites, B]` of each group; None if a group has no keys."""
        present = [group_keys for group_keys in keys if group_keys is not None]
        if len(present) < len(groups):
            return None
        sequences, positions = [], []
        count = 0
        for group_keys, group in zip(present, groups, strict=True):
            sequences.append(F.pad(group.layout.sequences + count, (0, group.padding)))
            positions.append(F.pad(group.layout.positions, (0, group.padding)))
            count += group_keys.shape[-1]
        counters = torch.cat(positions).to(torch.int32) * TOKEN_STRIDE
        return cls(torch.cat(present, dim=-1), torch.cat(sequences), counters)

    def select(self, indices: Tensor) -> "HiddenDropout":
        """The same for the tokens at `indices`."""
        return replace(self, sequences=self.sequences[indices], counters=self.counters[indices])


@dataclass(frozen=True)
class AttentionDropout:
    """Keys and counters of the dropout masks of a group's attention weights."""

    keys: Tensor  # [layers + 1, sites, B]
    counters: Tensor  # [heads, longest, C], from `attention_counters`
    longest: int

    @classmethod
    def from_keys(cls, keys: Tensor | None, layout: AttentionLayout) -> "AttentionDropout | None":
        """From a group's keys; None if it has none."""
        if keys is None:
            return None
        counters = attention_counters(layout.heads, layout.longest, keys.device)
        return cls(keys, counters, layout.longest)

    def mask(self, query: Tensor, rate: float, layer: int) -> Tensor:
        """The mask `[B heads, queries, longest]`; see `GroupSpan.attention_mask`."""
        counters = self.counters[:, : query.shape[1]]
        keys = self.keys[layer, ATTENTION]
        return attention_mask(keys, counters, self.longest, rate, query.dtype)


def _site_keys(groups: Sequence[Group], layers: int) -> list[Tensor | None]:
    """The keys `[layers + 1, sites, B]` of each group, the embeddings first; None: no dropout."""
    keys = [group.dropout_keys for group in groups]
    present = [group_keys for group_keys in keys if group_keys is not None]
    if not present:
        return keys
    sizes = [len(group_keys) for group_keys in present]
    split = iter(site_keys(torch.cat(present), layers + 1).split(sizes, -1))
    return [None if group_keys is None else next(split) for group_keys in keys]


def _spans(groups: Sequence[GroupSpan], rows: Sequence[int], sink: Sink) -> Spans:
    """The span of each group, with adjacent groups of one row of J merged into one product."""
    merged: list[tuple[int, int, int]] = []
    for row, group in zip(rows, groups, strict=True):
        if merged and merged[-1][0] == row:
            merged[-1] = (row, merged[-1][1], group.end)
        else:
            merged.append((row, group.start, group.end))
    return Spans(merged, sink)
