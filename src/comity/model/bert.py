"""BERT (Devlin et al. 2019; section 3.1 of the course paper).

Sequences are packed: every dense layer runs on the N tokens, and only attention pads them to
[B, heads, longest, d].
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from comity.model.bert_config import ACTIVATIONS, BertConfig
from comity.model.dropout import ATTENTION_OUTPUT, EMBEDDINGS, OUTPUT
from comity.model.encoder import Encoder, Group
from comity.model.encoder_pass import EncoderPass
from comity.model.masked_lm import MaskedLanguageHead
from comity.model.task_gradient_ops import Sink, Spans, linear

# Our parameters, and the tensors of a checkpoint that are concatenated to each.
CHECKPOINT_NAMES = {
    "word_embeddings": ["embeddings.word_embeddings.weight"],
    "position_embeddings": ["embeddings.position_embeddings.weight"],
    "segment_embeddings": ["embeddings.token_type_embeddings.weight"],
    "embedding_norm": ["embeddings.LayerNorm"],
    "layers.{}.qkv": [
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ],
    "layers.{}.attention_output": ["encoder.layer.{}.attention.output.dense"],
    "layers.{}.attention_norm": ["encoder.layer.{}.attention.output.LayerNorm"],
    "layers.{}.expand": ["encoder.layer.{}.intermediate.dense"],
    "layers.{}.contract": ["encoder.layer.{}.output.dense"],
    "layers.{}.output_norm": ["encoder.layer.{}.output.LayerNorm"],
    "pooler": ["pooler.dense"],
}


class Bert(Encoder):
    """A BERT encoder.

    Parameters are float32 or bfloat16. The statistics of LayerNorm and softmax are always float32.

    Args:
        config: sizes, activation and default dropout rates.
        embedding_dropout: default: the config's hidden rate.
        hidden_dropout: default: the config's hidden rate.
        attention_dropout: default: the config's attention rate.
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
        self.depth = config.num_hidden_layers
        self.max_length = config.max_position_embeddings
        self.segment_types = config.type_vocab_size
        self.heads = config.num_attention_heads
        self.pooling = "pooler"
        if embedding_dropout is None:
            embedding_dropout = config.hidden_dropout_prob
        if hidden_dropout is None:
            hidden_dropout = config.hidden_dropout_prob
        if attention_dropout is None:
            attention_dropout = config.attention_probs_dropout_prob
        self.embedding_dropout = embedding_dropout
        self.hidden_dropout = hidden_dropout
        self.dropout_rates = (embedding_dropout, hidden_dropout, attention_dropout)
        self.word_embeddings = nn.Parameter(torch.empty(config.vocab_size, self.width))
        self.position_embeddings = nn.Parameter(torch.empty(self.max_length, self.width))
        self.segment_embeddings = nn.Parameter(torch.empty(self.segment_types, self.width))
        self.embedding_norm = nn.LayerNorm(self.width, config.layer_norm_eps)
        self.layers = nn.ModuleList(
            BertLayer(config, number, hidden_dropout, attention_dropout)
            for number in range(1, self.depth + 1)
        )
        self.pooler = nn.Linear(self.width, self.width)

    def forward(
        self,
        groups: Sequence[Group],
        words: Tensor | None = None,  # [U, H]
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """See `Encoder.forward`."""
        for group in groups:
            if group.packed.longest > self.max_length:
                raise ValueError(
                    f"a sequence has {group.packed.longest} tokens, but the encoder takes at most "
                    f"{self.max_length}"
                )
        dtype = self.word_embeddings.dtype
        tokens = EncoderPass.from_groups(groups, self.depth, self.heads, dtype, rows, sink)
        read = tokens.read_pass()
        hidden = tokens.norm(self.embed(groups, tokens, words), self.embedding_norm)
        hidden = tokens.add_dropped(None, hidden, self.embedding_dropout, 0, EMBEDDINGS)
        *layers, last = cast(Iterable[BertLayer], self.layers)
        for layer in layers:
            hidden = layer(hidden, tokens)
        return list((read or tokens).split(last(hidden, tokens, read)))

    def embed(
        self, groups: Sequence[Group], tokens: EncoderPass, words: Tensor | None = None
    ) -> Tensor:
        """The sum [N, H] of word, position and segment embeddings, computed in float32."""
        ids = tokens.join([group.packed.ids for group in groups])
        segments = tokens.join([group.packed.segments for group in groups])
        if self.segment_types == 1:
            segments = torch.zeros_like(segments)
        positions = tokens.join([group.layout.positions for group in tokens.groups])
        table = self.word_embeddings if words is None else words
        hidden = tokens.look_up(ids, table).float()
        hidden = hidden + tokens.look_up(positions, self.position_embeddings)
        hidden = hidden + tokens.look_up(segments, self.segment_embeddings)
        return hidden.to(self.word_embeddings.dtype)

    def pool(self, cls: Tensor, spans: Spans | None = None) -> Tensor:
        """BERT's pooler, a dense layer and tanh: [B, H] to [B, H]."""
        return torch.tanh(linear(cls, self.pooler, spans))

    def layer_of(self, parameter_name: str) -> int:
        """See `Encoder.layer_of`."""
        first, _, rest = parameter_name.partition(".")
        if first == "layers":
            return int(rest.partition(".")[0]) + 1
        return self.depth + 1 if first == "pooler" else 0

    def masked_lm_head(self) -> MaskedLanguageHead:
        """See `Encoder.masked_lm_head`."""
        return MaskedLanguageHead(self.config)

    def checkpoint_config(self) -> dict[str, Any]:
        """See `Encoder.checkpoint_config`."""
        return self.config.to_dict()

    def checkpoint_names(self) -> dict[str, list[str]]:
        """See `Encoder.checkpoint_names`."""
        names = {}
        for ours, theirs in CHECKPOINT_NAMES.items():
            layers = range(self.depth) if "{}" in ours else [0]
            suffixes = [""] if ours.endswith("embeddings") else [".weight", ".bias"]
            for layer in layers:
                for suffix in suffixes:
                    names[ours.format(layer) + suffix] = [t.format(layer) + suffix for t in theirs]
        return names


class BertLayer(nn.Module):
    """Self-attention and a feed-forward network, each followed by LayerNorm(Dropout(y) + x)."""

    def __init__(
        self, config: BertConfig, number: int, hidden_dropout: float, attention_dropout: float
    ):
        """Layers are numbered from 1."""
        super().__init__()
        self.number = number
        self.width = width = config.hidden_size
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.activation = ACTIVATIONS[config.hidden_act]
        self.qkv = nn.Linear(width, 3 * width)  # query, key and value
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.expand = nn.Linear(width, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(
        self, hidden: Tensor, tokens: EncoderPass, read: EncoderPass | None = None
    ) -> Tensor:
        """Hidden states [N, H] to [N, H], or to [M, H] if a caller reads only M positions.

        Leaving out the other positions is exact: every token still has a key and a value, but only
        the positions in `read` have a query.
        """
        if read is None:
            read = tokens
            query_key_value = tokens.linear(hidden, self.qkv)
            context = tokens.attend(query_key_value, self.attention_dropout, self.number)
        else:
            all_hidden, hidden = hidden, read.select(hidden)
            query = read.linear(hidden, self.qkv, slice(0, self.width))
            key_value = tokens.linear(all_hidden, self.qkv, slice(self.width, 3 * self.width))
            context = read.attend_to(tokens, query, key_value, self.attention_dropout, self.number)
        output = read.linear(context, self.attention_output)
        hidden = self._drop_and_add(read, output, hidden, ATTENTION_OUTPUT)
        hidden = read.norm(hidden, self.attention_norm)
        expanded = self.activation(read.linear(hidden, self.expand))
        output = read.linear(expanded, self.contract)
        hidden = self._drop_and_add(read, output, hidden, OUTPUT)
        return read.norm(hidden, self.output_norm)

    def _drop_and_add(self, read: EncoderPass, output: Tensor, hidden: Tensor, site: int) -> Tensor:
        return read.add_dropped(hidden, output, self.hidden_dropout, self.number, site)
