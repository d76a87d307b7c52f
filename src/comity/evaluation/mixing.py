"""The share of each head of `view = "both"`, fitted on dev rows.

As in a calibration, the gain is measured by cross-fitting, and a share that does not help there is
left out.
"""

from dataclasses import replace

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

    def stays(equal: float | None, cross_fitted: float | None, reason: str) -> TaskMix:
        return TaskMix(0.5, metric, equal, cross_fitted, [f"the mix stays 0.5: {reason}"])

    if reason := not_finite(outputs):
        return stays(None, None, reason)
    equal = METRICS[metric](gold, target.predictions(outputs)).value
    if len(gold) < LEAST_ROWS:
        few = f"{len(gold)} dev rows are too few, {LEAST_ROWS} are needed"
        return stays(equal, None, few)
    cross_fitted = _cross_fitted(task, target, metric, gold, outputs)
    if equal is None or cross_fitted is None:
        return stays(equal, cross_fitted, f"{metric} has no value")
    if not _is_better(metric, cross_fitted, equal):
        return stays(
            equal, cross_fitted, f"a fitted one did not improve the cross-fitted {metric}"
        )
    return TaskMix(best_share(target, metric, gold, outputs), metric, equal, cross_fitted)


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


def _cross_fitted(
    task: str, target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> float | None:
    """The metric of all rows, each predicted with the share of the half that it is not in."""
    predictions = target.predictions(outputs)
    first, second = halves(task, gold)
    for fitted, measured in ((first, second), (second, first)):
        share = best_share(target, metric, gold[fitted], outputs[fitted])
        predictions[measured] = replace(target, mix=share).predictions(outputs[measured])
    return METRICS[metric](gold, predictions).value
