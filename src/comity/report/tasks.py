"""What the predictions of a run's kept model show about one task."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.analysis import Band, band_edges, bands_of, texts_at
from comity.evaluation.metrics import (
    CALIBRATION_BINS,
    ClassScore,
    class_scores,
    confusion_matrix,
    metrics_of,
)
from comity.evaluation.plots import band_numbers
from comity.evaluation.predictions import TaskPredictions, kept_predictions, probability_names
from comity.files import path_text
from comity.runs.calibration import TaskCalibration, TaskMix
from comity.runs.directory import RunDirectory
from comity.targets import Target

WORST = 20
"""Errors that are listed for each task."""

BINS_IN_BAND = 10
"""Bins of a histogram for each band of true values."""

MOST_POINTS = 2000
"""Points of a scatter plot; of more rows, as many are chosen evenly over the file."""


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence is above `low` and up to `high`."""

    low: float
    high: float
    rows: int
    confidence: float  # mean
    right: float  # share of right predictions


@dataclass(frozen=True)
class Calibration:
    """Whether predictions are right as often as their probabilities say.

    `error` is the expected calibration error (Guo et al. 2017, equation 3): the mean over
    predictions of the gap between `confidence` and `right` of their bin. Bins without predictions
    are left out.
    """

    error: float
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class Numbers:
    """Predicted numbers against true ones."""

    bands: list[Band]
    edges: list[float]  # of the bins of the histograms, one more than bins
    histograms: list[list[int]]  # for each band, the rows in each bin of predicted values
    mean_points: list[tuple[float, float]]  # mean true and predicted value of each band with rows
    points: list[tuple[float, float]]  # true and predicted value of at most `MOST_POINTS` rows


@dataclass(frozen=True)
class Miss:
    """A row with a wrong prediction, or one far from the true value."""

    line: int | str  # in the labelled file, see `row_name`
    gold: Any  # a class, a list of classes, or a number
    predicted: Any
    probability: float | None  # of the predicted class
    texts: list[str] | None


@dataclass(frozen=True)
class TaskView:
    """One task of the kept model on its dev rows."""

    task: str
    kind: str
    head: str
    metric: str
    step: int
    rows: int
    not_finite: int  # rows with a prediction that is not a number; left out below
    scores: dict[str, float | None]  # in all metrics of the task's kind
    names: list[str]  # of classes, labels or levels
    classes: list[ClassScore]  # of each class or label
    confusion: list[list[int]] | None  # true down, predicted across
    calibration: Calibration | None  # None for a head without probabilities
    fitted: TaskCalibration | None  # what `calibrate` has fitted for the kept model
    mix: TaskMix | None  # the share of the first head that `mix = "dev"` has fitted
    numbers: Numbers | None  # for a task that predicts a number
    wrong: int | None  # rows with a wrong prediction; None for numbers
    worst: list[Miss]
    file: str  # the labelled file, to which the line numbers refer
    texts_note: str | None  # why the worst rows have no texts


def task_view(directory: RunDirectory, task: str, texts: bool) -> TaskView:
    """Everything the report says about one task of a run that has kept a model.

    Raises:
        ComityError: the predictions are damaged.
    """
    found = kept_predictions(directory, task)
    target, good = found.target, _finite(found)
    gold, predicted = found.gold[good], found.predicted[good]
    probabilities = None if found.probabilities is None else found.probabilities[good]
    lines = [line for line, is_good in zip(found.lines, good, strict=True) if is_good]
    order = _worst_first(target, gold, predicted, probabilities)
    chosen = order[:WORST].tolist()
    file, shown, note = texts_at(directory, task, found.file, [lines[row] for row in chosen])
    if not texts:
        shown, note = None, "The texts were left out (--no-texts)."
    rows_texts = shown or [None] * len(chosen)
    return TaskView(
        task=task,
        kind=target.kind,
        head=target.head_names,
        metric=found.metric,
        step=directory.best().step,
        rows=len(found.gold),
        not_finite=int((~good).sum()),
        scores={m.name: m(gold, predicted).value for m in metrics_of(target.kind)},
        names=probability_names(target),
        classes=_classes(target, gold, predicted),
        confusion=_confusion(target, gold, predicted),
        calibration=_calibration(target, gold, probabilities),
        fitted=directory.best().calibration.get(task),
        mix=directory.best().mixes.get(task),
        numbers=_numbers(target, gold, predicted),
        wrong=len(order) if target.classes else None,
        worst=[
            Miss(
                lines[row],
                _label(target, gold[row]),
                _label(target, predicted[row]),
                _confidence(target, predicted[row], probabilities, row),
                row_texts,
            )
            for row, row_texts in zip(chosen, rows_texts, strict=True)
        ],
        file=path_text(file),
        texts_note=note,
    )


def _finite(found: TaskPredictions) -> NDArray[np.bool_]:
    """Which rows `[n]` have a finite prediction."""
    numbers = found.probabilities
    if numbers is None:
        numbers = np.zeros(len(found.gold)) if found.target.classes else found.predicted
    return np.all(np.isfinite(numbers.reshape(len(numbers), -1)), axis=1)


