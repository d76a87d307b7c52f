"""Intervals and p-values over seeds: by hand, against scipy, and in simulation."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
from benchmarks.verdicts import rejected, simulate
from hypothesis import given
from hypothesis import strategies as st

from comity.evaluation.seeds import RATIO, UNEQUAL, Group, difference, holm, mean_over_seeds


def still(*scores: float, trained: bool = True) -> Group:
    """A group whose scores do not depend on the rows."""
    values = np.array(scores)
    return Group(values, np.repeat(values[:, None], 100, axis=1), trained)


def estimate(groups, first=0, other=1):
    found = difference(groups, first, other)
    assert found is not None
    return found


def t_test(one, two, equal_var) -> Any:
    """scipy's t-test; its types lack the p-value."""
    return scipy.stats.ttest_ind(two, one, equal_var=equal_var)


def ends(found):
    return [found.interval.low, found.interval.high]


# --- without rows: the t-test ---------------------------------------------------------------------


def test_two_groups_of_equal_variance_give_students_t_test():
    # Different numbers of seeds; the variances 1.0 and 2.33 are alike.
    one, two = [70.0, 71, 72], [73.0, 74, 76, 73]
    expected = t_test(one, two, equal_var=True)
    found = estimate([still(*one), still(*two)])
    assert found.value == pytest.approx(3.0)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert ends(found) == pytest.approx([interval.low, interval.high])


def test_groups_of_unequal_variance_give_welchs_t_test():
    one, two = [70.0, 70.1, 70.2], [73.0, 76, 90, 73]
    expected = t_test(one, two, equal_var=False)
    found = estimate([still(*one), still(*two)])
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert ends(found) == pytest.approx([interval.low, interval.high])


@pytest.mark.parametrize(("factor", "equal"), [(0.99, True), (1.01, False)])
def test_welchs_form_starts_where_the_variances_are_unequal(factor, equal):
    # The variance of [0, x, 2x] is x². Two groups alone: ten times.
    side = np.sqrt(factor * RATIO)
    one, two = [0.0, 1, 2], [5.0, 5 + side, 5 + 2 * side]
    expected = t_test(one, two, equal_var=equal).pvalue
    assert estimate([still(*one), still(*two)]).p == pytest.approx(expected)
    # With others: an F test against the pooled variance of 2 groups, 1.
    side = np.sqrt(factor * scipy.stats.f.isf(UNEQUAL, 2, 4))
    two = [5.0, 5 + side, 5 + 2 * side]
    found = estimate([still(*one), still(*two), still(*one), still(*one)]).p
    welch = t_test(one, two, equal_var=False).pvalue
    assert (found != pytest.approx(welch)) == equal


def test_other_groups_add_degrees_of_freedom():
    groups = [still(70.0, 71), still(73.0, 74.2), still(60.0, 61.1), still(50.0, 50.9)]
    variance = np.mean([np.var(group.scores, ddof=1) for group in groups])
    t = 3.1 / np.sqrt((1 / 2 + 1 / 2) * variance)
    assert estimate(groups).p == pytest.approx(2 * scipy.stats.t.sf(t, 4))
    alone = estimate(groups[:2])
    assert alone.p == pytest.approx(t_test([70.0, 71], [73.0, 74.2], equal_var=True).pvalue)


def test_a_head_that_is_not_trained_is_never_pooled():
    pair = [still(70.0, 71), still(73.0, 74.2)]
    wild = still(10.0, 60, trained=False)
    assert estimate([*pair, wild]) == estimate(pair)
    # A comparison with it uses the variances of the two sides.
    expected = t_test([70.0, 71], [10.0, 60], equal_var=False)
    assert estimate([*pair, wild], 0, 2).p == pytest.approx(expected.pvalue)


def test_an_unstable_side_is_not_helped_by_stable_groups():
    stable = [still(n, n + 0.01) for n in range(9)]
    one, two = [70.0, 74], [77.0, 72]
    expected = t_test(one, two, equal_var=False).pvalue
    assert estimate([still(*one), still(*two), *stable]).p == pytest.approx(expected)


def test_the_mean_of_a_group_has_the_interval_of_a_t_test():
    scores = [70.0, 71, 73]
    found = mean_over_seeds([still(*scores)], 0)
    assert found is not None
    test: Any = scipy.stats.ttest_1samp(scores, 0)
    expected = test.confidence_interval(0.95)
    assert ends(found) == pytest.approx([expected.low, expected.high])


def test_groups_without_any_variance():
    same, higher = still(70.0, 70), still(71.0, 71)
    assert estimate([same, same]).p == 1
    assert ends(estimate([same, same])) == [0, 0]
    assert estimate([same, higher]).p == 0


# --- rows -----------------------------------------------------------------------------------------


def on_rows(rng, *right: np.ndarray) -> list[Group]:
    """Groups of accuracies: `right [seeds, rows]` of each, on 2,000 shared resamples."""
    rows = right[0].shape[1]
    counts = rng.multinomial(rows, np.full(rows, 1 / rows), size=2000)
    return [Group(of.mean(axis=1), of @ counts.T / rows) for of in right]


