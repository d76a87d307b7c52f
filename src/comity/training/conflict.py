"""Whether task gradients conflict, measured against the noise of single batches.

The gradient of one batch is the expected gradient plus noise, and with much noise every cosine of
two gradients is close to 0, below it in about half of the steps. One cosine therefore says nothing;
the mean over many steps does.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from comity.runs.entries import (
    ConflictEntry,
    LayerConflict,
    PairConflict,
    StageConflictEntry,
    TaskEffect,
)
from comity.training.tally import Count

BLOCKS = 10
"""Contiguous blocks of observations; their means are nearly independent, unlike single steps."""

FEWEST = 20
"""The fewest observations that have an interval, and so a verdict."""

ALPHA = 0.05
"""The probability of an error, for all pairs of a stage together."""

DIGITS = 6
"""Decimals of a cosine in files."""

Floats = NDArray[np.float64]

# --- observations ---------------------------------------------------------------------------------


@dataclass
class Probe:
    """Two independent batches of each task: gradients of the first against those of the second."""

    products: list[list[float]]  # [K, K]
    cosines: list[list[float | None]]  # [K, K]; None for a zero gradient
    # For each layer and pair, as means over both orders of the batches; empty in older checkpoints.
    layers: list[list[float | None]] = field(default_factory=list)  # cosines within the layer
    parts: list[list[float | None]] = field(default_factory=list)  # of the cosine over all layers


@dataclass
class Effect:
    """What the balancer did to one task's gradient: sums over the steps that have the task."""

    steps: Count = 0
    weight: float = 0.0
    sum_cosine: float = 0.0  # with the plain sum of the step's gradients
    update_cosine: float = 0.0
    sum_opposed: Count = 0  # steps in which that cosine is below 0
    update_opposed: Count = 0

    def mean(self, task: str) -> TaskEffect:
        """Means over the steps."""
        sums = (self.weight, self.sum_cosine, self.update_cosine)
        means = (total / self.steps for total in (*sums, self.sum_opposed, self.update_opposed))
        return TaskEffect(task, self.steps, *means)


@dataclass
class Turn:
    """How far the balancer turned the update from the plain sum: sums over steps."""

    steps: Count = 0
    changed: Count = 0  # steps in which they point in different directions
    cosine: float = 0.0  # between the two


