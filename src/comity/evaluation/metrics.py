"""Metrics: the value of each, its form for bootstrap resamples, and which direction is better.

`METRICS` is the one table of them. Point values come from scikit-learn and scipy, which are
imported when they are first needed. A score without a value has a reason instead of a NaN.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.float64]
"""How often each of n rows is drawn in each of R resamples: `[R, n]`."""


@dataclass(frozen=True)
class Score:
    """One metric's value, or the reason why it has none.

    `value` is finite or None. `reason` is set where the value is None, and where a mean had to
    leave tasks out (`left_out` of them).
    """

    name: str
    value: float | None
    reason: str | None
    higher_is_better: bool
    left_out: int = 0


class _NoValueError(Exception):
    """The metric has no value for these rows; the message is the reason."""


@dataclass(frozen=True)
class Metric:
    """One metric; calling it gives a `Score`.

    `point(gold, predicted)` gives the value for at least one row. `on_counts(counts, gold,
    predicted)` gives the values `[R]` of R resamples of rows for which `point` has a value, NaN
    where a resample has none. Rows are `[n]`, or `[n, L]` where `dimensions` is 2.
    """

    name: str
    point: Callable[[NDArray, NDArray], float]
    on_counts: Callable[[Counts, NDArray, NDArray], NDArray[np.float64]]
    kinds: tuple[str, ...]  # of task
    higher_is_better: bool = True
    dimensions: int = 1

    def __call__(self, gold: ArrayLike, predicted: ArrayLike) -> Score:
        """The score of predictions against gold labels.

        Raises:
            ValueError: the shapes differ, or have the wrong number of dimensions.
        """
        gold, predicted = _same_shape(gold, predicted, self.dimensions)
        try:
            if not len(gold):
                raise _NoValueError("no rows")
            value = self.point(gold, predicted)
        except _NoValueError as reason:
            return Score(self.name, None, str(reason), self.higher_is_better)
        return Score(self.name, value, None, self.higher_is_better)


def not_finite(outputs: ArrayLike) -> str | None:
    """Why predictions have no score in any metric: the output for some row is not finite.

    None if all are finite. `outputs: [n, ...]` are the numbers behind the predictions: outputs of
    the head, probabilities, or predicted numbers. Even where they are NaN, some class is predicted.
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    lost = ~np.isfinite(outputs)
    wrong = int(lost.any(axis=tuple(range(1, lost.ndim))).sum())
    return f"the model's output is not finite for {wrong} of {len(outputs)} rows" if wrong else None


# --- accuracy -------------------------------------------------------------------------------------


