"""Bootstrap intervals: each resample against the library's metric, intervals, and coverage."""

from functools import partial

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comity.evaluation import bootstrap
from comity.evaluation.bootstrap import Interval, interval, percentile, resampled
from comity.evaluation.metrics import METRICS
from comity.rng import name_key

LIBRARY = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": partial(sklearn.metrics.f1_score, average="macro"),
    "micro_f1": partial(sklearn.metrics.f1_score, average="micro"),
    "pearson": lambda gold, predicted: scipy.stats.pearsonr(gold, predicted)[0],
    "spearman": lambda gold, predicted: scipy.stats.spearmanr(gold, predicted)[0],
    "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
    "mcc": sklearn.metrics.matthews_corrcoef,
    "rmse": sklearn.metrics.root_mean_squared_error,
    "mae": sklearn.metrics.mean_absolute_error,
}


def rows(metric: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predictions that agree in part."""
    draws = np.random.default_rng(seed)
    if metric in ("pearson", "spearman", "rmse", "mae"):
        gold = draws.integers(0, 11, count) / 2  # with ties, like graded scores
        return gold, gold + draws.normal(0, 2, count)
    shape = (count, 3) if metric == "micro_f1" else (count,)
    gold = draws.integers(0, 2 if metric == "micro_f1" else 4, shape)
    return gold, np.where(draws.random(shape) < 0.6, gold, 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=40)
def test_every_resample_has_the_value_of_the_library(metric, seed, count):
    gold, predicted = rows(metric, count, seed)
    assume(METRICS[metric](gold, predicted).value is not None)
    (counts,) = bootstrap._draws(count, 10, name_key("task"))
    (values,) = resampled(metric, gold, [predicted], "task", 10)
    for times, measured in zip(counts, values, strict=True):
        drawn = np.repeat(np.arange(count), times.astype(int))
        if np.isnan(measured):
            assert METRICS[metric](gold[drawn], predicted[drawn]).value is None
        else:
            expected = LIBRARY[metric](gold[drawn], predicted[drawn])
            assert measured == pytest.approx(expected, abs=1e-9)


def test_a_resample_without_a_value_is_nan():
    # Rows 0 and 1 have no label, so a resample of them alone has no F1; nor has one of equal
    # scores a correlation.
    counts = np.array([[1.0, 1, 0], [0, 1, 1]])
    labels = np.array([[0, 0], [0, 0], [0, 1]])
    scores = np.array([2.0, 2, 5])
    for metric, column in (("micro_f1", labels), ("pearson", scores), ("spearman", scores)):
        values = METRICS[metric].on_counts(counts, column, column)
        assert values.tolist() == pytest.approx([np.nan, 1.0], nan_ok=True), metric


@pytest.mark.parametrize("metric", ["accuracy", "pearson"])
def test_the_interval_equals_that_of_scipy(metric):
    gold, predicted = rows(metric, 150)
    found = interval(metric, gold, predicted, "task", resamples=4000)
    expected = scipy.stats.bootstrap(
        (gold, predicted),
        lambda x, y: METRICS[metric](x, y).value,
        paired=True,
        vectorized=False,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found is not None
    # A 2.5% point of 4,000 normal draws has a standard error of 0.043 deviations, about 0.011 of
    # the interval's width; the difference of two such points 0.016: this is five times as much.
    width = expected.high - expected.low
    assert [found.low, found.high] == pytest.approx([*expected], abs=0.08 * width)
    assert found.skipped == 0


def paired(metric, gold, first, second, resamples=1000):
    """The interval of the difference over the same resamples, as `comity compare` computes it."""
    values = resampled(metric, gold, [first, second], "task", resamples)
    return percentile(values[1] - values[0])


def test_the_paired_interval_equals_that_of_scipy():
    gold, first = rows("accuracy", 150)
    second = np.where(np.random.default_rng(5).random(150) < 0.2, gold, first)
    found = paired("accuracy", gold, first, second, resamples=4000)
    gains = (second == gold).astype(float) - (first == gold)
    expected = scipy.stats.bootstrap(
        (gains,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found is not None
    width = expected.high - expected.low
    assert [found.low, found.high] == pytest.approx([*expected], abs=0.08 * width)
    # Rows that are hard for both cancel out: the interval is far narrower than either score's own.
    own = interval("accuracy", gold, second, "task")
    assert own is not None
    assert width < 0.8 * (own.high - own.low)


def test_equal_predictions_have_a_difference_of_zero():
    gold, predicted = rows("pearson", 50)
    found = paired("pearson", gold, predicted, predicted)
    assert found == Interval(0.0, 0.0, 0)


def test_95_of_100_intervals_contain_the_true_correlation():
    held = 0
    for seed in range(200):
        draws = np.random.default_rng(seed)
        x, noise = draws.normal(size=(2, 120))
        found = interval(
            "pearson", x, 0.6 * x + 0.8 * noise, str(seed), resamples=400
        )  # correlation 0.6
        assert found is not None
        held += found.low <= 0.6 <= found.high
    # 200 draws at 0.95 have a standard deviation of 0.015; the percentile interval is known to be
    # slightly too narrow on so few rows.
    assert 0.89 <= held / 200 <= 0.99


def test_resamples_without_a_value_are_skipped_and_counted():
    # One of ten rows differs from the others. It is not drawn with probability 0.9 ** 10 = 0.349:
    # in 349 of 1,000 resamples, with a standard deviation of 15.
    gold = [0.0] * 9 + [1.0]
    found = interval("pearson", gold, np.arange(10.0), "task")
    assert found is not None
    assert found.skipped == pytest.approx(349, abs=60)
    assert np.isfinite([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("gold", "predicted"), [([1.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [np.nan, 1.0]), ([], [])]
)
def test_a_metric_without_a_value_has_no_interval(gold, predicted):
    assert interval("pearson", gold, predicted, "task") is None
    assert paired("pearson", gold, predicted, gold) is None
    assert paired("pearson", gold, gold, predicted) is None


def test_draws_follow_the_task_and_not_the_other_columns():
    gold, predicted = rows("accuracy", 40)
    alone = resampled("accuracy", gold, [predicted], "task", 300)
    both = resampled("accuracy", gold, [gold, predicted], "task", 300)
    assert alone[0].tolist() == both[1].tolist()
    assert set(both[0]) == {1.0}
    assert alone.tolist() != resampled("accuracy", gold, [predicted], "other", 300).tolist()


def test_resamples_drawn_in_blocks_are_complete(monkeypatch):
    gold, predicted = rows("spearman", 40)
    monkeypatch.setattr(bootstrap, "BLOCK", 280)  # seven resamples at a time
    values = resampled("spearman", gold, [predicted], "task", 100)[0]
    assert len(set(values)) > 90
    whole = percentile(values)
    assert whole is not None
    assert whole.skipped == 0


def test_class_names_work_like_class_numbers():
    gold, predicted = rows("macro_f1", 60)
    names = np.array(["a", "b", "c", "d"])
    for metric in ("accuracy", "macro_f1"):
        numbers = interval(metric, gold, predicted, "task")
        assert interval(metric, names[gold], names[predicted], "task") == numbers