@dataclass
class ConflictMonitor:
    """What one stage has shown of its task gradients so far. Saved in checkpoints.

    Where training steps keep task gradients apart, the cosines of a pair are those of all steps
    that have both tasks. Elsewhere they are those of the probes.
    """

    tasks: list[str] = field(default_factory=list)
    from_steps: bool = False  # whether training steps keep task gradients apart
    steps: list[list[float]] = field(default_factory=list)  # cosines of each pair, step by step
    logged: list[Count] = field(default_factory=list)  # for each pair, how many of them
    probes: list[Probe] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)  # names of the layers that are compared
    effects: dict[str, Effect] = field(default_factory=dict)  # by task
    turn: Turn = field(default_factory=Turn)
    weights: dict[str, list[float]] = field(default_factory=dict)  # since the last entry, by task

    @classmethod
    def of_stage(cls, tasks: Sequence[str], from_steps: bool) -> "ConflictMonitor":
        """A monitor without observations."""
        pairs = math.comb(len(tasks), 2)
        return cls(list(tasks), from_steps, [[] for _ in range(pairs)], [0] * pairs)

    def has_consistent_sizes(self) -> bool:
        """Whether each list has one entry for each pair, layer or task, as those of a run have."""
        tasks, layers, pairs = len(self.tasks), len(self.layers), math.comb(len(self.tasks), 2)
        of_tasks = [m for probe in self.probes for m in (probe.products, probe.cosines)]
        of_layers = [m for probe in self.probes for m in (probe.layers, probe.parts) if m]
        return (
            len(self.steps) == len(self.logged) == pairs
            and all(_has_shape(matrix, tasks, tasks) for matrix in of_tasks)
            and all(_has_shape(matrix, layers, pairs) for matrix in of_layers)
            and all(bool(probe.layers) == bool(probe.parts) for probe in self.probes)
            and all(effect.steps > 0 for effect in self.effects.values())
        )

    def observe_step(self, tasks: Sequence[str], gramian: ArrayLike) -> None:
        """Add the Gramian `[K, K]` of a training step with these tasks, unless it is not finite."""
        gramian = np.asarray(gramian, dtype=np.float64)
        if not self.from_steps or not np.isfinite(gramian).all():
            return
        found = cosines(gramian, gramian.diagonal(), gramian.diagonal())
        for pair, seen in zip(itertools.combinations(self.tasks, 2), self.steps, strict=True):
            if set(pair) <= set(tasks):
                cosine = found[tasks.index(pair[0]), tasks.index(pair[1])]
                if np.isfinite(cosine):
                    seen.append(round(float(cosine), DIGITS))

    def observe_weights(
        self, tasks: Sequence[str], gramian: ArrayLike, weights: Sequence[float]
    ) -> None:
        """Add the balancer's weights `[K]` for the Gramian `[K, K]` of a training step.

        Does nothing where a step has one gradient for all tasks, or the weights are missing or not
        finite.
        """
        inner, weight = np.asarray(gramian, np.float64), np.asarray(weights, np.float64)
        if not self.from_steps or len(weight) != len(inner) or not np.isfinite(weight).all():
            return
        both = np.stack([np.ones(len(inner)), weight])  # the plain sum and the update, [2, K]
        squares = both @ inner @ both.T
        found = cosines(both @ inner, squares.diagonal(), inner.diagonal())
        between = float(cosines(squares, squares.diagonal(), squares.diagonal())[0, 1])
        if np.isfinite(between):
            self.turn.steps += 1
            self.turn.changed += round(between, DIGITS) < 1
            self.turn.cosine += between
        for task, value, plain, update in zip(tasks, weight.tolist(), *found, strict=True):
            self.weights.setdefault(task, []).append(value)
            if np.isfinite(plain) and np.isfinite(update):
                effect = self.effects.setdefault(task, Effect())
                effect.steps += 1
                effect.weight += value
                effect.sum_cosine += float(plain)
                effect.update_cosine += float(update)
                effect.sum_opposed += bool(round(plain, DIGITS) < 0)
                effect.update_opposed += bool(round(update, DIGITS) < 0)

    def observe_probe(
        self, step: int, products: ArrayLike, first: ArrayLike, second: ArrayLike
    ) -> ConflictEntry | None:
        """Add a probe; returns its entry for metrics.jsonl, or None if a gradient is not finite.

        Args:
            step: the step after which the probe was taken.
            products: `[L, K, K]`, for each layer the gradients of the first batches times those of
                the second.
            first: `[L, K]`, squared norms of the gradients of the first batches.
            second: `[L, K]`, those of the second batches.
        """
        products, first, second = (np.asarray(v, np.float64) for v in (products, first, second))
        if not all(np.isfinite(values).all() for values in (products, first, second)):
            return None
        whole = products.sum(0)
        found = cosines(whole, first.sum(0), second.sum(0))
        each = [cosines(*layer) for layer in zip(products, first, second, strict=True)]
        norms = np.sqrt(np.outer(first.sum(0), second.sum(0)))
        parts = products / np.where(norms > 0, norms, np.nan)
        layers, shares = ([_rounded(self._of_pairs(m)) for m in of] for of in (each, parts))
        self.probes.append(Probe(whole.tolist(), _rows(found), layers, shares))
        both = (found + found.T) / 2
        np.fill_diagonal(both, 1)
        return ConflictEntry(
            step=step,
            tasks=self.tasks,
            cosines=_rows(both),
            reliability=_rounded(found.diagonal()),
            layers=dict(zip(self.layers, layers, strict=True)),
        )

    def _of_pairs(self, matrix: Floats) -> Floats:
        """The entries of a matrix `[K, K]` for each pair, `[pairs]`: the mean over both orders."""
        i, j = np.triu_indices(len(matrix), 1)
        return (matrix[i, j] + matrix[j, i]) / 2

    def steps_entry(self, step: int) -> ConflictEntry | None:
        """The mean cosines of the steps since the last such entry; None if there are none."""
        new = [seen[done:] for seen, done in zip(self.steps, self.logged, strict=True)]
        if not any(new):
            return None
        self.logged = [len(seen) for seen in self.steps]
        means = np.eye(len(self.tasks))
        for (i, j), values in zip(self._indices(), new, strict=True):
            means[i, j] = means[j, i] = np.mean(values) if values else np.nan
        recent, self.weights = self.weights, {}
        weights = [np.mean(recent.get(task, [np.nan])) for task in self.tasks]
        return ConflictEntry(
            step=step,
            tasks=self.tasks,
            cosines=_rows(means),
            steps=max(map(len, new)),
            weights=_rounded(np.array(weights, np.float64)),
        )

    def summary(
        self, step: int, stage: int, name: str, unprobed: str | None, balancer: str | None = None
    ) -> StageConflictEntry:
        """What the stage has shown up to a step.

        Args:
            step: of the run.
            stage: the number of the stage, from 0.
            name: its name.
            unprobed: why it has no probes.
            balancer: its balancer.
        """
        shape = (-1, len(self.tasks), len(self.tasks))
        products = np.array([probe.products for probe in self.probes], np.float64).reshape(shape)
        found = np.array([probe.cosines for probe in self.probes], np.float64).reshape(shape)
        reliability = {
            task: _mean(found[:, i, i]) for i, task in enumerate(self.tasks) if len(found)
        }
        return StageConflictEntry(
            step=step,
            stage=stage,
            name=name,
            from_steps=self.from_steps,
            probes=len(self.probes),
            pairs=self._pairs(products, found),
            reliability=reliability,
            unprobed=unprobed,
            balancer=balancer,
            effects=[self.effects[t].mean(t) for t in self.tasks if t in self.effects],
            changed=self.turn.changed / self.turn.steps if self.turn.steps else None,
            turned=self.turn.cosine / self.turn.steps if self.turn.steps else None,
        )

    def _pairs(self, products: Floats, found: Floats) -> list[PairConflict]:
        indices = self._indices()
        if self.from_steps:
            observed = [np.array(seen) for seen in self.steps]
        else:
            observed = [(found[:, i, j] + found[:, j, i]) / 2 for i, j in indices]
        observed = [values[np.isfinite(values)] for values in observed]
        pairs = []
        intervals = holm_intervals(observed)
        layers = self._layers()
        for (i, j), values, interval, of_layers in zip(
            indices, observed, intervals, layers, strict=True
        ):
            expected = expected_cosine(products, i, j)
            pairs.append(
                PairConflict(
                    tasks=(self.tasks[i], self.tasks[j]),
                    observed=len(values),
                    cosine=_mean(values),
                    low=interval and interval[0],
                    high=interval and interval[1],
                    conflicts=_below_0(interval),
                    expected_cosine=expected and expected[0],
                    expected_low=expected and expected[1],
                    expected_high=expected and expected[2],
                    layers=of_layers,
                )
            )
        return pairs

    def _layers(self) -> list[list[LayerConflict]]:
        """For each pair, its conflict in each layer."""
        probes = [probe for probe in self.probes if probe.layers]
        shape = (len(probes), len(self.layers), math.comb(len(self.tasks), 2))
        if not probes:
            return [[] for _ in range(shape[2])]
        found = np.array([probe.layers for probe in probes], np.float64).reshape(shape)
        parts = np.array([probe.parts for probe in probes], np.float64).reshape(shape)
        indices = [(pair, layer) for pair in range(shape[2]) for layer in range(shape[1])]
        observed = [found[:, layer, pair] for pair, layer in indices]
        observed = [values[np.isfinite(values)] for values in observed]
        conflicts = []
        for (pair, layer), values, interval in zip(
            indices, observed, holm_intervals(observed), strict=True
        ):
            ends = interval or (None, None)
            numbers = [_mean(values), *ends, _mean(parts[:, layer, pair])]
            cosine, low, high, part = _rounded(np.array(numbers, np.float64))
            conflicts.append(
                LayerConflict(
                    layer=self.layers[layer],
                    observed=len(values),
                    cosine=cosine,
                    low=low,
                    high=high,
                    conflicts=_below_0(interval),
                    part=part,
                )
            )
        return [conflicts[start : start + shape[1]] for start in range(0, len(conflicts), shape[1])]

    def _indices(self) -> list[tuple[int, int]]:
        return list(itertools.combinations(range(len(self.tasks)), 2))


