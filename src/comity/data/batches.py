"""Divides the rows of a task into batches, in an order that a few integers fix."""

from bisect import bisect_right
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.errors import ComityError
from comity.rng import BATCHES, generator, name_key

Integers = NDArray[np.integer]

# Rows are sorted by length within random groups of this many batches, enough for batches of similar
# lengths.
BATCHES_SORTED_TOGETHER = 50
# A small task has at least this many groups, or each pass would put the same rows together.
LEAST_GROUPS = 4


def epoch_batches(
    lengths: ArrayLike,
    *,
    batch_size: int | None,
    batch_tokens: int | None,
    group_by_length: bool,
    keys: tuple[int, ...],
) -> list[Integers]:
    """The batches of one pass: row indices, each row exactly once, in an order drawn from `keys`.

    `lengths: [n]` tokens of each row. A batch has at most `batch_size` rows and `batch_tokens`
    tokens (one of the two may be None); a row with more tokens is a batch of its own. With
    `batch_size` alone, all batches are full except the last. With `group_by_length` the rows of a
    batch have similar lengths (except in that last one), and the order of the batches is random.
    """
    _check_limits(batch_size, batch_tokens)
    lengths = np.asarray(lengths, dtype=np.int32)
    draws = generator(BATCHES, *keys)
    order = draws.permutation(np.arange(len(lengths), dtype=np.int32))
    if not group_by_length or not len(order):
        return _cut(order, lengths, batch_size, batch_tokens)
    short = len(order) % batch_size if batch_size is not None and batch_tokens is None else 0
    order, last = np.split(order, [len(order) - short])
    rows = _rows_per_batch(lengths, batch_size, batch_tokens)
    together = min(BATCHES_SORTED_TOGETHER, len(order) // (LEAST_GROUPS * rows))
    if together > 1:
        order = _sort_in_groups(order, lengths, together * rows)
    batches = _cut(order, lengths, batch_size, batch_tokens)
    # A copy, because a view would keep the whole unsorted order in memory.
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
    """Sort each `group_rows` rows by length, alternately up and down to avoid jumps."""
    groups = []
    for number, start in enumerate(range(0, len(order), group_rows)):
        group = order[start : start + group_rows]
        direction = -1 if number % 2 else 1
        groups.append(group[np.argsort(direction * lengths[group], kind="stable")])
    return np.concatenate(groups)


def _cut(
    order: Integers, lengths: Integers, batch_size: int | None, batch_tokens: int | None
) -> list[Integers]:
    """Cut rows, in the given order, into batches as large as the limits allow."""
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
    """The batches of one task in one stage, numbered over its passes, each in a new order.

    A batch depends on the arguments and its number only. The latest pass is cached, so batches are
    cheap in order and correct in any order.
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
        group_by_length: bool = True,
    ):
        """`lengths: [n]` tokens of each row; limits as in `epoch_batches`.

        Raises `ComityError` where there is no row.
        """
        _check_limits(batch_size, batch_tokens)
        self.name = name
        self.lengths = np.asarray(lengths, dtype=np.int32)
        if not len(self.lengths):
            raise ComityError(
                f'task "{name}" has no rows; add rows or remove the task from the stage'
            )
        self._keys = (seed, stage, name_key(name))
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._group_by_length = group_by_length
        self._starts = [0]  # first batch of each known pass, if passes differ
        self._pass: tuple[int, list[Integers]] | None = None

    @property
    def rows(self) -> int:
        """The number of rows of the task."""
        return len(self.lengths)

    def batches(self, epoch: int) -> list[Integers]:
        """The row indices of each batch in pass `epoch`, counted from 0."""
        if self._pass is None or self._pass[0] != epoch:
            batches = epoch_batches(
                self.lengths,
                batch_size=self._batch_size,
                batch_tokens=self._batch_tokens,
                group_by_length=self._group_by_length,
                keys=(*self._keys, epoch),
            )
            self._pass = epoch, batches
        return self._pass[1]

    def per_pass(self, epoch: int) -> int:
        """The number of batches in pass `epoch`; it differs if batches are limited by tokens."""
        if self._batch_size is not None and self._batch_tokens is None:
            return -(-self.rows // self._batch_size)
        return len(self.batches(epoch))

    def first_batch(self, epoch: int) -> int:
        """The number of the first batch of pass `epoch`, counted over all passes from 0."""
        if self._batch_tokens is None:
            return epoch * self.per_pass(0)
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + self.per_pass(len(self._starts) - 1))
        return self._starts[epoch]

    def batch(self, number: int) -> tuple[int, Integers]:
        """Pass and row indices `[b]` of batch `number`, counted over all passes from 0."""
        epoch = self._epoch(number)
        return epoch, self.batches(epoch)[number - self.first_batch(epoch)]

    def size(self, number: int) -> int:
        """Rows in batch `number`, computed without making the pass where possible."""
        if self._batch_size is not None and self._batch_tokens is None:
            before = number % self.per_pass(0) * self._batch_size
            return min(self._batch_size, self.rows - before)
        return len(self.batch(number)[1])

    def _epoch(self, number: int) -> int:
        if self._batch_tokens is None:
            return number // self.per_pass(0)
        while self._starts[-1] <= number:
            self.first_batch(len(self._starts))
        return bisect_right(self._starts, number) - 1
