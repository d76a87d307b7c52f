"""Training inputs that also appear in a dev set, by hand."""

import pytest
from tests.data.tasks import load_task
from tests.helpers import write_csv

from comity.data.leakage import find_leaks, without

PAIRS = {
    "kind": "classification",
    "train": "t.csv",
    "dev": "d.csv",
    "texts": ["a", "b"],
    "label": "y",
    "empty_texts": "keep",
}


@pytest.fixture
def splits(tmp_path):
    train = [("one", "two"), ("three", "four"), ("", "five"), ("six", "seven"), ("nine", "nine")]
    dev = [("Two ", "one"), ("", "eight"), ("three", "seven"), ("ten", "six")]
    for name, rows in (("t", train), ("d", dev)):
        labelled = [(*row, "yn"[number % 2]) for number, row in enumerate(rows)]
        write_csv(tmp_path / f"{name}.csv", ["a", "b", "y"], labelled)
    data = load_task(tmp_path, **PAIRS)
    return data.train, data.dev


@pytest.mark.parametrize(
    ("columns", "dev_columns", "leaking"),
    [
        ((0, 1), (0, 1), [0]),  # in the other order; pairs that share one text do not leak
        ((0,), (0,), [1]),  # empty texts do not leak
        ((0,), (1,), [0, 3]),
        ((0, 1), (1,), [0, 3]),  # a text of a pair that is a whole input elsewhere
        ((1,), (0, 1), [0, 3]),
    ],
)
def test_leaks_by_hand(splits, columns, dev_columns, leaking):
    train, dev = splits
    leaks, masks = find_leaks({"t": (train, columns)}, {"d": (dev, dev_columns)})
    assert masks["t"].nonzero()[0].tolist() == leaking
    assert [leak.rows for leak in leaks] == [len(leaking)]
    assert leaks[0].example.endswith(f"t.csv:{leaking[0] + 2}")
    kept = without(train, masks["t"])
    assert kept.leaked == len(leaking)
    assert kept.rows.tolist() == [row for row in range(5) if row not in leaking]


def test_without_leaks_nothing_is_found(splits):
    train, _ = splits
    leaks, masks = find_leaks({"t": (train.take([1, 4]), (0, 1))}, {"d": (splits[1], (0, 1))})
    assert leaks == []
    assert not masks["t"].any()
