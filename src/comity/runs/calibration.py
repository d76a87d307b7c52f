"""The records of what was fitted on dev for the kept model, and what it gains on other rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

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

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    # None for a task with three classes or more
    threshold: Annotated[float, Field(gt=0, lt=1)] | None
    metric: str
    as_trained: CalibrationScores | None  # None if an output is not finite
    cross_fitted: CalibrationScores | None  # None if nothing was fitted
    notes: list[str] = field(default_factory=list)  # why something was left as trained


@dataclass(frozen=True)
class TaskMix:
    """The share of the head on the pair in the predictions of a task with `mix = "dev"`.

    `cross_fitted` says what to expect on new rows: each half of the dev rows is measured with the
    share that was fitted on the other half. It and `equal` are means over the two halves; they are
    None if nothing was fitted, or the metric has no value.
    """

    mix: Annotated[float, Field(ge=0, le=1)]
    metric: str
    equal: float | None  # the metric with equal shares
    cross_fitted: float | None  # the metric
    notes: list[str] = field(default_factory=list)  # why the shares are still equal


@dataclass(frozen=True)
class DevFit:
    """Everything that was fitted on dev for the kept model, by task."""

    mixes: dict[str, TaskMix] = field(default_factory=dict)
    calibration: dict[str, TaskCalibration] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The tasks with anything that was fitted."""
        return list({**self.mixes, **self.calibration})


def fitted_heads(heads: Mapping[str, HeadSpec], fit: DevFit) -> dict[str, HeadSpec]:
    """The heads of all tasks, with the shares, temperatures and thresholds that were fitted."""
    changed = dict(heads)
    for name, mixed in fit.mixes.items():
        target = replace(changed[name].target, mix=mixed.mix)
        changed[name] = replace(changed[name], target=target)
    for name, found in fit.calibration.items():
        target = replace(changed[name].target, temperature=found.temperature)
        if found.threshold is not None:
            target = replace(target, threshold=found.threshold)
        changed[name] = replace(changed[name], target=target)
    return changed