def _accuracy(gold: NDArray, predicted: NDArray) -> float:
    """Share of rows predicted right, from class numbers or names `[n]`."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(gold, predicted))


def _accuracy_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return counts @ (gold == predicted) / counts.sum(axis=1)


def _balanced_accuracy(gold: NDArray, predicted: NDArray) -> float:
    """Mean recall over the classes that occur in gold, from class numbers or names `[n]`."""
    from sklearn.metrics import recall_score

    classes = np.unique(gold)
    return float(recall_score(gold, predicted, labels=classes, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _balanced_accuracy_on_counts(
    counts: Counts, gold: NDArray, predicted: NDArray
) -> NDArray[np.float64]:
    classes, numbers = np.unique(gold, return_inverse=True)
    in_gold = np.eye(len(classes))[numbers]  # [n, C]
    rows = counts @ in_gold  # [R, C]
    right = counts @ (in_gold * (gold == predicted)[:, None])
    present = rows > 0
    return (right / np.where(present, rows, 1)).sum(axis=1) / present.sum(axis=1)


def _mcc(gold: NDArray, predicted: NDArray) -> float:
    """Matthews' correlation coefficient for any number of classes (Gorodkin 2004), `[n]` classes.

    0 where all predictions are one class, as in scikit-learn; no value where all of gold is.
    """
    from sklearn.metrics import matthews_corrcoef

    if (gold == gold[0]).all():
        raise _NoValueError(f"all {len(gold)} gold labels are one class")
    return float(matthews_corrcoef(gold, predicted))


def _mcc_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    classes, numbers = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    indicators = np.eye(len(classes))[numbers]  # [2n, C]
    in_gold, in_predicted = counts @ indicators[: len(gold)], counts @ indicators[len(gold) :]
    rows, right = counts.sum(axis=1), counts @ (gold == predicted)
    covariance = right * rows - (in_gold * in_predicted).sum(axis=1)
    of_gold = rows**2 - (in_gold**2).sum(axis=1)
    of_predicted = rows**2 - (in_predicted**2).sum(axis=1)
    product = of_gold * of_predicted
    values = covariance / np.sqrt(np.where(product > 0, product, 1.0))
    return np.where(of_gold > 0, np.where(of_predicted > 0, values, 0.0), np.nan)


# --- F1 -------------------------------------------------------------------------------------------


def f1_per_class(gold: ArrayLike, predicted: ArrayLike) -> dict[int | str, float]:
    """F1 of each class that occurs in gold or in the predictions, in the order of the classes.

    `gold, predicted: [n]` class numbers or names. A class that occurs in neither has no F1.
    """
    from sklearn.metrics import f1_score

    gold, predicted = _same_shape(gold, predicted, dimensions=1)
    if not len(gold):
        return {}
    classes = np.unique(np.concatenate([gold, predicted]))
    # Every class occurs, so no F1 is 0 / 0; `zero_division` keeps undefined precisions quiet.
    f1 = f1_score(gold, predicted, labels=classes, average=None, zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return dict(zip(classes.tolist(), np.asarray(f1).tolist(), strict=True))


def _macro_f1(gold: NDArray, predicted: NDArray) -> float:
    """Unweighted mean of F1 over the classes that occur in gold or in the predictions.

    A class that is missing from a small dev set does not lower the score of a perfect prediction,
    and a class that is predicted but never right counts as 0, as in scikit-learn.
    """
    return float(np.mean([*f1_per_class(gold, predicted).values()]))


def _macro_f1_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    classes, numbers = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    indicators = np.eye(len(classes))[numbers]  # [2n, C]
    in_gold, in_predicted = indicators[: len(gold)], indicators[len(gold) :]
    positives = counts @ (in_gold + in_predicted)  # [R, C]
    right = counts @ (in_gold * in_predicted)
    # A class that occurs in neither column of a resample has no F1 there.
    present = positives > 0
    return (2 * right / np.where(present, positives, 1)).sum(axis=1) / present.sum(axis=1)


def _micro_f1(gold: NDArray, predicted: NDArray) -> float:
    """F1 over all decisions of a multi-label task, from indicators `[n, L]` (0 and 1, or bool)."""
    from sklearn.metrics import f1_score

    gold, predicted = gold.astype(bool), predicted.astype(bool)
    if not gold.any() and not predicted.any():
        raise _NoValueError(f"no label in gold or prediction in any of {len(gold)} rows")
    # Flat, since scikit-learn would take indicators of a single label for two classes.
    return float(f1_score(gold.ravel(), predicted.ravel(), zero_division=0.0))  # pyright: ignore[reportArgumentType]


def _micro_f1_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    gold, predicted = gold.astype(bool), predicted.astype(bool)
    positives = counts @ (gold.sum(axis=1) + predicted.sum(axis=1))
    right = counts @ (gold & predicted).sum(axis=1)
    return np.where(positives > 0, 2 * right / np.where(positives > 0, positives, 1), np.nan)


# --- correlations ---------------------------------------------------------------------------------


def _pearson(gold: NDArray, predicted: NDArray) -> float:
    """Pearson's correlation of two columns of numbers `[n]`.

    It has no value for fewer than two rows, or where one column is constant. Numbers that differ
    only by the rounding of float64 count as constant: their correlation is noise.
    """
    from scipy.stats import pearsonr

    gold, predicted = _correlatable(gold, predicted)
    found = pearsonr(_centred(gold), _centred(predicted))
    return float(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _pearson_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return _correlation_on_counts(counts, _unit_range(gold)[None], _unit_range(predicted)[None])


def _spearman(gold: NDArray, predicted: NDArray) -> float:
    """Spearman's correlation of two columns `[n]`; it has a value where Pearson's has one."""
    from scipy.stats import spearmanr

    found = spearmanr(*_correlatable(gold, predicted))
    return float(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _spearman_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    return _correlation_on_counts(
        counts, _ranks_on_counts(counts, gold), _ranks_on_counts(counts, predicted)
    )


def _correlatable(gold: NDArray, predicted: NDArray) -> tuple[NDArray, NDArray]:
    """Both columns as float64, once it is clear that they have a correlation."""
    if len(gold) < 2:
        raise _NoValueError("one row")
    gold, predicted = _finite(gold, predicted)
    if _constant(gold):
        raise _NoValueError(f"all {len(gold)} gold scores are {gold[0]}")
    if _constant(predicted):
        raise _NoValueError(f"all {len(predicted)} predictions are equal")
    return gold, predicted


def _scaled(numbers: NDArray) -> NDArray:
    """The numbers divided by a power of two, which is exact, so that squares stay in range."""
    return np.ldexp(numbers, -np.frexp(np.abs(numbers).max())[1])


def _constant(numbers: NDArray) -> bool:
    """Whether the numbers are equal to within a few roundings of float64."""
    return bool(np.ptp(_scaled(numbers)) <= 4 * np.finfo(np.float64).eps)


def _centred(numbers: NDArray) -> NDArray:
    """The scaled numbers minus their mean.

    The first number is subtracted before the mean, so that numbers far from zero lose no digits.
    """
    shifted = _scaled(numbers)
    shifted = shifted - shifted[0]
    return shifted - shifted.mean()


def _unit_range(numbers: NDArray) -> NDArray[np.float64]:
    """Numbers, not all equal, shifted and scaled into [-1, 1], which changes no correlation."""
    scaled = numbers / np.abs(numbers).max()
    shifted = scaled - scaled[0]
    return shifted / np.abs(shifted).max()


def _ranks_on_counts(counts: Counts, numbers: NDArray) -> NDArray[np.float64]:
    """Each row's rank in each resample `[R, n]`, the mean rank where numbers are equal.

    The numbers are sorted once, not once per resample.
    """
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    of_value = np.add.reduceat(counts[:, order], np.flatnonzero(is_new), axis=1)
    ranks = np.cumsum(of_value, axis=1) - (of_value - 1) / 2
    value_index = np.empty(len(numbers), dtype=np.int64)
    value_index[order] = np.cumsum(is_new) - 1
    return ranks[:, value_index]


def _correlation_on_counts(counts: Counts, x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """Pearson's correlation of `x, y: [R or 1, n]` in each resample; NaN where one is constant."""
    rows = counts.sum(axis=1, keepdims=True)
    constant = _constant_on_counts(counts, x) | _constant_on_counts(counts, y)
    x = x - (counts * x).sum(axis=1, keepdims=True) / rows
    y = y - (counts * y).sum(axis=1, keepdims=True) / rows
    weighted = counts * x
    product = (weighted * y).sum(axis=1)
    squares = (weighted * x).sum(axis=1) * (counts * y * y).sum(axis=1)
    correlations = product / np.sqrt(np.where(constant, 1.0, squares))
    return np.where(constant, np.nan, correlations.clip(-1, 1))


