"""Masked language modelling for further pre-training: masks words and predicts them.

BERT's first pre-training task (Devlin et al. 2019, section 3.1), on the tasks' own texts (Sun et
al. 2019).
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from comity.model.bert_config import ACTIVATIONS, BertConfig
from comity.model.matmul import linear

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen positions that become [MASK] or a random token; the rest are unchanged."""

# The head's parameters, and their tensors in a checkpoint.
CHECKPOINT_NAMES = {
    "dense.weight": "cls.predictions.transform.dense.weight",
    "dense.bias": "cls.predictions.transform.dense.bias",
    "norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "bias": "cls.predictions.bias",
}


def mask_words(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    mask_id: int,
    vocabulary: int,
    draws: np.random.Generator,
    share: float = 0.15,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask some ids `[N]` of a sequence; also returns the positions `[M]` to predict, ascending.

    Each position is chosen with probability `share`, independently, except where `special [N]` is
    True. As in BERT's own code, at least one position is chosen. Of the chosen ids, 80 % become
    `mask_id`, 10 % a random id below `vocabulary`, and 10 % stay unchanged.
    """
    ordinary = np.flatnonzero(~special)
    drawn = draws.random(len(ordinary))
    positions = ordinary[drawn <= max(share, drawn.min(initial=1.0))]
    choice = draws.random(len(positions))
    masked_ids = ids.copy()
    masked_ids[positions[choice < MASKED]] = mask_id
    replaced = positions[(choice >= MASKED) & (choice < MASKED + RANDOM)]
    masked_ids[replaced] = draws.integers(vocabulary, size=len(replaced))
    return masked_ids, positions


class MaskedLanguageHead(nn.Module):
    """A dense layer, activation and LayerNorm, then the product with each word's embedding.

    The decoder's weights are the encoder's word table; only its bias belongs to the head. The
    parameters must have the dtype of the hidden states.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights with the config's standard deviation; biases 0 and LayerNorm weights 1."""
        nn.init.normal_(self.dense.weight, std=self.config.initializer_range, generator=generator)
        nn.init.ones_(self.norm.weight)
        for bias in (self.dense.bias, self.norm.bias, self.bias):
            nn.init.zeros_(bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Logits `[M, V]` float32 from hidden states `[M, H]` and word embeddings `[V, H]`.

        The two products are computed in the dtype of `hidden`, the rest in float32.
        """
        vectors = self.activation(linear(hidden, self.dense.weight, self.dense.bias).float())
        shape, weight, bias = self.norm.normalized_shape, self.norm.weight, self.norm.bias
        vectors = F.layer_norm(vectors, shape, weight.float(), bias.float(), self.norm.eps)
        logits = linear(vectors.to(hidden.dtype), words.to(hidden.dtype))
        return logits.float() + self.bias.float()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> bool:
        """Copy a checkpoint's tensors `cls.predictions.*`; return False if it has none.

        Raises:
            ValueError: some of the tensors are missing or have another shape; nothing is copied.
        """
        if not any(name in tensors for name in CHECKPOINT_NAMES.values()):
            return False
        parameters = dict(self.named_parameters())
        for ours, theirs in CHECKPOINT_NAMES.items():
            if theirs not in tensors:
                raise ValueError(f"the tensor {theirs} of the masked-language head is missing")
            shape, expected = list(tensors[theirs].shape), list(parameters[ours].shape)
            if shape != expected:
                raise ValueError(f"the tensor {theirs} must have shape {expected}, got {shape}")
        with torch.no_grad():
            for ours, theirs in CHECKPOINT_NAMES.items():
                parameters[ours].copy_(tensors[theirs])
        return True
