"""Answers to many small requests at once: each text is encoded once, whoever asks for it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.packing import Template, TextColumn, pack
from comity.inference.prediction import Prediction, predictions
from comity.model.encoder import Group, Packed, Read
from comity.model.multitask import MultiTaskModel, to_packed
from comity.model.pooling import pool_tokens
from comity.model.tokenizer import Tokenizer

SHORTEST = 64
"""Attention pads the sequences of a group to the longest. Sequences of up to 64 tokens are one
group, then up to 128, 256 and so on, so that a long text does not pad many short ones."""


@dataclass(frozen=True)
class Embedding:
    """How a text alone becomes one vector: the pooling, and the most tokens that are read."""

    pooling: str  # as `HeadSpec.pooling`
    max_length: int


@dataclass(frozen=True)
class Query:
    """One text or a pair of texts, and what is wanted of it.

    Every task must read as many texts as there are; an embedding is of one text.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a query: a prediction for each task, an embedding `[W]` if one was wanted.

    `truncated` names the tasks that lost tokens to their `max_length`; `embedding_truncated` says
    so of the embedding.
    """

    predictions: dict[str, Prediction]
    embedding: NDArray[np.float32] | None
    truncated: frozenset[str]
    embedding_truncated: bool


class EncoderInput(NamedTuple):
    """One sequence for the encoder: a text or a pair, cut to `max_length` tokens."""

    texts: tuple[str, ...]
    max_length: int


@dataclass(frozen=True)
class TokenizedQuery:
    """A query with its token ids. `tokens` is how many the encoder reads for it, at most."""

    query: Query
    ids: tuple[list[int], ...]  # of each text, without special tokens
    lengths: dict[EncoderInput, int]  # in tokens, before they are cut
    tokens: int


class Answerer:
    """Answers queries in shared passes of the encoder. Create one with `Model.answerer()`.

    Args:
        model: the encoder and the heads.
        tokenizer: the encoder's.
        template: the special tokens of a sequence.
        limits: `max_length` of each task.
        device: where the model is.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tokenizer: Tokenizer,
        template: Template,
        limits: Mapping[str, int],
        device: torch.device,
    ):
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self.limits = dict(limits)
        self._device = device

    def embeddings(self) -> dict[str, Embedding]:
        """The embeddings that tasks have trained, by task; empty if no task has trained any."""
        return {
            task: Embedding(spec.text_pooling, self.limits[task])
            for task, spec in self._model.tasks.items()
            if spec.embeds
        }

    def encoder_embedding(self) -> Embedding:
        """The embedding as the encoder was pooled before training, for runs that train none."""
        encoder = self._model.encoder
        return Embedding(encoder.text_pooling, encoder.max_length)

    def tokenize(self, queries: Sequence[Query]) -> list[TokenizedQuery]:
        """The token ids of all queries."""
        ids = iter(self._tokenizer.encode([text for query in queries for text in query.texts]))
        return [self._tokenized(query, tuple(next(ids) for _ in query.texts)) for query in queries]

    def _tokenized(self, query: Query, ids: tuple[list[int], ...]) -> TokenizedQuery:
        sizes = dict(zip(query.texts, map(len, ids), strict=True))
        lengths = {
            read: 1 + sum(sizes[text] + 1 for text in read.texts) for read, _ in self._reads(query)
        }
        tokens = sum(min(length, read.max_length) for read, length in lengths.items())
        return TokenizedQuery(query, ids, lengths, tokens)

    def _reads(self, query: Query) -> Iterator[tuple[EncoderInput, str]]:
        """What the encoder reads for a query, each with its pooling."""
        for task in query.tasks:
            yield from zip(self._inputs(query, task), self._model.tasks[task].poolings, strict=True)
        if query.embedding is not None:
            yield _embedded(query), query.embedding.pooling

    def _inputs(self, query: Query, task: str) -> list[EncoderInput]:
        """What the encoder reads for each view of a task's heads."""
        limit = self.limits[task]
        texts = {"pair": query.texts, "first": query.texts[:1], "second": query.texts[1:]}
        return [EncoderInput(texts[view], limit) for view in self._model.tasks[task].views]

    @torch.inference_mode()
    def answer(self, batch: Sequence[TokenizedQuery]) -> list[Answer]:
        """The answers to a batch, with one pass of the encoder.

        They can differ from those of `Model.predict` in the last digits, because a processor sums
        products in an order that depends on what else is in the pass.
        """
        vectors = self._encode(batch)
        found: list[dict[str, Prediction]] = [{} for _ in batch]
        for task, spec in self._model.tasks.items():
            rows = [row for row, item in enumerate(batch) if task in item.query.tasks]
            if rows:
                inputs = [self._inputs(batch[row].query, task) for row in rows]
                by_view = zip(zip(*inputs, strict=True), spec.poolings, strict=True)
                views = [vectors.rows(view, pooling) for view, pooling in by_view]
                outputs = self._model.head(task)(views, None).cpu().double().numpy()
                for row, prediction in zip(rows, predictions(spec.target, outputs), strict=True):
                    found[row][task] = prediction
        embeddings = self._embeddings(batch, vectors)
        return [
            Answer(own, embeddings.get(row), *self._truncated(item))
            for row, (item, own) in enumerate(zip(batch, found, strict=True))
        ]

    def _embeddings(
        self, batch: Sequence[TokenizedQuery], vectors: "_Vectors"
    ) -> dict[int, NDArray[np.float32]]:
        """The embeddings that were wanted, by the index of their query."""
        wanted: dict[str, dict[int, EncoderInput]] = defaultdict(dict)  # by pooling
        for row, item in enumerate(batch):
            if item.query.embedding is not None:
                wanted[item.query.embedding.pooling][row] = _embedded(item.query)
        found: dict[int, NDArray[np.float32]] = {}
        for pooling, inputs in wanted.items():
            rows = vectors.rows(list(inputs.values()), pooling).float().cpu().numpy()
            found |= dict(zip(inputs, rows, strict=True))
        return found

    def _truncated(self, item: TokenizedQuery) -> tuple[frozenset[str], bool]:
        """The tasks of a query that cut its texts, and whether its embedding does."""
        cut = {read for read, length in item.lengths.items() if length > read.max_length}
        if not cut:
            return frozenset(), False
        query = item.query
        tasks = frozenset(task for task in query.tasks if cut & set(self._inputs(query, task)))
        return tasks, query.embedding is not None and _embedded(query) in cut

    def _encode(self, batch: Sequence[TokenizedQuery]) -> "_Vectors":
        """The vectors of everything that the batch reads, each text or pair encoded once."""
        poolings: dict[EncoderInput, set[str]] = defaultdict(set)
        ids: dict[str, list[int]] = {}
        lengths: dict[EncoderInput, int] = {}
        for item in batch:
            ids.update(zip(item.query.texts, item.ids, strict=True))
            lengths.update(item.lengths)
            for read, pooling in self._reads(item.query):
                poolings[read].add(pooling)
        groups: dict[_GroupKey, list[EncoderInput]] = defaultdict(list)
        for read, own in poolings.items():
            size = _size_class(min(lengths[read], read.max_length))
            groups[_GroupKey(len(read.texts), read.max_length, frozenset(own), size)].append(read)
        packed = [self._pack(inputs, ids) for inputs in groups.values()]
        hidden = self._model.encoder(
            [Group(own, key.read) for key, own in zip(groups, packed, strict=True)]
        )
        vectors = _Vectors()
        for (key, inputs), own, states in zip(groups.items(), packed, hidden, strict=True):
            for pooling in sorted(key.poolings):
                vectors.add(inputs, pooling, self._pool(states, own, key.read, pooling))
        return vectors

    def _pack(self, inputs: Sequence[EncoderInput], ids: Mapping[str, list[int]]) -> Packed:
        """Inputs of as many texts and the same `max_length`, packed."""
        columns = [
            _column([ids[text] for text in texts])
            for texts in zip(*(read.texts for read in inputs), strict=True)
        ]
        rows = pack(columns, np.arange(len(inputs)), self._template, inputs[0].max_length)
        return to_packed([rows], self._device)

    def _pool(self, states: Tensor, packed: Packed, read: Read, pooling: str) -> Tensor:
        """The vectors `[B, W]` of a group from its hidden states, of all tokens or of [CLS]."""
        if "mean" in pooling:
            return pool_tokens(states, packed.offsets, pooling)
        first = states if read == "cls" else states.index_select(0, packed.offsets[:-1])
        return self._model.encoder.pool(first) if pooling == "pooler" else first


