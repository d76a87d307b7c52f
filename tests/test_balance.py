"""Gradient surgery on the Gramian against hand arithmetic, full vectors and torchjd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchjd.aggregation import PCGradWeighting

from comity.balance import BALANCERS, conflicts, cosines, draw_orders, pcgrad, sum_gradients


@st.composite
def gradients_and_orders(draw, most=5):
    """Whole numbers (so that a zero gradient or a right angle is met often) and any orders."""
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
    """Yu et al. 2020, algorithm 1, on the vectors themselves."""
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


def test_three_gradients_by_hand_where_the_order_matters():
    # g1 = (1, 0), g2 = (-1, 1), g3 = (-1, -2); inner products -1, -1, -1.
    # g1, first against g2: (0.5, 0.5) = g1 + g2 / 2; with g3 then -1.5, and |g3|^2 = 5: + 0.3 g3.
    # g1, first against g3: g1 + 0.2 g3 = (0.8, -0.4); with g2 then -1.2, and |g2|^2 = 2: + 0.6 g2.
    # g2 against g1: (0, 1); with g3 then -2: + 0.4 g3.     g3 against g1: (0, -2); g2: -2: + 1 g2.
    gramian = torch.tensor([[1.0, -1, -1], [-1, 2, -1], [-1, -1, 5]], dtype=torch.float64)
    one, _ = pcgrad(gramian, [[1, 2], [0, 2], [0, 1]], {})
    two, _ = pcgrad(gramian, [[2, 1], [0, 2], [0, 1]], {})
    assert one.tolist() == pytest.approx([1 + 1 + 1, 0.5 + 1 + 1, 0.3 + 0.4 + 1])
    assert two.tolist() == pytest.approx([1 + 1 + 1, 0.6 + 1 + 1, 0.2 + 0.4 + 1])


@given(gradients_and_orders())
@settings(deadline=None)
def test_equals_the_published_algorithm_on_full_vectors(case):
    gradients, orders = case
    expected = published_algorithm(gradients, orders)
    assert weights_of(gradients, orders) @ gradients == pytest.approx(expected, abs=1e-9)


@given(gradients_and_orders())
@settings(deadline=None)
def test_equals_torchjd_with_the_order_made_equal(case):
    gradients, orders = case
    gradients = gradients + np.eye(*gradients.shape) * 0.25  # torchjd divides by a zero length
    gradients = gradients[(gradients != 0).any(axis=1)]
    orders = [[j for j in order if j < len(gradients)] for order in orders[: len(gradients)]]
    drawn = iter(torch.tensor([i, *order]) for i, order in enumerate(orders))
    gramian = torch.from_numpy(gradients @ gradients.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count: next(drawn))
        theirs = PCGradWeighting()(gramian)  # pyright: ignore[reportArgumentType]
    assert weights_of(gradients, orders) == pytest.approx(theirs.numpy(), abs=1e-9)


@given(gradients_and_orders())
@settings(deadline=None)
def test_without_conflict_it_is_the_sum(case):
    gradients, orders = case
    assert weights_of(np.abs(gradients), orders).tolist() == [1.0] * len(gradients)


@given(gradients_and_orders(most=2))
@settings(deadline=None)
def test_of_two_gradients_none_is_opposed_by_the_result(case):
    gradients, orders = case
    assert (gradients @ (weights_of(gradients, orders) @ gradients) >= -1e-9).all()


@given(gradients_and_orders(), st.sampled_from([1e-6, 0.5, 3.0, 1e6]))
@settings(deadline=None)
def test_scale_of_all_gradients_leaves_the_weights(case, scale):
    gradients, orders = case
    expected = weights_of(gradients, orders)
    assert weights_of(scale * gradients, orders) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(gradients_and_orders(), st.sampled_from([0.25, 8.0]))
@settings(deadline=None)
def test_length_of_one_gradient_changes_only_its_own_part_of_the_result(case, scale):
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
def test_a_zero_gradient_divides_nothing(rows):
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


def test_the_input_stays_as_it_was():
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    pcgrad(gramian, [[1], [0]], {})
    assert gramian.tolist() == [[1.0, -1.0], [-1.0, 2.0]]


def test_sum_is_ones_and_state_passes_through():
    state = {"mean": torch.ones(1)}
    weights, after = sum_gradients(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]), [[1], [0]], state)
    assert weights.tolist() == [1.0, 1.0]
    assert after is state
    assert set(BALANCERS) == {"sum", "pcgrad"}


def test_orders_are_permutations_of_the_others_and_functions_of_their_integers():
    for count in range(1, 7):
        orders = draw_orders(3, 11, count)
        assert [sorted([i, *order]) for i, order in enumerate(orders)] == [[*range(count)]] * count
        assert orders == draw_orders(3, 11, count)
    drawn = {str(draw_orders(seed, step, 5)) for seed in range(5) for step in range(20)}
    assert len(drawn) == 100


def test_orders_are_uniform_and_fresh_for_each_task():
    orders = [draw_orders(0, step, 3) for step in range(2000)]
    ascending = np.array([[order == sorted(order) for order in step] for step in orders])
    assert ascending.mean(axis=0) == pytest.approx([0.5] * 3, abs=0.05)
    # One order for all tasks would make these agree always.
    assert np.corrcoef(ascending.T)[np.triu_indices(3, 1)] == pytest.approx([0] * 3, abs=0.1)


def test_cosines_and_conflicts():
    gradients = torch.tensor([[3.0, 4.0], [-4.0, 3.0], [-6.0, -8.0], [0.0, 0.0]])
    expected = [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]
    gramian = gradients @ gradients.T
    assert cosines(gramian).flatten().tolist() == pytest.approx(np.ravel(expected))
    assert cosines(gramian).dtype == torch.float64
    assert conflicts(gramian) == 1
    assert conflicts(torch.tensor([[1.0, -0.1, -0.1], [-0.1, 1.0, -0.1], [-0.1, -0.1, 1.0]])) == 3
    assert conflicts(torch.eye(3)) == 0


@given(gradients_and_orders())
@settings(deadline=None)
def test_cosines_equal_torch(case):
    gradients = torch.from_numpy(case[0])
    expected = torch.nn.functional.cosine_similarity(gradients[:, None], gradients[None], dim=-1)
    assert torch.allclose(cosines(gradients @ gradients.T), expected, atol=1e-12)


def test_cosines_of_tiny_and_huge_gradients():
    lengths = torch.tensor([1e-15, 1e15])
    gramian = lengths[:, None] * lengths[None] * torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    assert cosines(gramian).flatten().tolist() == pytest.approx([1, -0.5, -0.5, 1])
