"""Where a run stands, what it has seen since it last said so, and whom it tells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from comity.evaluation.evaluate import Evaluation
from comity.training.task_gradients import Batch

if TYPE_CHECKING:
    from comity.training.trainer import Trainer


@dataclass
class Tally:
    """What has been seen since the last line of training loss."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, batches: Sequence[Batch], losses: Sequence[float], seconds: float) -> None:
        """Count one step."""
        for batch, loss in zip(batches, losses, strict=True):
            self.losses.setdefault(batch.task, []).append(loss)
            self.examples += batch.rows
            self.tokens += batch.tokens
        self.seconds += seconds

    def means(self) -> dict[str, float | None]:
        """Mean loss of each task seen; a task whose loss was not finite has none."""
        means = {task: float(np.mean(losses)) for task, losses in self.losses.items()}
        return {task: mean if math.isfinite(mean) else None for task, mean in means.items()}


@dataclass
class Progress:
    """Where a run stands; kept in checkpoints, so that a resumed run knows it."""

    stage: int = 0
    stage_step: int = 0  # steps done in the stage
    step: int = 0  # steps done in the run
    examples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    watched: int = 0  # steps and probes whose Gramian was seen
    conflicted: int = 0  # of those, how many had a pair in conflict
    without_gain: int = 0  # evaluations since the best
    best: dict[str, Any] | None = None  # the score by which the kept model was chosen
    best_of_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped_early: bool = False


class Listener:
    """What a run tells while it goes; the terminal's display is one, this one says nothing."""

    def planned(self, trainer: "Trainer") -> None:
        """Before the first step."""

    def stepped(self, trainer: "Trainer") -> None:
        """After each step."""

    def evaluated(self, trainer: "Trainer", evaluations: dict[str, Evaluation]) -> None:
        """After dev was judged."""
