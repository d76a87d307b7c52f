"""What a run writes into metrics.jsonl and best.json, made from the state of its training."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from comity.evaluation.evaluate import Evaluation, scores_of
from comity.evaluation.metrics import Score, mean_score
from comity.runs.calibration import DevFit
from comity.runs.entries import (
    BestModel,
    BestOfTask,
    EndEntry,
    EvaluationEntry,
    RecordedEvaluation,
    RecordedScore,
    TrainEntry,
)
from comity.training.checkpoint import Progress
from comity.training.selection import BestScore


def train_entry(progress: Progress) -> TrainEntry:
    """The averages since the last entry, with the norm and rate of the last update."""
    tally = progress.tally
    return TrainEntry(
        step=progress.step,
        examples=progress.examples,
        loss=tally.mean_losses(),
        gradient_norm=progress.norm,
        skipped=progress.skipped,
        examples_per_second=round(tally.examples / tally.seconds, 2),
        tokens_per_second=round(tally.tokens / tally.seconds, 1),
        lr=progress.lr,
    )


def evaluation_entry(
    progress: Progress, dev: Mapping[str, Evaluation], train: Mapping[str, Evaluation]
) -> EvaluationEntry:
    """Evaluations on dev and on training rows, with each task's best score so far."""
    mean = mean_score(scores_of(dev))
    return EvaluationEntry(
        step=progress.step,
        examples=progress.examples,
        mean=mean.value,
        mean_reason=mean.reason,
        tasks={name: _recorded_evaluation(evaluation) for name, evaluation in dev.items()},
        train={name: _recorded_evaluation(evaluation) for name, evaluation in train.items()},
        best_of_task={
            name: BestOfTask(best.score.name, best.score.value, best.step)
            for name, best in progress.selection.best_of_task.items()
            if best.score.value is not None
        },
    )


def end_entry(progress: Progress) -> EndEntry:
    """The counts at the end of a run."""
    return EndEntry(
        step=progress.step,
        examples=progress.examples,
        skipped=progress.skipped,
        stopped_early=progress.selection.stopped_early,
    )


def best_model(
    best: BestScore,
    scores: Mapping[str, Score],
    select_by: str,
    fit: DevFit | None = None,
    fitted: Mapping[str, Evaluation] = MappingProxyType({}),
) -> BestModel:
    """The record of the model to keep.

    Args:
        best: the score that selects models, and the step.
        scores: the dev scores by task.
        select_by: "mean" or a task.
        fit: what was fitted on dev.
        fitted: the evaluations of these tasks on dev, with what was fitted.
    """
    fit = fit or DevFit()
    return BestModel(
        folder=f"best-{best.step:06d}",
        step=best.step,
        by=select_by,
        score=_recorded_score(best.score),
        tasks={name: _recorded_score(score) for name, score in scores.items()},
        calibration=fit.calibration,
        calibrated={name: _recorded_evaluation(found) for name, found in fitted.items()},
        mixes=fit.mixes,
    )


def _recorded_score(score: Score) -> RecordedScore:
    return RecordedScore(score.name, score.value, score.reason)


def _recorded_evaluation(evaluation: Evaluation) -> RecordedEvaluation:
    score = evaluation.score
    return RecordedEvaluation(
        metric=score.name,
        value=score.value,
        loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
        n=evaluation.n,
        others={name: other.value for name, other in evaluation.others.items()},
        reason=score.reason,
        confusion_matrix=evaluation.confusion,
        warning=evaluation.warning,
    )
