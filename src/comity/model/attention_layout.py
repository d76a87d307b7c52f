"""Conversion between packed tokens [N, ...] and attention's padded shape [B heads, longest, d]."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionLayout:
    """The position of each packed token in attention's padded tensors.

    A padded position holds a copy of the last token of its sequence. Nothing reads the query there,
    and `key_bias` gives the key a weight of 0, so the copy has no effect.
    """

    heads: int
    longest: int
    positions: Tensor  # [N], of each token in its sequence
    cls: Tensor  # [B], packed index of each first token
    key_bias: Tensor  # [B heads, 1, longest]: 0 for a token, a huge negative number for padding
    padding: Tensor  # [B heads longest, 1] bool
    sequences: Tensor  # [N], the sequence of each token
    _tokens: Tensor  # [B, longest], the packed index of the token at each position
    _maps: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def from_offsets(
        cls, offsets: Tensor, tokens: int, longest: int, heads: int, dtype: torch.dtype
    ) -> "AttentionLayout":
        """The layout of `tokens` tokens in sequences from `offsets` [B + 1]; some may be empty."""
        device = offsets.device
        lengths = offsets.diff()
        count = len(lengths)
        sequences = torch.arange(count, device=device)
        sequences = sequences.repeat_interleave(lengths, output_size=tokens)
        positions = torch.arange(longest, device=device)
        last = (lengths - 1).clamp(min=0)
        # An empty sequence has no token to copy. Any token will do, since nothing reads it.
        indices = (offsets[:-1, None] + torch.minimum(positions, last[:, None])).clamp(
            max=tokens - 1
        )
        padding = (positions >= lengths[:, None])[:, None, :].expand(count, heads, longest)
        # Half of the lowest number, so that a score added to it cannot overflow.
        lowest = torch.finfo(dtype).min / 2
        key_bias = torch.zeros(count, heads, longest, dtype=dtype, device=device)
        return cls(
            heads=heads,
            longest=longest,
            positions=torch.arange(tokens, device=device) - offsets[sequences],
            cls=indices[:, 0],
            key_bias=key_bias.masked_fill_(padding, lowest).view(count * heads, 1, longest),
            padding=padding.reshape(-1, 1),
            sequences=sequences,
            _tokens=indices,
        )

    def pad(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Packed vectors [N, parts * heads * d] to `parts` tensors [B heads, longest, d]."""
        size = packed.shape[1] // (parts * self.heads)
        sources, targets = self._map(parts)
        padded = _Rearrange.apply(packed.view(-1, size), sources, targets, None)
        return padded.view(parts, -1, self.longest, size).unbind(0)

    def unpad(self, padded: Tensor) -> Tensor:
        """[B heads, longest, d] back to packed vectors [N, heads * d]."""
        size = padded.shape[-1]
        sources, targets = self._map(1)
        packed = _Rearrange.apply(padded.reshape(-1, size), targets, sources, self.padding)
        return packed.view(-1, self.heads * size)

    def _map(self, parts: int) -> tuple[Tensor, Tensor]:
        """Two inverse index maps between packed and padded vectors of size d.

        The first gives the packed index (token, part, head) for each padded index (part, sequence,
        head, position), the second the padded index for each packed index. They are computed once
        for all layers.
        """
        if parts not in self._maps:
            device = self._tokens.device
            head = torch.arange(self.heads, device=device)
            part = torch.arange(parts, device=device)
            token = self._tokens[:, None, :]
            sources = (token * parts + part[:, None, None, None]) * self.heads + head[:, None]
            block = part[:, None] * len(self._tokens) + self.sequences[:, None, None]
            targets = (block * self.heads + head) * self.longest + self.positions[:, None, None]
            self._maps[parts] = (sources.flatten(), targets.flatten())
        return self._maps[parts]


class _Rearrange(torch.autograd.Function):
    """`vectors[sources]`, whose gradient is gathered by the map `targets` instead of scattered.

    This is exact where `sources` takes each vector once, or takes it again only for padding, whose
    gradient is zero. `unread` marks the vectors that `sources` leaves out.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, sources: Tensor, targets: Tensor, unread: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(targets, unread)
        return vectors.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        targets, unread = ctx.saved_tensors
        grad_vectors = gradients[0].index_select(0, targets)
        if unread is not None:
            grad_vectors.masked_fill_(unread, 0)
        return grad_vectors, None, None, None
