"""BERT, written from the paper (Devlin et al. 2019); the course paper describes it in section 3.1.

Sequences are packed: every dense product runs on the N tokens, and only attention pads them to
[B, heads, longest, d].
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from comity.model.bert_config import ACTIVATIONS, BertConfig
from comity.model.dropout import ATTENTION_OUTPUT, EMBEDDINGS, OUTPUT
from comity.model.encoder import Group
from comity.model.encoder_pass import EncoderPass
from comity.model.task_gradient_ops import Sink, Spans, linear


class Bert(nn.Module):
    """A BERT encoder; `Encoder` documents what its call takes and returns.

    Parameters may be float32 or bfloat16; the statistics of LayerNorm and softmax are float32 in
    both. Dropout rates that are not given come from the config; embeddings use the hidden rate.
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
        self.heads = config.num_attention_heads
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
            BertLayer(config, number, hidden_rate, attention_rate)
            for number in range(1, config.num_hidden_layers + 1)
        )
        self.pooler = nn.Linear(self.width, self.width)

    def forward(
        self,
        groups: Sequence[Group],
        words: Tensor | None = None,  # [U, H]
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """[N, H] for each group that reads "all", [B, H] for "cls"; see `Encoder`."""
        for group in groups:
            if group.packed.longest > self.max_length:
                raise ValueError(
                    f"a sequence of {group.packed.longest} tokens, but {self.max_length} positions"
                )
        dtype = self.word_embeddings.dtype
        tokens = EncoderPass.over(groups, len(self.layers), self.heads, dtype, rows, sink)
        read = tokens.of_positions_read()
        hidden = tokens.norm(self.embed(groups, tokens, words), self.embedding_norm)
        hidden = tokens.add_dropped(None, hidden, self.embedding_dropout, 0, EMBEDDINGS)
        *layers, last = cast(Iterable[BertLayer], self.layers)
        for layer in layers:
            hidden = layer(hidden, tokens)
        return list((read or tokens).split(last(hidden, tokens, read)))

    def embed(
        self, groups: Sequence[Group], tokens: EncoderPass, words: Tensor | None = None
    ) -> Tensor:
        """The sum [N, H] of word, position and segment embeddings, added up in float32."""
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
        """BERT's pooler, dense and tanh: [B, H] -> [B, H]."""
        return torch.tanh(linear(cls, self.pooler, spans))

    def layer_of(self, parameter_name: str) -> int:
        """0 for the embeddings, 1 to L for the layers, L + 1 for the pooler."""
        first, _, rest = parameter_name.partition(".")
        if first == "layers":
            return int(rest.partition(".")[0]) + 1
        return len(self.layers) + 1 if first == "pooler" else 0


class BertLayer(nn.Module):
    """Attention and feed-forward, each followed by LayerNorm(Dropout(output) + input)."""

    def __init__(
        self, config: BertConfig, number: int, hidden_dropout: float, attention_dropout: float
    ):
        """`number` counts the layers from 1."""
        super().__init__()
        self.number = number
        self.width = width = config.hidden_size
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
        self, hidden: Tensor, tokens: EncoderPass, read: EncoderPass | None = None
    ) -> Tensor:
        """[N, H] to [N, H]; or to [M, H], where only the M positions of `read` are needed.

        The second is exact: every token still gives its key and value, and only the positions read
        have a query.
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
