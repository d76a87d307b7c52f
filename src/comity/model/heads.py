"""Task heads: small modules that compute a task's outputs from the encoder's vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model.dropout import HEAD, SECOND_HEAD, dropout, site_keys
from comity.model.pooling import width_of
from comity.targets import HeadSpec

COSINE_EPS = 1e-8
NORM_EPS = 1e-12


class Dense(nn.Module):
    """A dense layer that computes in float32 whatever the dtype of its parameters."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights with standard deviation 0.02 (Devlin et al. 2019); the bias stays zero."""
        nn.init.normal_(self.weight, std=0.02, generator=generator)

    def forward(self, values: Tensor) -> Tensor:
        """`[B, inputs]` to `[B, outputs]` float32."""
        return F.linear(values.float(), self.weight.float(), self.bias.float())


class HeadLayer(Dense):
    """A hidden layer of a head: dense, GELU, dropout (the course paper, section 4.3, part 5).

    With `add_norm` it computes LayerNorm(Dropout(GELU(dense(x))) + x) (section 3.1). If input and
    output differ in size (such as in the first layer of an interaction head), x is not added.
    """

    def __init__(self, inputs: int, outputs: int, rate: float, add_norm: bool):
        super().__init__(inputs, outputs)
        self.rate = rate
        self.residual = add_norm and inputs == outputs
        self.norm_weight = nn.Parameter(torch.ones(outputs)) if add_norm else None
        self.norm_bias = nn.Parameter(torch.zeros(outputs)) if add_norm else None

    def apply_to(self, values: Tensor, keys: Tensor | None) -> Tensor:
        """`[B, inputs]` float32 to `[B, outputs]` float32, with the dropout keys `[B]`."""
        output = dropout(F.gelu(self(values)), self.rate, keys)
        if self.norm_weight is None or self.norm_bias is None:
            return output
        if self.residual:
            output = output + values
        shape = (output.shape[1],)
        return F.layer_norm(
            output, shape, self.norm_weight.float(), self.norm_bias.float(), NORM_EPS
        )


class LinearHead(nn.Module):
    """Up to four hidden layers, dropout and a dense layer (the course paper, sections 3.3 and 5).

    Used for the heads `linear`, `bins` and `regression`, which differ in the number of outputs and
    the loss. An interaction head reads the vectors u and v of the two texts and concatenates u, v,
    |u - v| and u * v (Conneau et al. 2017). Vectors have 2 H numbers with the pooling "cls+mean".
    """

    def __init__(self, width: int, task: HeadSpec):
        super().__init__()
        self.rate = task.dropout
        self.interaction = task.interaction
        inputs = width_of(task.pooling, width) * (4 if task.interaction else 1)
        *hidden, last = [inputs, *[width] * task.layers]
        self.layers = nn.ModuleList(
            HeadLayer(size, width, task.dropout, task.add_norm) for size in hidden
        )
        self.output = Dense(last, task.target.outputs)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights of all layers from `generator`."""
        for layer in (*self.layers, self.output):
            layer.initialise(generator)  # pyright: ignore[reportCallIssue]

    def forward(self, vectors: list[Tensor], dropout_keys: Tensor | None) -> Tensor:
        """Outputs `[B, outputs]` float32 from one pooled vector `[B, W]` for each view.

        `dropout_keys [B]` has one key for each row; None: no dropout.
        """
        values = vectors[0].float()
        if self.interaction:
            first, second = values, vectors[1].float()
            values = torch.cat([first, second, (first - second).abs(), first * second], dim=1)
        count = max(len(self.layers), 1)
        keys = [None] * count if dropout_keys is None else site_keys(dropout_keys, count)[:, HEAD]
        for layer, layer_keys in zip(self.layers, keys, strict=False):
            values = layer.apply_to(values, layer_keys)  # pyright: ignore[reportCallIssue]
        if not self.layers:  # hidden layers end with dropout
            values = dropout(values, self.rate, keys[0])
        return self.output(values)


class CosineHead(nn.Module):
    """The cosine of two texts' embeddings (Reimers & Gurevych 2019); it has no parameters."""

    def forward(self, embeddings: list[Tensor], dropout_keys: Tensor | None) -> Tensor:
        """The cosines `[B, 1]` of two embeddings `[B, W]`; trained on scores from 0 to 1."""
        first, second = (embedding.float() for embedding in embeddings)
        return F.cosine_similarity(first, second, eps=COSINE_EPS)[:, None]


class BothHeads(nn.Module):
    """Two heads: one reads the pair, and one the two texts, each encoded alone (view "both").

    The cross-encoder and the bi-encoder of Reimers & Gurevych 2019, on one encoder.
    """

    def __init__(self, width: int, task: HeadSpec):
        super().__init__()
        # With the asterisk, which no task's name has, no tensor of a task "x.heads.pair" has the
        # name of one of "x".
        names = ("*pair", "*texts")
        heads = (make_head(width, part) for part in task.parts)
        self.heads = nn.ModuleDict(dict(zip(names, heads, strict=True)))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights of both heads from `generator`."""
        for head in self.heads.values():
            if isinstance(head, LinearHead):
                head.initialise(generator)

    def forward(self, vectors: list[Tensor], dropout_keys: Tensor | None) -> Tensor:
        """Outputs `[B, a + b]` float32 of both heads, from the pair's and the texts' vectors."""
        pair, texts = self.heads.values()
        # The second head's masks differ from those of the first.
        text_keys = None if dropout_keys is None else site_keys(dropout_keys, 1)[0, SECOND_HEAD]
        return torch.cat([pair(vectors[:1], dropout_keys), texts(vectors[1:], text_keys)], dim=1)


def make_head(width: int, task: HeadSpec) -> nn.Module:
    """A new head for a task and hidden states of size `width`, with weights not yet drawn."""
    if task.both:
        return BothHeads(width, task)
    return CosineHead() if task.target.head == "cosine" else LinearHead(width, task)
