"""Conflict between tasks: the statistics on synthetic gradients, and what a run records."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter
from scipy import stats
from tests.helpers import number

from comity.training.balancers import pcgrad
from comity.training.conflict import ConflictMonitor, cosines, expected_cosine, holm_intervals

TASKS = ["one", "two", "three"]
DIMENSIONS = 20


def directions(one_two: float, one_three: float, two_three: float) -> np.ndarray:
    """Three unit vectors `[3, S]` with the given cosines."""
    gram = np.array([[1, one_two, one_three], [one_two, 1, two_three], [one_three, two_three, 1]])
    return np.linalg.cholesky(gram) @ np.eye(3, DIMENSIONS)


def noisy(expected: np.ndarray, noise: float, steps: int, seed: int) -> np.ndarray:
    """Gradients `[steps, K, S]`: the expected ones plus noise, `noise` times as long on average."""
    shape = (steps, *expected.shape)
    draws = np.random.default_rng(seed).normal(size=shape)
    return expected + noise / np.sqrt(DIMENSIONS) * draws


def stepwise(gradients: np.ndarray) -> ConflictMonitor:
    """A monitor that saw these steps."""
    monitor = ConflictMonitor.of_stage(TASKS, from_steps=True)
    for step in gradients:
        monitor.observe_step(TASKS, step @ step.T)
    return monitor


def verdicts(gradients: np.ndarray) -> list[bool | None]:
    """Whether each pair of the three tasks conflicts."""
    lengths = np.linalg.norm(gradients, axis=2)
    found = gradients @ gradients.transpose(0, 2, 1) / lengths[:, :, None] / lengths[:, None]
    intervals = holm_intervals([found[:, 0, 1], found[:, 0, 2], found[:, 1, 2]])
    return [interval and interval[1] < 0 for interval in intervals]


# --- verdicts -------------------------------------------------------------------------------------


def test_conflict_is_found_under_noise_three_times_as_long_as_the_gradients():
    expected = directions(-0.3, 0, 0.3)
    found = np.array([verdicts(noisy(expected, 3, 1500, seed)) for seed in range(100)])
    conflict, neutral, agreement = found.mean(axis=0)
    assert conflict > 0.9
    assert neutral <= 0.05
    assert agreement == 0


@pytest.mark.parametrize(("steps", "noise"), [(23, 0.5), (200, 5)])
def test_tasks_that_have_nothing_in_common_rarely_conflict(steps, noise):
    expected = directions(0, 0, 0)
    found = [any(verdicts(noisy(expected, noise, steps, seed))) for seed in range(600)]
    # 2.5% are expected for the three pairs together; 0.045 is three standard errors above that.
    assert 0.005 < np.mean(found) < 0.045


def test_one_task_three_times_never_conflicts():
    expected = np.repeat(directions(0, 0, 0)[:1], 3, axis=0)
    for noise in (1, 3):
        found = [verdicts(noisy(expected, noise, 100, seed)) for seed in range(200)]
        assert found == [[False] * 3] * 200


def test_a_pair_conflicts_where_its_whole_interval_is_below_0():
    gradients = noisy(directions(-0.3, 0, 0.3), 1, 400, 0)
    below, around, above = stepwise(gradients).summary(400, 0, "stage", None).pairs
    assert [below.conflicts, around.conflicts, above.conflicts] == [True, False, False]
    for pair, signs in ((below, (-1, -1)), (around, (-1, 1)), (above, (1, 1))):
        assert pair.low is not None and pair.high is not None
        assert (np.sign(pair.low), np.sign(pair.high)) == signs


def test_fewer_than_20_steps_have_no_verdict():
    gradients = noisy(directions(-0.3, 0, 0.3), 0.1, 20, 0)
    assert verdicts(gradients)[0] is True
    monitor = stepwise(gradients[:19])
    for pair in monitor.summary(19, 0, "stage 1", None).pairs:
        assert (pair.observed, pair.conflicts, pair.low, pair.high) == (19, None, None, None)
        assert pair.cosine is not None


def test_the_interval_of_one_pair_is_a_t_interval_over_ten_blocks():
    values = np.random.default_rng(0).normal(0.1, 1, 250)
    blocks = values.reshape(10, 25).mean(axis=1)
    expected = stats.ttest_1samp(blocks, 0).confidence_interval(0.95)
    assert holm_intervals([values])[0] == pytest.approx((expected.low, expected.high))


@given(hnp.arrays(np.float64, (4, 40), elements=st.floats(-1, 1, width=32)), st.integers(0, 3))
@settings(max_examples=60)
def test_intervals_exclude_0_where_holm_rejects_it(series, shifted):
    series = series + np.random.default_rng(0).normal(size=series.shape)
    series[shifted] -= 1.0
    blocks = series.reshape(4, 10, 4).mean(axis=2)
    t = blocks.mean(axis=1) / stats.sem(blocks, axis=1)
    p = 2 * stats.t.sf(np.abs(t), 9)
    ranks = np.argsort(p)
    adjusted = np.maximum.accumulate(p[ranks] * (4 - np.arange(4)))
    rejected = np.empty(4, dtype=bool)
    rejected[ranks] = adjusted <= 0.05
    intervals = holm_intervals(list(series))
    assert [low > 0 or high < 0 for low, high in filter(None, intervals)] == rejected.tolist()


def test_pairs_with_too_few_steps_do_not_widen_the_intervals_of_the_others():
    long, short = np.random.default_rng(0).normal(size=(2, 100))
    assert holm_intervals([long, short[:5]]) == [holm_intervals([long])[0], None]


def test_correlated_steps_do_not_make_a_conflict():
    """Cosines of neighbouring steps that move together, as between close weights."""
    rejected = 0
    for seed in range(400):
        shocks = np.random.default_rng(seed).normal(size=2100)
        values = np.convolve(shocks, np.ones(21), "valid")
        interval = holm_intervals([values])[0]
        assert interval is not None
        rejected += interval[1] < 0
    assert rejected / 400 < 0.06  # 0.25 and more with an interval over single steps


# --- the cosine of expected gradients, and reliability --------------------------------------------


def products_of(expected: np.ndarray, noise: float, probes: int, seed: int) -> np.ndarray:
    """Products `[n, K, K]` of two independent batches of each task."""
    first = noisy(expected, noise, probes, 2 * seed)
    second = noisy(expected, noise, probes, 2 * seed + 1)
    return first @ second.transpose(0, 2, 1)


def test_the_cosine_of_expected_gradients_is_recovered_within_its_error():
    expected = directions(-0.3, 0, 0.3)
    simulated = [products_of(expected, 3, 300, seed) for seed in range(200)]
    for (i, j), true in {(0, 1): -0.3, (0, 2): 0.0, (1, 2): 0.3}.items():
        found = []
        for products in simulated:
            estimate = expected_cosine(products, i, j)
            assert estimate is not None
            found.append(estimate)
        values, low, high = np.transpose(found)
        assert np.mean(values) == pytest.approx(true, abs=3 * np.std(values) / np.sqrt(200) + 0.005)
        assert 0.9 <= np.mean((low <= true) & (true <= high)) <= 0.99


def test_there_is_no_expected_cosine_where_gradients_are_mostly_noise():
    expected = directions(-0.3, 0, 0.3)
    found = [expected_cosine(products_of(expected, 100, 50, seed), 0, 1) for seed in range(200)]
    assert np.mean([estimate is not None for estimate in found]) < 0.02
    quiet = products_of(expected, 0.1, 20, 0)
    assert expected_cosine(quiet, 0, 1) is not None
    assert expected_cosine(quiet[:19], 0, 1) is None


def test_an_estimate_beyond_1_is_limited():
    products = np.full((20, 2, 2), 2.0)
    products[:, [0, 1], [0, 1]] = 1.0
    assert expected_cosine(products, 0, 1) == (1, 1, 1)


def test_a_probe_by_hand():
    # First batches (3, 4) and (0, 2), second batches (4, 3) and (0, -1).
    first, second = np.array([[3.0, 4], [0, 2]]), np.array([[4.0, 3], [0, -1]])
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=False)
    monitor.layers = ["layer 1"]
    norms = [(first**2).sum(1)], [(second**2).sum(1)]
    entry = monitor.observe_probe(7, [first @ second.T], *norms)
    assert entry is not None
    assert (entry.step, entry.tasks, entry.steps) == (7, ["a", "b"], None)
    assert entry.reliability == pytest.approx([0.96, -1])
    # a's first with b's second: -4 / 5; b's first with a's second: 6 / 10.
    assert entry.cosines[0] == pytest.approx([1, -0.1])
    assert entry.cosines[1] == pytest.approx([-0.1, 1])
    summary = monitor.summary(7, 0, "stage 1", None)
    assert summary.reliability == pytest.approx({"a": 0.96, "b": -1})
    assert summary.pairs[0].cosine == pytest.approx(-0.1)


def test_a_zero_gradient_has_no_cosine():
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=False)
    monitor.layers = ["layer 1"]
    entry = monitor.observe_probe(1, [[[4.0, 0], [0, 0]]], [[4, 0]], [[4, 1]])
    assert entry is not None
    assert entry.reliability == [1, None]
    assert entry.cosines == [[1, None], [None, 1]]
    (pair,) = monitor.summary(1, 0, "stage 1", None).pairs
    assert (pair.observed, pair.cosine) == (0, None)
    steps = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    steps.observe_step(["a", "b"], [[4.0, 0], [0, 0]])
    assert steps.steps == [[]]


def test_gradients_that_are_not_finite_are_left_out():
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    monitor.observe_step(["a", "b"], [[1, np.nan], [np.nan, 1]])
    assert monitor.observe_probe(1, [[[1, np.inf], [1, 1]]], [[1, 1]], [[1, 1]]) is None
    assert (monitor.steps, monitor.probes) == ([[]], [])


# --- the monitor ----------------------------------------------------------------------------------


def test_a_step_counts_for_the_pairs_whose_tasks_it_has():
    monitor = ConflictMonitor.of_stage(TASKS, from_steps=True)
    monitor.observe_step(["three", "one"], [[1, 0.5], [0.5, 1]])
    monitor.observe_step(["two"], [[1]])
    monitor.observe_step(["one", "three"], [[1, -0.25], [-0.25, 1]])
    pairs = {pair.tasks: pair for pair in monitor.summary(3, 0, "stage 1", None).pairs}
    assert pairs["one", "three"].cosine == pytest.approx(0.125)
    assert {tasks: pair.observed for tasks, pair in pairs.items()} == {
        ("one", "two"): 0, ("one", "three"): 2, ("two", "three"): 0
    }  # fmt: skip


def test_every_step_is_logged_in_one_mean():
    gradients = noisy(directions(-0.3, 0, 0.3), 1, 12, 0)
    unit = gradients / np.linalg.norm(gradients, axis=2, keepdims=True)
    found = unit @ unit.transpose(0, 2, 1)
    monitor = ConflictMonitor.of_stage(TASKS, from_steps=True)
    for start, stop in ((0, 5), (5, 12)):
        for step in gradients[start:stop]:
            monitor.observe_step(TASKS, step @ step.T)
        entry = monitor.steps_entry(stop)
        assert entry is not None
        assert (entry.step, entry.steps, entry.reliability) == (stop, stop - start, None)
        assert np.array(entry.cosines) == pytest.approx(found[start:stop].mean(0), abs=1e-5)
    assert monitor.steps_entry(13) is None


def test_a_monitor_survives_a_checkpoint():
    monitor = stepwise(noisy(directions(-0.3, 0, 0.3), 1, 30, 0))
    monitor.steps_entry(30)
    monitor.observe_weights(TASKS, np.eye(3) - 0.1, [1.1, 0.9, 1.0])
    monitor.layers = ["layer 1"]
    monitor.observe_probe(30, [np.eye(3)], [[1, 1, 0]], [[1, 1, 1]])
    saved = json.loads(json.dumps(asdict(monitor)))
    assert TypeAdapter(ConflictMonitor).validate_python(saved) == monitor


# --- layers ---------------------------------------------------------------------------------------


def test_layers_of_a_probe_by_hand():
    """Two layers of two columns: the cosines of the slices, and parts that add up to the whole."""
    first = np.array([[3.0, 4, 1, 0], [0, 2, 0, 0]])
    second = np.array([[4.0, 3, 0, 1], [0, -1, 2, 0]])
    slices = (slice(0, 2), slice(2, 4))
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=False)
    monitor.layers = ["embeddings", "layer 1"]
    entry = monitor.observe_probe(
        7,
        [first[:, of] @ second[:, of].T for of in slices],
        [(first[:, of] ** 2).sum(1) for of in slices],
        [(second[:, of] ** 2).sum(1) for of in slices],
    )
    assert entry is not None
    # Embeddings: as in the probe above. Layer 1: a's first with b's second is (1, 0) with (2, 0),
    # but b's first is zero there.
    assert entry.layers == {"embeddings": [-0.1], "layer 1": [None]}
    (pair,) = monitor.summary(7, 0, "stage 1", None).pairs
    embeddings, layer = pair.layers
    assert (embeddings.layer, embeddings.observed) == ("embeddings", 1)
    assert (layer.layer, layer.observed, layer.cosine) == ("layer 1", 0, None)
    # Whole gradients: |a| = 26 ** 0.5 twice, |b| = 2 and 5 ** 0.5.
    lengths = 26**0.5 * 5**0.5, 26**0.5 * 2
    assert embeddings.part == pytest.approx((-4 / lengths[0] + 6 / lengths[1]) / 2, abs=1e-6)
    assert layer.part == pytest.approx((2 / lengths[0] + 0) / 2, abs=1e-6)
    assert pair.cosine == pytest.approx(number(embeddings.part) + number(layer.part), abs=3e-6)


def test_a_layer_that_conflicts_is_found_next_to_one_that_does_not():
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    monitor.layers = ["embeddings", "layer 1"]
    draws = np.random.default_rng(0)
    for step in range(40):
        cosines_of_step = draws.normal([0.0, -0.4], 0.1)
        products = [np.array([[1, cosine], [cosine, 1]]) for cosine in cosines_of_step]
        monitor.observe_probe(step, products, np.ones((2, 2)), np.ones((2, 2)))
    (pair,) = monitor.summary(40, 0, "stage 1", None).pairs
    quiet, loud = pair.layers
    assert (quiet.conflicts, loud.conflicts) == (False, True)
    assert number(loud.low) < -0.4 < number(loud.high) < 0
    assert number(quiet.low) < 0 < number(quiet.high)
    assert loud.observed == 40


# --- the balancer ---------------------------------------------------------------------------------


def test_what_a_balancer_does_by_hand():
    """Two gradients, (2, 0) and (-1, 1), and PCGrad's weights: the projections, added."""
    gradients = np.array([[2.0, 0], [-1, 1]])
    gramian = gradients @ gradients.T
    weights, _ = pcgrad(torch.from_numpy(gramian), [[1], [0]], {})
    update = weights.numpy() @ gradients
    plain = gradients.sum(0)
    assert update == pytest.approx([1, 2])  # (1, 1) + (0, 1)
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    monitor.observe_step(["a", "b"], gramian)
    monitor.observe_weights(["a", "b"], gramian, weights.tolist())
    # A step without conflict: nothing is changed.
    monitor.observe_step(["b", "a"], np.eye(2))
    monitor.observe_weights(["b", "a"], np.eye(2), [1.0, 1.0])

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    entry = monitor.steps_entry(2)
    assert entry is not None
    expected = (weights.numpy() + 1) / 2
    assert entry.weights == pytest.approx(expected, abs=1e-6)
    found = monitor.summary(2, 0, "stage 1", None, "pcgrad")
    assert (found.balancer, found.changed) == ("pcgrad", 0.5)
    assert found.turned == pytest.approx((cosine(plain, update) + 1) / 2)
    for number_, effect in enumerate(found.effects):
        own = gradients[number_]
        assert (effect.task, effect.steps) == ("ab"[number_], 2)
        assert effect.weight == pytest.approx(expected[number_])
        assert effect.sum_cosine == pytest.approx((cosine(own, plain) + 0.5**0.5) / 2)
        assert effect.update_cosine == pytest.approx((cosine(own, update) + 0.5**0.5) / 2)
        assert effect.update_opposed == 0


