"""Balancers, checked by hand, on full gradient vectors, and against torchjd and scipy.

The balancers that come from torchjd are checked against the properties stated in their papers.
"""

import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize
from torchjd.aggregation import GradVacWeighting, PCGradWeighting

from comity.errors import ComityError
from comity.training.balancers import (
    BALANCERS,
    CAGRAD_RADIUS,
    GRADVAC_BETA,
    TORCHJD,
    check_installed,
    draw_orders,
    gradvac,
    pcgrad,
    sum_gradients,
)


@st.composite
def gradients_and_orders(draw, most=5):
    """Integer gradients, so that zero and orthogonal gradients are common, and any orders."""
    count = draw(st.integers(2, most))
    shape = (count, draw(st.integers(1, 7)))
    gradients = draw(arrays.arrays(np.int64, shape, elements=st.integers(-5, 5)))
    orders = [draw(st.permutations([j for j in range(count) if j != i])) for i in range(count)]
    return gradients.astype(np.float64), orders


def weights_of(gradients, orders):
    gramian = torch.from_numpy(gradients @ gradients.T)
    weights, state = pcgrad(gramian, orders, {})
    assert state == {}
    return weights.numpy()


def published_algorithm(gradients, orders):
    """Yu et al. 2020, algorithm 1, on full gradient vectors."""
    total = np.zeros(gradients.shape[1])
    for gradient, others in zip(gradients, orders, strict=True):
        projected = gradient.copy()
        for j in others:
            product = projected @ gradients[j]
            if product < 0:
                projected = projected - product / (gradients[j] @ gradients[j]) * gradients[j]
        total += projected
    return total


def test_two_gradients_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): inner product -1, squared lengths 1 and 2.
    # g1 + g2 / 2 = (0.5, 0.5); g2 + g1 = (0, 1); their sum (0.5, 1.5) = 2 g1 + 1.5 g2.
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    weights, _ = pcgrad(gramian, [[1], [0]], {})
    assert weights.tolist() == [2.0, 1.5]
    assert weights.dtype == torch.float32


def test_three_gradients_by_hand_in_two_orders():
    # g1 = (1, 0), g2 = (-1, 1), g3 = (-1, -2); inner products -1, -1, -1.
    # g1, g2 first: g1 + g2 / 2 = (0.5, 0.5); its product with g3 is -1.5, |g3|^2 = 5: + 0.3 g3.
    # g1, g3 first: g1 + 0.2 g3 = (0.8, -0.4); its product with g2 is -1.2, |g2|^2 = 2: + 0.6 g2.
    # g2, g1 first: (0, 1); its product with g3 is -2: + 0.4 g3.
    # g3, g1 first: (0, -2); its product with g2 is -2: + 1 g2.
    gramian = torch.tensor([[1.0, -1, -1], [-1, 2, -1], [-1, -1, 5]], dtype=torch.float64)
    one, _ = pcgrad(gramian, [[1, 2], [0, 2], [0, 1]], {})
    two, _ = pcgrad(gramian, [[2, 1], [0, 2], [0, 1]], {})
    assert one.tolist() == pytest.approx([1 + 1 + 1, 0.5 + 1 + 1, 0.3 + 0.4 + 1])
    assert two.tolist() == pytest.approx([1 + 1 + 1, 0.6 + 1 + 1, 0.2 + 0.4 + 1])


@given(gradients_and_orders())
def test_equals_the_published_algorithm_on_full_vectors(case):
    gradients, orders = case
    expected = published_algorithm(gradients, orders)
    assert weights_of(gradients, orders) @ gradients == pytest.approx(expected, abs=1e-9)


