"""Losses of heads, each with its source; all take logits and return their mean over rows, float32.

Since they are means over rows, micro-batches weighted by their rows add up to the whole batch.
"""

from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from comity.hardware import to_device
from comity.losses.embedding_losses import contrastive, cosent, ranking, same_texts
from comity.recipe.schema import ObjectiveSection
from comity.targets import Target


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy of logits `[B, C]` against targets `[B]` int64.

    The paper's section 3.3 applies "a softmax function", then cross-entropy. With a loss that has
    its own softmax, that would apply it twice; here it is applied once. `class_weights [C]`
    multiply each row's loss; the sum is divided by the number of rows, not by the sum of weights.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return _weighted_mean(losses, targets, class_weights)


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of the sigmoid of logits (paper, section 3.3).

    Either `logits [B, 1]` with targets `[B]` in {0, 1}, or both `[B, L]` with one logit per label;
    then the mean is over rows and labels.
    """
    if targets.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits.float(), targets.float())
    wanted = targets.float()
    losses = F.binary_cross_entropy_with_logits(logits.float()[:, 0], wanted, reduction="none")
    return _weighted_mean(losses, targets, class_weights)


def one_vs_all(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a sigmoid for each class, with logits `[B, C]` and targets `[B]`.

    Lin & Le 2024 ("BERT and Beyond", one-versus-all). A row's loss is the sum over classes: the
    log-likelihood of C independent yes-or-no answers. The gradient on a logit then has the size
    that it has in `cross_entropy`, probability minus label. `class_weights [C]` multiply each row's
    loss by the weight of its own class.
    """
    wanted = F.one_hot(targets, logits.shape[1]).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return _weighted_mean(losses.sum(dim=1), targets, class_weights)