class _GroupKey(NamedTuple):
    """What the inputs of one group of a pass have in common."""

    texts: int
    max_length: int
    poolings: frozenset[str]
    size: int  # see `_size_class`

    @property
    def read(self) -> Read:
        """Which positions of the last layer the poolings need."""
        return "all" if any("mean" in pooling for pooling in self.poolings) else "cls"


class _Vectors:
    """The pooled vectors of what the encoder has read."""

    def __init__(self) -> None:
        self._tables: dict[str, Tensor] = {}  # [n, W] for each pooling
        self._indices: dict[tuple[EncoderInput, str], int] = {}

    def add(self, inputs: Sequence[EncoderInput], pooling: str, vectors: Tensor) -> None:
        """Add the vectors `[B, W]` of some inputs with one pooling."""
        table = self._tables.get(pooling)
        start = 0 if table is None else len(table)
        self._tables[pooling] = vectors if table is None else torch.cat([table, vectors])
        self._indices.update(((read, pooling), start + row) for row, read in enumerate(inputs))

    def rows(self, inputs: Sequence[EncoderInput], pooling: str) -> Tensor:
        """The vectors `[n, W]` of some inputs, in their order."""
        table = self._tables[pooling]
        indices = torch.tensor([self._indices[read, pooling] for read in inputs])
        return table.index_select(0, indices.to(table.device))


def _embedded(query: Query) -> EncoderInput:
    """What the encoder reads for the embedding of a query."""
    assert query.embedding is not None
    return EncoderInput(query.texts, query.embedding.max_length)


def _size_class(length: int) -> int:
    """The smallest power of two that is at least the length and `SHORTEST`."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def _column(ids: Sequence[list[int]]) -> TextColumn:
    offsets = np.cumsum([0, *map(len, ids)])
    flat = np.fromiter(chain.from_iterable(ids), np.int64, count=int(offsets[-1]))
    return TextColumn(flat, offsets)
