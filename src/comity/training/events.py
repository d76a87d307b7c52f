"""What a run reports while it prepares and trains.

A listener is a function that takes one event. The terminal's display is one; `ignore`, the default,
does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comity.evaluation.evaluate import Evaluation
from comity.training.plan import PlanSummary


@dataclass(frozen=True)
class DataRead:
    """The encoder and all files have been read and checked."""

    notes: tuple[str, ...]  # sentences about the data that the user should see


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
class StepDone:
    """One step is done, the step number `step` of the run (from 1)."""

    step: int
    losses: tuple[tuple[str, float], ...]  # task and loss of each batch
    examples: int  # of this step, as are the next two
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The dev set has been evaluated, and a checkpoint written."""

    step: int
    evaluations: dict[str, Evaluation]  # by task
    mean: float | None


Event = DataRead | Planned | RunStarted | StepDone | Evaluated

Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""