def _weighted_mean(losses: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    if class_weights is not None:
        losses = losses * class_weights[targets]
    return losses.mean()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of `outputs [B, 1]` against normalised scores `targets [B]`."""
    return (outputs.float()[:, 0] - targets.float()).square().mean()


@dataclass(frozen=True)
class Teaching:
    """What teachers say about the rows of a batch, and how much it counts."""

    soft: Tensor  # [B, K] as for `distillation_loss`; NaN where no teacher labels the row
    weight: float  # share of the teacher's loss, 0 to 1
    temperature: float = 1.0
    labelled: Tensor | None = None  # [B] bool, rows with a label; None: all. The others have `soft`

    def repeated(self, count: int) -> "Teaching":
        """The same for `count` draws of the rows, one after another."""
        labelled = None if self.labelled is None else self.labelled.repeat(count)
        return replace(self, soft=torch.cat([self.soft] * count), labelled=labelled)


def head_loss(
    target: Target,
    outputs: Tensor,
    wanted: Tensor,
    class_weights: Tensor | None = None,
    teaching: Teaching | None = None,
) -> Tensor:
    """The loss of a head's outputs against `wanted`, which `Target.trained_on` gives.

    With teachers, the loss of a row that they label is (1 - weight) times the one on its label plus
    weight times `distillation_loss`. Class weights multiply the loss on labels only. A row without
    a label has the teacher's part alone, and counts in the mean like any other.
    """
    if teaching is None:
        return label_loss(target, outputs, wanted, class_weights)
    taught = ~teaching.soft.isnan().any(dim=1)
    share = taught.float().mean()
    loss = torch.zeros((), device=outputs.device)
    if not taught.all():
        loss = (1 - share) * label_loss(target, outputs[~taught], wanted[~taught], class_weights)
    if taught.any():
        own = torch.zeros((), device=outputs.device)
        both = taught if teaching.labelled is None else taught & teaching.labelled
        if both.any():
            own = label_loss(target, outputs[both], wanted[both], class_weights)
            own = own * (both.sum() / taught.sum())
        soft = teaching.soft[taught]
        learned = distillation_loss(target, outputs[taught], soft, teaching.temperature)
        loss = loss + share * ((1 - teaching.weight) * own + teaching.weight * learned)
    return loss


def label_loss(
    target: Target, outputs: Tensor, wanted: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """The loss of a head's outputs against the labels `wanted`."""
    if target.one_vs_all:
        return one_vs_all(outputs, wanted, class_weights)
    if target.sigmoid:
        return binary_cross_entropy(outputs, wanted, class_weights)
    if target.head in ("linear", "bins"):
        return cross_entropy(outputs, wanted, class_weights)
    return squared_error(outputs, wanted)


def task_loss(
    target: Target,
    outputs: Tensor,
    labels: NDArray,
    class_weights: Tensor | None = None,
    teaching: Teaching | None = None,
) -> Tensor:
    """The loss of a task's outputs `[B, outputs]` against `labels [B]`: the sum over its heads."""
    losses = []
    for part, own in zip(target.parts, target.split(outputs), strict=True):
        wanted = torch.from_numpy(np.ascontiguousarray(part.trained_on(labels)))
        wanted = to_device(wanted, outputs.device)
        taught = _for_part(teaching, target, part)
        losses.append(head_loss(part, own, wanted, class_weights, taught))
    return sum(losses[1:], losses[0])


def _for_part(teaching: Teaching | None, target: Target, part: Target) -> Teaching | None:
    """What teachers say to one head of a task; to a cosine beside `bins`, the mean level."""
    if teaching is None or target.head != "bins" or part.head == "bins":
        return teaching
    shares = torch.linspace(0, 1, teaching.soft.shape[1], device=teaching.soft.device)
    return replace(teaching, soft=(teaching.soft @ shares)[:, None])


def distillation_loss(
    target: Target, outputs: Tensor, soft: Tensor, temperature: float = 1.0
) -> Tensor:
    """The loss of a head's outputs `[B, outputs]` against soft labels (Hinton et al. 2015).

    Classes, labels and levels: cross-entropy of the outputs, divided by the temperature, against
    probabilities, times the square of the temperature, which keeps the size of the gradient. Where
    outputs are logits of sigmoids, it is the binary cross-entropy, summed over the classes of a
    one-vs-all loss and averaged over labels, as on labels. For a head that predicts a number: the
    squared error.

    Args:
        soft: `[B, K]` probabilities, at the temperature, of the K classes, labels or levels; or
            `[B, 1]` numbers as the head is trained on them.
    """
    if target.head in ("regression", "cosine"):
        return squared_error(outputs, soft[:, 0])
    logits = outputs.float() / temperature
    if not target.sigmoid:
        return F.cross_entropy(logits, soft) * temperature**2
    if target.outputs == 1:
        soft = soft[:, 1:]
    losses = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    of_rows = losses.mean(dim=1) if target.kind == "multi-label" else losses.sum(dim=1)
    return of_rows.mean() * temperature**2


def consistency_loss(target: Target, first: Tensor, second: Tensor) -> Tensor:
    """R-Drop's loss between the outputs `[B, outputs]` of two draws: the sum over the heads."""
    parts = zip(target.parts, target.split(first), target.split(second), strict=True)
    losses = [_divergence(*part) for part in parts]
    return sum(losses[1:], losses[0])


def _divergence(target: Target, first: Tensor, second: Tensor) -> Tensor:
    """The divergence between the outputs `[B, outputs]` of a head in two dropout draws.

    Half the sum of the two Kullback-Leibler divergences (Liang et al. 2021, section 2.1), as a mean
    over rows. Softmax outputs (classes, levels) are one distribution over all of them. A sigmoid is
    a distribution over yes and no: the divergences of a row are summed over the classes of a
    one-vs-all loss and averaged over labels, as the head's losses are. For a head that predicts a
    number: the mean squared difference, of scores as they are trained.
    """
    first, second = first.float(), second.float()
    difference = first - second
    if target.head in ("regression", "cosine"):
        return difference.square().mean()
    # KL(p, q) + KL(q, p) is the sum of (p - q)(log p - log q). The normalisers of the logarithms
    # cancel, so logits may stand for them, and no logarithm of 0 is taken.
    if target.sigmoid:
        divergences = (torch.sigmoid(first) - torch.sigmoid(second)) * difference
    else:
        divergences = (first.softmax(dim=1) - second.softmax(dim=1)) * difference
    if target.kind == "multi-label":
        return divergences.mean() / 2
    return divergences.sum(dim=1).mean() / 2


@dataclass(frozen=True)
class TextPairs:
    """The two texts of each row of a batch: embeddings `[B, H]`, closeness, and text keys."""

    first: Tensor
    second: Tensor
    closeness: NDArray[np.float64]  # [B], how similar the texts are, 0 to 1
    keys: NDArray[np.uint64]  # [B, 2], equal for equal texts

    def take(self, kept: NDArray[np.bool_]) -> "TextPairs":
        """Some of the rows, by a mask `[B]`."""
        if kept.all():
            return self
        mask = to_device(torch.from_numpy(kept), self.first.device)
        return TextPairs(self.first[mask], self.second[mask], self.closeness[kept], self.keys[kept])


def objective_loss(objective: ObjectiveSection, target: Target, pairs: TextPairs) -> Tensor:
    """The loss of one of a task's objectives, next to the loss of its head."""
    closeness = to_device(torch.from_numpy(pairs.closeness).float(), pairs.first.device)
    if objective.loss == "contrastive":
        return contrastive(pairs.first, pairs.second, closeness, objective.denominator)
    if objective.loss == "cosent":
        return cosent(pairs.first, pairs.second, closeness, objective.cosine_scale)
    if objective.loss == "ranking":
        least = objective.positive_from if target.kind == "similarity" else 0.5
        same = to_device(torch.from_numpy(same_texts(pairs.keys)), closeness.device)
        return ranking(
            pairs.first,
            pairs.second,
            closeness >= least,
            same,
            objective.cosine_scale,
            objective.symmetric,
        )
    assert_never(objective.loss)


def uncertainty_weighted(loss: Tensor, log_variance: Tensor, target: Target) -> Tensor:
    """A loss weighted by a learned variance (Kendall et al. 2018, equations 7 and 10).

    With s, the log of the variance (`log_variance: [1]`): exp(-s) loss + s / 2 for a likelihood
    over classes, and exp(-s) loss / 2 + s / 2 for a squared error. Where a task has two heads, the
    kind of loss of the first one decides.
    """
    log_variance = log_variance.float().sum()
    squared = target.head in ("regression", "cosine")
    return torch.exp(-log_variance) * loss * (0.5 if squared else 1.0) + log_variance / 2


def balanced_weights(counts: Tensor) -> Tensor:
    """Class weights `[C]`, inverse to the training counts, with mean 1 over the training rows.

    The weight is `n / (C * count)`, as in King & Zeng 2001 for rare events. A class without rows
    gets 0 and does not count in C.

    >>> balanced_weights(torch.tensor([1, 3]))
    tensor([2.0000, 0.6667])
    """
    present = (counts > 0).sum()
    weights = counts.sum() / (present * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0)