@given(gradients_and_orders())
def test_equals_torchjd_with_the_same_order(case):
    gradients, orders = case
    # torchjd divides by zero for a zero gradient.
    gradients = gradients + np.eye(*gradients.shape) * 0.25
    gradients = gradients[(gradients != 0).any(axis=1)]
    orders = [[j for j in order if j < len(gradients)] for order in orders[: len(gradients)]]
    drawn = iter(torch.tensor([i, *order]) for i, order in enumerate(orders))
    gramian = torch.from_numpy(gradients @ gradients.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count: next(drawn))
        theirs = PCGradWeighting()(gramian)  # pyright: ignore[reportArgumentType]
    assert weights_of(gradients, orders) == pytest.approx(theirs.numpy(), abs=1e-9)


@given(gradients_and_orders())
def test_pcgrad_without_conflict_is_the_sum(case):
    gradients, orders = case
    assert weights_of(np.abs(gradients), orders).tolist() == [1.0] * len(gradients)


@given(gradients_and_orders(most=2))
def test_pcgrad_of_two_gradients_conflicts_with_neither(case):
    gradients, orders = case
    assert (gradients @ (weights_of(gradients, orders) @ gradients) >= -1e-9).all()


@given(gradients_and_orders(), st.sampled_from([1e-6, 0.5, 3.0, 1e6]))
def test_scaling_all_gradients_does_not_change_the_weights(case, scale):
    gradients, orders = case
    expected = weights_of(gradients, orders)
    assert weights_of(scale * gradients, orders) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(gradients_and_orders(), st.sampled_from([0.25, 8.0]))
def test_scaling_one_gradient_scales_only_its_own_projection(case, scale):
    gradients, orders = case
    longer = gradients.copy()
    longer[0] *= scale
    part = published_algorithm_of_one(gradients, orders, 0)
    before = weights_of(gradients, orders) @ gradients
    after = weights_of(longer, orders) @ longer
    assert after - before == pytest.approx((scale - 1) * part, abs=1e-8)


def published_algorithm_of_one(gradients, orders, i):
    alone = [order if k == i else [] for k, order in enumerate(orders)]
    return published_algorithm(gradients, alone) - gradients.sum(axis=0) + gradients[i]


@pytest.mark.parametrize("rows", [[[0, 0], [1, -1]], [[0, 0], [0, 0]], [[1, 1], [0, 0], [-1, 0]]])
def test_a_zero_gradient_causes_no_division_by_zero(rows):
    gradients = np.array(rows, dtype=np.float64)
    orders = [[j for j in range(len(rows)) if j != i] for i in range(len(rows))]
    expected = published_algorithm(gradients, orders)
    assert weights_of(gradients, orders) @ gradients == pytest.approx(expected)


def test_rounding_cannot_make_a_zero_gradient_conflict():
    weights, _ = pcgrad(torch.tensor([[1.0, -1e-30], [-1e-30, 0.0]]), [[1], [0]], {})
    assert torch.isfinite(weights).all()
    assert weights[0] == pytest.approx(1)


