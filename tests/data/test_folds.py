"""Folds: every row is in one, and none shares a text with the rows outside of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.tasks import WORDS
from tests.helpers import alike_rows, two_tasks, write_csv, write_two_tasks

from comity.data.folds import Fold, fold_of_rows, without_fold
from comity.data.splits import Split, read_tasks
from comity.data.token_cache import TokenTable, text_key
from comity.errors import ComityError

TEXTS = ("a b", "A  b", "c", "d", "e", "f", "g", "h", "")
"""Two of them are one text, the last is blank."""

Pairs = list[tuple[str, str]]


def split_of(pairs: Pairs, rows: list[int] | None = None) -> Split:
    """A split of a table of pairs of texts."""
    texts = np.array(pairs, dtype=object).reshape(-1, 2)
    table = TokenTable(
        path=Path("pairs.csv"),
        texts=(),
        labels=(),
        lines=np.arange(len(pairs)) + 2,
        keys=np.vectorize(text_key, otypes=[np.uint64])(texts),
        reading={},
        digest="0123456789abcdef" * 4,
        blank=texts == "",
    )
    chosen = np.arange(len(pairs)) if rows is None else np.array(rows, dtype=np.int32)
    return Split(table, chosen, np.zeros(len(chosen)))


def read(text: str) -> str:
    """A text without what does not count."""
    return " ".join(text.lower().split())


def linked(pairs: Pairs) -> list[tuple[set[str], set[int]]]:
    """The texts and rows of each group of rows that texts link, found by merging sets."""
    groups: list[tuple[set[str], set[int]]] = []
    for row, pair in enumerate(pairs):
        texts, rows = {read(text) for text in pair} - {""}, {row}
        for group in [group for group in groups if group[0] & texts]:
            groups.remove(group)
            texts, rows = texts | group[0], rows | group[1]
        groups.append((texts, rows))
    return groups


@given(
    pairs=st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=4),
    count=st.integers(2, 4),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_no_text_is_both_in_a_fold_and_outside_of_it(pairs, count, seed, data):
    rows = sorted(data.draw(st.sets(st.integers(0, len(pairs) - 1), min_size=1)))
    split = split_of(pairs, rows)
    if count > sum(1 for _, own in linked(pairs) if own & set(rows)):
        with pytest.raises(ComityError, match="use fewer folds"):
            fold_of_rows(split, count, seed)
        return
    folds = fold_of_rows(split, count, seed)
    assert len(folds) == len(rows)
    assert set(folds.tolist()) == set(range(1, count + 1))
    texts: dict[str, set[int]] = {}
    for row, fold in zip(rows, folds.tolist(), strict=True):
        for text in pairs[row]:
            texts.setdefault(read(text), set()).add(fold)
    assert all(len(of_text) == 1 for text, of_text in texts.items() if text)
    np.testing.assert_array_equal(folds, fold_of_rows(split, count, seed))


def test_folds_are_equally_large_and_drawn_from_the_seed():
    split = split_of([(f"first {n}", f"second {n}") for n in range(100)])
    first, again, other = (fold_of_rows(split, 3, seed) for seed in (0, 0, 1))
    assert sorted(np.bincount(first)[1:]) == [33, 33, 34]
    assert (first == again).all()
    assert 20 < (first == other).sum() < 50  # a third of 100 rows by chance


def test_a_large_group_is_a_fold_of_its_own():
    around_one: Pairs = [("hub", f"spoke {n}") for n in range(6)]
    split = split_of([*around_one, *((f"a {n}", f"b {n}") for n in range(6))])
    folds = fold_of_rows(split, 2, 0)
    assert len(set(folds[:6])) == len(set(folds[6:])) == 1
    assert folds[0] != folds[6]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "folds: must be at least 2, got 1"),
        (
            4,
            "pairs.csv: the 4 training rows form 3 groups without a text in common, too few for 4 "
            "folds; use fewer folds",
        ),
    ],
)
def test_a_wrong_number_of_folds_is_one_sentence(count, message):
    split = split_of([("a", "b"), ("b", "c"), ("d", "e"), ("f", "g")])
    with pytest.raises(ComityError) as caught:
        fold_of_rows(split, count, 0)
    assert caught.value.messages == [message]


def test_the_file_of_a_stage_loses_the_texts_of_the_fold(tmp_path):
    write_two_tasks(tmp_path)
    more = [*alike_rows(0, 20), *alike_rows(500, 5)]
    write_csv(tmp_path / "more.csv", ["a", "b", "score"], more)
    stages = [{"tasks": ["alike"], "data": {"alike": "more.csv"}}, {}]
    recipe = two_tasks(Path("encoder"), stages=stages)
    data = read_tasks(recipe, tmp_path).tokenised(WORDS, 128)["alike"]
    changed, _ = without_fold(data, Fold(2, 4), 0)
    held_out = set(np.flatnonzero(fold_of_rows(data.train, 4, 0) == 2).tolist())
    assert len(held_out) == 5
    assert set(changed.train.rows.tolist()) == set(range(20)) - held_out
    assert set(changed.stage_train["more.csv"].rows.tolist()) == set(range(25)) - held_out


def test_mean_and_deviation_come_from_the_rows_that_are_left(tmp_path):
    rows = [(f"text {n}", n**2) for n in range(12)]
    for file in ("n.csv", "d.csv"):
        write_csv(tmp_path / file, ["text", "n"], rows)
    task = {"kind": "regression", "train": "n.csv", "dev": "d.csv", "text": "text", "label": "n"}
    recipe = two_tasks(Path("encoder"), tasks={"n": task})
    data = read_tasks(recipe, tmp_path).tokenised(WORDS, 128)["n"]
    changed, _ = without_fold(data, Fold(1, 3), 5)
    left = [n**2 for n, fold in enumerate(fold_of_rows(data.train, 3, 5)) if fold != 1]
    assert changed.target.mean == pytest.approx(np.mean(left))
    assert changed.target.deviation == pytest.approx(np.std(left))
