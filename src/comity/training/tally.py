"""What training adds up between two train entries of metrics.jsonl. Saved in checkpoints."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from comity.training.events import StepDone

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""What a checkpoint counts; no run reaches the limit, above which floats skip integers."""


@dataclass
class Tally:
    """Sums over the steps since the last train entry."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    examples: Count = 0
    tokens: Count = 0
    seconds: float = 0.0

    def add(self, step: StepDone) -> None:
        """Add one step."""
        for task, loss in step.losses:
            self.losses.setdefault(task, []).append(loss)
        self.examples += step.examples
        self.tokens += step.tokens
        self.seconds += step.seconds

    def mean_losses(self) -> dict[str, float | None]:
        """Mean loss of each task; None where a loss was not finite."""
        means = {task: float(np.mean(losses)) for task, losses in self.losses.items()}
        return {task: mean if math.isfinite(mean) else None for task, mean in means.items()}
