"""BERT, written from the paper (Devlin et al. 2019), packed: padding only inside attention.

The course paper's section 3.1 describes the same model. Every dense product runs on the N real
tokens; attention alone lays them out as [B, heads, longest, d] and takes them back.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.errors import ComityError, Faults, nearest
from comity.model.encoder import LARGEST_RATE, Read, dropout
from comity.model.files import read_json_object
from comity.model.packing import Layout

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
        faults = Faults()
        for key, value in config.items():
            wanted = _unfit(key, value, known[key].type)
            if wanted:
                shown = json.dumps(value)
                faults.add(f'{path}: "{key}" is {shown}, but must be {wanted}; correct it there')
        for key, only in _ONLY.items():
            value = given.get(key)
            if value is not None and value != only:
                faults.add(
                    f'{path}: "{key}" is {json.dumps(value)}, which is not implemented; '
                    f"use a checkpoint where it is {json.dumps(only)} or absent"
                )
        faults.check()
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


class Bert(nn.Module):
    """The encoder behind the seam; see `Encoder` for what its call takes and gives.

    Parameters may be float32 or bfloat16; the statistics of LayerNorm and softmax are float32 in
    both. Rates of dropout that are not given are the config's, embeddings taking the hidden one.
    """

    def __init__(
        self,
        config: BertConfig,
        embedding_dropout: float | None = None,
        hidden_dropout: float | None = None,
        attention_dropout: float | None = None,
    ):
        super().__init__()
        self.config = config
        self.width = config.hidden_size
        self.max_length = config.max_position_embeddings
        self.segment_types = config.type_vocab_size
        hidden_rate = config.hidden_dropout_prob if hidden_dropout is None else hidden_dropout
        attention_rate = (
            config.attention_probs_dropout_prob if attention_dropout is None else attention_dropout
        )
        self.embedding_dropout = (
            config.hidden_dropout_prob if embedding_dropout is None else embedding_dropout
        )
        self.word_embeddings = nn.Parameter(torch.empty(config.vocab_size, self.width))
        self.position_embeddings = nn.Parameter(torch.empty(self.max_length, self.width))
        self.segment_embeddings = nn.Parameter(torch.empty(self.segment_types, self.width))
        self.embedding_norm = nn.LayerNorm(self.width, config.layer_norm_eps)
        self.layers = nn.ModuleList(
            BertLayer(config, hidden_rate, attention_rate) for _ in range(config.num_hidden_layers)
        )
        self.pooler = nn.Linear(self.width, self.width)

    def forward(
        self,
        ids: Tensor,  # [N]
        segments: Tensor,  # [N]
        offsets: Tensor,  # [B + 1]
        longest: int,
        dropout_seed: int | None = None,
        read: Read = "all",
        words: Tensor | None = None,  # [U, H]
    ) -> Tensor:
        """[N, H] for `read` "all", [B, H] for "cls"; see `Encoder`."""
        if longest > self.max_length:
            raise ValueError(f"a sequence of {longest} tokens, but {self.max_length} positions")
        generator = None
        if dropout_seed is not None:
            generator = torch.Generator(device=ids.device).manual_seed(dropout_seed)
        heads = self.config.num_attention_heads
        dtype = self.word_embeddings.dtype
        layout = Layout.of(offsets, len(ids), longest, heads, dtype)
        hidden = self.embed(ids, segments, layout, words)
        hidden = dropout(self.embedding_norm(hidden), self.embedding_dropout, generator)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, layout, generator, "all")
        return self.layers[-1](hidden, layout, generator, read)

    def embed(self, ids: Tensor, segments: Tensor, layout: Layout, words: Tensor | None) -> Tensor:
        """The sum [N, H] of word, position and segment embeddings."""
        if words is None:
            hidden = F.embedding(ids, self.word_embeddings)
        else:  # looked up in float32, where the gradients of a frequent word add up without loss
            wide = words.to(torch.promote_types(words.dtype, torch.float32))
            hidden = F.embedding(ids, wide).to(self.word_embeddings.dtype)
        if self.segment_types == 1:
            segments = torch.zeros_like(segments)
        hidden = hidden + look_up(layout.positions, self.position_embeddings[: layout.longest])
        return hidden + look_up(segments, self.segment_embeddings)

    def pool(self, cls: Tensor) -> Tensor:
        """BERT's pooler, dense and tanh: [B, H] -> [B, H]."""
        return torch.tanh(self.pooler(cls))

    def layer_of(self, parameter_name: str) -> int:
        """0 for the embeddings, 1 to L for the layers, L + 1 for the pooler."""
        first, _, rest = parameter_name.partition(".")
        if first == "layers":
            return int(rest.partition(".")[0]) + 1
        return len(self.layers) + 1 if first == "pooler" else 0


