"""Temperatures, thresholds and their cross-fitting, compared with scikit-learn and by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from comity.evaluation.calibration import (
    LEAST_ROWS,
    calibrate,
    fit_temperature,
    fit_threshold,
    halves,
)
from comity.targets import Target

TWO = Target("classification", "linear", classes=("no", "yes"))
THREE = Target("classification", "linear", classes=("a", "b", "c"))
LABELS = Target("multi-label", "linear", classes=("x", "y", "z"))


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn whose rows are logits already."""

    def __init__(self, count: int = 2):
        self.count = count

    def fit(self, X, y):
        self.classes_ = np.arange(self.count)
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X):
        return X[:, 0] if X.shape[1] == 1 else X

    def predict(self, X):
        return (X[:, 0] > 0).astype(int) if X.shape[1] == 1 else X.argmax(axis=1)


def drawn(target: Target, rows: int = 400, scale: float = 3.0, share: float = 0.5, seed: int = 0):
    """Gold labels, and logits that are too large by `scale`; `share` of positive labels."""
    draws = np.random.default_rng(seed)
    shape = (rows, target.outputs)
    logits = draws.normal(np.log(share / (1 - share)), 1.5, shape)
    if target.has_threshold:
        gold = (draws.random(shape) < expit(logits)).astype(np.int64)
        gold = gold if target.kind == "multi-label" else gold[:, 0]
    else:
        gold = np.array([draws.choice(3, p=p) for p in softmax(logits, axis=1)])
    return gold, scale * logits


def theirs(target: Target, gold, outputs) -> Any:
    """scikit-learn's temperature scaling, fitted on the rows."""
    logits = Logits(len(target.classes)).fit(outputs, gold)
    return CalibratedClassifierCV(FrozenEstimator(logits), method="temperature").fit(outputs, gold)


@pytest.mark.parametrize("target", [TWO, THREE])
def test_the_temperature_is_that_of_scikit_learn(target: Target):
    gold, outputs = drawn(target)
    found = fit_temperature(target, gold, outputs)
    assert found is not None
    assert found > 2  # the logits are three times too large
    probabilities: Any = replace(target, temperature=found).probabilities(outputs)
    expected = theirs(target, gold, outputs).predict_proba(outputs)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_the_temperature_of_labels_minimises_the_binary_cross_entropy():
    gold, outputs = drawn(LABELS)
    tried = np.linspace(1, 6, 2001)
    losses = [np.logaddexp(0, np.where(gold > 0, -outputs, outputs) / t).mean() for t in tried]
    assert fit_temperature(LABELS, gold, outputs) == pytest.approx(
        tried[np.argmin(losses)], abs=0.0025
    )


def test_a_temperature_changes_no_class():
    _, outputs = drawn(THREE)
    hot = replace(THREE, temperature=3.7)
    assert (hot.predictions(outputs) == THREE.predictions(outputs)).all()
    _, outputs = drawn(LABELS)
    hot = replace(LABELS, temperature=3.7)
    assert (hot.predictions(outputs) == LABELS.predictions(outputs)).all()


MEASURES: dict[str, Any] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": lambda gold, found: sklearn.metrics.f1_score(gold, found, average="macro"),
    "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
    "mcc": sklearn.metrics.matthews_corrcoef,
    "micro_f1": lambda gold, found: sklearn.metrics.f1_score(gold.ravel(), found.ravel()),
}


@pytest.mark.parametrize("metric", MEASURES)
def test_the_threshold_is_the_best_of_all(metric: str):
    target = replace(LABELS if metric == "micro_f1" else TWO, temperature=2.0)
    gold, outputs = drawn(target, rows=120, share=0.2)
    probabilities = expit(outputs / 2.0)
    flat = np.unique(np.round(probabilities, 6))
    wanted = gold if metric == "micro_f1" else gold[:, None]
    tried = {
        t: MEASURES[metric](wanted, (probabilities > t).astype(int))
        for t in [0.5, *((flat[1:] + flat[:-1]) / 2)]
    }
    found = fit_threshold(target, metric, gold, outputs)
    predicted = replace(target, threshold=found).predictions(outputs)
    assert MEASURES[metric](gold, predicted) == pytest.approx(max(tried.values()), abs=1e-12)
    assert ((probabilities > found).astype(int).reshape(predicted.shape) == predicted).all()


