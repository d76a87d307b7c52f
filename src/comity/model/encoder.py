"""The interface of a text encoder; code outside this package uses only what is declared here.

Sequences are packed end to end without padding. `offsets` holds the index of the first token of
each sequence:

    ids      [CLS] good soup [SEP] [CLS] the bus is late [SEP]
    offsets  0                     4                          10
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from comity.model.masked_lm import MaskedLanguageHead
from comity.model.task_gradient_ops import Sink, Spans

Read = Literal["all", "cls"]
"""Which positions of the last layer a caller reads: every token, or the first of each sequence."""


@dataclass(frozen=True)
class Packed:
    """B sequences with N tokens in total, packed end to end without padding.

    Callers may round N and B up. The extra tokens then form one more sequence (the others are
    empty) that no head reads; `longest` includes it.
    """

    ids: Tensor  # [N] int64
    segments: Tensor  # [N] int64, 0 for the first text and 1 for the second
    offsets: Tensor  # [B + 1] int64, from 0 to N
    longest: int  # tokens of the longest sequence, known on the host


@dataclass(frozen=True)
class Group:
    """Sequences that are encoded together, the positions that the caller reads, and dropout."""

    packed: Packed
    read: Read = "all"
    dropout_keys: Tensor | None = None  # [B] int64, one for each sequence; None: no dropout


class Encoder(nn.Module, ABC):
    """Base class of encoders."""

    width: int  # H, the size of a hidden state
    depth: int  # L, the number of layers above the embeddings
    max_length: int  # tokens in a sequence at most, including [CLS] and [SEP]
    segment_types: int  # 1: both texts of a pair get segment 0
    hidden_dropout: float  # dropout rate of hidden states, and the default rate of heads
    dropout_rates: tuple[float, ...]  # all of them, that of hidden states too
    pooling: str  # how the checkpoint was trained to give one vector; one of `pooling.WIDTHS`
    word_embeddings: nn.Parameter  # [V, H]

    @property
    def text_pooling(self) -> str:
        """The default pooling of texts that are encoded separately.

        BERT's pooler was pre-trained on pairs of texts, so a text alone is read by the mean
        (Reimers & Gurevych 2019, section 6).
        """
        return "mean" if self.pooling == "pooler" else self.pooling

    @abstractmethod
    def forward(
        self,
        groups: Sequence[Group],
        words: Tensor | None = None,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """Encode all groups in one pass, without reading a device value on the host.

        The dropout masks of a sequence depend only on its key, not on the rest of the pass.

        Args:
            groups: the sequences.
            words: `[U, H]`, word embeddings that `ids` index in place of the table
                `word_embeddings`. Training passes the few rows that a step touches, so that their
                gradient is a small tensor.
            rows: the row of J that each group adds to.
            sink: receives the gradients of the encoder's parameters for each row of J. Without
                `rows` and `sink` autograd accumulates them as usual.

        Returns:
            For each group the hidden states of the last layer: `[N, H]` for all tokens, or `[B, H]`
            for the first token of each sequence where `read` is "cls".
        """

    @abstractmethod
    def pool(self, cls: Tensor, spans: Spans | None = None) -> Tensor:
        """The pooled vector `[B, H]` from the first token's hidden state, `cls [B, H]`."""

    @abstractmethod
    def layer_of(self, parameter_name: str) -> int:
        """The layer of a parameter: 0 for embeddings, 1 to L for layers, L + 1 for the pooler."""

    @abstractmethod
    def masked_lm_head(self) -> MaskedLanguageHead:
        """A new masked-language head of this encoder's size, not yet initialised."""

    @abstractmethod
    def checkpoint_config(self) -> dict[str, Any]:
        """The content of the checkpoint's config.json."""

    @abstractmethod
    def checkpoint_names(self) -> dict[str, list[str]]:
        """For each parameter its tensors in a checkpoint, concatenated along the first dimension.

        Names have no prefix such as "bert.".
        """