def test_a_gradient_that_the_sum_opposes():
    """The sum of (3, 0) and (-1, 1) is (2, 1), which goes against the second."""
    gradients = np.array([[3.0, 0], [-1, 1]])
    gramian = gradients @ gradients.T
    weights, _ = pcgrad(torch.from_numpy(gramian), [[1], [0]], {})
    monitor = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    monitor.observe_weights(["a", "b"], gramian, weights.tolist())
    effects = monitor.summary(1, 0, "stage 1", None, "pcgrad").effects
    assert [effect.sum_opposed for effect in effects] == [0, 1]
    assert [effect.update_opposed for effect in effects] == [0, 0]


def test_without_weights_there_is_no_effect():
    one_row = ConflictMonitor.of_stage(["a", "b"], from_steps=False)
    one_row.observe_weights(["a", "b"], [[1.0]], [1.0])
    apart = ConflictMonitor.of_stage(["a", "b"], from_steps=True)
    apart.observe_weights(["a", "b"], [[1, np.nan], [np.nan, 1]], [])
    for monitor in (one_row, apart):
        found = monitor.summary(1, 0, "stage 1", None, "sum")
        assert (found.effects, found.changed, found.turned) == ([], None, None)


@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(-10, 10, width=16)))
def test_cosines_equal_torch(gradients):
    lengths = np.linalg.norm(gradients, axis=1)
    found = cosines(gradients @ gradients.T, lengths**2, lengths**2)
    each = torch.from_numpy(gradients)
    expected = torch.nn.functional.cosine_similarity(each[:, None], each[None], dim=-1).numpy()
    has_value = np.outer(lengths, lengths) > 0
    assert np.isnan(found[~has_value]).all()
    assert found[has_value] == pytest.approx(expected[has_value], abs=1e-12)


def test_cosines_of_tiny_and_huge_gradients():
    lengths = np.array([1e-100, 1e100])
    products = np.outer(lengths, lengths) * [[1, -0.5], [-0.5, 1]]
    found = cosines(products, lengths**2, lengths**2)
    assert found.ravel().tolist() == pytest.approx([1, -0.5, -0.5, 1])
