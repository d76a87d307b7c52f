"""AdamW against the formula of the paper, the course's reference values and torch; schedules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.model.parameters import SHARED, Segment
from comity.training.optim import adamw, fused_adamw, schedule_factor, segment_rates

UPDATES = [adamw, fused_adamw]


def by_hand(theta, gradients, rate, betas, eps, weight_decay):
    """Section 3.2 of the paper, line by line, in Python floats."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        alpha = rate * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        theta = theta - alpha * m / (math.sqrt(v) + eps)
        theta = theta - rate * weight_decay * theta
    return theta


@pytest.mark.parametrize("update", UPDATES)
@settings(max_examples=50)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=8),
    st.floats(-2, 2, width=32),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_the_papers_update_by_hand(update, gradients, theta, weight_decay):
    master = torch.tensor([theta], dtype=torch.float64)
    first, second = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for step, gradient in enumerate(gradients, start=1):
        update(
            master,
            torch.tensor([gradient], dtype=torch.float64),
            first,
            second,
            step=step,
            rate=0.02,
            betas=(0.8, 0.95),
            eps=1e-3,
            weight_decay=weight_decay,
        )
    expected = by_hand(theta, gradients, 0.02, (0.8, 0.95), 1e-3, weight_decay)
    assert master.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


# From the optimizer test of the public course repository: rate 1e-3, eps 1e-6, decay 1e-4, 1,000
# steps.
COURSE_VALUES = [[0.55482787, 0.8666566, 0.07291982], [-0.44724506, -0.2951228, -0.2717272]]


@pytest.mark.parametrize("update", UPDATES)
def test_the_courses_reference_values(update):
    torch.manual_seed(0)
    weight = torch.nn.Linear(3, 2, bias=False).weight.detach().clone()
    first, second = torch.zeros(6), torch.zeros(6)
    draws = np.random.default_rng(0)
    for step in range(1, 1001):
        x = torch.from_numpy(draws.uniform(size=[3]).astype(np.float32))
        leaf = weight.clone().requires_grad_()
        wanted = torch.stack([x[0] + x[1], -x[2]])
        ((leaf @ x - wanted) ** 2).sum().backward()
        assert leaf.grad is not None
        update(
            weight.view(-1),
            leaf.grad.view(-1),
            first,
            second,
            step=step,
            rate=1e-3,
            eps=1e-6,
            weight_decay=1e-4,
        )
    torch.testing.assert_close(weight, torch.tensor(COURSE_VALUES), atol=1e-6, rtol=1e-4)


def test_equals_torch_with_matched_eps_and_without_decay():
    """torch adds eps after the bias correction, so eps is adjusted in each step."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(50, generator=generator)
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=3e-3, weight_decay=0.0)
    ours, first, second = start.clone(), torch.zeros(50), torch.zeros(50)
    for step in range(1, 101):
        gradient = torch.randn(50, generator=generator)
        theirs.grad = gradient.clone()
        optimizer.step()
        matched = 1e-8 * math.sqrt(1 - 0.999**step)
        adamw(ours, gradient, first, second, step=step, rate=3e-3, eps=matched)
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-6, rtol=0)


def test_weight_decay_comes_after_the_step():
    """With weight 1, gradient 1 and rate 0.1 the step gives 0.9, and decay takes 1% of that."""
    master, first, second = torch.ones(1), torch.zeros(1), torch.zeros(1)
    adamw(master, torch.ones(1), first, second, step=1, rate=0.1, eps=1e-12, weight_decay=0.1)
    assert master.item() == pytest.approx(0.9 * 0.99, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "warmup", "decay", "expected"),
    [
        (0, 0.5, "linear", 0.2),
        (4, 0.5, "linear", 1.0),
        (5, 0.5, "linear", 1.0),
        (9, 0.5, "linear", 0.2),
        (0, 2, "linear", 0.5),
        (0, 0, "linear", 1.0),
        (5, 0, "cosine", 0.5),
        (9, 0, "cosine", (1 + math.cos(0.9 * math.pi)) / 2),
        (9, 0.1, "constant", 1.0),
    ],
)
def test_schedules_by_hand(step, warmup, decay, expected):
    assert schedule_factor(step, 10, warmup, decay) == pytest.approx(expected)


def test_rates_of_segments():
    rate_of = segment_rates(
        lr=0.1,
        head_lr={"here": 0.5, "absent": 0.7},
        present={"here"},
        frozen_layers=1,
        top_layer=3,
        lr_layer_decay=0.5,
    )
    assert rate_of(Segment(SHARED, 3, True, False, 0, 1)) == pytest.approx(0.1)
    assert rate_of(Segment(SHARED, 1, True, False, 0, 1)) == pytest.approx(0.1 * 0.25)
    assert rate_of(Segment(SHARED, 0, True, True, 0, 1)) is None
    assert rate_of(Segment("here", 3, True, False, 0, 1)) == 0.5
    assert rate_of(Segment("absent", 3, True, False, 0, 1)) is None