def _indices(target: Target, names: NDArray) -> NDArray[np.int64]:
    """Class names as indices."""
    known = {name: index for index, name in enumerate(target.classes)}
    return np.array([known[name] for name in names.tolist()], dtype=np.int64)


def _levels(target: Target, scores: NDArray) -> NDArray[np.int64]:
    """Scores as indices of the nearest level, halves up."""
    return np.floor(scores + 0.5).astype(np.int64) - int(target.levels[0])


def _label(target: Target, value: Any) -> Any:
    """A gold or predicted value: class name, list of labels, or number."""
    if target.kind == "classification":
        return str(value)
    return target.label(value)


def _classes(target: Target, gold: NDArray, predicted: NDArray) -> list[ClassScore]:
    if not target.classes:
        return []
    if target.kind == "classification":
        gold, predicted = _indices(target, gold), _indices(target, predicted)
    return class_scores(gold, predicted, len(target.classes))


def _confusion(target: Target, gold: NDArray, predicted: NDArray) -> list[list[int]] | None:
    if target.kind == "classification":
        counts = len(target.classes)
        pair = _indices(target, gold), _indices(target, predicted)
    elif target.has_levels:
        counts = len(target.levels)
        pair = _levels(target, gold), _levels(target, predicted)
    else:
        return None
    return confusion_matrix(*pair, counts).tolist()


def _confidence(
    target: Target, predicted: Any, probabilities: NDArray | None, row: int
) -> float | None:
    """The probability of the predicted class."""
    if target.kind != "classification" or probabilities is None:
        return None
    return float(probabilities[row, target.classes.index(str(predicted))])


def _worst_first(
    target: Target, gold: NDArray, predicted: NDArray, probabilities: NDArray | None
) -> NDArray[np.int64]:
    """The wrong rows, the worst first; all rows for a task that predicts a number.

    Wrong classes are sorted by the model's confidence, rows with wrong labels by the number of
    labels, and numbers by their error. Equal rows come in the order of the file.
    """
    if target.kind == "classification":
        wrong = np.flatnonzero(gold != predicted)
        if probabilities is None:
            return wrong
        confidence = probabilities[wrong, _indices(target, predicted[wrong])]
        return wrong[np.argsort(-confidence, kind="stable")]
    if target.kind == "multi-label":
        errors = (gold != predicted).sum(axis=1)
        wrong = np.flatnonzero(errors)
        return wrong[np.argsort(-errors[wrong], kind="stable")]
    return np.argsort(-np.abs(predicted - gold), kind="stable")


# --- calibration ----------------------------------------------------------------------------------


def _calibration(
    target: Target, gold: NDArray, probabilities: NDArray | None
) -> Calibration | None:
    """The calibration of a head's probabilities.

    For classes and levels, of the most probable one; for a multi-label task, of every label, where
    the confidence is the probability of the label and right means that the row has it.
    """
    if probabilities is None or not len(gold):
        return None
    if target.kind == "multi-label":
        return calibration(probabilities.ravel(), gold.ravel() > 0)
    true = _indices(target, gold) if target.classes else target.trained_on(gold)
    return calibration(probabilities.max(axis=1), probabilities.argmax(axis=1) == true)


def calibration(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Sort predictions into bins of equal width by confidence.

    Args:
        confidence: `[n]`, from 0 to 1.
        right: `[n]`, whether each prediction was right.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    numbers = np.searchsorted(edges[1:-1], confidence)  # a bin includes its upper edge
    bins = []
    for number in np.unique(numbers).tolist():
        within = numbers == number
        bins.append(
            CalibrationBin(
                low=float(edges[number]),
                high=float(edges[number + 1]),
                rows=int(within.sum()),
                confidence=float(confidence[within].mean()),
                right=float(right[within].mean()),
            )
        )
    gaps = sum(one.rows * abs(one.right - one.confidence) for one in bins)
    return Calibration(gaps / len(confidence), bins)


# --- numbers --------------------------------------------------------------------------------------


def _numbers(target: Target, gold: NDArray, predicted: NDArray) -> Numbers | None:
    if target.classes or not len(gold):
        return None
    edges = band_edges(target, gold)
    of_band = band_numbers(gold, edges)
    bins = _bin_edges(edges, predicted)
    histograms = [
        np.histogram(predicted[of_band == band], bins)[0].tolist() for band in range(len(edges) - 1)
    ]
    bands = bands_of(gold, predicted, edges)
    means = [
        (float(gold[of_band == number].mean()), band.mean)
        for number, band in enumerate(bands)
        if band.mean is not None
    ]
    shown = np.unique(np.linspace(0, len(gold) - 1, min(MOST_POINTS, len(gold))).astype(int))
    points = list(zip(gold[shown].tolist(), predicted[shown].tolist(), strict=True))
    return Numbers(bands, bins.tolist(), histograms, means, points)


def _bin_edges(edges: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    """Edges of equal bins over all bands and predictions."""
    low, high = min(predicted.min(), edges[0]), max(predicted.max(), edges[-1])
    return np.linspace(low, high, BINS_IN_BAND * (len(edges) - 1) + 1)
