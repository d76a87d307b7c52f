"""From rows of token ids to batches: which rows stand together, and their packed sequences."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.errors import ComityError
from comity.seeds import BATCHES, generator, name_key

Integers = NDArray[np.integer]

# Rows are sorted by length within random groups of so many batches: enough for batches of nearly
# equal lengths. Even a small task has so many groups, else a sorted pass would put the same rows
# together every time.
BATCHES_SORTED_TOGETHER = 50
LEAST_GROUPS = 4


def epoch_batches(
    lengths: ArrayLike,
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    group_lengths: bool,
    keys: tuple[int, ...],
) -> list[Integers]:
    """One pass: row numbers in batches, each row exactly once, in an order that `keys` alone fix.

    `lengths: [n]` tokens of each row. A batch holds at most `batch_size` rows and `batch_tokens`
    tokens (one of the two may be None); a row longer than the budget is a batch of its own. By
    number alone, all batches are full but the last. With `group_lengths` the rows of a batch have
    similar lengths, but for that last one, and the batches stand in random order.
    """
    _check_limits(batch_size, batch_tokens)
    lengths = np.asarray(lengths, dtype=np.int32)
    draws = generator(BATCHES, *keys)
    order = draws.permutation(np.arange(len(lengths), dtype=np.int32))
    if not group_lengths or not len(order):
        return _cut(order, lengths, batch_size, batch_tokens)
    short = len(order) % batch_size if batch_size is not None and batch_tokens is None else 0
    order, last = np.split(order, [len(order) - short])
    rows = _rows_per_batch(lengths, batch_size, batch_tokens)
    together = min(BATCHES_SORTED_TOGETHER, len(order) // (LEAST_GROUPS * rows))
    if together > 1:
        order = _sort_in_groups(order, lengths, together * rows)
    batches = _cut(order, lengths, batch_size, batch_tokens)
    # A copy, since a view would keep the whole unsorted order in memory.
    return [batches[i] for i in draws.permutation(len(batches))] + [last.copy()] * (short > 0)


def _check_limits(batch_size: int | None, batch_tokens: int | None) -> None:
    limits = [limit for limit in (batch_size, batch_tokens) if limit is not None]
    if not limits or min(limits) < 1:
        raise ValueError("a batch needs a limit of at least 1 row or 1 token")


def _rows_per_batch(lengths: Integers, batch_size: int | None, batch_tokens: int | None) -> int:
    """Rows of an average batch."""
    rows = len(lengths) if batch_size is None else batch_size
    if batch_tokens is not None:
        rows = min(rows, int(batch_tokens / max(lengths.mean(), 1)))
    return max(rows, 1)


def _sort_in_groups(order: Integers, lengths: Integers, group_rows: int) -> Integers:
    """Sort every `group_rows` rows by length, up and down in turn: no jump from group to group."""
    groups = []
    for number, start in enumerate(range(0, len(order), group_rows)):
        group = order[start : start + group_rows]
        direction = -1 if number % 2 else 1
        groups.append(group[np.argsort(direction * lengths[group], kind="stable")])
    return np.concatenate(groups)


def _cut(
    order: Integers, lengths: Integers, batch_size: int | None, batch_tokens: int | None
) -> list[Integers]:
    """Cut rows, in their order, into batches as large as the limits allow."""
    count = len(order)
    totals = np.concatenate([[0], np.cumsum(lengths[order])]) if batch_tokens is not None else None
    bounds = [0]
    while bounds[-1] < count:
        start = bounds[-1]
        end = count if batch_size is None else start + batch_size
        if totals is not None:
            fitting = np.searchsorted(totals, totals[start] + batch_tokens, side="right") - 1
            end = min(end, max(int(fitting), start + 1))
        bounds.append(min(end, count))
    return [order[start:end] for start, end in pairwise(bounds)]


class TaskBatches:
    """The batches of one task in one stage: turn after turn through its own reshuffled passes.

    Everything follows from the arguments; what is kept is a cache. The latest pass stays in memory,
    so turns are cheap in their order and right in any order.
    """

    def __init__(
        self,
        name: str,
        lengths: ArrayLike,
        *,
        seed: int,
        stage: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        group_lengths: bool = True,
    ):
        """`lengths: [n]` tokens of each row; limits as in `epoch_batches`.

        Raises `ComityError` where there is no row.
        """
        _check_limits(batch_size, batch_tokens)
        self.name = name
        self.lengths = np.asarray(lengths, dtype=np.int32)
        if not len(self.lengths):
            raise ComityError(
                f'task "{name}" has no rows; give it some or take it out of the stage'
            )
        self._keys = (seed, stage, name_key(name))
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._group_lengths = group_lengths
        self._starts = [0]  # the first turn of each pass known so far, where passes differ
        self._pass: tuple[int, list[Integers]] | None = None

    @property
    def rows(self) -> int:
        """How many rows the task has."""
        return len(self.lengths)

    def batches(self, epoch: int) -> list[Integers]:
        """The row numbers of each batch of pass `epoch`, counted from 0."""
        if self._pass is None or self._pass[0] != epoch:
            batches = epoch_batches(
                self.lengths,
                batch_size=self._batch_size,
                batch_tokens=self._batch_tokens,
                group_lengths=self._group_lengths,
                keys=(*self._keys, epoch),
            )
            self._pass = epoch, batches
        return self._pass[1]

    def per_pass(self, epoch: int) -> int:
        """How many batches pass `epoch` has; under a token budget passes differ."""
        if self._batch_size is not None and self._batch_tokens is None:
            return -(-self.rows // self._batch_size)
        return len(self.batches(epoch))

    def first_turn(self, epoch: int) -> int:
        """The number of the first turn of pass `epoch`, counted over all passes from 0."""
        if self._batch_tokens is None:
            return epoch * self.per_pass(0)
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + self.per_pass(len(self._starts) - 1))
        return self._starts[epoch]

    def turn(self, number: int) -> tuple[int, Integers]:
        """The pass and the row numbers `[b]` of turn `number`, counted over all passes from 0."""
        epoch = self._epoch(number)
        return epoch, self.batches(epoch)[number - self.first_turn(epoch)]

    def size(self, number: int) -> int:
        """How many rows turn `number` has; no pass is made for it where arithmetic will do."""
        if self._batch_size is not None and self._batch_tokens is None:
            before = number % self.per_pass(0) * self._batch_size
            return min(self._batch_size, self.rows - before)
        return len(self.turn(number)[1])

    def _epoch(self, number: int) -> int:
        if self._batch_tokens is None:
            return number // self.per_pass(0)
        while self._starts[-1] <= number:
            self.first_turn(len(self._starts))
        return bisect_right(self._starts, number) - 1


@dataclass(frozen=True)
class TextColumn:
    """The token ids of one text column, without special tokens.

    Row i is `ids[offsets[i] : offsets[i + 1]]`. `ids: [T]` uint16 or int32, all rows in one flat
    array; `offsets: [n + 1]` int64.
    """

    ids: NDArray
    offsets: Integers


@dataclass(frozen=True)
class Template:
    """How an encoder wants its texts: [CLS] a [SEP] or [CLS] a [SEP] b [SEP].

    The second text and its [SEP] have segment 1, except where the encoder knows one type only.
    """

    cls_id: int
    sep_id: int
    segment_types: int = 2


@dataclass(frozen=True)
class PackedRows:
    """B sequences end to end, without padding.

    Sequence i is `ids[offsets[i] : offsets[i + 1]]`. `ids, segments: [N]`, `offsets: [B + 1]`, all
    int64; `longest`: tokens of the longest sequence.
    """

    ids: Integers
    segments: Integers
    offsets: Integers
    longest: int


def pack(
    texts: Sequence[TextColumn], rows: ArrayLike, template: Template, max_length: int
) -> PackedRows:
    """The sequences of `rows: [B]`, of one text column or two, each at most `max_length` tokens.

    A pair that is too long is cut from its longer text until both are equal, then from both in
    turn, as `longest_first` does in the `tokenizers` library. Raises `ComityError` where
    `max_length` leaves no room for the texts.
    """
    rows = np.asarray(rows, dtype=np.int64)
    starts = [text.offsets[rows] for text in texts]
    full = [text.offsets[rows + 1] - start for text, start in zip(texts, starts, strict=True)]
    kept = _kept(full, max_length)
    offsets = np.concatenate([[0], np.cumsum(_with_special(kept))])
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[offsets[:-1]] = template.cls_id
    place = offsets[:-1] + 1  # where the next token of each sequence goes
    for text, start, length in zip(texts, starts, kept, strict=True):
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        ids[np.repeat(place, length) + within] = text.ids[np.repeat(start, length) + within]
        place = place + length
        ids[place] = template.sep_id
        place += 1
    segments = np.zeros_like(ids)
    if len(texts) == 2 and template.segment_types > 1:
        parts = np.stack([kept[0] + 2, kept[1] + 1], axis=1).ravel()
        segments = np.repeat(np.tile([0, 1], len(rows)), parts)
    return PackedRows(ids, segments, offsets, int(np.diff(offsets).max(initial=0)))


def packed_lengths(texts: Sequence[TextColumn], max_length: int) -> Integers:
    """Tokens `[n]` of each row's sequence as `pack` makes it, special tokens included."""
    return _with_special(_kept(_lengths(texts), max_length))