def _constant_on_counts(counts: Counts, x: NDArray) -> NDArray[np.bool_]:
    """In which resamples `[R]` all drawn rows have one value, to within a few roundings."""
    drawn = counts > 0
    low = np.where(drawn, x, np.inf).min(axis=1)
    high = np.where(drawn, x, -np.inf).max(axis=1)
    return high - low <= 4 * np.finfo(np.float64).eps


# --- errors ---------------------------------------------------------------------------------------


def _rmse(gold: NDArray, predicted: NDArray) -> float:
    """Root mean squared error of two columns of numbers `[n]`, in the unit of the target."""
    from sklearn.metrics import root_mean_squared_error

    return _error(root_mean_squared_error, gold, predicted, "square")


def _rmse_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    errors = predicted.astype(np.float64) - gold
    return np.sqrt(counts @ np.square(errors) / counts.sum(axis=1))


def _mae(gold: NDArray, predicted: NDArray) -> float:
    """Mean absolute error of two columns of numbers `[n]`, in the unit of the target."""
    from sklearn.metrics import mean_absolute_error

    return _error(mean_absolute_error, gold, predicted, "add")


def _mae_on_counts(counts: Counts, gold: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    errors = predicted.astype(np.float64) - gold
    return counts @ np.abs(errors) / counts.sum(axis=1)


def _error(measure: Callable[..., float], gold: NDArray, predicted: NDArray, use: str) -> float:
    """The value of a measure of errors that would overflow if it has to `use` large ones."""
    gold, predicted = _finite(gold, predicted)
    with np.errstate(over="ignore"):
        value = float(measure(gold, predicted))
    if not math.isfinite(value):
        raise _NoValueError(f"the errors are too large to {use}")
    return value


# --- the table ------------------------------------------------------------------------------------

_NUMBERS = ("regression", "similarity")

accuracy = Metric("accuracy", _accuracy, _accuracy_on_counts, ("classification",))
balanced_accuracy = Metric(
    "balanced_accuracy", _balanced_accuracy, _balanced_accuracy_on_counts, ("classification",)
)
mcc = Metric("mcc", _mcc, _mcc_on_counts, ("classification",))
macro_f1 = Metric("macro_f1", _macro_f1, _macro_f1_on_counts, ("classification",))
micro_f1 = Metric("micro_f1", _micro_f1, _micro_f1_on_counts, ("multi-label",), dimensions=2)
pearson = Metric("pearson", _pearson, _pearson_on_counts, _NUMBERS)
spearman = Metric("spearman", _spearman, _spearman_on_counts, _NUMBERS)
rmse = Metric("rmse", _rmse, _rmse_on_counts, _NUMBERS, higher_is_better=False)
mae = Metric("mae", _mae, _mae_on_counts, _NUMBERS, higher_is_better=False)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        accuracy, macro_f1, balanced_accuracy, mcc, micro_f1, pearson, spearman, rmse, mae,
    )
}  # fmt: skip


