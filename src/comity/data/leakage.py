"""Leakage: inputs that stand both in training and in an evaluation split, also across tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from comity.data.splits import Split
from comity.data.token_cache import text_key

Keys = NDArray[np.uint64]
EMPTY = text_key("")


@dataclass(frozen=True)
class Leak:
    """How many training rows of one task stand in the dev split of one task, with an example."""

    train_task: str
    dev_task: str
    rows: int  # training rows
    dev_rows: int  # dev rows that they are
    place: str  # file and line of the first such training row
    dev_place: str  # and of the dev row that it is

    @property
    def sentence(self) -> str:
        """For the terminal: what stands where, and how to leave it out."""
        return (
            f"leak: {self.rows} training rows of {self.train_task} stand in the dev rows of "
            f"{self.dev_task} ({self.dev_rows} there), such as {self.place} and "
            f"{self.dev_place}; --drop-leaks leaves them out of training"
        )


Reading = tuple[Split, tuple[int, ...]]
"""A split and which of its text columns the task reads."""


def find_leaks(
    train: Mapping[str, Reading], dev: Mapping[str, Reading]
) -> tuple[list[Leak], dict[str, NDArray[np.bool_]]]:
    """All leaks, and for each task a mask `[n]` of the training rows that leak.

    Texts are compared after normalising case and white space. A row leaks where its whole input, a
    text or a pair in either order, is also the whole input of a dev row; or where one of the two
    is a single text that the other has in a pair. Two pairs that share one text are no leak.
    """
    leaks = []
    masks = {task: np.zeros(len(split), dtype=bool) for task, (split, _) in train.items()}
    for train_task, (train_split, train_columns) in train.items():
        for dev_task, (dev_split, dev_columns) in dev.items():
            train_keys = _row_keys(train_split, train_columns)
            dev_keys = _row_keys(dev_split, dev_columns)
            leaking = _stand_in(train_keys, dev_keys)
            if not leaking.any():
                continue
            masks[train_task] |= leaking
            reached = _stand_in(dev_keys, train_keys)
            first = int(np.flatnonzero(leaking)[0])
            partner = int(np.flatnonzero(_stand_in(dev_keys, train_keys[first : first + 1]))[0])
            leaks.append(
                Leak(
                    train_task,
                    dev_task,
                    int(leaking.sum()),
                    int(reached.sum()),
                    _place(train_split, first),
                    _place(dev_split, partner),
                )
            )
    return leaks, masks


def _place(split: Split, place: int) -> str:
    return f"{split.table.path}:{split.table.lines[split.rows[place]]}"


def _row_keys(split: Split, columns: tuple[int, ...]) -> Keys:
    """Hashes `[n, texts]` of the texts that the task reads."""
    return np.asarray(split.table.keys)[split.rows[:, None], columns]


def _stand_in(rows: Keys, others: Keys) -> NDArray[np.bool_]:
    """Which of `rows [n, 1 or 2]` have a twin in `others`; an empty text is nobody's twin."""
    if rows.shape[1] == others.shape[1] == 2:
        return _among(_pair(rows), _pair(others))
    return np.asarray(_among(rows, others[others != EMPTY]).any(axis=1))


def _among(keys: Keys, others: Keys) -> NDArray[np.bool_]:
    """Which of `keys`, of any shape, stand in `others`; numpy's `isin` takes thrice the memory."""
    if not others.size:
        return np.zeros(keys.shape, dtype=bool)
    ordered = np.sort(others, axis=None)
    places = np.searchsorted(ordered, keys)
    return ordered[np.minimum(places, len(ordered) - 1)] == keys


def _pair(keys: Keys) -> Keys:
    """One hash `[n]` for each pair, the same in either order."""
    low, high = keys.min(axis=1), keys.max(axis=1)
    with np.errstate(over="ignore"):
        return low * np.uint64(0x9E3779B97F4A7C15) ^ high


def without(split: Split, mask: NDArray[np.bool_]) -> Split:
    """A training split without the rows that leak."""
    return replace(split.take(~mask), leaked=int(mask.sum()))