class BertLayer(nn.Module):
    """Attention and feed-forward, each followed by LayerNorm(Dropout(output) + input)."""

    def __init__(self, config: BertConfig, hidden_dropout: float, attention_dropout: float):
        super().__init__()
        width = config.hidden_size
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.activation = ACTIVATIONS[config.hidden_act]
        self.qkv = nn.Linear(width, 3 * width)  # query, key and value, one below the other
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.expand = nn.Linear(width, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(
        self, hidden: Tensor, layout: Layout, generator: torch.Generator | None, read: Read
    ) -> Tensor:
        """[N, H] -> [N, H], or [B, H] where only [CLS] is read."""
        if read == "cls":
            context = self.attend_from_cls(hidden, layout, generator)
            hidden = hidden.index_select(0, layout.cls)
        else:
            context = self.attend(hidden, layout, generator)
        output = dropout(self.attention_output(context), self.hidden_dropout, generator)
        hidden = self.attention_norm(output + hidden)
        output = self.contract(self.activation(self.expand(hidden)))
        return self.output_norm(dropout(output, self.hidden_dropout, generator) + hidden)

    def attend(self, hidden: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        """What every token [N, H] gathers from its sequence: [N, H]."""
        query, key, value = layout.pad(self.qkv(hidden), 3)
        rate = self.attention_dropout
        return layout.unpad(attention(query, key, value, layout.key_bias, rate, generator))

    def attend_from_cls(
        self, hidden: Tensor, layout: Layout, generator: torch.Generator | None
    ) -> Tensor:
        """The same for the first token of each sequence alone: [N, H] -> [B, H]."""
        width = hidden.shape[1]
        query_weight, other_weight = self.qkv.weight.split([width, 2 * width])
        query_bias, other_bias = self.qkv.bias.split([width, 2 * width])
        first = hidden.index_select(0, layout.cls)
        query = F.linear(first, query_weight, query_bias).view(-1, 1, width // layout.heads)
        key, value = layout.pad(F.linear(hidden, other_weight, other_bias), 2)
        rate = self.attention_dropout
        context = attention(query, key, value, layout.key_bias, rate, generator)
        return context.view(-1, width)


def attention(
    query: Tensor,  # [B heads, queries, d]
    key: Tensor,  # [B heads, longest, d]
    value: Tensor,  # [B heads, longest, d]
    key_bias: Tensor,  # [B heads, 1, longest]
    rate: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Dropout(Softmax(Q K^T / sqrt(d))) V (Vaswani et al. 2017, equation 1): [B heads, queries, d].

    Two batched products, and not torch's fused attention, whose bfloat16 backward on a CPU runs
    many small products one after the other.
    """
    scale = 1 / math.sqrt(query.shape[-1])
    scores = torch.baddbmm(key_bias, query, key.transpose(1, 2), alpha=scale)
    weights = dropout(scores.softmax(dim=-1), rate, generator)
    return torch.bmm(weights, value)


def look_up(indices: Tensor, table: Tensor) -> Tensor:
    """Rows of a short table, [N] and [T, H] -> [N, H], as a product with a one-hot matrix.

    Its gradient is then a product too, which sums in float32; the gradient of an indexing adds one
    row after another, and in bfloat16 a sum of hundreds of rows would stop growing.
    """
    one_hot = indices[:, None] == torch.arange(len(table), device=indices.device)
    return one_hot.to(table.dtype) @ table
