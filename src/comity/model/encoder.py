"""The encoder seam: what any text encoder takes and gives; no caller knows which one it is.

Sequences travel packed, end to end without padding, with the offsets of their first tokens:

    ids      [CLS] good soup [SEP] [CLS] the bus is late [SEP]
    offsets  0                     4                          10
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Read = Literal["all", "cls"]
"""Which positions of the last layer a caller reads: every token, or the first of each sequence."""

LARGEST_RATE = 0.99
"""A dropout above this keeps next to nothing; it is refused wherever a rate is given."""


@dataclass(frozen=True)
class Packed:
    """B sequences of N tokens in all, laid end to end without padding.

    N and B may be rounded up: what is left over is then one more sequence (or empty ones) that no
    head reads, and `longest` counts it.
    """

    ids: Tensor  # [N] int64
    segments: Tensor  # [N] int64, 0 for the first text and 1 for the second
    offsets: Tensor  # [B + 1] int64, from 0 to N
    longest: int  # tokens of the longest sequence, known on the host


class Encoder(Protocol):
    """What trainer, heads and server know of an encoder."""

    width: int  # H, the size of a hidden state
    max_length: int  # tokens that a sequence may have, [CLS] and [SEP] counted
    segment_types: int  # segments that it tells apart; 1 means that a pair is not marked
    word_embeddings: nn.Parameter  # [V, H]

    def __call__(
        self,
        ids: Tensor,
        segments: Tensor,
        offsets: Tensor,
        longest: int,
        dropout_seed: int | None = None,
        read: Read = "all",
        words: Tensor | None = None,
    ) -> Tensor:
        """Encode packed sequences; no device value is read on the host.

        ids, segments: [N] int64. offsets: [B + 1] int64. longest: tokens of the longest sequence.
        dropout_seed: None for no dropout (evaluation); the same integer gives the same masks.
        read: "all" gives [N, H]; "cls" gives [B, H], the first position of each sequence.
        words: [U, H], rows that `ids` index in place of the word-embedding table, so that the
        gradient of the rows that a step touches is a small tensor.
        """
        ...

    def pool(self, cls: Tensor) -> Tensor:
        """The vector [B, H] that heads read, from the hidden state [B, H] of the first token."""
        ...

    def layer_of(self, parameter_name: str) -> int:
        """0 for the embeddings, 1 to L for the layers, L + 1 for the pooler."""
        ...


def dropout(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Set a share `rate` of `values` to zero and scale the rest up (Srivastava et al. 2014).

    Eight bits decide on each value: torch's generator is asked for 64-bit words, which is several
    times quicker than one draw per value, and a value is kept where its byte is at least
    t = round(256 rate). A rate is therefore rounded to a multiple of 1/256 (0.1 to 0.1016), and
    kept values are multiplied by 256 / (256 - t), so that the mean stays exact. `generator` lives
    on the device of `values`; None leaves `values` as they are.
    """
    threshold = round(256 * rate)
    if generator is None or threshold == 0:
        return values
    if not 0 < threshold < 256:
        raise ValueError(f"a dropout rate lies between 0 and {LARGEST_RATE}, {rate} does not")
    count = values.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=values.device)
    words.random_(-(2**63), None, generator=generator)
    keep = words.view(torch.uint8)[:count].view(values.shape) >= threshold
    return torch.where(keep, values, 0).mul_(256 / (256 - threshold))