def test_computes_in_float64():
    gramian = torch.tensor([[1.0, -3e-8, -1.0], [-3e-8, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    orders = [[1, 2], [0, 2], [0, 1]]
    short, _ = pcgrad(gramian, orders, {})
    long, _ = pcgrad(gramian.double(), orders, {})
    assert short.equal(long.float())


def test_one_task_keeps_its_gradient():
    assert pcgrad(torch.tensor([[4.0]]), draw_orders(0, 0, 1), {})[0].tolist() == [1.0]


def test_the_gramian_is_not_changed():
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    pcgrad(gramian, [[1], [0]], {})
    assert gramian.tolist() == [[1.0, -1.0], [-1.0, 2.0]]


def test_sum_has_weights_of_one_and_returns_the_state():
    state = {"mean": torch.ones(1)}
    weights, after = sum_gradients(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]), [[1], [0]], state)
    assert weights.tolist() == [1.0, 1.0]
    assert after is state


def test_mean_has_equal_weights_that_add_up_to_one():
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    weights, after = BALANCERS["mean"](gramian, [[1], [0]], {})
    assert weights.tolist() == [0.5, 0.5]
    assert weights.dtype == torch.float32
    assert after == {}
    five, _ = BALANCERS["mean"](torch.eye(5).double(), draw_orders(0, 0, 5), {})
    assert five.tolist() == [0.2] * 5


def test_orders_are_permutations_of_the_others_and_functions_of_their_integers():
    for count in range(1, 7):
        orders = draw_orders(3, 11, count)
        assert [sorted([i, *order]) for i, order in enumerate(orders)] == [[*range(count)]] * count
        assert orders == draw_orders(3, 11, count)
    drawn = {str(draw_orders(seed, step, 5)) for seed in range(5) for step in range(20)}
    assert len(drawn) == 100


def test_orders_are_uniform_and_independent_between_tasks():
    orders = [draw_orders(0, step, 3) for step in range(2000)]
    ascending = np.array([[order == sorted(order) for order in step] for step in orders])
    assert ascending.mean(axis=0) == pytest.approx([0.5] * 3, abs=0.05)
    # With one order for all tasks these would always agree.
    assert np.corrcoef(ascending.T)[np.triu_indices(3, 1)] == pytest.approx([0] * 3, abs=0.1)


# GradVac


def published_gradvac(gradients, orders, averages):
    """Wang et al. 2021, algorithm 1, on full gradient vectors: changed vectors and new averages.

    If the cosine of a pair is below its target phi, the multiple of g_j that is added to g_i is
    |g_i| (phi sin(a) - cos(a) sin(target)) / (|g_j| sin(target)), with a the angle of the pair and
    target the angle with cosine phi.
    """
    changed, averages = gradients.copy(), averages.copy()
    for i, others in enumerate(orders):
        for j in others:
            lengths = np.linalg.norm(changed[i]), np.linalg.norm(gradients[j])
            cosine = changed[i] @ gradients[j] / (lengths[0] * lengths[1])
            angle, wanted = np.arccos(cosine), np.arccos(averages[i, j])
            share = np.cos(wanted) * np.sin(angle) - np.cos(angle) * np.sin(wanted)
            if cosine < averages[i, j]:
                changed[i] += lengths[0] * share / (lengths[1] * np.sin(wanted)) * gradients[j]
            averages[i, j] = (1 - 0.01) * averages[i, j] + 0.01 * cosine
    return changed, averages


def random_case(seed, most=5):
    """Gradients in general position, orders, and averages in (-0.95, 0.95) with a zero diagonal."""
    draws = np.random.default_rng(seed)
    count = int(draws.integers(2, most + 1))
    lengths = 10 ** draws.uniform(-2, 2, (count, 1))
    gradients = lengths * draws.normal(size=(count, count + 3))
    averages = draws.uniform(-0.95, 0.95, (count, count)) * (1 - np.eye(count))
    return gradients, draw_orders(seed, 0, count), averages


seeds = st.integers(0, 2**32 - 1)

# Precision of the searches, relative to the total length (MGDA: squared) of the gradients.
MGDA_PRECISION = 1e-3
UPGRAD_PRECISION = 1e-5


def test_gradvac_of_two_gradients_by_hand():
    # g1 = (1, 0), g2 = (0, 2): cosine 0, sine 1. The targets are 0.6 for g1 and 0.8 for g2.
    # g1: 1 (0.6 * 1 - 0 * 0.8) / (2 * 0.8) = 0.375 of g2 makes (1, 0.75), whose cosine is 0.6.
    # g2: 2 (0.8 * 1 - 0 * 0.6) / (1 * 0.6) = 8/3 of g1 makes (8/3, 2), whose cosine is 0.8.
    # The averages move towards the cosine 0 by 1/100: 0.99 * 0.6 and 0.99 * 0.8.
    state = {"cosines": torch.tensor([[0, 0.6], [0.8, 0]], dtype=torch.float64)}
    weights, after = gradvac(torch.tensor([[1.0, 0.0], [0.0, 4.0]]), [[1], [0]], state)
    assert weights.tolist() == pytest.approx([1 + 8 / 3, 1 + 0.375])
    assert weights.dtype == torch.float32
    assert after["cosines"].flatten().tolist() == pytest.approx([0, 0.594, 0.792, 0])
    assert after["cosines"].dtype == torch.float64


def test_gradvac_keeps_gradients_whose_cosine_is_above_the_target():
    # g1 = (1, 0), g2 = (3, 4): cosine 0.6, above both targets, which become 0.99 * 0.5 + 0.006 and
    # 0.99 * -0.5 + 0.006.
    state = {"cosines": torch.tensor([[0, 0.5], [-0.5, 0]], dtype=torch.float64)}
    weights, after = gradvac(torch.tensor([[1.0, 3.0], [3.0, 25.0]]), [[1], [0]], state)
    assert weights.tolist() == [1.0, 1.0]
    assert after["cosines"].flatten().tolist() == pytest.approx([0, 0.501, -0.489, 0])
    assert GRADVAC_BETA == 0.01


@given(seeds)
def test_gradvac_equals_the_published_algorithm_on_full_vectors_over_steps(seed):
    gradients, orders, averages = random_case(seed)
    state = {"cosines": torch.from_numpy(averages)}
    for _ in range(3):
        changed, averages = published_gradvac(gradients, orders, averages)
        weights, state = gradvac(torch.from_numpy(gradients @ gradients.T), orders, state)
        scale = np.abs(changed).max()
        assert weights.numpy() @ gradients == pytest.approx(changed.sum(axis=0), abs=1e-7 * scale)
        assert state["cosines"].numpy() == pytest.approx(averages, abs=1e-7)
        gradients = np.roll(gradients, 1, axis=1)[::-1]


@given(seeds)
def test_gradvac_raises_the_cosine_of_two_gradients_to_the_target(seed):
    gradients, _, averages = random_case(seed, most=2)
    gramian = torch.from_numpy(gradients @ gradients.T)
    cosine = float(gramian[0, 1] / (gramian[0, 0] * gramian[1, 1]).sqrt())
    # The empty order keeps the second gradient, so the rest of the sum is the changed first one.
    weights, _ = gradvac(gramian, [[1], []], {"cosines": torch.from_numpy(averages)})
    changed = weights.numpy() @ gradients - gradients[1]
    after = changed @ gradients[1] / np.linalg.norm(changed) / np.linalg.norm(gradients[1])
    assert after == pytest.approx(max(cosine, averages[0, 1]), abs=1e-7)


@given(gradients_and_orders())
def test_the_first_step_of_gradvac_equals_pcgrad(case):
    gradients, orders = case
    weights, _ = gradvac(torch.from_numpy(gradients @ gradients.T), orders, {})
    expected = published_algorithm(gradients, orders)
    assert weights.numpy() @ gradients == pytest.approx(expected, abs=1e-6)


@given(seeds)
def test_gradvac_equals_torchjd_with_the_same_order(seed):
    gradients, orders, _ = random_case(seed)
    theirs, state = GradVacWeighting(beta=0.01, eps=0.0), {}
    for _ in range(4):
        # torchjd draws indices into the list of the other tasks, which does not contain task i.
        drawn = iter([torch.tensor([j - (j > i) for j in o]) for i, o in enumerate(orders)])
        gramian = torch.from_numpy(gradients @ gradients.T)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randperm", lambda count, drawn=drawn: next(drawn))
            expected = theirs(gramian)  # pyright: ignore[reportArgumentType]
        weights, state = gradvac(gramian, orders, state)
        assert weights.numpy() == pytest.approx(expected.numpy(), rel=1e-6, abs=1e-9)
        gradients = np.roll(gradients, 1, axis=1)[::-1]


@given(gradients_and_orders(), seeds)
def test_gradvac_stays_finite_and_its_averages_are_cosines(case, seed):
    gradients, orders = case
    averages = np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 1.0], (len(gradients),) * 2)
    state = {"cosines": torch.from_numpy(averages)}
    gramian = torch.from_numpy(gradients @ gradients.T)
    weights, after = gradvac(gramian, orders, state)
    assert torch.isfinite(weights).all()
    assert (after["cosines"].abs() <= 1).all()


