"""The share of each head of `view = "both"`, compared with SciPy and scikit-learn."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, root_mean_squared_error

from comity.evaluation.calibration import LEAST_ROWS, halves
from comity.evaluation.mixing import best_share, fit_mix
from comity.targets import Target

SCORES = Target("similarity", "bins", scale=(1.0, 4.0), text_head="cosine")
TWO = Target("classification", "linear", classes=("no", "yes"), text_head="linear")
TRIED = np.linspace(0, 1, 21)


def scores(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and outputs of a poor head with levels and a better cosine; some are negative."""
    draws = np.random.default_rng(seed)
    gold = draws.uniform(1, 4, rows)
    levels = -((np.arange(1, 5) - (gold + draws.normal(0, 1.5, rows))[:, None]) ** 2)
    cosines = (gold - 1) / 3 + draws.normal(0, 0.25, rows)
    return gold, np.hstack([levels, cosines[:, None]])


def classes(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, and outputs of a good head and a poor, overconfident one."""
    draws = np.random.default_rng(seed)
    gold = draws.integers(0, 2, rows)
    sign = 2.0 * gold[:, None] - 1
    return gold, sign * np.array([1.5, 0.5]) + draws.normal(0, 1, (rows, 2)) * np.array([1.5, 6.0])


def mixed_scores(outputs: np.ndarray, share: float) -> np.ndarray:
    """In [1, 4]: the expected level, and the cosine as a clipped share of the scale."""
    levels = softmax(outputs[:, :4], axis=1) @ np.arange(1, 5)
    return share * levels + (1 - share) * (1 + 3 * outputs[:, 4].clip(0, 1))


def mixed_classes(outputs: np.ndarray, share: float) -> np.ndarray:
    return (share * expit(outputs[:, 0]) + (1 - share) * expit(outputs[:, 1]) > 0.5).astype(int)


MEASURES: dict[str, Any] = {
    "pearson": (SCORES, scores, mixed_scores, lambda gold, found: pearsonr(gold, found)[0]),
    "rmse": (SCORES, scores, mixed_scores, lambda *pair: -root_mean_squared_error(*pair)),
    "accuracy": (TWO, classes, mixed_classes, accuracy_score),
}


def best_by_hand(metric: str, gold: np.ndarray, outputs: np.ndarray) -> float:
    """The best share; of equally good ones that nearest to one half, then the higher one."""
    _, _, mixed, measure = MEASURES[metric]
    values = np.array([measure(gold, mixed(outputs, share)) for share in TRIED])
    good = TRIED[values > values.max() - 1e-9]
    return max(good[np.abs(good - 0.5) < np.abs(good - 0.5).min() + 1e-9])


@pytest.mark.parametrize("metric", MEASURES)
def test_the_share_and_the_cross_fitted_score_are_those_by_hand(metric: str):
    target, drawn, mixed, measure = MEASURES[metric]
    gold, outputs = drawn()
    found = fit_mix("t", target, metric, gold, outputs)
    assert found.mix == pytest.approx(best_by_hand(metric, gold, outputs))
    assert found.mix != 0.5
    equal, cross_fitted = [], []
    first, second = halves("t", gold)
    for fitted, measured in ((first, second), (second, first)):
        share = best_by_hand(metric, gold[fitted], outputs[fitted])
        cross_fitted.append(measure(gold[measured], mixed(outputs[measured], share)))
        equal.append(measure(gold[measured], mixed(outputs[measured], 0.5)))
    sign = -1 if metric == "rmse" else 1
    assert found.cross_fitted == pytest.approx(sign * np.mean(cross_fitted))
    assert found.equal == pytest.approx(sign * np.mean(equal))
    assert found.notes == []


def test_of_equally_good_shares_the_one_nearest_to_one_half_is_taken():
    gold = np.array([0, 1] * 30)
    right = np.where(gold > 0, 3.0, -3.0)
    assert best_share(TWO, "accuracy", gold, np.stack([right, right], axis=1)) == 0.5
    # The second head is wrong and as sure, so that the first one wins as soon as it has more.
    assert best_share(TWO, "accuracy", gold, np.stack([right, -right], axis=1)) == 0.55
    assert best_share(TWO, "accuracy", gold, np.stack([-right, right], axis=1)) == 0.45


def test_a_share_that_does_not_help_other_rows_is_left_out():
    gold = np.random.default_rng(1).integers(0, 2, 60)
    outputs = np.random.default_rng(2).normal(0, 1, (60, 2))
    assert best_share(TWO, "accuracy", gold, outputs) != 0.5
    found = fit_mix("t", TWO, "accuracy", gold, outputs)
    assert found.cross_fitted is not None
    assert found.equal is not None
    assert found.cross_fitted <= found.equal
    assert found.mix == 0.5
    assert found.notes == [
        "the mix stays 0.5: a fitted one did not improve the cross-fitted accuracy"
    ]


def test_few_rows_infinite_outputs_and_a_metric_without_a_value_keep_one_half():
    gold, outputs = classes(LEAST_ROWS - 1)
    found = fit_mix("t", TWO, "accuracy", gold, outputs)
    assert (found.mix, found.cross_fitted) == (0.5, None)
    assert found.notes == ["the mix stays 0.5: 39 dev rows are too few, 40 are needed"]
    gold, outputs = classes()
    outputs[3, 1] = np.inf
    found = fit_mix("t", TWO, "accuracy", gold, outputs)
    assert (found.mix, found.equal) == (0.5, None)
    assert "not finite for 1 of 120 rows" in found.notes[0]
    found = fit_mix("t", SCORES, "pearson", np.full(60, 2.0), scores(60)[1])
    assert (found.mix, found.equal) == (0.5, None)
    assert found.notes == ["the mix stays 0.5: pearson has no value"]


def test_no_label_of_a_half_reaches_the_predictions_for_it(monkeypatch: pytest.MonkeyPatch):
    gold, outputs = classes(80)
    first, second = halves("t", gold)
    seen = []

    def record(target: Target, metric: str, gold: Any, outputs: Any) -> float:
        seen.append({float(value) for value in outputs[:, 0]})
        return 0.9

    monkeypatch.setattr("comity.evaluation.mixing.best_share", record)
    fit_mix("t", TWO, "accuracy", gold, outputs)
    assert seen[0] == set(outputs[first, 0])
    assert seen[1] == set(outputs[second, 0])
