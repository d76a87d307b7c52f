"""BERT, written from the paper (Devlin et al. 2019), packed: padding only inside attention.

The course paper's section 3.1 describes the same model. Every dense product runs on the N real
tokens; attention alone lays them out as [B, heads, longest, d] and takes them back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model.attention import attention
from comity.model.attention_layout import Layout
from comity.model.bert_config import ACTIVATIONS, BertConfig
from comity.model.dropout import add_dropped, dropout_mask
from comity.model.encoder import Group, Read
from comity.model.task_gradient_ops import Sink, Spans, linear, look_up, norm

ROUNDING = 32
"""Tokens of a group are rounded up to a multiple of this, so that the shapes of products recur: a
CPU's product library compiles a kernel for each shape that it meets, and keeps it in memory."""


@dataclass(frozen=True)
class Part:
    """One group inside a pass: which packed rows are its own, and how attention lays them out.

    Rows from `stop` to `end` fill up to a round number. Attention leaves them out, so they have no
    effect and no gradient.
    """

    layout: Layout
    start: int
    stop: int
    end: int
    read: Read
    generator: torch.Generator | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows with tokens and rows that fill up."""
        return self.stop - self.start, self.end - self.stop

    def of_read(self, start: int) -> "Part":
        """The same for what the last layer is computed for, whose rows begin at `start`."""
        if self.read == "all":
            moved = start - self.start
            return replace(self, start=start, stop=self.stop + moved, end=self.end + moved)
        stop = start + len(self.layout.cls)
        return replace(self, start=start, stop=stop, end=stop)

    def positions_read(self) -> Tensor:
        """The packed rows that the last layer is computed for."""
        if self.read == "cls":
            return self.layout.cls + self.start
        return torch.arange(self.start, self.end, device=self.layout.cls.device)


def apart(rows: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """Each part's rows, without those that fill up: `[N, W]` to one tensor a part."""
    return rows.split([size for part in parts for size in part.sizes])[::2]


