"""The encoder seam: what any text encoder takes and gives; no caller knows which one it is.

Sequences travel packed, end to end without padding, with the offsets of their first tokens:

    ids      [CLS] good soup [SEP] [CLS] the bus is late [SEP]
    offsets  0                     4                          10
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from comity.model.task_gradient_ops import Sink, Spans

Read = Literal["all", "cls"]
"""Which positions of the last layer a caller reads: every token, or the first of each sequence."""


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


@dataclass(frozen=True)
class Group:
    """The sequences of one task in a pass, what is read of them, and their dropout."""

    packed: Packed
    read: Read = "all"
    dropout_keys: Tensor | None = None  # [B] int64, one a sequence; None: no dropout


class Encoder(Protocol):
    """What trainer, heads and server know of an encoder."""

    width: int  # H, the size of a hidden state
    max_length: int  # tokens that a sequence may have, [CLS] and [SEP] counted
    segment_types: int  # segments that it tells apart; 1 means that a pair is not marked
    word_embeddings: nn.Parameter  # [V, H]

    def __call__(
        self,
        groups: Sequence[Group],
        words: Tensor | None = None,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """Encode the groups in one pass; no device value is read on the host.

        A group gives [N, H], every token's state, or [B, H] where only "cls" is read: the first
        position of each sequence. The same dropout seed gives the same masks, whatever else is in
        the pass.

        words: [U, H], rows that `ids` index in place of the word-embedding table, so that the
        gradient of the rows that a step touches is a small tensor.
        rows, sink: in training, the row of J that each group adds to, and what takes the gradients
        of the encoder's parameters; without them they go where autograd puts them.
        """
        ...

    def pool(self, cls: Tensor, spans: Spans | None = None) -> Tensor:
        """The vector [B, H] that heads read, from the hidden state [B, H] of the first token."""
        ...

    def layer_of(self, parameter_name: str) -> int:
        """0 for the embeddings, 1 to L for the layers, L + 1 for the pooler."""
        ...
