"""What an evaluation says of classes, and of a model that predicts all rows alike."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from comity.data.splits import Split
from comity.data.token_cache import TokenTable
from comity.evaluation.evaluate import Evaluation, evaluate_outputs
from comity.targets import HeadSpec, Target
from comity.terminal.views import show_evaluation

ADVICE = "; train longer, raise the learning rate, or train more of the encoder"


def evaluated(target: Target, metric: str, gold, outputs) -> Evaluation:
    count = len(gold)
    table = TokenTable(
        Path("dev.csv"), (), (), np.arange(count), np.zeros((count, 0), np.uint64), {}, ""
    )
    split = Split(table, np.arange(count), np.array(gold))
    numbers = np.array(outputs, dtype=np.float64)
    return evaluate_outputs("task", HeadSpec(target, ("first",)), metric, split, numbers)


def classified(names, gold, predicted) -> Evaluation:
    """An evaluation of the classes at the given indices."""
    target = Target("classification", "linear", classes=tuple(names))
    outputs = 5 * np.eye(len(names))[predicted]
    if len(names) == 2:
        outputs = outputs[:, 1:] - outputs[:, :1]
    return evaluated(target, "accuracy", gold, outputs)


def test_json_has_the_names_and_the_scores_of_the_classes():
    gold, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]
    values = json.loads(json.dumps(classified("abc", gold, predicted).to_dict(), allow_nan=False))
    assert values["classes"] == ["a", "b", "c"]
    assert values["confusion_matrix"] == sklearn.metrics.confusion_matrix(gold, predicted).tolist()
    report: Any = sklearn.metrics.classification_report(
        gold, predicted, target_names=["a", "b", "c"], output_dict=True
    )
    for name, scores in values["per_class"].items():
        theirs = report[name]
        ours = [scores[key] for key in ("precision", "recall", "f1", "rows")]
        keys = ("precision", "recall", "f1-score", "support")
        assert ours == pytest.approx([theirs[key] for key in keys])
    assert values["others"]["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert values["others"]["mcc"] == pytest.approx(
        sklearn.metrics.matthews_corrcoef(gold, predicted)
    )
    assert "warning" not in values


def test_json_has_the_scores_of_each_label():
    target = Target("multi-label", "linear", classes=("up", "down", "left"))
    gold = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    values = evaluated(target, "micro_f1", gold, [[1, -1, -1], [-1, 1, -1], [1, -1, -1]]).to_dict()
    assert values["per_class"] == {
        "up": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2, "predicted": 2},
        "down": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 1, "predicted": 1},
        "left": {"precision": None, "recall": None, "f1": None, "rows": 0, "predicted": 0},
    }
    assert "confusion_matrix" not in values


def test_numbers_have_their_mean_absolute_error():
    target = Target("regression", "regression", mean=2.0, deviation=2.0)
    values = evaluated(target, "pearson", [1.0, 2.0, 6.0], [[0.0], [0.5], [1.0]]).to_dict()
    assert values["others"]["mae"] == pytest.approx((1 + 1 + 2) / 3)
    assert "classes" not in values


def test_levels_of_the_bins_head_are_named():
    target = Target("similarity", "bins", scale=(1.0, 3.0))
    values = evaluated(target, "pearson", [1.0, 3.0], [[9, 0, 0], [0, 9, 0]]).to_dict()
    assert values["classes"] == ["1", "2", "3"]
    assert values["confusion_matrix"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert "per_class" not in values


@pytest.mark.parametrize(
    ("gold", "predicted", "warning"),
    [
        ([0, 1, 1], [1, 1, 1], 'all 3 rows are predicted as "b", but 1 has another class'),
        ([0, 0, 0, 1], [1] * 4, 'all 4 rows are predicted as "b", but 3 have another class'),
        ([0, 0], [1, 1], 'all 2 rows are predicted as "b", but 2 have another class'),
        ([1, 1, 1], [1, 1, 1], None),  # there is no other class
        ([0, 1, 1], [1, 1, 0], None),
        ([0], [1], None),  # one row is predicted as one class whatever the model
    ],
)
def test_a_model_that_predicts_one_class_is_warned_of(gold, predicted, warning):
    found = classified("ab", gold, predicted)
    assert found.warning == (warning and warning + ADVICE)
    assert found.to_dict().get("warning") == found.warning


def test_a_model_that_predicts_no_label_is_warned_of():
    target = Target("multi-label", "linear", classes=("up", "down"))
    none, some = [[-1, -1]] * 3, [[-1, -1], [-1, 1], [-1, -1]]
    gold = [[1, 0], [0, 0], [1, 1]]
    warning = "no label is predicted for any of 3 rows, but 2 have one" + ADVICE
    assert evaluated(target, "micro_f1", gold, none).warning == warning
    assert evaluated(target, "micro_f1", gold, some).warning is None
    assert evaluated(target, "micro_f1", np.zeros((3, 2), int), none).warning is None


def test_outputs_that_are_not_finite_are_no_prediction_of_one_class():
    target = Target("classification", "linear", classes=("a", "b"))
    found = evaluated(target, "accuracy", [0, 1, 1], [[math.nan], [math.nan], [1.0]])
    assert (found.warning, found.confusion, found.classes) == (None, None, [])
    assert found.score.reason == "the model's output is not finite for 2 of 3 rows"
    assert {score.value for score in found.others.values()} == {None}


# --- for people -----------------------------------------------------------------------------------


def shown(capsys, evaluation: Evaluation) -> list[str]:
    capsys.readouterr()
    show_evaluation(evaluation)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def cells(lines: list[str], first: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    return [row for row in rows if row[0] == first]


def test_the_tables_have_the_numbers(capsys):
    lines = shown(capsys, classified(["no", "yes"], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]))
    assert cells(lines, "yes") == [
        ["yes", "0.6667", "0.6667", "0.6667", "3", "3"],
        ["yes", "1", "2"],
    ]
    assert lines[0].startswith("task, 5 rows: macro_f1 0.5833, balanced_accuracy 0.5833, mcc ")


@pytest.mark.parametrize("names", ["short", "long"])
@pytest.mark.parametrize("count", [2, 3, 8, 9, 30])
def test_the_tables_fit_into_80_columns(capsys, monkeypatch, names, count):
    monkeypatch.setenv("COLUMNS", "80")
    draws = np.random.default_rng(0)
    classes = [f"c{n}" if names == "short" else f"the class number {n} " * 3 for n in range(count)]
    gold, predicted = draws.integers(count, size=(2, 30_000))
    lines = shown(capsys, classified([name.strip() for name in classes], gold, predicted))
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 80
    matrix = any("rows by true class" in line for line in lines)
    assert matrix == (count <= 8)
    text = "\n".join(lines)
    assert ("Only the 20 classes with the most rows are shown, of 30; --json has all." in text) == (
        count == 30
    )
    assert ("kinds of confusion are shown" in text) == (count > 8)
    assert "…" not in text


def test_of_many_classes_the_most_frequent_confusions_are_shown(capsys):
    gold, predicted = np.repeat(np.arange(10), 4), np.repeat(np.arange(10), 4)
    predicted[:3] = 7  # class 0
    predicted[4] = 2  # class 1
    lines = shown(capsys, classified([f"c{n}" for n in range(10)], gold, predicted))
    start = next(n for n, line in enumerate(lines) if "Most frequent confusions" in line)
    rows = [row for name in ("c0", "c1") for row in cells(lines[start:], name)]
    assert rows == [["c0", "c7", "3"], ["c1", "c2", "1"]]
    assert not any("kinds of confusion" in line for line in lines)


def test_warnings_and_reasons_are_printed(capsys):
    lines = shown(capsys, classified("ab", [0, 1], [1, 1]))
    assert lines[-1].startswith('Warning: task: all 2 rows are predicted as "b"')
    target = Target("regression", "regression")
    lines = shown(capsys, evaluated(target, "pearson", [1.0, 1.0], [[0.0], [1.0]]))
    assert lines[-1] == "task: pearson has no value (all 2 gold scores are 1.0)"
