"""Further pre-training by masked words: which tokens are hidden, and the head that guesses them.

BERT's first task (Devlin et al. 2019, section 3.1), on the tasks' own texts (Sun et al. 2019).
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
"""Shares of the chosen places that become [MASK] or a random token; the rest stay as they are."""

# The head's parameters, and the tensors of a checkpoint that fill them.
NAMES = {
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
    """The ids `[N]` of a sequence with some masked, and the positions `[M]` to predict, ascending.

    Each position is chosen with probability `share`, independently, but never where `special [N]`
    is True; at least one is chosen, as in BERT's own code, which masks at least one in a sequence.
    Of the chosen, 80 % become `mask_id`, 10 % an id drawn from 0 to `vocabulary` - 1, and 10 % stay
    unchanged.
    """
    ordinary = np.flatnonzero(~special)
    drawn = draws.random(len(ordinary))
    places = ordinary[drawn <= max(share, drawn.min(initial=1.0))]
    fate = draws.random(len(places))
    hidden = ids.copy()
    hidden[places[fate < MASKED]] = mask_id
    replaced = places[(fate >= MASKED) & (fate < MASKED + RANDOM)]
    hidden[replaced] = draws.integers(vocabulary, size=len(replaced))
    return hidden, places


class MaskedLanguageHead(nn.Module):
    """Dense, activation, LayerNorm, and one logit a word: its product with the word's embedding.

    The decoder's weights are the word table itself, which the encoder owns; only its bias is the
    head's. Parameters have the dtype of the hidden states that they meet.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights with the config's deviation, a LayerNorm that does nothing, no biases."""
        nn.init.normal_(self.dense.weight, std=self.config.initializer_range, generator=generator)
        nn.init.ones_(self.norm.weight)
        for bias in (self.dense.bias, self.norm.bias, self.bias):
            nn.init.zeros_(bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """hidden: `[M, H]`, the states of the places. words: `[V, H]`. Gives logits `[M, V]`.

        The two products run in the dtype of `hidden`, the rest and the logits are float32.
        """
        vectors = self.activation(linear(hidden, self.dense.weight, self.dense.bias).float())
        shape, weight, bias = self.norm.normalized_shape, self.norm.weight, self.norm.bias
        vectors = F.layer_norm(vectors, shape, weight.float(), bias.float(), self.norm.eps)
        logits = linear(vectors.to(hidden.dtype), words.to(hidden.dtype))
        return logits.float() + self.bias.float()


def load_predictions(head: MaskedLanguageHead, tensors: Mapping[str, Tensor]) -> bool:
    """Fill the head from the tensors `cls.predictions.*` of a checkpoint; False if it has none.

    Raises ValueError that names the tensor where one of them is missing or has another shape; the
    head is then as it was.
    """
    if not any(name in tensors for name in NAMES.values()):
        return False
    parameters = dict(head.named_parameters())
    for ours, theirs in NAMES.items():
        if theirs not in tensors:
            raise ValueError(f"the tensor {theirs} is missing, though others of its head are there")
        found, wanted = list(tensors[theirs].shape), list(parameters[ours].shape)
        if found != wanted:
            raise ValueError(f"the tensor {theirs} has shape {found}, not {wanted}")
    with torch.no_grad():
        for ours, theirs in NAMES.items():
            parameters[ours].copy_(tensors[theirs])
    return True