def test_the_threshold_is_the_middle_of_the_widest_range():
    # Accuracy is 4/5 at 0.5 and 1 between 0.2 and 0.4.
    outputs = np.log(
        np.array([0.1, 0.2, 0.4, 0.6, 0.9]) / (1 - np.array([0.1, 0.2, 0.4, 0.6, 0.9]))
    )
    assert fit_threshold(TWO, "accuracy", np.array([0, 0, 1, 1, 1]), outputs[:, None]) == (
        pytest.approx(0.3, abs=1e-6)
    )
    # Here it is best between 0.6 and 0.9, far from 0.5.
    gold = np.array([0, 1, 0, 0, 1])
    values = {t: ((expit(outputs) > t) == gold).mean() for t in (0.15, 0.3, 0.5, 0.75)}
    assert values == {0.15: 0.6, 0.3: 0.4, 0.5: 0.6, 0.75: 0.8}
    assert fit_threshold(TWO, "accuracy", gold, outputs[:, None]) == pytest.approx(0.75, abs=1e-6)


def test_ties_take_the_widest_range():
    p = np.array([0.1, 0.2, 0.3, 0.6, 0.9, 0.95])
    gold = np.array([0, 1, 0, 1, 0, 1])
    # The accuracy is 4/6 between 0.1 and 0.2, 0.3 and 0.6, and 0.9 and 0.95; 0.5 is one of these.
    outputs = np.log(p / (1 - p))[:, None]
    assert fit_threshold(TWO, "accuracy", gold, outputs) == 0.5
    shifted = outputs + 3  # now 0.5 predicts all rows to be positive, and three ranges are equal
    q = np.sort(expit(shifted[:, 0]))
    widest = max((q[0], q[1]), (q[2], q[3]), (q[4], q[5]), key=lambda ends: ends[1] - ends[0])
    assert fit_threshold(TWO, "accuracy", gold, shifted) == pytest.approx(sum(widest) / 2, abs=1e-6)


def test_the_halves_are_apart_and_have_the_same_classes():
    gold = np.array([0] * 51 + [1] * 9)
    first, second = halves("mood", gold)
    assert sorted([*first, *second]) == list(range(60))
    assert {gold[first].sum(), gold[second].sum()} == {4, 5}
    assert [*first] != [*halves("topic", gold)[0]]


def test_cross_fitting_measures_each_half_with_what_the_other_gave():
    gold, outputs = drawn(THREE, rows=200)
    found = calibrate("topic", THREE, "accuracy", gold, outputs)
    expected = np.zeros((200, 3))
    first, second = halves("topic", gold)
    for fitted, measured in ((first, second), (second, first)):
        model = theirs(THREE, gold[fitted], outputs[fitted])
        expected[measured] = model.predict_proba(outputs[measured])
    assert found.cross_fitted is not None
    assert found.as_trained is not None
    assert found.cross_fitted.log_loss == pytest.approx(
        sklearn.metrics.log_loss(gold, expected), abs=1e-5
    )
    own = -log_softmax(outputs, axis=1)[np.arange(200), gold].mean()
    assert found.as_trained.log_loss == pytest.approx(own)
    assert found.cross_fitted.log_loss < own
    assert found.cross_fitted.calibration_error < found.as_trained.calibration_error
    assert found.cross_fitted.value == found.as_trained.value  # no class has changed
    assert found.threshold is None
    assert found.notes == []


