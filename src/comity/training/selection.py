"""Which model to keep, and when to stop early."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from comity.evaluation.metrics import Score, better, mean_score


@dataclass
class BestScore:
    """A score and the step that reached it."""

    score: Score
    step: int


def selected(scores: Mapping[str, Score], trained: Mapping[str, Score], select_by: str) -> Score:
    """The score that models are selected by; the arguments are those of `Selection.update`."""
    return mean_score(trained) if select_by == "mean" else scores[select_by]


@dataclass
class Selection:
    """The best scores so far, and how long ago they were reached. Saved in checkpoints."""

    best: BestScore | None = None  # the score of the kept model
    best_of_task: dict[str, BestScore] = field(default_factory=dict)
    without_gain: int = 0  # evaluations since the best one
    stopped_early: bool = False

    def update(
        self,
        step: int,
        scores: Mapping[str, Score],
        trained: Mapping[str, Score],
        select_by: str,
    ) -> bool:
        """Take in one evaluation; returns whether its model is to be kept.

        Args:
            scores: by task.
            trained: the scores of the tasks that some stage trains. Only these count in the mean:
                the head of an eval-only task is random. If there are none, the newest model is
                kept.
            select_by: "mean" or a task.
        """
        for name, score in scores.items():
            known = self.best_of_task.get(name)
            if better(score, known and known.score):
                self.best_of_task[name] = BestScore(score, step)
        chosen = selected(scores, trained, select_by)
        if self.best is not None and trained and not better(chosen, self.best.score):
            return False
        self.best = BestScore(chosen, step)
        self.without_gain = 0
        return True

    def count_without_gain(self, patience: int) -> None:
        """Count an evaluation that gained nothing; `patience` of them stop the run (0: never)."""
        self.without_gain += 1
        self.stopped_early = 0 < patience <= self.without_gain
