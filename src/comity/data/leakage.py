"""Finds leakage: inputs that are both in training and in a dev set, of one or several tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comity.data.splits import Split
from comity.data.token_cache import among, text_key
from comity.format import plural
from comity.tables.locations import location

Keys = NDArray[np.uint64]
EMPTY = text_key("")


@dataclass(frozen=True)
class Leak:
    """Training rows of one task that are in the dev set of one task."""

    train_task: str
    dev_task: str
    rows: int  # leaking training rows
    dev_rows: int  # dev rows with the same input
    example: str  # file and line of the first leaking training row
    dev_example: str  # file and line of its dev row
    same_file: Path | None = None  # the file, if both sets use the same rows of one file

    def sentence(self, dropped: bool) -> str:
        """The leak as a message with an example. `dropped`: its training rows are left out."""
        left_out = "such training rows are left out"
        if self.same_file is not None:
            advice = left_out if dropped else f"name another set in tasks.{self.dev_task}.dev"
            return (
                f"leak: {self.same_file}, the dev set of {self.dev_task}, is also training data of "
                f"{self.train_task} ({plural(self.rows, 'row')}); {advice}"
            )
        advice = "use --drop-leaks to leave such training rows out"
        return (
            f"leak: {plural(self.rows, 'training row')} of {self.train_task} and "
            f"{plural(self.dev_rows, 'dev row')} of {self.dev_task} have the same input, such as "
            f"{self.example} and {self.dev_example}; "
            f"{left_out if dropped else advice}"
        )


Reading = tuple[Split, tuple[int, ...]]
"""A split, and the indices of the text columns that the task reads."""


def find_leaks(
    train: Mapping[str, Reading], dev: Mapping[str, Reading]
) -> tuple[list[Leak], dict[str, NDArray[np.bool_]]]:
    """All leaks, and for each task a mask `[n]` of its leaking training rows.

    Texts are compared without regard to case and white space. A row leaks if its whole input, a
    text or a pair in either order, is also the whole input of a dev row, or if one of the two is a
    single text and the other a pair with that text. Two pairs that share one text are not a leak.
    """
    leaks = []
    masks = {task: np.zeros(len(split), dtype=bool) for task, (split, _) in train.items()}
    for train_task, (train_split, train_columns) in train.items():
        for dev_task, (dev_split, dev_columns) in dev.items():
            train_keys = _row_keys(train_split, train_columns)
            dev_keys = _row_keys(dev_split, dev_columns)
            leaking = _occurring(train_keys, dev_keys)
            if not leaking.any():
                continue
            masks[train_task] |= leaking
            dev_leaking = _occurring(dev_keys, train_keys)
            first = int(np.flatnonzero(leaking)[0])
            partner = int(np.flatnonzero(_occurring(dev_keys, train_keys[first : first + 1]))[0])
            leaks.append(
                Leak(
                    train_task,
                    dev_task,
                    int(leaking.sum()),
                    int(dev_leaking.sum()),
                    _location(train_split, first),
                    _location(dev_split, partner),
                    dev_split.table.path if _same_rows(train_split, dev_split) else None,
                )
            )
    return leaks, masks


def _same_rows(train: Split, dev: Split) -> bool:
    """Whether two splits use the same rows of files with the same content."""
    if train.table.digest != dev.table.digest:
        return False
    return bool(among(dev.rows, train.rows).any())


def _location(split: Split, index: int) -> str:
    """File and line of a row of a split."""
    return location(split.table.path, int(split.table.lines[split.rows[index]]))


def _row_keys(split: Split, columns: tuple[int, ...]) -> Keys:
    """Hashes `[n, texts]` of the texts that the task reads."""
    return np.asarray(split.table.keys)[split.rows[:, None], columns]


def _occurring(rows: Keys, others: Keys) -> NDArray[np.bool_]:
    """Which rows `[n]` of `rows [n, 1 or 2]` leak into `others`; single empty texts do not."""
    if rows.shape[1] == others.shape[1] == 2:
        return among(_pair(rows), _pair(others))
    return np.asarray(among(rows, others[others != EMPTY]).any(axis=1))


def _pair(keys: Keys) -> Keys:
    """One hash `[n]` for each pair, the same for both orders of its texts."""
    low, high = keys.min(axis=1), keys.max(axis=1)
    with np.errstate(over="ignore"):
        return low * np.uint64(0x9E3779B97F4A7C15) ^ high


def without(split: Split, mask: NDArray[np.bool_]) -> Split:
    """A training split without its leaking rows."""
    return replace(split.take(~mask), leaked=int(mask.sum()))