def metrics_of(kind: str) -> list[Metric]:
    """The metrics of a kind of task."""
    return [metric for metric in METRICS.values() if kind in metric.kinds]


def higher_is_better(name: str) -> bool:
    """Whether a higher value of the metric `name` is better.

    >>> higher_is_better("accuracy"), higher_is_better("rmse")
    (True, False)
    """
    return METRICS[name].higher_is_better


# --- not in the table -----------------------------------------------------------------------------

CALIBRATION_BINS = 15
"""As in Guo et al. 2017."""


def calibration_error(gold: ArrayLike, probabilities: ArrayLike) -> Score:
    """Expected calibration error (Guo et al. 2017, equation 3); lower is better.

    Rows fall into 15 bins of equal width by confidence, the probability of the most probable class.
    In each bin the share of rows of that class is compared with the mean confidence; the error is
    the mean of these gaps over rows. `gold: [n]` class numbers, `probabilities: [n, C]`.

    Raises:
        ValueError: the shapes do not fit.
    """
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or gold.shape != probabilities.shape[:1]:
        raise ValueError(
            f"gold {list(gold.shape)} must be one class number for each row of probabilities "
            f"{list(probabilities.shape)}"
        )
    reason = None
    if not len(gold):
        reason = "no rows"
    elif bad := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        reason = f"the probabilities of {bad} of {len(gold)} rows are not finite"
    right = probabilities.argmax(axis=1) == gold
    value = None if reason else calibration_gap(probabilities.max(axis=1), right)
    return Score("calibration_error", value, reason, higher_is_better=False)


def calibration_gap(confidence: NDArray, right: NDArray) -> float:
    """The mean gap between confidence and share of right predictions, over bins of confidence.

    `confidence: [n]` from 0 to 1; `right: [n]` bool.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence)  # a bin includes its upper edge, as published
    # |B| / n times |accuracy - confidence| is |the sum of the differences| / n.
    gaps = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class ClassScore:
    """How well one class, or one label of a multi-label task, is predicted.

    `precision` has no value for a class that is never predicted, `recall` none for a class without
    rows, and `f1` none where both are so.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    rows: int  # with this class in gold
    predicted: int  # rows


