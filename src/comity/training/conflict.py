"""How often task gradients conflict."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from comity.runs import ConflictEntry
from comity.training.balancers import conflicts, cosines


@dataclass
class ConflictMonitor:
    """Counts conflicting steps and keeps the last cosines. Saved in checkpoints."""

    observed: int = 0  # steps and probes whose Gramian was seen
    conflicting: int = 0  # of those, how many had a pair of tasks with a negative cosine
    tasks: list[str] = field(default_factory=list)  # of the last cosines
    cosines: list[list[float]] = field(default_factory=list)  # [K, K]

    def observe(self, tasks: Sequence[str], gramian: Tensor) -> None:
        """Count one Gramian `[K, K]`; ignored for a single task or non-finite gradients."""
        if len(tasks) > 1 and bool(torch.isfinite(gramian).all()):
            self.observed += 1
            self.conflicting += conflicts(gramian) > 0
            self.tasks = list(tasks)
            self.cosines = [[round(float(c), 6) for c in row] for row in cosines(gramian)]

    def entry(self, step: int) -> ConflictEntry | None:
        """The last cosines for metrics.jsonl, or None before the first observation."""
        if not self.observed:
            return None
        share = self.conflicting / self.observed
        return ConflictEntry(
            step=step, tasks=self.tasks, cosines=self.cosines, share_of_steps=share
        )
