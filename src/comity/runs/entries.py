"""The records of a run's progress: best.json and the lines of metrics.jsonl."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from comity.recipe.schema import NOT_AVERAGED
from comity.runs.calibration import DevFit, TaskCalibration, TaskMix


@dataclass(frozen=True)
class RecordedScore:
    """A score in a file; `reason` says why `value` is None, or which tasks a mean excludes."""

    metric: str
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class RecordedEvaluation:
    """One task's evaluation in metrics.jsonl."""

    metric: str
    value: float | None
    loss: float | None
    n: int  # rows
    others: dict[str, float | None]  # the other metrics
    reason: str | None = None  # why `value` is None
    confusion_matrix: list[list[int]] | None = None
    warning: str | None = None  # where the model predicts nothing but one class


@dataclass(frozen=True)
class BestModel:
    """The contents of best.json: which model was kept, its dev scores, and what was fitted on dev.

    The scores describe the predictions with the calibration and the mix that were fitted, if any.
    The model was selected by its scores as trained, which are in metrics.jsonl.
    """

    folder: str  # in the run directory
    step: int
    by: str  # train.select_by: "mean" or a task
    score: RecordedScore
    tasks: dict[str, RecordedScore]
    calibration: dict[str, TaskCalibration] = field(default_factory=dict)  # tasks with `calibrate`
    calibrated: dict[str, RecordedEvaluation] = field(default_factory=dict)
    """The evaluations on dev of the tasks in `calibration` and `mixes`."""
    mixes: dict[str, TaskMix] = field(default_factory=dict)  # tasks with `mix = "dev"`

    @property
    def fit(self) -> DevFit:
        """What was fitted on dev."""
        return DevFit(self.mixes, self.calibration)

    def kept(self, entry: "EvaluationEntry") -> "EvaluationEntry":
        """The entry of metrics.jsonl about this model, with its dev scores as in `tasks`."""
        if not self.calibrated:
            return entry
        tasks = {**entry.tasks, **self.calibrated}
        values = [t.value for t in tasks.values() if t.metric not in NOT_AVERAGED]
        known = [value for value in values if value is not None]
        return replace(entry, tasks=tasks, mean=float(np.mean(known)) if known else None)


@dataclass(frozen=True)
class BestOfTask:
    """A task's own best dev score in a run, whichever model was kept."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class TrainEntry:
    """Training averages since the previous train entry."""

    type: Literal["train"] = "train"
    step: int
    examples: int  # since the start of the run
    loss: dict[str, float | None]  # mean by task; None if it was not finite
    gradient_norm: float | None  # of the last step, before clipping
    skipped: int  # steps since the start of the run
    examples_per_second: float
    tokens_per_second: float
    lr: float | None = None  # the stage's `lr` on its schedule, at the last update


@dataclass(frozen=True, kw_only=True)
class ConflictEntry:
    """Cosines between task gradients: of one probe, or means over training steps.

    A probe compares two independent batches of each task. Its cosine of two tasks is the mean of
    two, each between batches of different draws; a task's `reliability` is the cosine between its
    own two batches.
    """

    type: Literal["conflict"] = "conflict"
    step: int  # of the probe, or the last of the steps
    tasks: list[str]
    cosines: list[list[float | None]]  # [K, K]; None where a pair was not seen
    steps: int | None = None  # how many steps the mean is over; None for a probe
    reliability: list[float | None] | None = None  # [K] of a probe; None for a zero gradient
    layers: dict[str, list[float | None]] | None = None  # of a probe: [pairs] by layer
    weights: list[float | None] | None = None  # [K] of steps: the balancer's mean weights


@dataclass(frozen=True)
class LayerConflict:
    """The cosine of two task gradients in one layer of the encoder, over the probes of a stage.

    The 95% interval is adjusted for the number of layers and pairs (Holm).
    """

    layer: str  # "embeddings" (with the word table), "layer 1", ..., "pooler"
    observed: int  # probes in which both tasks have a gradient in this layer
    cosine: float | None  # mean over them
    low: float | None
    high: float | None
    conflicts: bool | None  # as in `PairConflict`
    part: float | None  # of the cosine over all layers: the parts of all layers add up to it


@dataclass(frozen=True)
class TaskEffect:
    """What the balancer did to one task's gradient, over the steps of a stage that have the task.

    The update is the combined gradient of the encoder, before clipping and AdamW.
    """

    task: str
    steps: int
    weight: float  # mean
    sum_cosine: float  # mean cosine with the plain sum of the step's task gradients
    update_cosine: float  # mean cosine with the update
    sum_opposed: float  # share of steps in which the cosine with the plain sum is below 0
    update_opposed: float  # the same for the update


@dataclass(frozen=True)
class PairConflict:
    """Whether the gradients of two tasks on the shared encoder conflicted in one stage.

    Intervals are 95% intervals. Those of `cosine` are adjusted for the number of pairs (Holm).
    `expected_cosine` is that of the expected gradients, without the noise of single batches; it has
    no value where the noise is too large.
    """

    tasks: tuple[str, str]
    observed: int  # steps or probes
    cosine: float | None  # mean over them
    low: float | None
    high: float | None
    conflicts: bool | None  # whether `high` is below 0; None with fewer than 20 observations
    expected_cosine: float | None
    expected_low: float | None
    expected_high: float | None
    layers: list[LayerConflict] = field(default_factory=list)  # empty without probes


@dataclass(frozen=True, kw_only=True)
class StageConflictEntry:
    """What a stage has shown of the conflict between its tasks, up to an evaluation."""

    type: Literal["stage-conflict"] = "stage-conflict"
    step: int
    stage: int  # from 0
    name: str
    from_steps: bool  # cosines of all training steps; otherwise of the probes
    probes: int
    pairs: list[PairConflict]
    reliability: dict[str, float | None]  # mean by task; empty without probes
    unprobed: str | None = None  # why there are no probes
    balancer: str | None = None  # None in runs of older versions
    effects: list[TaskEffect] = field(default_factory=list)  # empty for `sum`
    changed: float | None = None  # share of steps whose update points elsewhere than the plain sum
    turned: float | None = None  # mean cosine between the update and the plain sum


@dataclass(frozen=True, kw_only=True)
class EvaluationEntry:
    """An evaluation on dev and on a sample of the training rows."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    examples: int
    mean: float | None
    mean_reason: str | None
    tasks: dict[str, RecordedEvaluation]
    train: dict[str, RecordedEvaluation]
    best_of_task: dict[str, BestOfTask]  # up to and including this evaluation

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task of which the model predicts nothing but one class."""
        return [f"{name}: {task.warning}" for name, task in self.tasks.items() if task.warning]


@dataclass(frozen=True, kw_only=True)
class SkippedEntry:
    """A step that was skipped because a loss or gradient was not finite."""

    type: Literal["skipped"] = "skipped"
    step: int
    task: str
    lines: list[int | str]  # of the task's batch, in its file; "part-2.csv:3" in one of several


@dataclass(frozen=True, kw_only=True)
class EndEntry:
    """The end of a run."""

    type: Literal["end"] = "end"
    step: int
    examples: int
    skipped: int
    stopped_early: bool


Entry = TrainEntry | ConflictEntry | StageConflictEntry | EvaluationEntry | SkippedEntry | EndEntry