@pytest.mark.parametrize("seed", range(20))
def test_gradvac_of_opposed_gradients_whose_cosine_rounds_below_minus_one(seed):
    first = np.random.default_rng(seed).normal(size=3)
    gradients = np.stack([first, -first / 3])
    gramian = torch.from_numpy(gradients @ gradients.T)
    weights, after = gradvac(gramian, [[1], [0]], {})
    assert weights.numpy() @ gradients == pytest.approx([0, 0, 0], abs=1e-7)
    assert after["cosines"].flatten().tolist() == pytest.approx([0, -0.01, -0.01, 0])


def test_a_zero_gradient_changes_nothing_in_gradvac():
    state = {"cosines": torch.full((3, 3), 0.9, dtype=torch.float64)}
    gramian = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.0, 1.0]])
    weights, after = gradvac(gramian, [[1, 2], [0, 2], [1, 0]], state)
    alone = gramian[::2, ::2]
    expected, kept = gradvac(alone, [[1], [0]], {"cosines": state["cosines"][:2, :2]})
    assert weights.tolist() == pytest.approx([float(expected[0]), 1, float(expected[1])])
    assert after["cosines"][::2, ::2].equal(kept["cosines"])
    assert after["cosines"][1].tolist() == [0.9] * 3
    assert after["cosines"][:, 1].tolist() == [0.9] * 3


