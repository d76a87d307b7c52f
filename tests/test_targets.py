"""Targets: spellings and order of labels, probabilities, expected scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from comity.targets import Classes, Target


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1.0", "0.0", "1"], ("0", "1")),
        (["10", "9", "-5", "100"], ("-5", "9", "10", "100")),
        (["2.5", "2.50", ".5"], (".5", "2.5", "2.50")),  # not all whole, so all are codes
        (["345.10", "780.39", "345.1"], ("345.1", "345.10", "780.39")),
        (["10", "01", "02"], ("01", "02", "10")),
        (["1", "01", "1.0"], ("01", "1", "1.0")),
        (["b", "a", " a "], ("a", "b")),
        (["NA", "None", "ok"], ("NA", "None", "ok")),
        (["True", "False", "True"], ("False", "True")),
        (["1", "x", "01"], ("01", "1", "x")),  # not all are numbers, so all are names
        (["1e5", "2"], ("1e5", "2")),
    ],
)
def test_classes_found(labels, names):
    assert Classes.found(labels).names == names


def test_other_spellings_of_known_labels():
    numbers = Classes(("0", "1"))
    assert numbers.indices(["1", "1.0", "01", " 0.00 ", "2", "x", ""]) == [
        1,
        1,
        1,
        0,
        None,
        None,
        None,
    ]
    booleans = Classes(("False", "True"))
    assert booleans.indices(["true", "FALSE", "1"]) == [1, 0, None]
    assert Classes(("Yes", "no")).indices(["yes", "no"]) == [None, 1]


@given(st.lists(st.integers(-999, 999), min_size=1))
def test_numbers_sort_by_value_however_they_are_written(values):
    written = [f"{value}.0" if value % 2 else str(value) for value in values]
    assert [float(name) for name in Classes.found(written).names] == sorted(set(values))


def test_two_classes_are_one_logit_and_the_last_is_positive():
    target = Target("classification", "linear", classes=("no", "yes"))
    outputs = np.array([[2.0], [-1.0], [0.0]])
    assert target.outputs == 1
    assert [target.label(p) for p in target.predictions(outputs)] == ["yes", "no", "no"]
    probabilities = target.probabilities(outputs)
    assert probabilities is not None
    np.testing.assert_allclose(probabilities[:, 1], expit(outputs[:, 0]))


def test_many_classes():
    target = Target("classification", "linear", classes=("1", "2", "3"))
    outputs = np.array([[1000.0, 2.0, -1000.0], [0.1, 0.3, 0.2]])
    np.testing.assert_allclose(target.probabilities(outputs), softmax(outputs, axis=1))
    assert [target.label(p) for p in target.predictions(outputs)] == ["1", "2"]


def test_bins_round_halves_up_and_predict_the_expected_score():
    target = Target("similarity", "bins", scale=(0.0, 5.0))
    assert target.outputs == 6
    assert target.trained_on(np.array([0.5, 1.5, 2.4999, 4.5, 5.0])).tolist() == [1, 2, 2, 5, 5]
    outputs = np.array([[0.0, 1.0, 0.5, -1.0, 2.0, 0.3]])
    expected = float(softmax(outputs[0]) @ np.arange(6))
    assert target.predictions(outputs)[0] == pytest.approx(expected)
    shifted = Target("similarity", "bins", scale=(1.0, 3.0))
    assert shifted.trained_on(np.array([1.0, 2.5])).tolist() == [0, 2]


def test_scores_are_normalised_and_restored():
    target = Target("similarity", "regression", scale=(1.0, 5.0))
    assert target.trained_on(np.array([1.0, 3.0, 5.0])).tolist() == [0.0, 0.5, 1.0]
    assert target.predictions(np.array([[0.5], [0.75]])).tolist() == [3.0, 4.0]
    number = Target("regression", "regression", mean=10.0, deviation=4.0)
    assert number.trained_on(np.array([14.0])).tolist() == [1.0]
    assert number.predictions(np.array([[1.0], [-2.5]])).tolist() == [14.0, 0.0]


@pytest.mark.parametrize("head", ["regression", "cosine"])
def test_scores_of_a_similarity_are_clipped_to_the_scale(head):
    """By hand: outputs 0 to 1 are the scale from 1 to 5."""
    target = Target("similarity", head, scale=(1.0, 5.0))
    outputs = np.array([[-0.5], [0.0], [0.25], [1.0], [1.0000001], [1.25], [-1e-7]])
    assert target.predictions(outputs).tolist() == [1.0, 1.0, 2.0, 5.0, 5.0, 5.0, 1.0]
    # The others are outside by rounding alone.
    assert target.clipped(outputs).tolist() == [True, *[False] * 4, True, False]


def test_only_scores_of_a_similarity_are_clipped():
    number = Target("regression", "regression", mean=10.0, deviation=4.0)
    outputs = np.array([[-9.0], [9.0]])
    assert number.predictions(outputs).tolist() == [-26.0, 46.0]
    assert number.clipped(outputs).tolist() == [False, False]
    bins = Target("similarity", "bins", scale=(0.0, 5.0))
    outputs = np.array([[0.0, 0, 0, 0, 0, 900.0]])
    assert bins.predictions(outputs).tolist() == [5.0]
    assert not bins.clipped(outputs).any()
    classes = Target("classification", "linear", ("a", "b"))
    assert not classes.clipped(np.array([[3.0]])).any()


def test_a_score_that_is_not_finite_stays_so():
    target = Target("similarity", "regression", scale=(0.0, 5.0))
    assert np.isnan(target.predictions(np.array([[np.nan]]))).all()


def test_multi_label():
    target = Target("multi-label", "linear", classes=("blue", "red"))
    found = target.predictions(np.array([[1.0, -2.0], [-1.0, -1.0], [3.0, 0.1]]))
    assert [target.label(row) for row in found] == [["blue"], [], ["blue", "red"]]


def test_a_target_is_restored_from_its_json():
    target = Target("similarity", "bins", classes=(), scale=(0.0, 4.0), mean=0.5)
    assert Target.from_dict(target.to_dict()) == target


def test_one_vs_all_equals_scikit_learns_one_vs_rest():
    """The logits are those of its estimators."""
    draws = np.random.default_rng(0)
    gold = np.repeat(np.arange(4), 30)
    values = draws.normal(size=(120, 3)) + draws.normal(size=(4, 3))[gold]
    theirs = OneVsRestClassifier(LogisticRegression()).fit(values, gold)
    logits = theirs.decision_function(values)
    target = Target("classification", "linear", classes=tuple("abcd"), one_vs_all=True)
    assert target.outputs == 4
    found = target.probabilities(logits)
    assert found is not None
    np.testing.assert_allclose(found, theirs.predict_proba(values), atol=1e-12)
    np.testing.assert_array_equal(target.predictions(logits), theirs.predict(values))
    assert np.abs(found - softmax(logits, axis=1)).max() > 0.05


def test_one_vs_all_of_hopeless_classes_has_probabilities():
    """Where every sigmoid is 0 in float64."""
    target = Target("classification", "linear", classes=("a", "b", "c"), one_vs_all=True)
    logits = np.array([[-1000.0, -1001.0, -1002.0], [1000.0, 999.0, -1000.0]])
    found = target.probabilities(logits)
    assert found is not None
    np.testing.assert_allclose(found[0], softmax([0.0, -1.0, -2.0]))
    np.testing.assert_allclose(found[1], [0.5, 0.5, 0.0])


def test_a_target_of_an_older_version_has_a_softmax():
    values = Target("classification", "linear", classes=("a", "b", "c"), one_vs_all=True).to_dict()
    assert Target.from_dict(values).one_vs_all
    del values["one_vs_all"]
    assert not Target.from_dict(values).one_vs_all


# --- two heads: view = "both" ---------------------------------------------------------------------


def test_the_probabilities_of_two_heads_are_averaged_and_not_their_logits():
    target = Target("classification", "linear", ("a", "b", "c"), text_head="linear", mix=0.25)
    assert target.outputs == 6
    pair, texts = np.array([[9.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    outputs = np.concatenate([pair, texts], axis=1)
    expected = 0.25 * softmax(pair, axis=1) + 0.75 * softmax(texts, axis=1)
    np.testing.assert_allclose(np.asarray(target.probabilities(outputs)), expected)
    assert target.predictions(outputs).tolist() == [1]
    assert (0.25 * pair + 0.75 * texts).argmax() == 0  # logits would say another class


def test_two_heads_of_two_classes():
    target = Target("classification", "linear", ("no", "yes"), text_head="linear")
    assert target.outputs == 2
    outputs = np.array([[0.0, 0.0], [5.0, -1.0], [-5.0, 1.0], [40.0, -800.0]])
    expected = expit(outputs).mean(axis=1)
    np.testing.assert_allclose(np.asarray(target.probabilities(outputs))[:, 1], expected)
    assert target.predictions(outputs).tolist() == [0, 1, 0, 0]


def test_scores_of_two_heads_are_clipped_before_they_are_averaged():
    scale = (1.0, 5.0)
    target = Target("similarity", "regression", scale=scale, text_head="cosine", mix=0.75)
    outputs = np.array([[1.5, 0.5], [0.25, -0.5], [0.5, 0.5], [-1, -2]])  # shares of the scale
    assert target.probabilities(outputs) is None
    expected = [0.75 * 5 + 0.25 * 3, 0.75 * 2 + 0.25 * 1, 3, 1]
    assert target.predictions(outputs).tolist() == pytest.approx(expected)
    assert target.clipped(outputs).tolist() == [False, False, False, True]  # an end of the scale
    assert target.clipped(np.array([[1.1, -0.1], [1.1, 1.1]])).tolist() == [False, True]
    assert not target.has_levels


def test_bins_count_by_their_expected_score():
    target = Target("similarity", "bins", scale=(0.0, 2.0), text_head="cosine")
    levels = np.log([[0.2, 0.3, 0.5]])
    outputs = np.concatenate([levels, [[0.9]]], axis=1)
    assert target.predictions(outputs).tolist() == pytest.approx([(1.3 + 1.8) / 2])
    assert target.probabilities(outputs) is None
    assert not target.has_levels
    both = Target("similarity", "bins", scale=(0.0, 2.0), text_head="bins")
    outputs = np.concatenate([levels, np.log([[0.6, 0.2, 0.2]])], axis=1)
    np.testing.assert_allclose(np.asarray(both.probabilities(outputs)), [[0.4, 0.25, 0.35]])
    assert both.predictions(outputs).tolist() == pytest.approx([0.95])
    assert both.has_levels


def test_two_heads_of_a_regression():
    target = Target("regression", "regression", mean=10.0, deviation=4.0, text_head="regression")
    assert target.predictions(np.array([[1.0, -3.0]])).tolist() == [(14 + -2) / 2]


def test_a_target_of_an_older_version_has_one_head():
    values = Target("similarity", "bins", text_head="cosine", mix=0.25).to_dict()
    assert Target.from_dict(values).text_head == "cosine"
    del values["text_head"], values["mix"]
    assert Target.from_dict(values) == Target("similarity", "bins")
