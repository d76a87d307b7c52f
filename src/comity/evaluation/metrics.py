"""Scores of predictions against gold: plain numpy, and never a number where there is none.

A score without a value says why (`reason`), so that nothing downstream meets a NaN.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Score:
    """One metric's value, or the reason why it has none.

    `value` is finite or None. `reason` is there where the value is None, and where a mean had to
    leave tasks out (`left_out` of them).
    """

    name: str
    value: float | None
    reason: str | None
    higher_is_better: bool
    left_out: int = 0


def accuracy(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """Share of rows predicted right. `gold, predicted: [n]` class numbers or names."""
    gold, predicted = _same_shape(gold, predicted, dimensions=1)
    if not len(gold):
        return _none("accuracy", "no rows")
    return _score("accuracy", np.mean(gold == predicted))


def f1_per_class(gold: ArrayLike, predicted: ArrayLike) -> dict[int | str, float]:
    """F1 of each class that stands in gold or in the predictions, in the order of the classes.

    F1 = 2 TP / (2 TP + FP + FN). A class of the run that stands in neither has no F1.
    """
    gold, predicted = _same_shape(gold, predicted, dimensions=1)
    classes, numbers = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    matrix = confusion_matrix(numbers[: len(gold)], numbers[len(gold) :], len(classes))
    f1 = 2 * matrix.diagonal() / (matrix.sum(axis=0) + matrix.sum(axis=1))
    return dict(zip(classes.tolist(), f1.tolist(), strict=True))


def macro_f1(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """Unweighted mean of F1 over the classes that stand in gold or in the predictions.

    So a class that is missing from a small dev set does not pull down a perfect prediction, and one
    that is predicted without ever being right counts as 0: the choice of scikit-learn.
    """
    f1 = f1_per_class(gold, predicted)
    if not f1:
        return _none("macro_f1", "no rows")
    return _score("macro_f1", np.mean(list(f1.values())))


def micro_f1(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """F1 over all decisions of a multi-label task. `gold, predicted: [n, L]`, 0 and 1 (or bool)."""
    gold, predicted = _same_shape(gold, predicted, dimensions=2)
    gold, predicted = gold.astype(bool), predicted.astype(bool)
    if not len(gold):
        return _none("micro_f1", "no rows")
    positives = int(gold.sum()) + int(predicted.sum())
    if not positives:
        return _none("micro_f1", f"no label in gold or prediction in any of {len(gold)} rows")
    return _score("micro_f1", 2 * int((gold & predicted).sum()) / positives)


def pearson(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """Pearson's correlation of two columns of numbers. `gold, predicted: [n]`.

    It has no value for fewer than two rows, nor where one side is constant. Values that differ only
    by the rounding of float64 count as constant: what they would give is noise.
    """
    return _correlation("pearson", *_numbers(gold, predicted), lambda numbers: numbers)


def spearman(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """Spearman's correlation: Pearson's of the ranks. `gold, predicted: [n]`.

    It has a value where Pearson's has one.
    """
    return _correlation("spearman", *_numbers(gold, predicted), ranks)


def ranks(numbers: ArrayLike) -> NDArray[np.float64]:
    """The place `[n]` of each number in order of size, from 1; equal numbers share their mean.

    >>> ranks([0.5, 2.0, 0.5, 1.0]).tolist()
    [1.5, 4.0, 1.5, 3.0]
    """
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _correlation(
    name: str, gold: NDArray, predicted: NDArray, of: Callable[[NDArray], NDArray]
) -> Score:
    """Pearson's correlation of what `of` makes of either column."""
    if len(gold) < 2:
        return _none(name, "one row" if len(gold) else "no rows")
    if reason := _not_finite(gold, predicted):
        return _none(name, reason)
    if _constant(gold):
        return _none(name, f"all {len(gold)} gold scores are {gold[0]}")
    if _constant(predicted):
        return _none(name, f"all {len(predicted)} predictions are equal")
    x, y = _centred(of(gold)), _centred(of(predicted))
    # One root of the product, so that equal columns give exactly 1.
    correlation = float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
    return _score(name, min(max(correlation, -1.0), 1.0))


def rmse(gold: ArrayLike, predicted: ArrayLike) -> Score:
    """Root of the mean squared error, in the unit of the target; lower is better. Both `[n]`."""
    gold, predicted = _numbers(gold, predicted)
    if not len(gold):
        return _none("rmse", "no rows", higher_is_better=False)
    if reason := _not_finite(gold, predicted):
        return _none("rmse", reason, higher_is_better=False)
    with np.errstate(over="ignore"):
        value = float(np.sqrt(np.mean(np.square(predicted - gold))))
    if not math.isfinite(value):
        return _none("rmse", "the errors are too large to square", higher_is_better=False)
    return _score("rmse", value, higher_is_better=False)


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], Score]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "pearson": pearson,
    "spearman": spearman,
    "rmse": rmse,
}