def test_gradvac_does_not_change_the_state_it_is_given():
    state = {"cosines": torch.tensor([[0, 0.6], [0.8, 0]], dtype=torch.float64)}
    gradvac(torch.eye(2), [[1], [0]], state)
    assert state["cosines"].tolist() == [[0, 0.6], [0.8, 0]]
    assert list(state) == ["cosines"]


# Balancers from torchjd


def weights_from(name, gradients):
    gramian = torch.from_numpy(gradients @ gradients.T)
    before = gramian.clone()
    weights, state = BALANCERS[name](gramian, draw_orders(0, 0, len(gradients)), {})
    assert state == {}
    assert gramian.equal(before)
    assert weights.dtype == torch.float64
    assert torch.isfinite(weights).all()
    return weights.numpy()


def total_length(gradients):
    return float(np.linalg.norm(gradients))


def shortest_average(gradients):
    """The point of the convex hull of the gradients that is closest to zero.

    It is the normalised solution of min |w J|^2 + (sum(w) - 1)^2 over w >= 0. For weights with sum
    s the objective is s^2 |average|^2 + (s - 1)^2, which grows with |average| for every s > 0.
    """
    scaled = gradients / total_length(gradients)
    rows = np.vstack([scaled.T, np.ones(len(gradients))])
    weights, _ = optimize.nnls(rows, np.eye(len(rows))[-1])
    return weights @ gradients / weights.sum()


def nonzero(gradients):
    """The gradients that are not zero; skips a case in which all are zero."""
    kept = gradients[gradients.any(axis=1)]
    assume(len(kept))
    return kept


def test_mgda_of_two_gradients_by_hand():
    # g1 = (1, 0), g2 = (0, 2): |a g1 + (1 - a) g2|^2 = a^2 + 4 (1 - a)^2, smallest at a = 0.8.
    assert weights_from("mgda", np.array([[1.0, 0], [0, 2]])) == pytest.approx([0.8, 0.2])
    # g1 = (1, 0), g2 = (2, 1): no average is shorter than g1 itself.
    assert weights_from("mgda", np.array([[1.0, 0], [2, 1]])) == pytest.approx([1, 0], abs=1e-9)


@given(gradients_and_orders())
def test_mgda_is_the_shortest_average_and_conflicts_with_no_gradient(case):
    gradients = nonzero(case[0])
    weights = weights_from("mgda", gradients)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    combined = weights @ gradients
    square = total_length(gradients) ** 2
    least = shortest_average(gradients)
    assert combined @ combined == pytest.approx(least @ least, abs=MGDA_PRECISION * square)
    # The inner product of a gradient with the shortest average is at least its squared length.
    assert (gradients @ combined >= least @ least - MGDA_PRECISION * square).all()


