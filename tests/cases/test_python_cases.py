"""Cases N-11 and N-23: what users of such libraries give to `predict` and `encode` by mistake.

Their scripts run on models of two small files of the shared folder.
"""

import csv
import tomllib
from pathlib import Path

import numpy as np
import pytest

from comity import ComityError, load, train
from comity.inference.model import Model

pandas = pytest.importorskip("pandas")


def trained(recipe: Path, encoder: Path, out: Path) -> Model:
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    values["encoder"] = {"name": str(encoder)}
    values["train"] |= {"steps": 1}
    values["train"].pop("epochs")
    return load(train(values, recipe.parent, out, quiet=True))


@pytest.fixture(scope="module")
def files(shared) -> Path:
    return shared / "cases" / "files"


@pytest.fixture(scope="module")
def one(files, tiny_checkpoint, tmp_path_factory) -> Model:
    """A task on one text, the column "review"."""
    folder = tmp_path_factory.mktemp("run-base")
    return trained(files / "base" / "recipe.toml", tiny_checkpoint, folder)


@pytest.fixture(scope="module")
def two(files, tiny_checkpoint, tmp_path_factory) -> Model:
    """A task on two texts, the columns "title" and "body"."""
    folder = tmp_path_factory.mktemp("run-pairs")
    return trained(files / "N-05" / "mostly-empty.toml", tiny_checkpoint, folder)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["a", None], "row 1"),
        (["a", float("nan")], "row 1"),
        (["a", 5], "row 1"),
        ([b"a"], "row 0"),
        ([("a", "b")], "row 0"),
        (pandas.Series(["a", "b", None, "c"], index=[10, 11, 12, 13]), "row 2 (index 12)"),
    ],
)
def test_n_11_a_row_that_is_no_text_is_one_sentence_with_the_row(one, rows, named):
    for call in (lambda: one.predict("mood", rows), lambda: one.encode(rows, raw=True)):
        with pytest.raises(ComityError) as error:
            call()
        (message,) = error.value.messages
        assert f": {named} " in message


def test_n_11_rows_that_work(one):
    texts = [f"text {n}" for n in range(2100)]
    gaps = pandas.Series(texts, index=range(5000, 7100))
    expected = one.encode(texts, raw=True)
    assert expected.shape == (2100, 32)
    for rows in (gaps, np.array(texts), np.array(texts, dtype=object), iter(texts)):
        assert np.array_equal(one.encode(rows, raw=True), expected)
    short = gaps.where(gaps.index % 3 > 0).dropna()[:5]
    assert one.predict("mood", short) == one.predict("mood", short.tolist())


def test_n_23_rows_of_one_text(one, files):
    with (files / "base" / "dev.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    texts = [row["review"] for row in records]
    table = pandas.DataFrame({"review": texts})
    right, vectors = one.predict("mood", texts), one.encode(texts, raw=True)
    assert right[0] != one.predict("mood", "review")
    rights = (table, records, {"review": texts}, table.values, table["review"])
    for rows in rights:
        assert one.predict("mood", rows) == right
        assert one.predict_all(rows) == {"mood": right}
        assert np.array_equal(one.encode(rows, raw=True), vectors)
    for rows in ([{text} for text in texts], {"review": "abc"}, [{"text": "a"}]):
        with pytest.raises(ComityError):
            one.predict("mood", rows)


def test_n_23_rows_of_two_texts(two):
    (task,) = two.tasks
    table = pandas.DataFrame(
        {"title": ["Happy with the lamp", "Sent back"], "body": ["It works", ""]}
    )
    pairs = list(zip(table.title, table.body, strict=True))
    right = two.predict(task, pairs)
    for rows in (zip(*zip(*pairs, strict=True), strict=True), table, table.values):
        assert two.predict(task, rows) == right
    for rows in (table.to_dict("records"), pandas.Series(pairs, index=[7, 8])):
        assert two.predict(task, rows) == right
    with pytest.raises(ComityError, match='row 0: no column "title"'):
        two.predict(task, [{"text": a, "text_pair": b} for a, b in pairs])
    with pytest.raises(
        ComityError, match=r"row 1 \(index 8\) must be a pair of texts, got 'alone'"
    ):
        two.predict(task, pandas.Series([pairs[0], "alone"], index=[7, 8]))
