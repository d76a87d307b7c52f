"""The share of each head of `view = "both"`, fitted on dev rows.

As in a calibration, the gain is measured by cross-fitting, and a share that does not help there is
left out.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.calibration import LEAST_ROWS, halves
from comity.evaluation.metrics import METRICS, higher_is_better, not_finite
from comity.runs.calibration import TaskMix
from comity.targets import Target

SHARES = [n / 20 for n in sorted(range(21), key=lambda n: (abs(n - 10), -n))]
"""The shares that are tried, from one half outwards. Of equally good ones the first is taken."""


def fit_mix(
    task: str, target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> TaskMix:
    """Fit the share of the first head on dev rows.

    Args:
        task: its name; the halves of the rows are a function of it.
        target: of the task, with equal shares and not calibrated.
        metric: that the share maximises or, of an error, minimises.
        gold: class numbers or scores `[n]`.
        outputs: of both heads, `[n, outputs]`.
    """
    if reason := not_finite(outputs):
        return _equal_shares(metric, None, None, reason)
    if len(gold) < LEAST_ROWS:
        few = f"{len(gold)} dev rows are too few, {LEAST_ROWS} are needed"
        return _equal_shares(metric, None, None, few)
    equal, cross_fitted = _on_halves(task, target, metric, gold, outputs)
    if equal is None or cross_fitted is None:
        return _equal_shares(metric, equal, cross_fitted, f"{metric} has no value")
    if not _is_better(metric, cross_fitted, equal):
        reason = f"a fitted one did not improve the cross-fitted {metric}"
        return _equal_shares(metric, equal, cross_fitted, reason)
    return TaskMix(best_share(target, metric, gold, outputs), metric, equal, cross_fitted)


def _equal_shares(
    metric: str, equal: float | None, cross_fitted: float | None, reason: str
) -> TaskMix:
    return TaskMix(0.5, metric, equal, cross_fitted, [f"the mix stays 0.5: {reason}"])


def best_share(target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]) -> float:
    """The share from 0 to 1, in steps of 0.05, with the best metric on these rows."""
    best, value = SHARES[0], None
    for share in SHARES:
        tried = METRICS[metric](gold, replace(target, mix=share).predictions(outputs)).value
        if tried is not None and (value is None or _is_better(metric, tried, value)):
            best, value = share, tried
    return best


def _is_better(metric: str, value: float, other: float) -> bool:
    """Whether a value is better than another one by more than rounding."""
    return (value - other if higher_is_better(metric) else other - value) > 1e-12


def _on_halves(
    task: str, target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """The metric with equal shares, and with the share that was fitted on the other half.

    Both are means over the two halves: heads differ in the range of their scores, so a correlation
    over rows with different shares would say nothing.
    """
    equal, cross_fitted = [], []
    first, second = halves(task, gold)
    for fitted, measured in ((first, second), (second, first)):
        share = best_share(target, metric, gold[fitted], outputs[fitted])
        for values, used in ((equal, 0.5), (cross_fitted, share)):
            predictions = replace(target, mix=used).predictions(outputs[measured])
            values.append(METRICS[metric](gold[measured], predictions).value)
    return _mean(equal), _mean(cross_fitted)


def _mean(values: list[float | None]) -> float | None:
    """The mean, or None if any value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