def test_no_label_of_a_half_reaches_the_predictions_for_it(monkeypatch: pytest.MonkeyPatch):
    gold, outputs = drawn(TWO, rows=80)
    first, second = halves("mood", gold)
    seen = []

    def record(target: Target, metric: str, gold: Any, outputs: Any) -> float:
        seen.append({float(value) for value in outputs[:, 0]})
        return 0.4

    monkeypatch.setattr("comity.evaluation.calibration.fit_threshold", record)
    calibrate("mood", TWO, "macro_f1", gold, outputs)
    assert seen[0] == set(outputs[first, 0])
    assert seen[1] == set(outputs[second, 0])


def test_thresholds_pay_for_rare_labels():
    gold, outputs = drawn(TWO, rows=2000, scale=1.0, share=0.1)
    found = calibrate("mood", TWO, "macro_f1", gold, outputs)
    assert found.threshold is not None
    assert 0.1 < found.threshold < 0.5
    assert found.as_trained is not None
    assert found.cross_fitted is not None
    assert found.cross_fitted.value is not None
    assert found.as_trained.value is not None
    assert found.cross_fitted.value > found.as_trained.value


def test_what_does_not_help_is_left_out():
    draws = np.random.default_rng(3)
    outputs = draws.normal(0, 1, (60, 1))
    gold = (draws.random(60) < expit(outputs[:, 0])).astype(int)
    found = calibrate("mood", TWO, "accuracy", gold, outputs)
    assert found.cross_fitted is not None
    assert found.as_trained is not None
    assert found.cross_fitted.log_loss >= found.as_trained.log_loss  # the logits are right as drawn
    assert (found.temperature, found.threshold) == (1.0, 0.5)
    assert found.notes == [
        "the temperature stays 1: a fitted one did not lower the cross-fitted log loss",
        "the threshold stays 0.5: a fitted one did not raise the cross-fitted accuracy",
    ]


def test_rows_that_are_all_right_have_no_temperature():
    gold = np.arange(60) % 2
    outputs = (4.0 * gold - 2 + np.linspace(-1, 1, 60))[:, None]
    found = calibrate("mood", TWO, "accuracy", gold, outputs)
    assert (found.temperature, found.threshold) == (1.0, 0.5)
    assert found.notes[0].endswith("(perhaps all dev rows are predicted right)")


def test_few_rows_and_infinite_outputs_are_not_calibrated():
    gold, outputs = drawn(TWO, rows=LEAST_ROWS - 1)
    found = calibrate("mood", TWO, "accuracy", gold, outputs)
    assert found.cross_fitted is None
    assert found.notes == ["nothing was fitted: 39 dev rows are too few, 40 are needed"]
    gold, outputs = drawn(TWO)
    outputs[7] = np.nan
    found = calibrate("mood", TWO, "accuracy", gold, outputs)
    assert (found.temperature, found.threshold, found.as_trained) == (1.0, 0.5, None)
    assert "not finite for 1 of 400 rows" in found.notes[0]


def test_the_calibration_error_of_labels_by_hand():
    # Two bins of 20 rows each: 0.8 where 10 are right, and 0.1 where 2 are.
    p = np.array([0.81] * 20 + [0.1] * 20)
    gold = np.array([1] * 10 + [0] * 10 + [1] * 2 + [0] * 18)[:, None]
    target = Target("multi-label", "linear", classes=("x",))
    outputs = np.log(p / (1 - p))[:, None]
    found = calibrate("tags", target, "micro_f1", gold, outputs)
    assert found.as_trained is not None
    assert found.as_trained.calibration_error == pytest.approx((0.31 + 0.0) / 2)


def test_a_metric_without_a_value_leaves_the_threshold():
    _, outputs = drawn(TWO, rows=60)
    found = calibrate("mood", TWO, "mcc", np.zeros(60, dtype=int), outputs)
    assert found.threshold == 0.5
    assert "the threshold stays 0.5: mcc has no value" in found.notes
