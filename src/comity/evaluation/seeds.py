"""Means over seeds: their intervals, the p-value of a difference, and Holm's correction.

A score depends on the seed of the run and on the rows of the dev set. Let y_gs be the score of seed
s in group g (runs that differ only in the seed), n_g the seeds of the group, and y*_gsr the same
score on resample r of the rows, where all runs share the resamples. The variance of a difference of
two means over seeds, D = mean_s y_1s - mean_s y_2s, with c = 1/n_1 + 1/n_2, is

    Var = c s² + max(0, V_row - c V_int)

- s² is the variance over seeds, pooled over groups: sum_g (n_g - 1) s_g² / nu, where
  nu = sum_g (n_g - 1).
- V_row = Var_r(mean_s y*_1sr - mean_s y*_2sr) is the variance over rows of the difference.
- V_int is what V_row and s² both contain: a row that one seed gets right and the next one wrong.
  V_int,g = sum_s Var_r(y*_gsr - mean_s y*_gsr) / (n_g - 1), with the weights of s².

D ± t sqrt(Var) is the interval, with Satterthwaite's degrees of freedom (1946): the variance over
rows counts as known, so df = Var² / ((c s²)² / nu).

Groups with an untrained head (`eval_only`) are never pooled. Welch's form (1947) replaces c s² by
s_1²/n_1 + s_2²/n_2, c V_int by V_int,1/n_1 + V_int,2/n_2, and (c s²)²/nu by
sum_g (s_g²/n_g)² / (n_g - 1). It applies if a side is not trained, or if the variances over seeds
are unequal: s_1² and s_2² differ by more than `RATIO` times or, where there are more groups, one of
them is larger than the pooled variance of the others, at the level `UNEQUAL` of an F test. A pooled
variance would make an unstable recipe look certain. benchmarks/verdicts.py measures the rates of
false verdicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.bootstrap import LEVEL, Interval, percentile

RATIO = 10.0
UNEQUAL = 0.05
"""When two variances over seeds are unequal: without, and with, other groups to compare them with.
Lower limits make verdicts on equal variances too rare (docs/decisions.md has figures)."""


@dataclass(frozen=True)
class Group:
    """The scores of the runs of one recipe.

    `scores: [S]` are single-run scores, `resampled: [S, R]` the same on R resamples of the rows,
    which all groups share (NaN where a resample has no value). `trained` is false if the scored
    head is not trained.
    """

    scores: NDArray[np.float64]
    resampled: NDArray[np.float64]
    trained: bool = True

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance over seeds."""
        return len(self.scores) - 1

    @cached_property
    def seed_variance(self) -> float:
        """s_g²."""
        return float(np.var(self.scores, ddof=1))

    @cached_property
    def interaction(self) -> float:
        """V_int,g."""
        apart = self.resampled - self.resampled.mean(axis=0)
        return sum(map(_variance, apart)) / self.freedom


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, its 95% interval, and the two-sided p-value of the value 0.

    With a single run on a side, the interval is the percentile interval over rows, and there is no
    p-value: nothing is known about other seeds.
    """

    value: float
    interval: Interval
    p: float | None


def mean_over_seeds(groups: Sequence[Group], index: int) -> Estimate | None:
    """The mean of group `index`; None if no resample of its rows has a value."""
    return _estimate(groups, {index: 1.0})


def difference(groups: Sequence[Group], first: int, other: int) -> Estimate | None:
    """Mean of the group `other` minus mean of the group `first`.

    None if no resample of the rows has a value for both. `groups` are all groups of the page or
    table: the variance over seeds is pooled over them.
    """
    return _estimate(groups, {first: -1.0, other: 1.0})


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, smallest = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        smallest = max(smallest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = smallest
    return adjusted


def _estimate(groups: Sequence[Group], weights: Mapping[int, float]) -> Estimate | None:
    """The sum of group means times `weights`, by index of the group."""
    sides = [(groups[index], weight) for index, weight in weights.items()]
    value = sum(weight * float(side.scores.mean()) for side, weight in sides)
    draws = np.sum([weight * side.resampled.mean(axis=0) for side, weight in sides], axis=0)
    skipped = int((~np.isfinite(draws)).sum())
    if skipped == len(draws):
        return None
    if any(not side.freedom for side, _ in sides):
        over_rows = percentile(draws)
        return over_rows and Estimate(value, over_rows, None)
    seeds, interaction, of_freedom = _over_seeds(groups, weights)
    variance = seeds + max(0.0, _variance(draws) - interaction)
    freedom = variance**2 / of_freedom if of_freedom else np.inf
    half, p = _t_interval(value, variance**0.5, freedom)
    return Estimate(value, Interval(value - half, value + half, skipped), p)


def _over_seeds(
    groups: Sequence[Group], weights: Mapping[int, float]
) -> tuple[float, float, float]:
    """c s², c V_int and (c s²)² / nu, pooled or in Welch's form."""
    sides = [(groups[i], weight**2 / len(groups[i].scores)) for i, weight in weights.items()]
    pooled = [group for group in groups if group.trained and group.freedom]
    if _unequal([side for side, _ in sides], pooled):
        seeds = [share * side.seed_variance for side, share in sides]
        interaction = sum(share * side.interaction for side, share in sides)
        of_freedom = sum(s**2 / side.freedom for s, (side, _) in zip(seeds, sides, strict=True))
        return sum(seeds), interaction, of_freedom
    c = sum(share for _, share in sides)
    freedom = sum(group.freedom for group in pooled)
    seed_variance = _pooled([group.seed_variance for group in pooled], pooled)
    interaction = _pooled([group.interaction for group in pooled], pooled)
    return c * seed_variance, c * interaction, (c * seed_variance) ** 2 / freedom


def _unequal(sides: Sequence[Group], pooled: Sequence[Group]) -> bool:
    """Whether the sides need variances of their own."""
    from scipy.special import fdtri

    if not all(side.trained for side in sides):
        return True
    variances = [side.seed_variance for side in sides]
    others = [group for group in pooled if not any(group is side for side in sides)]
    if not others:
        return max(variances) > RATIO * min(variances)
    typical = _pooled([other.seed_variance for other in others], others)
    freedom = sum(other.freedom for other in others)
    return any(
        side.seed_variance > fdtri(side.freedom, freedom, 1 - UNEQUAL) * typical for side in sides
    )


def _pooled(variances: Sequence[float], groups: Sequence[Group]) -> float:
    return float(np.average(variances, weights=[group.freedom for group in groups]))


def _variance(draws: NDArray[np.float64]) -> float:
    """The variance of the draws that have a value; 0 for fewer than two."""
    finite = draws[np.isfinite(draws)]
    return float(np.var(finite, ddof=1)) if len(finite) > 1 else 0.0


def _t_interval(value: float, error: float, freedom: float) -> tuple[float, float]:
    """Half the width of the interval of a value with a standard error, and the p-value of 0."""
    from scipy.special import stdtr, stdtrit

    if error == 0:
        return 0.0, float(value == 0)
    p = 2 * stdtr(freedom, -abs(value) / error)
    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * error, float(p)
