"""Folds of a task's training rows: groups of rows that share no text with the rest.

A model that was trained without a fold has seen neither its rows nor their texts, so its
predictions for them are those for new rows.
"""

import hashlib
import heapq
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from comity.data.labels import check_trainable, fit_target
from comity.data.splits import Rows, Split, TaskData, row_groups
from comity.data.token_cache import among
from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.rng import FOLDS, generator


@dataclass(frozen=True)
class Fold:
    """One of `count` folds, which a run does not train on; `number` counts from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"fold {self.number} of {self.count}"


def fold_of_rows(split: Split, count: int, seed: int) -> NDArray[np.int32]:
    """The fold `[n]`, from 1 to `count`, of each row of a split; depends on the arguments alone.

    Rows that share a text (in any column, without regard to case and white space) are in one fold;
    a blank text links no rows. Groups of such rows are taken from the largest to the smallest, in
    random order where they are equally large, each for the fold that has the fewest rows so far.

    Args:
        split: the training rows of a task.
        count: the number of folds.
        seed: the recipe's `split_seed`.

    Raises:
        ComityError: fewer than two folds, or more than there are groups.
    """
    if count < 2:
        raise ComityError(f"folds: must be at least 2, got {count}")
    # Two rows of a split may be linked by a row of the table that is not in the split.
    _, groups = np.unique(row_groups(split.table, "groups")[split.rows], return_inverse=True)
    sizes = np.bincount(groups)
    if count > len(sizes):
        raise ComityError(
            f"{split.table.path}: the {plural(len(split), 'training row')} form "
            f"{plural(len(sizes), 'group')} without a text in common, too few for {count} folds; "
            "use fewer folds"
        )
    order = generator(FOLDS, seed, int(split.table.digest[:12], 16), count).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of_group = np.zeros(len(sizes), dtype=np.int32)
    rows_in = [(0, number) for number in range(1, count + 1)]
    for group in order.tolist():
        rows, number = rows_in[0]
        fold_of_group[group] = number
        heapq.heapreplace(rows_in, (rows + int(sizes[group]), number))
    return fold_of_group[groups]


def without_fold(data: TaskData, fold: Fold, seed: int) -> tuple[TaskData, str]:
    """A task that does not train on a fold of its training rows, and the digest of that fold.

    The files of stages lose all rows that share a text with the fold. A regression takes mean and
    deviation from the rows that are left. The digest is the SHA-256 of the fold's rows, as indices
    in the file.

    Raises:
        ComityError: as `fold_of_rows`, or the rows that are left cannot train the task.
    """
    held_out = fold_of_rows(data.train, fold.count, seed) == fold.number
    train = data.train.take(~held_out)
    texts = _texts(data.train.take(held_out))
    stage_train = {path: _without_texts(split, texts) for path, split in data.stage_train.items()}
    errors = ErrorList()
    for split in (train, *stage_train.values()):
        name = f"{data.name} without {fold}"
        check_trainable(name, data.target, split.table.path, split.targets, errors)
    errors.check()
    target = fit_target(data.target, train.targets)
    changed = replace(data, train=train, stage_train=stage_train, target=target)
    return changed, _digest(data.train.rows[held_out])


def _texts(split: Split) -> NDArray[np.uint64]:
    """The hashes of all texts of a split that are not blank."""
    keys = np.asarray(split.table.keys)[split.rows]
    return keys[~np.asarray(split.table.blank)[split.rows]]


def _without_texts(split: Split, texts: NDArray[np.uint64]) -> Split:
    """A split without the rows that have one of these texts."""
    keys = np.asarray(split.table.keys)[split.rows]
    return split.take(np.flatnonzero(~among(keys, texts).any(axis=1)))


def _digest(rows: Rows) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