def together(pieces: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """The inverse of `apart`, zeros filling up."""
    filled = []
    for piece, part in zip(pieces, parts, strict=True):
        filled += [piece, piece.new_zeros(part.sizes[1], piece.shape[1])]
    return torch.cat(filled)


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
        groups: Sequence[Group],
        words: Tensor | None = None,  # [U, H]
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """[N, H] for each group that reads "all", [B, H] for "cls"; see `Encoder`."""
        parts = self._parts(groups)
        spans = None
        if rows is not None and sink is not None:
            spans = _spans(rows, parts, sink)
        hidden = self.embed(groups, parts, words, spans)
        hidden = norm(hidden, self.embedding_norm, spans)
        hidden = drop_and_add(None, hidden, self.embedding_dropout, parts)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, parts, spans)
        return self._last_layer(hidden, parts, spans, rows)

    def _parts(self, groups: Sequence[Group]) -> list[Part]:
        parts = []
        start = 0
        heads, dtype = self.config.num_attention_heads, self.word_embeddings.dtype
        for group in groups:
            packed = group.packed
            if packed.longest > self.max_length:
                raise ValueError(
                    f"a sequence of {packed.longest} tokens, but {self.max_length} positions"
                )
            generator = None
            if group.dropout_seed is not None:
                generator = torch.Generator(device=packed.ids.device)
                generator.manual_seed(group.dropout_seed)
            tokens = len(packed.ids)
            stop, end = start + tokens, start + -(-tokens // ROUNDING) * ROUNDING
            layout = Layout.of(packed.offsets, tokens, packed.longest, heads, dtype)
            parts.append(Part(layout, start, stop, end, group.read, generator))
            start = end
        return parts

    def embed(
        self,
        groups: Sequence[Group],
        parts: Sequence[Part],
        words: Tensor | None,
        spans: Spans | None,
    ) -> Tensor:
        """The sum [N, H] of word, position and segment embeddings, added up in float32."""
        fill = [(0, part.sizes[1]) for part in parts]

        def joined(pieces: Iterable[Tensor]) -> Tensor:
            return torch.cat([F.pad(p, f) for p, f in zip(pieces, fill, strict=True)])

        ids = joined(group.packed.ids for group in groups)
        segments = joined(group.packed.segments for group in groups)
        if self.segment_types == 1:
            segments = torch.zeros_like(segments)
        positions = joined(part.layout.positions for part in parts)
        table = self.word_embeddings if words is None else words
        hidden = look_up(ids, table, spans).float()
        hidden = hidden + look_up(positions, self.position_embeddings, spans)
        hidden = hidden + look_up(segments, self.segment_embeddings, spans)
        return hidden.to(self.word_embeddings.dtype)

    def _last_layer(
        self,
        hidden: Tensor,
        parts: Sequence[Part],
        spans: Spans | None,
        rows: Sequence[int] | None,
    ) -> list[Tensor]:
        """The last layer, for the positions alone that are read."""
        layer = cast(BertLayer, self.layers[-1])
        if all(part.read == "all" for part in parts):
            return list(apart(layer(hidden, parts, spans), parts))
        read = torch.cat([part.positions_read() for part in parts])
        read_parts = []
        for part in parts:
            read_parts.append(part.of_read(read_parts[-1].end if read_parts else 0))
        read_spans = None
        if spans is not None and rows is not None:
            read_spans = _spans(rows, read_parts, spans.sink)
        hidden = layer.of_read(hidden, parts, spans, read, read_parts, read_spans)
        return list(apart(hidden, read_parts))

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

    def forward(self, hidden: Tensor, parts: Sequence[Part], spans: Spans | None) -> Tensor:
        """[N, H] -> [N, H]."""
        qkv = linear(hidden, self.qkv, spans)
        context = []
        for part, own in zip(parts, apart(qkv, parts), strict=True):
            query, key, value = part.layout.pad(own, 3)
            context.append(part.layout.unpad(self._attend(part, query, key, value)))
        return self._after_attention(together(context, parts), hidden, parts, spans)

    def of_read(
        self,
        hidden: Tensor,
        parts: Sequence[Part],
        spans: Spans | None,
        read: Tensor,
        read_parts: Sequence[Part],
        read_spans: Spans | None,
    ) -> Tensor:
        """The same for the M positions `read` alone: [N, H] -> [M, H].

        Exact: every token still gives its key and value, the other positions ask nothing.
        """
        width = hidden.shape[1]
        asking = hidden.index_select(0, read)
        query = linear(asking, self.qkv, read_spans, slice(0, width))
        key_value = linear(hidden, self.qkv, spans, slice(width, 3 * width))
        context = []
        pieces = zip(parts, apart(query, read_parts), apart(key_value, parts), strict=True)
        for part, asking_own, own in pieces:
            layout = part.layout
            key, value = layout.pad(own, 2)
            if part.read == "all":
                (asked,) = layout.pad(asking_own, 1)
                context.append(layout.unpad(self._attend(part, asked, key, value)))
            else:
                asked = asking_own.reshape(-1, 1, width // layout.heads)
                context.append(self._attend(part, asked, key, value).view(-1, width))
        context = together(context, read_parts)
        return self._after_attention(context, asking, read_parts, read_spans)

    def _attend(self, part: Part, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rate = self.attention_dropout
        return attention(query, key, value, part.layout.key_bias, rate, part.generator)

    def _after_attention(
        self,
        context: Tensor,
        hidden: Tensor,
        parts: Sequence[Part],
        spans: Spans | None,
    ) -> Tensor:
        rate = self.hidden_dropout
        output = linear(context, self.attention_output, spans)
        hidden = norm(drop_and_add(hidden, output, rate, parts), self.attention_norm, spans)
        inner = self.activation(linear(hidden, self.expand, spans))
        output = linear(inner, self.contract, spans)
        return norm(drop_and_add(hidden, output, rate, parts), self.output_norm, spans)


def drop_and_add(
    residual: Tensor | None, values: Tensor, rate: float, parts: Sequence[Part]
) -> Tensor:
    """`residual + dropout(values)`, both `[N, H]`; each part's masks from its own generator."""
    draws = [(p.end - p.start, p.generator) for p in parts if p.generator is not None]
    if draws and round(256 * rate):
        mask = dropout_mask(values.shape, rate, draws, values.dtype)
        return add_dropped(residual, values, rate, mask)
    return values if residual is None else values + residual


def _spans(rows: Sequence[int], parts: Sequence[Part], sink: Sink) -> Spans:
    """The stretch of each part; neighbours that add to the same row as one larger product."""
    joined: list[tuple[int, int, int]] = []
    for row, part in zip(rows, parts, strict=True):
        if joined and joined[-1][0] == row:
            joined[-1] = (row, joined[-1][1], part.end)
        else:
            joined.append((row, part.start, part.end))
    return Spans(joined, sink)
