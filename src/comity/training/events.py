"""What a run reports while it prepares and trains.

A listener is a function that takes one event. The terminal's display is one; `ignore`, the default,
does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comity.evaluation.evaluate import Evaluation
from comity.runs.entries import Entry
from comity.training.plan import PlanSummary


@dataclass(frozen=True)
class DataRead:
    """The encoder and all files have been read and checked."""

    notes: tuple[str, ...]  # sentences about the data that the user should see


@dataclass(frozen=True)
class RowsLabelled:
    """A teacher begins to label the training rows of a task; it does so once for all runs."""

    task: str
    teacher: str  # its path
    rows: int


@dataclass(frozen=True)
class Planned:
    """The plan is ready; nothing has been trained."""

    plan: PlanSummary


@dataclass(frozen=True)
class RunStarted:
    """Training begins, or continues after `step` steps."""

    tasks: tuple[str, ...]
    step: int
    total_steps: int


@dataclass(frozen=True)
class Resumed:
    """A stopped run continues from a checkpoint."""

    step: int
    notes: tuple[str, ...]  # sentences on checkpoints that cannot be used


@dataclass(frozen=True)
class RowsEncoded:
    """A frozen encoder has encoded `done` of the training rows that a stage uses of a task."""

    task: str
    done: int
    rows: int


@dataclass(frozen=True)
class StepSkipped:
    """A step left the weights unchanged, because a loss or gradient was not finite."""

    step: int  # from 1
    task: str
    where: str  # the task's file, and the lines of its batch


@dataclass(frozen=True)
class StopRequested:
    """A signal has arrived; training stops after this step, with a checkpoint."""

    signal: str  # its name


@dataclass(frozen=True)
class SavingFailed:
    """A file of the run cannot be written; training continues, and tries again later."""

    path: str
    reason: str


@dataclass(frozen=True)
class SavingWorks:
    """What could not be written is written."""


@dataclass(frozen=True)
class StepDone:
    """One step is done, the step number `step` of the run (from 1)."""

    step: int
    losses: tuple[tuple[str, float], ...]  # task and loss of each batch
    examples: int  # of this step, as are the next two
    tokens: int
    seconds: float
    stage: int = 0  # index of its stage


@dataclass(frozen=True)
class Evaluated:
    """The dev set has been evaluated, and a checkpoint is being written."""

    step: int
    evaluations: dict[str, Evaluation]  # by task
    mean: float | None


@dataclass(frozen=True)
class Logged:
    """An entry has been added to metrics.jsonl."""

    entry: Entry


@dataclass(frozen=True)
class TrackerNote:
    """Where an experiment tracker shows the run, or that it has failed."""

    sentence: str
    failed: bool


Event = (
    DataRead
    | RowsLabelled
    | Planned
    | Resumed
    | RunStarted
    | RowsEncoded
    | StepDone
    | StepSkipped
    | Evaluated
    | StopRequested
    | SavingFailed
    | SavingWorks
    | Logged
    | TrackerNote
)

Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""