def test_rows_add_what_the_seeds_do_not_contain():
    # Both seeds of a side get the same rows right: all variance is that of the rows, known, so the
    # interval is normal. 30% of 400 rows are gained.
    gained = (np.arange(400) < 120).astype(float)
    groups = on_rows(np.random.default_rng(0), np.zeros((2, 400)), np.array([gained, gained]))
    found = estimate(groups)
    error = np.sqrt(0.3 * 0.7 / 400)
    assert ends(found) == pytest.approx([0.3 - 1.96 * error, 0.3 + 1.96 * error], abs=0.1 * error)


def test_rows_that_differ_between_seeds_are_counted_once():
    rng = np.random.default_rng(1)
    # Each row of each seed is right by chance, so the variance over seeds has it all: 0.25 / rows.
    groups = on_rows(rng, *(rng.random((2, 6, 500)) < 0.5).astype(float))
    c, pooled = 2 / 6, np.mean([np.var(group.scores, ddof=1) for group in groups])
    half = (estimate(groups).interval.high - estimate(groups).interval.low) / 2
    # The t of 10 degrees of freedom; what rows seem to add is the noise of 2,000 resamples.
    assert half == pytest.approx(scipy.stats.t.isf(0.025, 10) * np.sqrt(c * pooled), rel=0.1)


def test_one_run_on_a_side_has_an_interval_over_rows_and_no_p_value():
    rng = np.random.default_rng(2)
    one, two = (rng.random((2, 1, 500)) < np.array([0.5, 0.7])[:, None, None]).astype(float)
    many = (rng.random((3, 500)) < 0.6).astype(float)
    groups = on_rows(rng, one, two, many)
    for other in (1, 2):
        draws = groups[other].resampled.mean(axis=0) - groups[0].resampled[0]
        found = estimate(groups, 0, other)
        assert found.p is None
        assert ends(found) == pytest.approx(np.quantile(draws, [0.025, 0.975]))


def test_resamples_without_a_value_are_left_out():
    groups = on_rows(np.random.default_rng(3), *np.eye(2)[:, None, :].repeat(2, axis=1))
    groups[0].resampled[0, :500] = np.nan
    found = estimate(groups)
    assert np.isfinite(ends(found)).all()
    assert found.interval.skipped == 500
    groups[1].resampled[:] = np.nan
    assert difference(groups, 0, 1) is None


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 5))
def test_a_difference_turns_its_sign_with_its_sides_and_the_interval_fits_p(seed, first, other):
    rng = np.random.default_rng(seed)
    groups = on_rows(rng, *((rng.random((n, 50)) < 0.5).astype(float) for n in (first, other, 3)))
    there, back = estimate(groups), estimate(groups, 1, 0)
    assert there.value == pytest.approx(-back.value)
    assert ends(there) == pytest.approx([-end for end in reversed(ends(back))])
    assert there.p == pytest.approx(back.p)
    assert there.interval.low <= there.value <= there.interval.high
    assert there.p is not None
    assert (there.p < 0.05) == (there.interval.low > 0 or there.interval.high < 0)


# --- Holm -----------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.012 x 3 (but not below the first), 0.03 x 2, 0.5.
    assert holm([0.5, 0.01, 0.03, 0.012]) == pytest.approx([0.5, 0.04, 0.06, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_monotone_and_between_the_p_value_and_bonferronis(p_values):
    adjusted = holm(p_values)
    for p, higher in zip(p_values, adjusted, strict=True):
        assert p <= higher <= min(1, len(p_values) * p) or higher == pytest.approx(p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


# --- rates ----------------------------------------------------------------------------------------


# The whole grid: benchmarks/verdicts.py, its figures: docs/decisions.md. A rate of 5% in 2,000
# comparisons has a standard error of 0.5%.
@pytest.mark.parametrize(
    ("rows", "seeds", "groups", "noise", "of_seed"),
    [
        (500, 2, 11, 0.3, 0.1),
        (500, 3, 11, 0.7, 0.02),
        (500, 5, 2, 0.3, 0.1),
        (500, 3, 11, 0.7, 0.0),
    ],
)
def test_runs_that_differ_only_in_the_seed_are_told_apart_in_5_percent(
    rows, seeds, groups, noise, of_seed
):
    rate = rejected(2000, 0, None, rows, seeds, groups, noise, of_seed)
    assert (0.035 if of_seed else 0.0) <= rate <= 0.065


def test_recipes_that_get_other_rows_right_are_no_false_positives():
    assert 0.02 <= rejected(1500, 0, None, 500, 3, 11, 0.3, 0.02, of_recipe=0.3) <= 0.065


def test_an_unstable_recipe_among_stable_ones_is_no_false_positive():
    # With the variance of all eleven, two unstable recipes are told apart in 28%.
    unstable = [0.1, 0.1, *[0.02] * 9]
    assert rejected(700, 0, [(0, 1)], 500, 3, 11, 0.3, unstable) <= 0.1


def test_a_real_difference_is_found():
    shares = [rejected(300, 0, None, 2000, 3, 11, 0.3, 0.02, 0.3, shift) for shift in (0.05, 0.2)]
    assert 0.15 < shares[0] < 0.8
    assert shares[1] > 0.95


def test_the_simulated_resamples_have_the_spread_of_a_bootstrap():
    (group,) = simulate(np.random.default_rng(0), 800, 3, 1, 0.5, 0.1, resamples=4000)
    expected = np.sqrt(group.scores * (1 - group.scores) / 800)
    assert group.resampled.std(axis=1) == pytest.approx(expected, rel=0.05)