def test_imtl_g_of_two_gradients_by_hand():
    # With equal projections the result halves the angle between the gradients, so each weight is
    # proportional to the length of the other gradient: 3 and 5 of 8.
    gradients = np.array([[3.0, 4], [3, 0]])
    assert weights_from("imtl-g", gradients) == pytest.approx([3 / 8, 5 / 8])


@given(seeds)
def test_imtl_g_projects_equally_onto_every_gradient(seed):
    gradients, _, _ = random_case(seed)
    weights = weights_from("imtl-g", gradients)
    assert weights.sum() == pytest.approx(1)
    combined = weights @ gradients
    lengths = np.linalg.norm(gradients, axis=1)
    projections = gradients @ combined / lengths
    error = 1e-6 * float(np.linalg.norm(weights * lengths))
    assert projections == pytest.approx(np.full(len(gradients), projections[0]), abs=error)


@given(gradients_and_orders())
def test_cagrad_lies_in_the_ball_and_its_worst_task_gains_at_least_as_with_the_mean(case):
    gradients = nonzero(case[0])
    weights = weights_from("cagrad", gradients)
    mean = gradients.mean(axis=0)
    if not weights.any():  # torchjd gives 0 if an average of the gradients is zero
        limit = 1.1e-4 * total_length(gradients)
        assert np.linalg.norm(shortest_average(gradients)) <= limit
        return
    combined = weights @ gradients
    slack = 1e-5 * total_length(gradients)
    assert np.linalg.norm(combined - mean) <= CAGRAD_RADIUS * np.linalg.norm(mean) + slack
    worst = (gradients @ combined).min()
    assert worst >= (gradients @ mean).min() - slack * total_length(gradients)


@pytest.mark.parametrize("seed", range(12))
def test_the_worst_task_gains_as_much_with_cagrad_as_with_scipy(seed):
    draws = np.random.default_rng(seed)
    gradients = draws.normal(size=(2 + seed % 2, 4)) * draws.uniform(0.2, 3, (2 + seed % 2, 1))
    mean = gradients.mean(axis=0)
    radius = 0.5 * float(np.linalg.norm(mean))
    # Over a vector d in the ball and a number t: the largest t with d . g_i >= t for all i.
    best = optimize.minimize(
        lambda x: -x[-1],
        np.append(mean, (gradients @ mean).min()),
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda x: gradients @ x[:-1] - x[-1]},
            {"type": "ineq", "fun": lambda x: radius**2 - ((x[:-1] - mean) ** 2).sum()},
        ],
        options={"ftol": 1e-9, "maxiter": 1000},
    )
    assert best.success
    combined = weights_from("cagrad", gradients) @ gradients
    assert combined == pytest.approx(best.x[:-1], abs=2e-3 * radius)
    assert (gradients @ combined).min() == pytest.approx(best.x[-1], rel=1e-3, abs=1e-5)


def projected_on_the_cone(gradient, gradients):
    """The vector closest to `gradient` that conflicts with none of the gradients.

    By Moreau's theorem it is `gradient` plus the combination of the gradients, with weights of at
    least 0, that comes closest to `-gradient`.
    """
    scale = total_length(gradients)
    weights, _ = optimize.nnls(gradients.T / scale, -gradient / scale)
    return gradient + weights @ gradients


def test_upgrad_of_two_gradients_by_hand():
    # g1 = (1, 0), g2 = (-1, 1) as above: g1 + g2 / 2 = (0.5, 0.5) and g2 + g1 = (0, 1) conflict
    # with neither gradient; their mean is half of 2 g1 + 1.5 g2.
    weights = weights_from("upgrad", np.array([[1.0, 0], [-1, 1]]))
    assert weights == pytest.approx([1, 0.75], rel=1e-6)


