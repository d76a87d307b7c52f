"""Losses of heads by hand and against torch, class weights, and sums over micro-batches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from torch.distributions import Bernoulli, Categorical, kl_divergence

from comity.losses.task_losses import (
    Teaching,
    balanced_weights,
    binary_cross_entropy,
    consistency_loss,
    cross_entropy,
    distillation_loss,
    head_loss,
    squared_error,
    task_loss,
)
from comity.targets import Target


def test_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    rows = log_softmax(logits.numpy(), axis=1)
    expected = -(rows[0, 1] + rows[1, 0]) / 2
    assert cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)
    weights = torch.tensor([3.0, 0.5, 1.0])
    weighted = -(0.5 * rows[0, 1] + 3.0 * rows[1, 0]) / 2
    found = cross_entropy(logits, torch.tensor([1, 0]), weights)
    assert found.item() == pytest.approx(weighted, rel=1e-6)


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([[0.7], [-0.2]])
    expected = (math.log1p(math.exp(-0.7)) + math.log1p(math.exp(-0.2))) / 2
    found = binary_cross_entropy(logits, torch.tensor([1, 0]))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_multi_label_is_the_mean_over_rows_and_labels():
    logits, wanted = torch.randn(3, 4), torch.randint(0, 2, (3, 4))
    p = torch.sigmoid(logits)
    expected = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    torch.testing.assert_close(binary_cross_entropy(logits, wanted), expected)


def test_squared_error_does_not_broadcast():
    assert squared_error(torch.tensor([[2.0]]), torch.tensor([0.5])).item() == 2.25
    found = squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0]))
    assert found.item() == 2.5


def test_balanced_weights_average_to_one_over_the_rows():
    counts = torch.tensor([10, 30, 0, 60])
    weights = balanced_weights(counts)
    assert weights[2] == 0
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (
            Target("classification", "linear", classes=("a", "b", "c")),
            torch.tensor([0, 2, 1, 1, 0]),
        ),
        (
            Target("classification", "linear", classes=("a", "b", "c"), one_vs_all=True),
            torch.tensor([0, 2, 1, 1, 0]),
        ),
        (Target("classification", "linear", classes=("a", "b")), torch.tensor([0, 1, 1, 1, 0])),
        (Target("similarity", "bins", scale=(0.0, 5.0)), torch.tensor([0, 5, 1, 1, 0])),
        (Target("similarity", "regression", scale=(0.0, 5.0)), torch.rand(5)),
        (Target("similarity", "cosine", scale=(0.0, 5.0)), torch.rand(5)),
        (Target("multi-label", "linear", classes=("a", "b")), torch.randint(0, 2, (5, 2))),
    ],
)
def test_micro_batches_weighted_by_their_rows_add_up(target, wanted):
    outputs = torch.randn(5, target.outputs)
    weights = torch.tensor([2.0, 0.5, 1.5])[: max(len(target.classes), 1)]
    if target.kind != "classification":
        weights = None
    whole = head_loss(target, outputs, wanted, weights)
    micro_batches = [slice(0, 2), slice(2, 5)]
    added = sum(
        head_loss(target, outputs[rows], wanted[rows], weights) * len(outputs[rows]) / 5
        for rows in micro_batches
    )
    torch.testing.assert_close(torch.as_tensor(added), whole)


# --- one-vs-all -----------------------------------------------------------------------------------


def test_one_vs_all_is_the_sum_of_torchs_loss_over_classes():
    logits, wanted = torch.randn(6, 4), torch.tensor([0, 3, 3, 1, 2, 0])
    target = Target("classification", "linear", classes=tuple("abcd"), one_vs_all=True)
    labels = torch.zeros(6, 4)
    labels[torch.arange(6), wanted] = 1.0
    expected = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, labels) / 6
    torch.testing.assert_close(head_loss(target, logits, wanted), expected)
    weights = torch.tensor([2.0, 1.0, 0.0, 0.5])
    each = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, labels).sum(dim=1)
    weighted = (each * torch.tensor([2.0, 0.5, 0.5, 1.0, 0.0, 2.0])).sum() / 6
    torch.testing.assert_close(head_loss(target, logits, wanted, weights), weighted)


# --- consistency of two dropout draws -------------------------------------------------------------


def both_ways(first, second):
    """Half the sum of torch's two divergences, for each row (and label)."""
    return (kl_divergence(first, second) + kl_divergence(second, first)) / 2


THREE = ("a", "b", "c")
CONSISTENCY = [
    (
        Target("classification", "linear", classes=("a", "b")),
        lambda one, two: both_ways(Bernoulli(logits=one[:, 0]), Bernoulli(logits=two[:, 0])),
    ),
    (
        Target("classification", "linear", classes=THREE),
        lambda one, two: both_ways(Categorical(logits=one), Categorical(logits=two)),
    ),
    (
        Target("classification", "linear", classes=THREE, one_vs_all=True),
        lambda one, two: both_ways(Bernoulli(logits=one), Bernoulli(logits=two)).sum(dim=1),
    ),
    (
        Target("multi-label", "linear", classes=THREE),
        lambda one, two: both_ways(Bernoulli(logits=one), Bernoulli(logits=two)).mean(dim=1),
    ),
    (
        Target("similarity", "bins", scale=(0.0, 5.0)),
        lambda one, two: both_ways(Categorical(logits=one), Categorical(logits=two)),
    ),
    (Target("similarity", "regression"), lambda one, two: (one - two)[:, 0] ** 2),
    (Target("similarity", "cosine"), lambda one, two: (one - two)[:, 0] ** 2),
    (Target("regression", "regression"), lambda one, two: (one - two)[:, 0] ** 2),
]


