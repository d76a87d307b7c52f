"""Bootstrap confidence intervals of metrics, by resampling the evaluated rows.

A resample draws as many rows as there are, with replacement. It is stored as how often each row was
drawn, `counts: [R, n]`, from which a metric computes its values for R resamples at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.evaluation.metrics import METRICS, Counts
from comity.rng import BOOTSTRAP, generator, name_key

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 1 << 19
"""How many counts are in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """A 95% interval; `skipped` resamples had no value and are left out."""

    low: float
    high: float
    skipped: int = 0


def interval(
    metric: str,
    gold: ArrayLike,
    predicted: ArrayLike,
    task: str,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """The 95% percentile interval of a metric over rows (Efron & Tibshirani 1993, chapter 13).

    None where the metric has no value. `gold, predicted` are as the metric takes them. The rows
    drawn are a function of their number and the name of the task, so a score has one interval
    wherever it is shown.
    """
    return percentile(resampled(metric, gold, [predicted], task, resamples)[0])


def percentile(values: NDArray[np.float64]) -> Interval | None:
    """The interval of the middle 95% of resampled values; None where all of them are NaN."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), len(values) - len(finite))


def resampled(
    metric: str,
    gold: ArrayLike,
    predictions: Sequence[ArrayLike],
    task: str,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """The metric of each of K `predictions` over the same resamples of the rows: `[K, R]`.

    NaN where a resample has no value (for example, all its gold scores are equal). A whole line is
    NaN where the metric has no value for the predictions themselves.
    """
    gold, columns = np.asarray(gold), [np.asarray(predicted) for predicted in predictions]
    score = METRICS[metric]
    values = np.full((len(columns), resamples), np.nan)
    known = [k for k, column in enumerate(columns) if score(gold, column).value is not None]
    start = 0
    for counts in _draws(len(gold), resamples, name_key(task)) if known else ():
        stop = start + len(counts)
        for k in known:
            values[k, start:stop] = score.on_counts(counts, gold, columns[k])
        start = stop
    return values


def _draws(rows: int, resamples: int, seed: int) -> Iterator[Counts]:
    """The counts of all resamples in blocks of `[at most BLOCK / n, n]`."""
    draws = generator(BOOTSTRAP, seed)
    size = max(BLOCK // rows, 1)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = draws.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=count * rows)
        yield flat.reshape(count, rows).astype(np.float64)
