"""Calibration: a temperature and a threshold for one task, fitted on dev rows.

Fitting and measuring on the same rows is optimistic, so the gain is measured by cross-fitting: each
half of the rows with what was fitted on the other half. What does not help there is left out.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.metrics import METRICS, calibration_gap, not_finite
from comity.rng import CALIBRATION, generator, name_key
from comity.runs.calibration import CalibrationScores, TaskCalibration
from comity.targets import Target

LEAST_ROWS = 40
"""Dev rows below which nothing is fitted."""

LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures. Rows that are all predicted right have no best temperature: the lower,
the better."""

DIGITS = 6
"""Digits of the probabilities that thresholds are chosen from, as in files of predictions."""


def calibrate(
    task: str, target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> TaskCalibration:
    """Fit a temperature and, for two classes or several labels, a threshold on dev rows.

    Args:
        task: its name; the halves of the rows are a function of it.
        target: of the task, not calibrated.
        metric: that the threshold maximises.
        gold: class numbers `[n]`, or indicators `[n, L]`.
        outputs: of the head, `[n, outputs]`.
    """
    threshold = target.threshold if target.has_threshold else None
    if reason := not_finite(outputs):
        return TaskCalibration(
            1.0, threshold, metric, None, None, [f"nothing was fitted: {reason}"]
        )
    as_trained = _scores(metric, gold, _probabilities(target, outputs), target.predictions(outputs))
    if len(gold) < LEAST_ROWS:
        note = f"nothing was fitted: {len(gold)} dev rows are too few, {LEAST_ROWS} are needed"
        return TaskCalibration(1.0, threshold, metric, as_trained, None, [note])
    cross_fitted = _cross_fitted(task, target, metric, gold, outputs)
    target, notes = _fitted_where_it_helps(target, metric, gold, outputs, as_trained, cross_fitted)
    threshold = target.threshold if target.has_threshold else None
    return TaskCalibration(target.temperature, threshold, metric, as_trained, cross_fitted, notes)


def _fitted_where_it_helps(
    target: Target,
    metric: str,
    gold: NDArray,
    outputs: NDArray[np.float64],
    before: CalibrationScores,
    after: CalibrationScores,
) -> tuple[Target, list[str]]:
    """The target with what was fitted on all rows, and sentences on what was not."""
    notes = []
    temperature = fit_temperature(target, gold, outputs)
    if temperature is None:
        notes.append(
            f"the temperature stays 1: none from {LOWEST:g} to {HIGHEST:g} has the lowest log loss "
            "(perhaps all dev rows are predicted right)"
        )
    elif after.log_loss >= before.log_loss:
        notes.append(
            "the temperature stays 1: a fitted one did not lower the cross-fitted log loss"
        )
    else:
        target = replace(target, temperature=temperature)
    if not target.has_threshold:
        return target, notes
    if before.value is None or after.value is None:
        notes.append(f"the threshold stays 0.5: {metric} has no value")
    elif after.value <= before.value:
        notes.append(
            f"the threshold stays 0.5: a fitted one did not raise the cross-fitted {metric}"
        )
    else:
        target = replace(target, threshold=fit_threshold(target, metric, gold, outputs))
    return target, notes


def fit_temperature(target: Target, gold: NDArray, outputs: NDArray[np.float64]) -> float | None:
    """The temperature T with the lowest log loss of `outputs / T` (Guo et al. 2017, section 4.2).

    None if the log loss has no minimum inside the range from `LOWEST` to `HIGHEST`.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        tried = replace(target, temperature=float(np.exp(log_temperature)))
        return log_loss(gold, _probabilities(tried, outputs))

    low, high = np.log(LOWEST), np.log(HIGHEST)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    best = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    return None if min(best - low, high - best) < 1e-3 else float(np.exp(best))


def fit_threshold(
    target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> float:
    """The threshold with the best metric, one for all labels; 0.5 if none is better than that.

    A threshold lies between two of the rows' probabilities, and every one between the same two
    gives the same predictions: the middle of the widest range of best thresholds is taken.
    """
    probabilities = _probabilities(target, outputs)
    positive = probabilities if target.kind == "multi-label" else probabilities[:, 1]
    scores = np.round(positive.ravel(), DIGITS)
    true = gold.ravel().astype(bool)
    levels, level_of = np.unique(scores, return_inverse=True)
    as_trained = METRICS[metric](gold, replace(target, threshold=0.5).predictions(outputs)).value
    if len(levels) < 2 or as_trained is None:
        return 0.5
    # What is at or below each level, but the highest, is predicted to be negative.
    negatives = np.bincount(level_of, weights=~true, minlength=len(levels)).cumsum()[:-1]
    missed = np.bincount(level_of, weights=true, minlength=len(levels)).cumsum()[:-1]
    values = _on_counts(metric, true.sum() - missed, (~true).sum() - negatives, missed, negatives)
    best = np.nanmax(values)
    if best <= as_trained + 1e-12:
        return 0.5
    ranges = _runs(values == best)
    low, high = max(ranges, key=lambda ends: levels[ends[1]] - levels[ends[0]])
    return float(levels[low] + levels[high]) / 2


def _on_counts(
    metric: str, hits: NDArray, false_alarms: NDArray, missed: NDArray, negatives: NDArray
) -> NDArray[np.float64]:
    """The metric `[m]` for m tables of two classes, by the number of rows in each cell."""
    counts = np.stack([hits, false_alarms, missed, negatives], axis=1).astype(np.float64)
    gold, predicted = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])  # of the cells
    if METRICS[metric].dimensions == 2:
        gold, predicted = gold[:, None], predicted[:, None]
    return METRICS[metric].on_counts(counts, gold, predicted)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The first index of each run of true flags, and the index after its last."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in changes.reshape(-1, 2)]


# --- cross-fitting --------------------------------------------------------------------------------


def _cross_fitted(
    task: str, target: Target, metric: str, gold: NDArray, outputs: NDArray[np.float64]
) -> CalibrationScores:
    """The scores of all rows, each with what was fitted on the half that it is not in."""
    probabilities = np.zeros_like(_probabilities(target, outputs))
    predictions = np.zeros(gold.shape, dtype=np.int64)
    first, second = halves(task, gold)
    for fitted, measured in ((first, second), (second, first)):
        temperature = fit_temperature(target, gold[fitted], outputs[fitted]) or 1.0
        found = replace(target, temperature=temperature)
        if target.has_threshold:
            threshold = fit_threshold(found, metric, gold[fitted], outputs[fitted])
            found = replace(found, threshold=threshold)
        probabilities[measured] = _probabilities(found, outputs[measured])
        predictions[measured] = found.predictions(outputs[measured])
    return _scores(metric, gold, probabilities, predictions)


def halves(task: str, gold: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row numbers of two random halves with the same share of each class.

    Rows of a multi-label task are divided by their number of labels.
    """
    order = generator(CALIBRATION, name_key(task)).permutation(len(gold))
    classes = gold if gold.ndim == 1 else gold.sum(axis=1)
    order = order[np.argsort(classes[order], kind="stable")]
    return order[::2], order[1::2]


# --- scores ---------------------------------------------------------------------------------------


def _scores(
    metric: str, gold: NDArray, probabilities: NDArray, predictions: NDArray
) -> CalibrationScores:
    if gold.ndim == 2:  # each label by itself, as in reports
        error = calibration_gap(probabilities.ravel(), gold.ravel() > 0)
    else:
        error = calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold)
    value = METRICS[metric](gold, predictions).value
    return CalibrationScores(value, log_loss(gold, probabilities), error)


def log_loss(gold: NDArray, probabilities: NDArray[np.float64]) -> float:
    """The mean of -log p of what is true, over rows and labels; `probabilities [n, classes]`."""
    if gold.ndim == 2:
        of_true = np.where(gold > 0, probabilities, 1 - probabilities)
    else:
        of_true = probabilities[np.arange(len(gold)), gold.astype(np.int64)]
    least = np.finfo(np.float64).eps  # the smallest probability that 1 - p can have
    return float(-np.log(np.maximum(of_true, least)).mean())


def _probabilities(target: Target, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities = target.probabilities(outputs)
    assert probabilities is not None  # only classes and labels are calibrated
    return probabilities
