"""Evaluation of a model on labelled rows: its outputs, the metrics and the loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from comity.data.packing import Template
from comity.data.splits import Split
from comity.evaluation.bootstrap import Interval, interval
from comity.evaluation.metrics import Score, calibration_error, confusion_matrix, metrics_of
from comity.evaluation.predictions import read_outputs
from comity.losses.task_losses import head_loss
from comity.model.multitask import ModelInput, MultiTaskModel, to_packed
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
    confusion: list[list[int]] | None
    rows: dict[str, int] = field(default_factory=dict)  # dropped, empty, truncated: where counted
    interval: Interval | None = None  # of the score, where requested

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
        if self.confusion is not None:
            values["confusion_matrix"] = self.confusion
        return values


@torch.inference_mode()
def task_outputs(
    model: MultiTaskModel,
    task: str,
    split: Split,
    template: Template,
    max_length: int,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float64]:
    """The outputs `[n, outputs]` of a task's head for the rows of a split, in their order."""
    spec = model.tasks[task]
    device = model.encoder.word_embeddings.device
    lengths = split.lengths(spec.views, max_length)
    outputs = np.zeros((len(split), spec.target.outputs))
    for indices in by_length(lengths, batch_tokens):
        packed = to_packed(split.pack(indices, spec.views, template, max_length), device)
        (found,) = model([ModelInput(task, packed, len(indices))])
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
    predictions, probabilities = read_outputs(target, outputs)
    scores = {m.name: m(split.targets, predictions, probabilities) for m in metrics_of(target.kind)}
    if target.kind == "classification":
        assert probabilities is not None
        error = calibration_error(split.targets, probabilities)
        scores[error.name] = error
    found = None
    if intervals and scores[metric].value is not None:
        found = interval(metric, split.targets, predictions)
    return Evaluation(
        task,
        scores[metric],
        {name: score for name, score in scores.items() if name != metric},
        mean_loss(target, outputs, split.targets),
        len(split),
        _confusion(target, split.targets, predictions),
        interval=found,
    )


def _confusion(target: Target, gold: NDArray, predicted: NDArray) -> list[list[int]] | None:
    """The confusion matrix of the classes or, for a `bins` head, of the levels of the scale.

    A score counts as the nearest level, halves up, whatever the head was trained on.
    """
    if target.kind == "classification":
        return confusion_matrix(gold, predicted, len(target.classes)).tolist()
    if target.head != "bins" or not np.isfinite(predicted).all():
        return None
    true, found = (np.floor(scores + 0.5) - target.levels[0] for scores in (gold, predicted))
    return confusion_matrix(true, found, len(target.levels)).tolist()


def mean_loss(target: Target, outputs: NDArray, targets: NDArray) -> float:
    """The head's loss on `outputs: [n, outputs]`, without class weights."""
    wanted = torch.from_numpy(np.ascontiguousarray(target.trained_on(targets)))
    return float(head_loss(target, torch.from_numpy(outputs), wanted))


def scores_of(evaluations: Mapping[str, Evaluation]) -> dict[str, Score]:
    """Each task's score in its own metric."""
    return {task: evaluation.score for task, evaluation in evaluations.items()}