@pytest.mark.parametrize(("target", "divergence"), CONSISTENCY)
def test_consistency_and_its_gradient_equal_torchs_divergence(target, divergence):
    generator = torch.Generator().manual_seed(0)
    one, two = (
        (3 * torch.randn(7, target.outputs, generator=generator)).requires_grad_() for _ in range(2)
    )
    found, expected = consistency_loss(target, one, two), divergence(one, two).mean()
    assert expected > 0.1
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, (one, two))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (one, two)))


@pytest.mark.parametrize("target", [target for target, _ in CONSISTENCY])
def test_equal_draws_are_consistent_and_huge_logits_finite(target):
    outputs = torch.randn(5, target.outputs)
    assert consistency_loss(target, outputs, outputs).item() == 0
    huge = torch.full_like(outputs, 1e4)
    assert math.isfinite(consistency_loss(target, huge, -huge).item())


# --- soft labels ----------------------------------------------------------------------------------


def test_distillation_at_temperature_1_differs_from_the_divergence_by_the_entropy():
    target = Target("classification", "linear", ("a", "b", "c"))
    outputs, soft = torch.randn(4, 3), torch.randn(4, 3).softmax(dim=1)
    divergence = F.kl_div(outputs.log_softmax(dim=1), soft, reduction="batchmean")
    entropy = Categorical(soft).entropy().mean()
    torch.testing.assert_close(distillation_loss(target, outputs, soft), divergence + entropy)


def test_a_temperature_keeps_the_size_of_the_gradient():
    """For a high temperature it is that of half the squared error of centred logits / C."""
    target = Target("classification", "linear", ("a", "b", "c"))
    outputs = torch.tensor([[0.3, -1.0, 0.4]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.5, -2.0]])
    t = 1000.0
    distillation_loss(target, outputs, (teacher / t).softmax(dim=1), t).backward()
    difference = (outputs - teacher).detach()  # Hinton et al. 2015, equation 4
    expected = (difference - difference.mean()) / 3
    torch.testing.assert_close(outputs.grad, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_distillation_of_sigmoids_by_hand(temperature):
    outputs, soft = torch.randn(5, 3), torch.rand(5, 3)
    p = torch.sigmoid(outputs / temperature)
    losses = -(soft * p.log() + (1 - soft) * (1 - p).log()) * temperature**2
    several = Target("multi-label", "linear", ("a", "b", "c"))
    found = distillation_loss(several, outputs, soft, temperature)
    torch.testing.assert_close(found, losses.mean())
    apart = Target("classification", "linear", ("a", "b", "c"), one_vs_all=True)
    found = distillation_loss(apart, outputs, soft, temperature)
    torch.testing.assert_close(found, losses.sum(dim=1).mean())
    two = Target("classification", "linear", ("no", "yes"))
    both = torch.stack([1 - soft[:, 0], soft[:, 0]], dim=1)
    found = distillation_loss(two, outputs[:, :1], both, temperature)
    torch.testing.assert_close(found, losses[:, 0].mean())


def test_class_weights_multiply_the_loss_on_labels_only():
    target = Target("classification", "linear", ("a", "b", "c"))
    outputs, soft = torch.randn(4, 3), torch.randn(4, 3).softmax(dim=1)
    wanted, weights = torch.tensor([0, 1, 2, 1]), torch.tensor([3.0, 0.5, 2.0])
    labels = F.cross_entropy(outputs, wanted, reduction="none") * weights[wanted]
    teacher = F.cross_entropy(outputs, soft, reduction="none")
    found = head_loss(target, outputs, wanted, weights, Teaching(soft, 0.25))
    torch.testing.assert_close(found, (0.75 * labels + 0.25 * teacher).mean())
    soft[1:3] = torch.nan  # no teacher labels these rows
    found = head_loss(target, outputs, wanted, weights, Teaching(soft, 0.25))
    share = torch.tensor([0.25, 0, 0, 0.25])
    expected = ((1 - share) * labels + share * teacher).mean()
    torch.testing.assert_close(found, expected)
    nobody = Teaching(torch.full_like(soft, torch.nan), 0.25)
    torch.testing.assert_close(head_loss(target, outputs, wanted, weights, nobody), labels.mean())


def test_teachers_teach_both_heads_of_a_task():
    """Levels for the `bins` head; for the cosine next to it, their mean as a share of the scale."""
    target = Target("similarity", "bins", scale=(0.0, 2.0), text_head="cosine")
    outputs = torch.tensor([[0.2, -0.1, 0.4, 0.7], [1.0, 0.0, -1.0, 0.1]])
    labels = np.array([2.0, 0.0])
    soft = torch.tensor([[0.0, 0.5, 0.5], [0.8, 0.2, 0.0]])  # scores 1.5 and 0.2 of 2
    found = task_loss(target, outputs, labels, teaching=Teaching(soft, weight=1.0))
    levels = F.cross_entropy(outputs[:, :3], soft)
    scores = F.mse_loss(outputs[:, 3], torch.tensor([0.75, 0.1]))
    assert found.item() == pytest.approx((levels + scores).item(), abs=1e-6)
