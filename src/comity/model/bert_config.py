"""The configuration of a BERT, as config.json has it."""

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

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # the exact one, by the error function (Hendrycks & Gimpel 2016)
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}

# Keys that change what a BERT computes, with the one value that is implemented (and null).
_ONLY: dict[str, Any] = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": {},
}
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT, named as in a checkpoint's config.json; the defaults are BERT-base's."""

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

        Raises ComityError for a file that is not a JSON object and, all at once, for every value
        that has the wrong type or that this BERT does not implement.
        """
        given = read_json_object(path)
        known = {field.name: field for field in fields(cls)}
        config = {key: value for key, value in given.items() if key in known}
        errors = ErrorList()
        for key, value in config.items():
            wanted = _unfit(key, value, known[key].type)
            if wanted:
                shown = json.dumps(value)
                errors.add(f'{path}: "{key}" is {shown}, but must be {wanted}; correct it there')
        for key, only in _ONLY.items():
            value = given.get(key)
            if value is not None and value != only:
                errors.add(
                    f'{path}: "{key}" is {json.dumps(value)}, which is not implemented; '
                    f"use a checkpoint where it is {json.dumps(only)} or absent"
                )
        errors.check()
        result = cls(**config)
        if result.hidden_size % result.num_attention_heads:
            raise ComityError(
                f'{path}: "hidden_size" {result.hidden_size} is not a multiple of '
                f'{result.num_attention_heads} heads ("num_attention_heads"); correct one of them'
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that Hugging Face's BertModel reads."""
        return {"architectures": ["BertModel"], "model_type": "bert", **asdict(self)}


def _unfit(key: str, value: Any, kind: Any) -> str | None:
    """What `value` should have been, or None where it fits."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    whole = number and isinstance(value, int)
    if key == "hidden_act":
        if isinstance(value, str) and value in ACTIVATIONS:
            return None
        return f"one of {', '.join(ACTIVATIONS)}{nearest(value, ACTIVATIONS)}"
    if key in _RATES:
        return None if number and 0 <= value <= LARGEST_RATE else f"from 0 to {LARGEST_RATE}"
    if key == "pad_token_id":
        return None if value is None or (whole and value >= 0) else "a token id or null"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is int:
        return None if whole and value > 0 else "a whole number above 0"
    return None if number and value > 0 else "a number above 0"