def class_scores(gold: ArrayLike, predicted: ArrayLike, count: int) -> list[ClassScore]:
    """The scores of each of `count` classes or labels, by number.

    `gold, predicted` are class numbers `[n]`, or indicators `[n, count]` of a multi-label task.

    Raises:
        ValueError: unequal shapes.
    """
    columns = _same_shape(gold, predicted, np.ndim(gold))
    in_gold, in_predicted = (  # [n, count]
        a.astype(bool) if a.ndim == 2 else a[:, None] == np.arange(count) for a in columns
    )
    right = (in_gold & in_predicted).sum(axis=0).tolist()
    rows, found = in_gold.sum(axis=0).tolist(), in_predicted.sum(axis=0).tolist()
    return [
        ClassScore(
            precision=r / f if f else None,
            recall=r / n if n else None,
            f1=2 * r / (n + f) if n + f else None,
            rows=n,
            predicted=f,
        )
        for r, n, f in zip(right, rows, found, strict=True)
    ]


def confusion_matrix(gold: ArrayLike, predicted: ArrayLike, count: int) -> NDArray[np.int64]:
    """How often each class was taken for each other: `[count, count]`, gold down, predicted across.

    `gold, predicted: [n]` class numbers from 0 to `count` - 1, where `count` is the run's number of
    classes, including those that do not occur here.

    Raises:
        ValueError: a number outside that range, or unequal shapes.
    """
    gold, predicted = (a.astype(np.int64) for a in _same_shape(gold, predicted, dimensions=1))
    if not len(gold):  # scikit-learn refuses no rows
        return np.zeros((count, count), dtype=np.int64)
    low, high = min(gold.min(), predicted.min()), max(gold.max(), predicted.max())
    if not 0 <= low <= high < count:
        raise ValueError(f"class numbers {low} to {high} do not fit {count} classes")
    from sklearn.metrics import confusion_matrix as count_confusions

    return count_confusions(gold, predicted, labels=np.arange(count))


# --- means and comparisons of scores --------------------------------------------------------------


def mean_score(scores: Mapping[str, Score]) -> Score:
    """The mean over tasks of the values for which higher is better.

    A task without a value, or whose metric is better when lower (rmse has a unit), is left out,
    counted, and named with its reason. The mean has no value only where no task has one.
    """
    values, reasons = [], {}
    for task, score in scores.items():
        if score.value is None:
            reasons[task] = score.reason
        elif not score.higher_is_better:
            reasons[task] = f"{score.name} is better when lower"
        else:
            values.append(score.value)
    reason = "; ".join(f"without {task}: {why}" for task, why in reasons.items()) or None
    if not values:
        return Score("mean", None, reason or "no tasks", True, left_out=len(reasons))
    return Score("mean", float(np.mean(values)), reason, True, left_out=len(reasons))


def better(new: Score, best: Score | None) -> bool:
    """Whether `new` is better than the best so far (None: nothing so far). A tie is not.

    A score without a value is never better. A mean that leaves out more tasks is never better than
    one that leaves out fewer: otherwise losing the worst task's value would look like progress.

    Raises:
        ValueError: the scores are of different metrics.
    """
    if new.value is None:
        return False
    if best is None or best.value is None:
        return True
    if (new.name, new.higher_is_better) != (best.name, best.higher_is_better):
        raise ValueError(f"a {new.name} cannot be compared with a {best.name}")
    if new.left_out != best.left_out:
        return new.left_out < best.left_out
    return new.value > best.value if new.higher_is_better else new.value < best.value


# --- checks ---------------------------------------------------------------------------------------


def _same_shape(gold: ArrayLike, predicted: ArrayLike, dimensions: int) -> tuple[NDArray, NDArray]:
    """Both as arrays of one shape; unequal shapes would broadcast to a wrong score silently."""
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    if gold.shape != predicted.shape or gold.ndim != dimensions:
        raise ValueError(
            f"gold {list(gold.shape)} and predictions {list(predicted.shape)} "
            f"must have equal shapes of {dimensions} dimension(s)"
        )
    return gold, predicted


def _finite(gold: NDArray, predicted: NDArray) -> tuple[NDArray, NDArray]:
    """Both as float64, once it is clear that all numbers are finite."""
    gold, predicted = gold.astype(np.float64), predicted.astype(np.float64)
    for name, numbers in (("gold scores", gold), ("predictions", predicted)):
        if bad := int((~np.isfinite(numbers)).sum()):
            raise _NoValueError(f"{bad} of {len(numbers)} {name} are not finite")
    return gold, predicted