def truncated(texts: Sequence[TextColumn], max_length: int) -> NDArray[np.bool_]:
    """Which rows `[n]` lose tokens to `max_length`."""
    full = _lengths(texts)
    return _with_special(full) > _with_special(_kept(full, max_length))


def _lengths(texts: Sequence[TextColumn]) -> list[Integers]:
    return [np.diff(text.offsets).astype(np.int32) for text in texts]


def _with_special(lengths: Sequence[Integers]) -> Integers:
    """Tokens `[B]` of the sequences: [CLS], the texts, and a [SEP] after each."""
    return sum(lengths[1:], lengths[0]) + 1 + len(lengths)


def _kept(lengths: Sequence[Integers], max_length: int) -> list[Integers]:
    """How many tokens each text keeps: for each text column an array `[B]`, as `lengths`."""
    if len(lengths) not in (1, 2):
        raise ValueError(f"a sequence holds one text or two, not {len(lengths)}")
    least = 1 + 2 * len(lengths)
    if max_length < least:
        what = "a pair of texts" if len(lengths) == 2 else "a text"
        raise ComityError(
            f"max_length {max_length} is too small: {what} with its special tokens needs {least}; "
            "raise it"
        )
    room = max_length - 1 - len(lengths)
    if len(lengths) == 1:
        return [np.minimum(lengths[0], room)]
    first, second = lengths
    # Where both are cut and the room is odd, the longer one has the token more; the second of two
    # equal ones.
    half = np.where(first > second, np.int32(room - room // 2), np.int32(room // 2))
    first = np.minimum(first, np.maximum(room - second, half))
    return [first, np.minimum(second, room - first)]