@given(gradients_and_orders())
def test_upgrad_is_the_mean_of_the_projections_and_conflicts_with_no_gradient(case):
    gradients = nonzero(case[0])
    weights = weights_from("upgrad", gradients)
    assert (weights >= 1 / len(gradients) - 1e-9).all()
    combined = weights @ gradients
    expected = np.mean([projected_on_the_cone(g, gradients) for g in gradients], axis=0)
    length = total_length(gradients)
    assert combined == pytest.approx(expected, abs=UPGRAD_PRECISION * length)
    assert (gradients @ combined >= -UPGRAD_PRECISION * length**2).all()


@given(gradients_and_orders())
def test_upgrad_without_conflict_is_the_mean(case):
    gradients = np.abs(case[0])
    gradients = gradients[gradients.any(axis=1)]
    expected = [1 / len(gradients)] * len(gradients) if len(gradients) else []
    assert weights_from("upgrad", gradients).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0], [0, 0]],  # no gradient at all
        [[1, 2], [1, 2]],  # two equal gradients
        [[1, 2], [1, 2], [-3, 1]],
        [[1, 2], [-1, -2]],  # opposed
        [[1, 2], [-2, -4], [0, 1]],
        [[1, 0], [-1, 2], [-1, -2]],  # zero is an average of them
        [[1e-12, 0], [0, 1e12]],
        [[2, 1]],
    ],
)
def test_weights_are_finite_for_a_singular_gramian(name, rows):
    gradients = np.array(rows, dtype=np.float64)
    for kind in (torch.float64, torch.float32):
        gramian = torch.from_numpy(gradients @ gradients.T).to(kind)
        weights, _ = BALANCERS[name](gramian, draw_orders(0, 0, len(rows)), {})
        assert torch.isfinite(weights).all()
        assert weights.dtype == kind
        assert weights.shape == (len(rows),)


@pytest.mark.parametrize("name", TORCHJD)
@given(seed=seeds)
@settings(max_examples=20)
def test_a_zero_gradient_does_not_change_the_other_weights(name, seed):
    gradients, _, _ = random_case(seed)
    more = np.insert(gradients, 1, 0, axis=0)
    expected = np.insert(weights_from(name, gradients), 1, 0)
    assert weights_from(name, more) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", TORCHJD)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_short_gradients_get_the_same_weights_as_long_ones(name, scale):
    gradients = np.array([[1.0, 0, 1], [-2, 1, 0], [0, 1, 0.5]])
    expected = weights_from(name, gradients)
    assert weights_from(name, scale * gradients) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", TORCHJD)
def test_weights_are_finite_for_a_rounded_gramian_of_many_gradients(name):
    """Sixteen gradients in eight dimensions, in float32: the Gramian has negative eigenvalues."""
    draws = np.random.default_rng(0)
    gradients = draws.normal(size=(16, 8)).astype(np.float32)
    gramian = torch.from_numpy(gradients @ gradients.T)
    assert torch.linalg.eigvalsh(gramian).min() < 0
    weights, _ = BALANCERS[name](gramian, draw_orders(0, 0, 16), {})
    assert torch.isfinite(weights).all()


def test_a_missing_torchjd_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    for name in TORCHJD:
        message = (
            f'balancer "{name}" needs torchjd with its solvers, which is not installed; run '
            'pip install "comity[balancers]"'
        )
        with pytest.raises(ComityError) as error:
            check_installed(name)
        assert error.value.messages == [message]
        with pytest.raises(ComityError, match="needs torchjd"):
            BALANCERS[name](torch.eye(2), [[1], [0]], {})
    for name in set(BALANCERS) - set(TORCHJD):
        check_installed(name)
        BALANCERS[name](torch.eye(2), [[1], [0]], {})


@pytest.mark.parametrize("name", ["cagrad", "upgrad"])
def test_a_missing_solver_is_reported(monkeypatch, name):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda module: None)
    with pytest.raises(ComityError, match=r"with its solvers, which is not installed; run pip"):
        check_installed(name)