CALIBRATION_BINS = 15
"""As Guo et al. 2017 have it."""


def calibration_error(gold: ArrayLike, probabilities: ArrayLike) -> Score:
    """Expected calibration error (Guo et al. 2017, equation 3); lower is better.

    Rows fall into 15 bins of equal width by their confidence, the probability of the class that is
    predicted; the error is the mean over rows of how far their bin's share of right predictions is
    from its mean confidence. `gold: [n]` class numbers, `probabilities: [n, C]`.
    """
    gold, probabilities = np.asarray(gold), np.asarray(probabilities, dtype=np.float64)
    name = "calibration_error"
    if probabilities.ndim != 2 or gold.shape != probabilities.shape[:1]:
        raise ValueError(
            f"gold {list(gold.shape)} must be one class number for each row of probabilities "
            f"{list(probabilities.shape)}"
        )
    if not len(gold):
        return _none(name, "no rows", higher_is_better=False)
    if bad := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        reason = f"the probabilities of {bad} of {len(gold)} rows are not finite"
        return _none(name, reason, higher_is_better=False)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == gold
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence)  # a bin holds its upper edge, as published
    # |B| / n times |accuracy - confidence| is |the sum of the differences| / n.
    gaps = np.bincount(bins, weights=right - confidence, minlength=CALIBRATION_BINS)
    return _score(name, np.abs(gaps).sum() / len(gold), higher_is_better=False)


def confusion_matrix(gold: ArrayLike, predicted: ArrayLike, count: int) -> NDArray[np.int64]:
    """How often each class was taken for each other: `[count, count]`, gold down, predicted across.

    `gold, predicted: [n]` class numbers from 0 to `count` - 1; the run's number of classes, also
    where some of them are missing here.
    """
    gold, predicted = _same_shape(gold, predicted, dimensions=1)
    both = np.concatenate([gold, predicted]).astype(np.int64)
    if len(both) and not 0 <= both.min() <= both.max() < count:
        raise ValueError(f"class numbers {both.min()} to {both.max()} do not fit {count} classes")
    cells = both[: len(gold)] * count + both[len(gold) :]
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def higher_is_better(name: str) -> bool:
    """Whether a higher value of the metric `name` is the better one."""
    return name not in ("rmse", "calibration_error")


def mean_score(scores: Mapping[str, Score]) -> Score:
    """The mean over tasks of the values for which higher is better.

    A task without a value, or whose metric is better when lower (rmse has a unit of its own), is
    left out, counted and named with its reason. The mean has no value only where no task has one.
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
    """Whether `new` beats the best so far (None: nothing so far). A draw is no win.

    A score without a value never wins. A mean that leaves out more tasks never beats one that
    leaves out fewer, however high: else losing the worst task's value would look like progress.
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


def _score(name: str, value: float | np.floating, higher_is_better: bool = True) -> Score:
    return Score(name, float(value), None, higher_is_better)


def _none(name: str, reason: str, higher_is_better: bool = True) -> Score:
    return Score(name, None, reason, higher_is_better)


def _same_shape(gold: ArrayLike, predicted: ArrayLike, dimensions: int) -> tuple[NDArray, NDArray]:
    """Both as arrays. Shapes that differ would broadcast, and give a wrong score without a word."""
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    if gold.shape != predicted.shape or gold.ndim != dimensions:
        raise ValueError(
            f"gold {list(gold.shape)} and predictions {list(predicted.shape)} "
            f"must be two equal shapes of {dimensions} dimension(s)"
        )
    return gold, predicted


def _numbers(gold: ArrayLike, predicted: ArrayLike) -> tuple[NDArray, NDArray]:
    gold, predicted = _same_shape(gold, predicted, dimensions=1)
    return gold.astype(np.float64), predicted.astype(np.float64)


def _not_finite(gold: NDArray, predicted: NDArray) -> str | None:
    for name, numbers in (("gold scores", gold), ("predictions", predicted)):
        if bad := int((~np.isfinite(numbers)).sum()):
            return f"{bad} of {len(numbers)} {name} are not finite"
    return None


def _scaled(numbers: NDArray) -> NDArray:
    """Divided by a power of two, which is exact, so that no later step over- or underflows."""
    return np.ldexp(numbers, -np.frexp(np.abs(numbers).max())[1])


def _constant(numbers: NDArray) -> bool:
    """Whether the numbers are equal to within a few roundings of float64."""
    scaled = _scaled(numbers)
    return bool(np.ptp(scaled) <= 4 * np.finfo(np.float64).eps)


def _centred(numbers: NDArray) -> NDArray:
    """Less their mean. The first number goes first: near-equal numbers lose no digit by that."""
    shifted = _scaled(numbers)
    shifted = shifted - shifted[0]
    return shifted - shifted.mean()
