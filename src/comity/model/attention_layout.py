"""Between packed rows [N, ...] and attention's padded [B heads, longest, d], there and back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionLayout:
    """Where each packed token stands in attention's padded arrangement.

    A padding slot holds a copy of its own sequence's last token. No query is read there and the
    bias keeps every key there at weight 0, so what it holds is without effect.
    """

    heads: int
    longest: int
    positions: Tensor  # [N], of each token in its sequence
    cls: Tensor  # [B], packed index of each first token
    key_bias: Tensor  # [B heads, 1, longest]: 0 for a token, hugely negative for padding
    padding: Tensor  # [B heads longest, 1] bool
    sequences: Tensor  # [N], the sequence of each token
    _tokens: Tensor  # [B, longest], the packed index of the token in each slot
    _maps: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, offsets: Tensor, tokens: int, longest: int, heads: int, dtype: torch.dtype
    ) -> "AttentionLayout":
        """The layout of `tokens` tokens in sequences from `offsets` [B + 1]; some may be empty."""
        device = offsets.device
        lengths = offsets.diff()
        count = len(lengths)
        each = torch.arange(count, device=device)
        sequences = each.repeat_interleave(lengths, output_size=tokens)
        slots = torch.arange(longest, device=device)
        last = (lengths - 1).clamp(min=0)
        # An empty sequence has no token of its own; any will do, as nothing reads it.
        taken = (offsets[:-1, None] + torch.minimum(slots, last[:, None])).clamp(max=tokens - 1)
        padding = (slots >= lengths[:, None])[:, None, :].expand(count, heads, longest)
        # Half of the lowest number, so that a score added to it cannot overflow.
        lowest = torch.finfo(dtype).min / 2
        key_bias = torch.zeros(count, heads, longest, dtype=dtype, device=device)
        return cls(
            heads=heads,
            longest=longest,
            positions=torch.arange(tokens, device=device) - offsets[sequences],
            cls=taken[:, 0],
            key_bias=key_bias.masked_fill_(padding, lowest).view(count * heads, 1, longest),
            padding=padding.reshape(-1, 1),
            sequences=sequences,
            _tokens=taken,
        )

    def pad(self, rows: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Packed rows [N, parts * heads * d] to `parts` tensors [B heads, longest, d]."""
        size = rows.shape[1] // (parts * self.heads)
        slots, tokens = self._map(parts)
        padded = _Rearrange.apply(rows.view(-1, size), slots, tokens, None)
        return padded.view(parts, -1, self.longest, size).unbind(0)

    def unpad(self, padded: Tensor) -> Tensor:
        """[B heads, longest, d] back to packed rows [N, heads * d]."""
        size = padded.shape[-1]
        slots, tokens = self._map(1)
        packed = _Rearrange.apply(padded.reshape(-1, size), tokens, slots, self.padding)
        return packed.view(-1, self.heads * size)

    def _map(self, parts: int) -> tuple[Tensor, Tensor]:
        """Two inverse maps between rows of d numbers, made once for all layers.

        For each (part, sequence, head, slot) the packed row (token, part, head) that goes there,
        and for each (token, part, head) the padded row that it comes to.
        """
        if parts not in self._maps:
            device = self._tokens.device
            head = torch.arange(self.heads, device=device)
            part = torch.arange(parts, device=device)
            token = self._tokens[:, None, :]
            slots = (token * parts + part[:, None, None, None]) * self.heads + head[:, None]
            block = part[:, None] * len(self._tokens) + self.sequences[:, None, None]
            tokens = (block * self.heads + head) * self.longest + self.positions[:, None, None]
            self._maps[parts] = (slots.flatten(), tokens.flatten())
        return self._maps[parts]


class _Rearrange(torch.autograd.Function):
    """`rows[there]`, with a gradient that is gathered by the map `back` in place of scattered.

    Gathering is the exact gradient where `there` takes each row once, or takes it again only for
    padding, whose gradient is zero. Rows that `there` leaves out are marked in `unread`.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, there: Tensor, back: Tensor, unread: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(back, unread)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        back, unread = ctx.saved_tensors
        gradient = gradients[0].index_select(0, back)
        if unread is not None:
            gradient.masked_fill_(unread, 0)
        return gradient, None, None, None
