"""Puts training rows without a label behind those with one, so that batches mix them."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.packing import TextColumn
from comity.data.splits import Split
from comity.data.token_cache import TokenTable


def with_unlabelled(train: Split, unlabelled: Split) -> Split:
    """The labelled rows of one file and, after them, the rows of an unlabelled file.

    Targets of rows without a label are 0 and are never read. Token ids stay on disk.
    """
    first, second = train.table, unlabelled.table
    table = TokenTable(
        path=first.path,
        texts=tuple(map(_one_after_another, first.texts, second.texts)),
        labels=(),
        lines=np.concatenate([first.lines, second.lines]),
        keys=np.concatenate([first.keys, second.keys]),
        reading={},
        digest="",
    )
    no_targets = np.zeros((len(unlabelled), *train.targets.shape[1:]), dtype=train.targets.dtype)
    soft = None
    if train.soft is not None and unlabelled.soft is not None:
        soft = np.concatenate([train.soft, unlabelled.soft])
    return replace(
        train,
        table=table,
        rows=np.concatenate([train.rows, unlabelled.rows + len(first)]),
        targets=np.concatenate([train.targets, no_targets]),
        soft=soft,
        labelled=np.arange(len(train) + len(unlabelled)) < len(train),
        unlabelled_path=second.path,
    )


def _one_after_another(first: TextColumn, second: TextColumn) -> TextColumn:
    ids: Any = _TwoArrays(first.ids, second.ids)
    return TextColumn(ids, np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]))


class _TwoArrays:
    """Two arrays of token ids on disk, read by index as if they were one."""

    def __init__(self, first: NDArray, second: NDArray):
        self.first, self.second = first, second

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        in_first = positions < len(self.first)
        found = np.empty(len(positions), dtype=np.int64)
        found[in_first] = self.first[positions[in_first]]
        found[~in_first] = self.second[positions[~in_first] - len(self.first)]
        return found
