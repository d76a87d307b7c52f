"""The record of a calibration: what was fitted on dev, and what it gains on other rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from comity.targets import HeadSpec


@dataclass(frozen=True)
class CalibrationScores:
    """How well probabilities and predictions fit the dev rows."""

    value: float | None  # in the task's metric
    log_loss: float  # mean over rows (and labels), in nats
    calibration_error: float  # expected, of 15 bins


@dataclass(frozen=True)
class TaskCalibration:
    """The temperature and threshold of one task, fitted on its dev rows for the kept model.

    `cross_fitted` says what to expect on new rows: each half of the dev rows is measured with the
    temperature and threshold that were fitted on the other half.
    """

    temperature: float
    threshold: float | None  # None for a task with three classes or more
    metric: str
    as_trained: CalibrationScores | None  # None if an output is not finite
    cross_fitted: CalibrationScores | None  # None if nothing was fitted
    notes: list[str] = field(default_factory=list)  # why something was left as trained


def calibrated(
    heads: Mapping[str, HeadSpec], calibration: Mapping[str, TaskCalibration]
) -> dict[str, HeadSpec]:
    """The heads of all tasks, with the temperatures and thresholds of the calibrated ones."""
    changed = dict(heads)
    for name, found in calibration.items():
        target = replace(changed[name].target, temperature=found.temperature)
        if found.threshold is not None:
            target = replace(target, threshold=found.threshold)
        changed[name] = replace(changed[name], target=target)
    return changed
