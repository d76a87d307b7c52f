"""How far chance may have moved a score: bootstrap intervals over the judged rows.

A resample draws as many rows as there are, with replacement; here it is how often each row was
drawn: `counts: [R, n]`. Every metric is arithmetic on those counts, for R resamples at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.evaluation.metrics import METRICS
from comity.rng import BOOTSTRAP, generator

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 1 << 19
"""Counts that are held at a time."""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a value lies at 95 %; `skipped` resamples gave no value and are left out."""

    low: float
    high: float
    skipped: int = 0

    @property
    def sign(self) -> int:
        """1 where all of it is above zero, -1 below, 0 where it holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def interval(
    metric: str, gold: ArrayLike, predicted: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The 95 % percentile interval of a metric over rows (Efron & Tibshirani 1993, chapter 13).

    None where the metric has no value. `gold, predicted` as the metric takes them.
    """
    return percentile(resampled(metric, gold, [predicted], resamples, seed)[0])


def percentile(values: NDArray[np.float64]) -> Interval | None:
    """The interval that holds the middle 95 % of resampled values; None where all are NaN."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), len(values) - len(finite))


def resampled(
    metric: str,
    gold: ArrayLike,
    predictions: Sequence[ArrayLike],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The metric of each of K `predictions` over the same resamples of the rows: `[K, R]`.

    NaN where a resample has no value (all its gold scores are equal, say), and all along a row
    where the metric has none for the predictions as they are.
    """
    gold, columns = np.asarray(gold), [np.asarray(predicted) for predicted in predictions]
    values = np.full((len(columns), resamples), np.nan)
    known = [k for k, one in enumerate(columns) if METRICS[metric](gold, one).value is not None]
    start = 0
    for counts in _draws(len(gold), resamples, seed) if known else ():
        stop = start + len(counts)
        for k in known:
            values[k, start:stop] = _RESAMPLED[metric](counts, gold, columns[k])
        start = stop
    return values


def _draws(rows: int, resamples: int, seed: int) -> Iterator[Counts]:
    """The counts of all resamples, some at a time: `[at most BLOCK / n, n]`."""
    draws = generator(BOOTSTRAP, seed)
    size = max(BLOCK // rows, 1)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = draws.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=count * rows)
        yield flat.reshape(count, rows).astype(np.float64)


# --- the metrics on counts [R, n]: values [R] -----------------------------------------------------


def _accuracy(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return counts @ (gold == predicted) / counts.sum(axis=1)


def _macro_f1(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    classes, numbers = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    marks = np.eye(len(classes))[numbers]  # [2n, C]
    in_gold, in_predicted = marks[: len(gold)], marks[len(gold) :]
    positives = counts @ (in_gold + in_predicted)  # [R, C]
    right = counts @ (in_gold * in_predicted)
    # A class that stands in neither column of a resample has no F1 there.
    present = positives > 0
    return (2 * right / np.where(present, positives, 1)).sum(axis=1) / present.sum(axis=1)


def _micro_f1(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    gold, predicted = gold.astype(bool), predicted.astype(bool)
    positives = counts @ (gold.sum(axis=1) + predicted.sum(axis=1))
    right = counts @ (gold & predicted).sum(axis=1)
    return np.where(positives > 0, 2 * right / np.where(positives > 0, positives, 1), np.nan)


def _pearson(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return _correlation(counts, _unit(gold)[None], _unit(predicted)[None])


def _spearman(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return _correlation(counts, _ranks(counts, gold), _ranks(counts, predicted))


def _rmse(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    errors = predicted.astype(np.float64) - gold
    return np.sqrt(counts @ np.square(errors) / counts.sum(axis=1))


_RESAMPLED: dict[str, Callable[[Counts, NDArray, NDArray], NDArray[np.float64]]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "pearson": _pearson,
    "spearman": _spearman,
    "rmse": _rmse,
}


def _unit(numbers: NDArray) -> NDArray[np.float64]:
    """Moved and scaled into [-1, 1], which changes no correlation; not all of them are equal."""
    scaled = numbers / np.abs(numbers).max()
    moved = scaled - scaled[0]
    return moved / np.abs(moved).max()


def _ranks(counts: Counts, numbers: NDArray) -> NDArray[np.float64]:
    """Each row's rank in each resample, the mean over equal numbers: `[R, n]`, without a sort."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    of_value = np.add.reduceat(counts[:, order], np.flatnonzero(new), axis=1)
    ranks = np.cumsum(of_value, axis=1) - (of_value - 1) / 2
    places = np.empty(len(numbers), dtype=np.int64)
    places[order] = np.cumsum(new) - 1
    return ranks[:, places]


def _correlation(counts: Counts, x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """Pearson's correlation of `x, y: [R or 1, n]` in each resample; NaN where one is constant."""
    rows = counts.sum(axis=1, keepdims=True)
    constant = _constant(counts, x) | _constant(counts, y)
    x = x - (counts * x).sum(axis=1, keepdims=True) / rows
    y = y - (counts * y).sum(axis=1, keepdims=True) / rows
    weighted = counts * x
    product = (weighted * y).sum(axis=1)
    squares = (weighted * x).sum(axis=1) * (counts * y * y).sum(axis=1)
    correlations = product / np.sqrt(np.where(constant, 1.0, squares))
    return np.where(constant, np.nan, correlations.clip(-1, 1))


def _constant(counts: Counts, x: NDArray) -> NDArray[np.bool_]:
    """In which resamples `[R]` all drawn rows have one value, to within a few roundings."""
    drawn = counts > 0
    low = np.where(drawn, x, np.inf).min(axis=1)
    high = np.where(drawn, x, -np.inf).max(axis=1)
    return high - low <= 4 * np.finfo(np.float64).eps
