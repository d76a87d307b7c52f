"""The configuration of a BERT, read from a checkpoint's config.json."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comity.errors import ComityError, ErrorList, nearest
from comity.model.checkpoint_files import read_json_object
from comity.model.dropout import LARGEST_RATE
from comity.tables.rows import shortened

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # exact, with the error function (Hendrycks & Gimpel 2016)
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

# Keys that change what a BERT computes, and the only value implemented (besides null).
_SUPPORTED: dict[str, Any] = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": {},
}
MOST_LAYERS, LARGEST_SIZE = 1_000, 100_000_000
"""Larger numbers are errors, found before memory for them is taken."""

_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class BertConfig:
    """The hyperparameters of a BERT, with the key names and defaults of config.json."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    @classmethod
    def from_json_file(cls, path: Path) -> "BertConfig":
        """Read a config.json.

        Raises:
            ComityError: the file is not a JSON object, or values have the wrong type or are not
                implemented (with a message for each of them).
        """
        content = read_json_object(path)
        known = {field.name: field for field in fields(cls)}
        config = {key: value for key, value in content.items() if key in known}
        errors = ErrorList()
        for key, value in config.items():
            expected = _expected(key, value, known[key].type)
            if expected:
                errors.add(f'{path}: "{key}" must be {expected}, got {_shown(value)}')
        for key, supported in _SUPPORTED.items():
            value = content.get(key)
            if value is not None and value != supported:
                errors.add(
                    f'{path}: "{key}" is {_shown(value)}, which is not implemented; '
                    f"use a checkpoint where it is {json.dumps(supported)} or absent"
                )
        errors.check()
        result = cls(**config)
        if result.hidden_size % result.num_attention_heads:
            raise ComityError(
                f'{path}: "hidden_size" must be a multiple of "num_attention_heads", got '
                f"{result.hidden_size} and {result.num_attention_heads}"
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json for Hugging Face's BertModel."""
        return {"architectures": ["BertModel"], "model_type": "bert", **asdict(self)}


def _shown(value: Any) -> str:
    return shortened(json.dumps(value), 80)


def _expected(key: str, value: Any, kind: Any) -> str | None:
    """What a value must be, or None if it is valid."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    number = number and abs(value) < math.inf  # `math.isfinite` fails for a number of 400 digits
    whole = number and isinstance(value, int)
    if key == "hidden_act":
        if isinstance(value, str) and value in ACTIVATIONS:
            return None
        return f"one of {', '.join(ACTIVATIONS)}{nearest(value, ACTIVATIONS)}"
    if key in _RATES:
        return None if number and 0 <= value <= LARGEST_RATE else f"from 0 to {LARGEST_RATE}"
    if key == "pad_token_id":
        valid = value is None or (whole and 0 <= value <= LARGEST_SIZE)
        return None if valid else "a token id or null"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is int:
        most = MOST_LAYERS if key == "num_hidden_layers" else LARGEST_SIZE
        if whole and value > most:
            return f"at most {most:,}"
        return None if whole and value > 0 else "a whole number above 0"
    return None if number and 0 < value <= LARGEST_SIZE else "a number above 0"
