"""Heads: small modules that turn what the encoder says of a row into a task's outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model.encoder import Read, dropout

COSINE_EPS = 1e-8


class LinearHead(nn.Module):
    """Pooler output, dropout, one dense layer: the paper's heads (section 3.3).

    Serves `linear`, `bins` and `regression`; they differ in the number of outputs and the loss.
    """

    read: Read = "cls"

    def __init__(self, width: int, outputs: int, rate: float):
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.empty(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights with deviation 0.02 (Devlin et al. 2019), zero bias."""
        nn.init.normal_(self.weight, std=0.02, generator=generator)

    def forward(self, pooled: list[Tensor], generator: torch.Generator | None) -> Tensor:
        """pooled: one `[B, H]`. Gives outputs `[B, outputs]`, float32 so that scores stay fine."""
        vectors = dropout(pooled[0].float(), self.rate, generator)
        return F.linear(vectors, self.weight.float(), self.bias.float())


class CosineHead(nn.Module):
    """The cosine of two texts' embeddings (Reimers & Gurevych 2019); no weights of its own."""

    def __init__(self, pooling: str):
        super().__init__()
        self.pooling = pooling
        self.read: Read = "all" if pooling == "mean" else "cls"

    def forward(self, embeddings: list[Tensor], generator: torch.Generator | None) -> Tensor:
        """embeddings: two `[B, H]`. Gives the cosine `[B, 1]`, trained on scores from 0 to 1."""
        first, second = (e.float() for e in embeddings)
        return F.cosine_similarity(first, second, eps=COSINE_EPS)[:, None]


def mean_pool(hidden: Tensor, offsets: Tensor) -> Tensor:
    """The mean hidden state of each packed sequence, [CLS] and [SEP] counted.

    hidden: `[N, H]`. offsets: `[B + 1]`. Gives `[B, H]` float32. A text without any token still
    has its [CLS] and [SEP], so nothing is divided by zero.
    """
    lengths = offsets.diff()
    rows = torch.arange(len(lengths), device=hidden.device)
    rows = rows.repeat_interleave(lengths, output_size=len(hidden))
    sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device)
    return sums.index_add(0, rows, hidden.float()) / lengths.clamp(min=1)[:, None]


def make_head(name: str, width: int, outputs: int, rate: float, pooling: str) -> nn.Module:
    """The head that a recipe names."""
    return CosineHead(pooling) if name == "cosine" else LinearHead(width, outputs, rate)
