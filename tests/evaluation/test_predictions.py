"""Files of predictions: what is read equals what was written, and damaged files are refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comity import ComityError
from comity.data.splits import Split
from comity.data.token_cache import TokenTable
from comity.evaluation.metrics import not_finite
from comity.evaluation.predictions import cell, names_in, read_predictions, write_predictions
from comity.targets import Target

# Few characters, so that separators, quotes, line ends and JSON meet often.
NASTY = st.text(st.sampled_from("ab|;, \"'\n\r\\[]é"), max_size=6)
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
CLASSES = st.lists(NASTY | ANY, unique=True, min_size=2, max_size=5)
SEPARATORS = st.sampled_from([None, ";", ", ", "||", "["])
KINDS = st.sampled_from(["classification", "multi-label", "similarity", "regression"])
quick = settings(max_examples=150)


def split_of(targets: np.ndarray) -> Split:
    """A split of every second row of a table, whose lines start at 2 and leave gaps."""
    count = len(targets)
    keys = np.zeros((2 * count, 0), np.uint64)
    table = TokenTable(Path("dev.csv"), (), (), 2 + 3 * np.arange(2 * count), keys, {}, "abc")
    return Split(table, 2 * np.arange(count), targets)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Target, np.ndarray, np.ndarray]:
    """A target, gold targets of some rows, and a head's outputs for them."""
    kind, count = draw(KINDS), draw(st.integers(0, 6))
    draws = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind in ("classification", "multi-label"):
        target = Target(kind, "linear", classes=tuple(draw(CLASSES)))
        shape = (count,) if kind == "classification" else (count, len(target.classes))
        high = len(target.classes) if kind == "classification" else 2
        gold = draws.integers(high, size=shape)
    else:
        head = draw(st.sampled_from(["bins", "regression"])) if kind == "similarity" else kind
        unit = 1.0 if kind == "similarity" else draw(st.floats(1e-12, 1e12))
        target = Target(kind, head, scale=(0.0, 5.0), mean=unit, deviation=unit / 3)
        gold = unit * draws.normal(size=count)
    return target, gold, draws.normal(scale=3, size=(count, target.outputs))


@given(cases(), SEPARATORS)
@quick
def test_what_is_read_is_what_was_written(tmp_path_factory, case, separator):
    target, gold, outputs = case
    path = tmp_path_factory.mktemp("predictions") / "000007" / "task.csv"
    write_predictions(path, target, split_of(gold), outputs, separator)
    found = read_predictions(path, target, separator)
    assert found.lines == [2 + 6 * n for n in range(len(gold))]
    predicted, probabilities = target.predictions(outputs), target.probabilities(outputs)
    if target.kind == "classification":
        names = np.array(target.classes, dtype=object)
        gold, predicted = names[gold], names[predicted]
    assert found.gold.tolist() == gold.tolist()  # numbers to the last digit
    assert found.predicted.tolist() == predicted.tolist()
    if probabilities is None:
        assert found.probabilities is None
    else:
        assert found.probabilities is not None
        assert found.probabilities.shape == probabilities.shape
        assert np.abs(found.probabilities - probabilities).max(initial=0) <= 5.1e-7


@given(cases(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
@quick
def test_what_evaluate_refuses_is_refused_after_reading(tmp_path_factory, case, bad, data):
    target, gold, outputs = case
    assume(len(gold))
    row, column = (data.draw(st.integers(0, size - 1)) for size in outputs.shape)
    outputs[row, column] = bad  # an output of -inf alone has finite probabilities
    path = tmp_path_factory.mktemp("predictions") / "task.csv"
    write_predictions(path, target, split_of(gold), outputs)
    found = read_predictions(path, target)
    numbers = found.predicted if found.probabilities is None else found.probabilities
    assert not_finite(numbers) == not_finite(outputs)
    assert not_finite(outputs) is not None


@given(st.lists(NASTY), SEPARATORS)
@quick
def test_several_labels_in_a_cell_are_read_as_written(names, separator):
    assert names_in(cell(names, separator), separator) == names


def test_labels_are_joined_where_that_is_clear():
    assert cell(["a", "b"]) == "a|b"
    assert cell(["a|b", "c"], ";") == "a|b;c"
    assert cell([]) == ""
    for labels, written in (
        (["a|b", "c"], '["a|b", "c"]'),
        (["[d]"], '["[d]"]'),
        ([""], '[""]'),
    ):
        assert cell(labels) == written


def test_the_file_has_a_column_per_class(tmp_path):
    target = Target("classification", "linear", classes=("down", "up"))
    path = tmp_path / "mood.csv"
    write_predictions(path, target, split_of(np.array([1, 0])), np.array([[np.log(3)], [0.5]]))
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == ["line", "gold", "prediction", "p_down", "p_up"]
        assert next(csv.reader(file)) == ["2", "up", "up", "0.250000", "0.750000"]


def test_a_file_without_probabilities_is_read(tmp_path):
    target = Target("classification", "linear", classes=("down", "up"))
    path = tmp_path / "mood.csv"
    path.write_text("line,gold,prediction\n2,up,down\n")
    found = read_predictions(path, target)
    assert (found.gold.tolist(), found.predicted.tolist()) == (["up"], ["down"])
    assert found.probabilities is None


def test_classes_that_a_spreadsheet_would_run(tmp_path):
    target = Target("classification", "linear", classes=("=a", "-1", "'=a"))
    path = tmp_path / "mood.csv"
    outputs = np.eye(3)
    write_predictions(path, target, split_of(np.array([0, 1, 2])), outputs)
    with path.open(newline="") as file:
        assert [row[1:3] for row in csv.reader(file)][1:] == [
            ["'=a", "'=a"],
            ["-1", "-1"],
            ["''=a", "''=a"],
        ]
    assert read_predictions(path, target).predicted.tolist() == ["=a", "-1", "'=a"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gold,prediction\n",
        "line,gold\n2,up\n",
        "line,gold,prediction,p_down,p_up\n2,up\n",
        "line,gold,prediction,p_down,p_up\ntwo,up,up,0.5,0.5\n",
        "line,gold,prediction,p_down,p_up\n2,sideways,up,0.5,0.5\n",
        "line,gold,prediction,p_down,p_up\n2,up,up,0.5,much\n",
        'line,gold,prediction,p_down,p_up\n2,up,up,0.5,"' + "0" * 200_000,
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, text):
    target = Target("classification", "linear", classes=("down", "up"))
    path = tmp_path / "mood.csv"
    path.write_text(text)
    with pytest.raises(ComityError, match=r"mood\.csv: cannot be read as predictions") as caught:
        read_predictions(path, target)
    assert len(caught.value.messages) == 1


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ComityError, match="cannot be read as predictions"):
        read_predictions(tmp_path / "none.csv", Target("regression", "regression"))