def cosines(products: Floats, first: Floats, second: Floats) -> Floats:
    """Cosines `[K, L]` in [-1, 1] from inner products `[K, L]` and squared norms `[K]` and `[L]`.

    NaN for a zero gradient.
    """
    norms = np.outer(np.sqrt(first.clip(min=0)), np.sqrt(second.clip(min=0)))
    return (products / np.where(norms > 0, norms, np.nan)).clip(-1, 1)


def _has_shape(matrix: Sequence[Sequence[float | None]], rows: int, columns: int) -> bool:
    return len(matrix) == rows and all(len(row) == columns for row in matrix)


def _below_0(interval: tuple[float, float] | None) -> bool | None:
    return interval and interval[1] < 0


def _rounded(values: Floats) -> list[float | None]:
    """A vector for JSON: rounded, and None for NaN."""
    return [None if math.isnan(value) else round(value, DIGITS) for value in values.tolist()]


def _rows(matrix: Floats) -> list[list[float | None]]:
    return [_rounded(row) for row in matrix]


def _mean(values: Floats) -> float | None:
    """The mean of the values that are not NaN, or None without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


# --- statistics -----------------------------------------------------------------------------------


def holm_intervals(observed: Sequence[Floats]) -> list[tuple[float, float] | None]:
    """Intervals of the means of several series, 95% or wider so that they hold together.

    An interval excludes 0 exactly if Holm's procedure (1979, "A Simple Sequentially Rejective
    Multiple Test Procedure") rejects a mean of 0, with a t test over `BLOCKS` contiguous blocks of
    each series `[n]`. None for a series of fewer than `FEWEST`, which is not tested.
    """
    tested = [k for k, values in enumerate(observed) if len(values) >= FEWEST]
    moments = {k: (float(observed[k].mean()), _error(observed[k])) for k in tested}
    intervals: list[tuple[float, float] | None] = [None] * len(observed)
    level = ALPHA
    rejected = True
    ranked = sorted(tested, key=lambda k: -_ratio(*moments[k]))
    for rank, k in enumerate(ranked):
        if rejected:  # the level stays where the first test fails
            level = ALPHA / (len(ranked) - rank)
        mean, error = moments[k]
        margin = float(stats.t.ppf(1 - level / 2, BLOCKS - 1)) * error
        intervals[k] = mean - margin, mean + margin
        rejected = rejected and abs(mean) > margin
    return intervals


def expected_cosine(products: Floats, i: int, j: int) -> tuple[float, float, float] | None:
    """The cosine of the expected gradients of tasks i and j, and its 95% interval.

    It is the mean of `<g_i, g_j>` divided by the root of the means of `<g_i, g_i'>` and
    `<g_j, g_j'>`, where g and g' are the gradients of two independent batches: noise is in no mean.
    The interval is a jackknife over `BLOCKS` blocks of probes (Efron & Tibshirani 1993, chapter
    11). All three values are limited to [-1, 1].

    None with fewer than `FEWEST` probes, or where one of the two means under the root is not
    significantly above 0: then the gradients are too noisy.

    Args:
        products: `[n, K, K]` of n probes, gradients of first batches times those of second batches.
        i: index of a task.
        j: index of another task.
    """
    if len(products) < FEWEST:
        return None
    between = (products[:, i, j] + products[:, j, i]) / 2
    series = np.stack([between, products[:, i, i], products[:, j, j]])  # [3, n]
    t = float(stats.t.ppf(1 - ALPHA / 2, BLOCKS - 1))
    if any(own.mean() <= t * _error(own) for own in series[1:]):
        return None
    blocks = np.array_split(series, BLOCKS, axis=1)
    others = np.stack([series.sum(axis=1) - block.sum(axis=1) for block in blocks])
    left_out = others[:, 0] / np.sqrt(others[:, 1] * others[:, 2])
    error = math.sqrt((BLOCKS - 1) * np.var(left_out))
    total = series.sum(axis=1)
    value = total[0] / math.sqrt(total[1] * total[2])
    low, middle, high = np.clip([value - t * error, value, value + t * error], -1, 1)
    return float(middle), float(low), float(high)


def _error(values: Floats) -> float:
    """The standard error of the mean of `values [n]`, from the means of contiguous blocks."""
    means = [block.mean() for block in np.array_split(values, BLOCKS)]
    return float(np.std(means, ddof=1)) / math.sqrt(BLOCKS)


def _ratio(mean: float, error: float) -> float:
    return abs(mean) / error if error > 0 else math.inf
