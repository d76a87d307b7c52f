"""Heads: small modules that turn what the encoder says of a row into a task's outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model.dropout import HEAD, dropout, site_keys
from comity.targets import HeadSpec

COSINE_EPS = 1e-8
NORM_EPS = 1e-12


class Dense(nn.Module):
    """Weights `[outputs, inputs]` and a bias, computed in float32 whatever the run's dtype."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights with deviation 0.02 (Devlin et al. 2019), zero bias."""
        nn.init.normal_(self.weight, std=0.02, generator=generator)

    def forward(self, values: Tensor) -> Tensor:
        """values: `[B, inputs]`. Gives `[B, outputs]` float32."""
        return F.linear(values.float(), self.weight.float(), self.bias.float())


class HeadLayer(Dense):
    """One more layer of a head (the paper's section 4.3, part 5): dense, GELU, dropout.

    With `add_norm` the layer normalises the sum of that and its input, as the paper's section 3.1
    has it: LayerNorm(Dropout(GELU(dense(x))) + x). Where the widths differ (the first layer of an
    interaction head) there is no sum, and what the layer gives is normalised alone.
    """

    def __init__(self, inputs: int, outputs: int, rate: float, add_norm: bool):
        super().__init__(inputs, outputs)
        self.rate = rate
        self.residual = add_norm and inputs == outputs
        self.norm_weight = nn.Parameter(torch.ones(outputs)) if add_norm else None
        self.norm_bias = nn.Parameter(torch.zeros(outputs)) if add_norm else None

    def apply_to(self, values: Tensor, keys: Tensor | None) -> Tensor:
        """`[B, inputs]` float32 to `[B, outputs]` float32; `keys [B]`: of its dropout site."""
        found = dropout(F.gelu(self(values)), self.rate, keys)
        if self.norm_weight is None or self.norm_bias is None:
            return found
        total = found + values if self.residual else found
        width = (total.shape[1],)
        return F.layer_norm(
            total, width, self.norm_weight.float(), self.norm_bias.float(), NORM_EPS
        )


class LinearHead(nn.Module):
    """Dropout and one dense layer (the paper's section 3.3), after up to four layers (section 5).

    Serves `linear`, `bins` and `regression`; they differ in the number of outputs and the loss. An
    interaction head reads both texts apart: u, v, |u - v| and u * v side by side, as Conneau et al.
    2017 join two sentences.
    """

    def __init__(self, width: int, task: HeadSpec):
        super().__init__()
        self.rate = task.dropout
        self.interaction = task.interaction
        inputs = [4 * width if task.interaction else width, *[width] * 3][: task.layers]
        self.layers = nn.ModuleList(
            HeadLayer(size, width, task.dropout, task.add_norm) for size in inputs
        )
        last = 4 * width if task.interaction and not task.layers else width
        self.output = Dense(last, task.target.outputs)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights of all layers."""
        for layer in (*self.layers, self.output):
            layer.initialise(generator)  # pyright: ignore[reportCallIssue]

    def forward(self, vectors: list[Tensor], dropout_keys: Tensor | None) -> Tensor:
        """Outputs `[B, outputs]` float32 from one vector `[B, H]` for each view.

        dropout_keys: `[B]`, one for each row; None: no dropout.
        """
        values = vectors[0].float()
        if self.interaction:
            first, second = values, vectors[1].float()
            values = torch.cat([first, second, (first - second).abs(), first * second], dim=1)
        count = max(len(self.layers), 1)
        keys = [None] * count if dropout_keys is None else site_keys(dropout_keys, count)[:, HEAD]
        for layer, own in zip(self.layers, keys, strict=False):
            values = layer.apply_to(values, own)  # pyright: ignore[reportCallIssue]
        # Where the head has layers, the last of them has dropped already.
        values = values if self.layers else dropout(values, self.rate, keys[0])
        return self.output(values)


class CosineHead(nn.Module):
    """The cosine of two texts' embeddings (Reimers & Gurevych 2019); no weights of its own."""

    def forward(self, embeddings: list[Tensor], dropout_keys: Tensor | None) -> Tensor:
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


def make_head(width: int, task: HeadSpec) -> nn.Module:
    """The head that a task's recipe names."""
    return CosineHead() if task.target.head == "cosine" else LinearHead(width, task)
