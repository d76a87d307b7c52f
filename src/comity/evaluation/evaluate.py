"""Evaluation of a model on labelled rows: its outputs, the metrics and the loss."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from comity.data.packing import Template
from comity.data.splits import Split
from comity.evaluation.bootstrap import Interval, interval
from comity.evaluation.metrics import (
    ClassScore,
    Score,
    calibration_error,
    class_scores,
    confusion_matrix,
    metrics_of,
    not_finite,
)
from comity.evaluation.predictions import probability_names
from comity.format import plural, some
from comity.losses.task_losses import task_loss
from comity.model.multitask import MultiTaskModel
from comity.runs.directory import RunDirectory
from comity.tables.parts import table_path
from comity.tables.reader import table_digest
from comity.targets import HeadSpec, Target

BATCH_TOKENS = 4096
"""Padded tokens in one pass of an evaluation; rows of similar length go together."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model's outputs on some labelled rows."""

    task: str
    score: Score  # in the task's metric
    others: dict[str, Score]  # in the other metrics of its kind
    loss: float
    n: int
    confusion: list[list[int]] | None  # gold down, predicted across
    names: tuple[str, ...] = ()  # of the classes or levels in `confusion`, or of the labels
    classes: list[ClassScore] = field(default_factory=list)  # of each class or label
    warning: str | None = None  # a sentence where the model predicts nothing but one class
    rows: dict[str, int] = field(default_factory=dict)  # unlabelled, dropped, clipped and more
    interval: Interval | None = None  # of the score, where requested
    temperature: float = 1.0  # that the logits are divided by, as in `Target`
    threshold: float | None = None  # of two classes or several labels, as in `Target`

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature or a threshold was fitted."""
        return self.temperature != 1.0 or self.threshold not in (None, 0.5)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a metric without a value is null and has a reason."""
        values: dict[str, Any] = {
            "task": self.task,
            "metric": self.score.name,
            "value": self.score.value,
            "n": self.n,
            "loss": self.loss if np.isfinite(self.loss) else None,
            "others": {name: score.value for name, score in self.others.items()},
            **self.rows,
        }
        if self.score.reason:
            values["reason"] = self.score.reason
        if self.interval is not None:
            values["interval"] = [self.interval.low, self.interval.high]
        if self.is_calibrated:
            values |= {"temperature": self.temperature, "threshold": self.threshold}
        if self.names:
            values["classes"] = list(self.names)
        if self.confusion is not None:
            values["confusion_matrix"] = self.confusion
        if self.classes:
            scores = zip(self.names, self.classes, strict=True)
            values["per_class"] = {name: asdict(score) for name, score in scores}
        if self.warning:
            values["warning"] = self.warning
        return values

    def __repr__(self) -> str:
        """Task, score and rows on one line."""
        score = self.score
        shown = f"no {score.name} ({score.reason})"
        if score.value is not None:
            shown = f"{score.name} {score.value:.4f}"
        if self.interval is not None:
            shown += f" ({self.interval.low:.4f} to {self.interval.high:.4f})"
        return f"<Evaluation of {self.task}: {shown}, {plural(self.n, 'row')}>"


@torch.inference_mode()
def task_outputs(
    model: MultiTaskModel,
    task: str,
    split: Split,
    template: Template,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
    batches: slice = slice(None),
) -> NDArray[np.float64]:
    """The outputs `[n, outputs]` of a task's head for the rows of a split, in their order.

    `batches` chooses some of the batches that the rows are encoded in; other rows have outputs 0.
    """
    spec = model.tasks[task]
    lengths = split.lengths(spec.views, max_length)
    outputs = np.zeros((len(split), spec.target.outputs))
    for indices in by_length(lengths, batch_tokens)[batches]:
        views = split.pack(indices, spec.views, template, max_length)
        (found,) = model([model.evaluated(task, views)])
        outputs[indices] = found.cpu().double().numpy()
    return outputs


def by_length(
    lengths: NDArray[np.integer], batch_tokens: int = BATCH_TOKENS
) -> list[NDArray[np.int64]]:
    """Row indices in batches of at most `batch_tokens` padded tokens, the longest rows first.

    `lengths: [n]` are in tokens. A row longer than `batch_tokens` is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(int(batch_tokens // lengths[order[start]]), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def evaluate_outputs(
    task: str,
    spec: HeadSpec,
    metric: str,
    split: Split,
    outputs: NDArray,
    intervals: bool = False,
) -> Evaluation:
    """Score a head's `outputs: [n, outputs]` against the targets of a split.

    `intervals` adds the 95% interval of the task's metric. It costs a thousand resamples, so
    evaluations during training leave it out.
    """
    target = spec.target
    predictions = target.predictions(outputs)
    scores = {m.name: m(split.targets, predictions) for m in metrics_of(target.kind)}
    if target.kind == "classification":
        probabilities = target.probabilities(outputs)
        assert probabilities is not None
        error = calibration_error(split.targets, probabilities)
        scores[error.name] = error
    if reason := not_finite(outputs):
        scores = {n: replace(score, value=None, reason=reason) for n, score in scores.items()}
    found = None
    if intervals and scores[metric].value is not None:
        found = interval(metric, split.targets, predictions, task)
    evaluation = Evaluation(
        task,
        scores[metric],
        {name: score for name, score in scores.items() if name != metric},
        mean_loss(target, outputs, split.targets),
        len(split),
        _confusion(target, split.targets, predictions),
        interval=found,
        temperature=target.temperature,
        threshold=target.threshold if target.has_threshold else None,
    )
    if reason:
        return replace(evaluation, confusion=None)
    return replace(
        evaluation,
        names=tuple(probability_names(target)),
        classes=class_scores(split.targets, predictions, len(target.classes))
        if target.classes
        else [],
        warning=_collapsed(target, split.targets, predictions),
    )


def _collapsed(target: Target, gold: NDArray, predicted: NDArray) -> str | None:
    """A sentence where all rows are predicted alike: as one class, or without any label."""
    if len(gold) < 2:
        return None
    advice = "train longer, raise the learning rate, or train more of the encoder"
    if target.kind == "classification" and (predicted == predicted[0]).all():
        others = int((gold != predicted[0]).sum())
        name = target.classes[int(predicted[0])]
        verb = "has" if others == 1 else "have"
        if others:
            return (
                f'all {len(gold):,} rows are predicted as "{name}", but {others:,} {verb} another '
                f"class; {advice}"
            )
    if target.kind == "multi-label" and not predicted.any() and gold.any():
        labelled = int(gold.any(axis=1).sum())
        verb = "has" if labelled == 1 else "have"
        return (
            f"no label is predicted for any of {len(gold):,} rows, but {labelled:,} {verb} one; "
            f"{advice}"
        )
    return None


def _confusion(target: Target, gold: NDArray, predicted: NDArray) -> list[list[int]] | None:
    """The confusion matrix of the classes or, where levels are predicted, of the levels.

    A score counts as the nearest level, halves up, whatever the head was trained on.
    """
    if target.kind == "classification":
        return confusion_matrix(gold, predicted, len(target.classes)).tolist()
    if not target.has_levels or not np.isfinite(predicted).all():
        return None
    true, found = (np.floor(scores + 0.5) - target.levels[0] for scores in (gold, predicted))
    return confusion_matrix(true, found, len(target.levels)).tolist()


def mean_loss(target: Target, outputs: NDArray, targets: NDArray) -> float:
    """The loss of a task's heads on `outputs: [n, outputs]`, without class weights."""
    return float(task_loss(target, torch.from_numpy(outputs / target.temperature), targets))


def trained_on(run: RunDirectory, file: str) -> str | None:
    """A sentence if a run was trained on this very file, by its digest; else None."""
    digest = table_digest(table_path(file, Path()))
    inputs = run.facts().inputs
    tasks = [
        name
        for name, task in run.recipe().tasks.items()
        if not task.eval_only and digest in inputs.training_digests(name)
    ]
    if not tasks:
        return None
    return (
        f"{file} is a training file of {some(tasks, len(tasks))}; scores on rows that the model "
        "was trained on say little about new rows"
    )


def scores_of(evaluations: Mapping[str, Evaluation]) -> dict[str, Score]:
    """Each task's score in its own metric."""
    return {task: evaluation.score for task, evaluation in evaluations.items()}
