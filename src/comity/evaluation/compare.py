"""Comparison of runs: scores with intervals, and whether a difference is more than chance.

It reads only the run directories, which hold the dev predictions of each run's best model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.errors import ComityError
from comity.evaluation.bootstrap import Interval, resampled
from comity.evaluation.metrics import METRICS, Metric, Score, mean_score, not_finite
from comity.evaluation.predictions import TaskPredictions, kept_predictions
from comity.evaluation.seeds import Estimate, Group, difference, holm, mean_over_seeds
from comity.runs.directory import RunDirectory

MEAN = "mean"

LEVEL = 0.05
"""The adjusted p-value below which a difference is called higher or lower."""


@dataclass(frozen=True)
class Verdict:
    """How much higher one side scores than the baseline, and whether that is more than chance.

    `low` to `high` is the 95% interval of the difference: over seeds and rows (see
    `comity.evaluation.seeds`), or over rows alone if a side has one run. Then there is neither a
    p-value nor a verdict. Where a side has no score there is no difference.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None  # two-sided, adjusted (Holm) for all differences of the comparison
    verdict: str | None  # "higher", "lower" or "undecided"


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: a run, or several runs that differ only in the seed."""

    name: str
    value: float | None  # mean over the runs
    spread: float | None  # sample standard deviation over the runs; None for one run
    interval: Interval | None  # of the mean
    reason: str | None  # why there is no value
    of_runs: list[float | None]  # each run's own score
    verdict: Verdict | None  # against the first side; None for the first side itself


@dataclass(frozen=True)
class Compared:
    """One task, or the mean over tasks: the first side, then the other sides that have it."""

    task: str
    metric: str
    higher_is_better: bool
    rows: int
    entries: list[Entry]


@dataclass(frozen=True)
class Comparison:
    """All tasks of the first side, and their mean where there are several."""

    tasks: list[Compared]
    mean: Compared | None

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on all tasks and on the mean."""
        tables = [*self.tasks, *([self.mean] if self.mean else [])]
        return [entry.verdict for table in tables for entry in table.entries if entry.verdict]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare(runs: Sequence[Path], group_seeds: bool = False) -> Comparison:
    """Compare each run with the first, on the tasks that both have.

    With `group_seeds`, runs whose recipes differ only in the seed form one side.

    Raises:
        ComityError: not a run, no task in common, different dev rows.
    """
    return compare_groups(*(same_recipes(runs) if group_seeds else [[run] for run in runs]))


def compare_groups(*groups: Sequence[Path], names: Sequence[str] = ()) -> Comparison:
    """Compare groups of runs with the first group, by the means of their runs' scores.

    The runs of a group differ only in the seed; groups may have different numbers of runs. `names`
    are those of the groups; default: the paths of their first runs.

    Raises:
        ComityError: not a run, no task in common, different dev rows.
    """
    tables = score_tables(groups)
    for index, group in enumerate(groups):
        if not any(index in table.sides for table in tables):
            tasks = ", ".join(table.task for table in tables if table.task != MEAN)
            raise ComityError(
                f"{group[0]}: has none of the tasks of {groups[0][0]} ({tasks}); "
                "compare runs that have a task in common"
            )
    return _comparison(tables, names or [_name(group) for group in groups])


def compare_with_alone(alone: Mapping[str, Sequence[Path]], *others: Sequence[Path]) -> Comparison:
    """Compare groups of runs of several tasks with runs that train each task alone.

    The mean of the tasks trained alone is that of their first runs, of their second runs, and so
    on; it is left out if tasks have different numbers of runs.

    Args:
        alone: the runs of each task, which differ only in the seed.
        others: groups of runs that differ only in the seed.

    Raises:
        ComityError: not a run, none of the tasks, different dev rows.
    """
    tables = []
    for task, runs in alone.items():
        (table,) = (t for t in score_tables([runs, *others]) if t.task == task)
        tables.append(table)
    for index, group in enumerate(others, start=1):
        if not any(index in table.sides for table in tables):
            raise ComityError(
                f"{group[0]}: has none of the tasks {', '.join(alone)}; name a run of the same "
                "tasks"
            )
    counted = [table for table in tables if table.higher_is_better]
    if len(counted) > 1 and len({len(runs) for runs in alone.values()}) == 1:
        tables.append(_mean_table(counted))
    return _comparison(tables, ["each task alone", *(_name(group) for group in others)])


def _comparison(tables: Sequence["ScoreTable"], names: Sequence[str]) -> Comparison:
    """The sides of each table against the first side, which all tables have."""
    found = {
        (table.task, index): table.difference(0, index)
        for table in tables
        for index in table.sides
        if index
    }
    known = {key: e.p for key, e in found.items() if e is not None and e.p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    compared = []
    for table in tables:
        entries = []
        for index, side in table.sides.items():
            key = (table.task, index)
            verdict = _verdict(found[key], adjusted.get(key)) if index else None
            entries.append(_entry(names[index], side, table.mean(index), verdict))
        compared.append(
            Compared(table.task, table.metric, table.higher_is_better, table.rows, entries)
        )
    mean = compared.pop() if tables[-1].task == MEAN else None
    return Comparison(compared, mean)


def _name(group: Sequence[Path]) -> str:
    return f"{group[0]} and {len(group) - 1} more" if len(group) > 1 else str(group[0])


def _verdict(found: Estimate | None, p: float | None) -> Verdict:
    if found is None:
        return Verdict(None, None, None, None, None)
    verdict = None
    if p is not None:
        verdict = "undecided" if p >= LEVEL else "higher" if found.value > 0 else "lower"
    return Verdict(found.value, found.interval.low, found.interval.high, p, verdict)


def _entry(name: str, side: "Side", mean: Estimate | None, verdict: Verdict | None) -> Entry:
    interval = mean.interval if mean else None
    return Entry(name, side.mean, side.spread, interval, side.reason, side.of_runs, verdict)


def same_recipes(runs: Sequence[Path]) -> list[list[Path]]:
    """Group runs that differ only in the seed; each group is sorted by seed.

    Encoder, tokenizer and data files must have the same content; their paths may differ. A soup is
    never grouped with the runs that it was made from.

    Raises:
        ComityError: not a run, or two runs of one group with the same seed.
    """
    groups: dict[str, dict[int, Path]] = {}
    for run in runs:
        directory = RunDirectory.open(run)
        values = directory.recipe().to_dict()
        values.pop("track", None)
        values.get("train", {}).pop("seed", None)
        if not values.get("train"):
            values.pop("train", None)
        facts = directory.facts()
        made_of = facts.inputs.digests, [member.id for member in facts.soup]
        group = groups.setdefault(json.dumps([values, made_of], sort_keys=True), {})
        seed = facts.seed
        if seed in group:
            raise ComityError(
                f"{run}: has the same recipe and seed ({seed}) as {group[seed]}; leave one of them "
                "out, or leave out --group-seeds"
            )
        group[seed] = run
    return [[group[seed] for seed in sorted(group)] for group in groups.values()]


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """The scores of the runs of one recipe on one task, or on the mean over tasks."""

    scores: list[Score]  # of each run
    resampled: NDArray[np.float64]  # [runs, R], on resamples of the rows that all sides share
    trained: bool

    @property
    def of_runs(self) -> list[float | None]:
        """Each run's own score."""
        return [score.value for score in self.scores]

    @property
    def known(self) -> list[float]:
        """The scores if every run has one, else nothing."""
        known = [value for value in self.of_runs if value is not None]
        return known if len(known) == len(self.scores) else []

    @property
    def mean(self) -> float | None:
        """The mean over the runs; None if a run has no score."""
        return float(np.mean(self.known)) if self.known else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the runs; None for one run or if one has no score."""
        return float(np.std(self.known, ddof=1)) if len(self.known) > 1 else None

    @property
    def reason(self) -> str | None:
        """Why there is no score, or which tasks a mean leaves out."""
        return next((score.reason for score in self.scores if score.reason), None)


@dataclass(frozen=True)
class ScoreTable:
    """The scores of several sides on one task, or on the mean over tasks."""

    task: str
    metric: str
    higher_is_better: bool
    rows: int
    sides: dict[int, Side]  # by position of the group; without groups that lack the task

    def mean(self, side: int) -> Estimate | None:
        """A side's mean over seeds with its interval; None without a score."""
        groups, position = self._groups()
        return mean_over_seeds(groups, position[side]) if side in position else None

    def difference(self, first: int, other: int) -> Estimate | None:
        """How much higher `other` scores than `first`; None if one of them has no score."""
        groups, position = self._groups()
        if first not in position or other not in position:
            return None
        return difference(groups, position[first], position[other])

    def _groups(self) -> tuple[list[Group], dict[int, int]]:
        """The sides with scores, and the index of each in that list."""
        known = {index: side for index, side in self.sides.items() if side.known}
        groups = [Group(np.array(s.known), s.resampled, s.trained) for s in known.values()]
        return groups, {index: position for position, index in enumerate(known)}


def score_tables(groups: Sequence[Sequence[Path]]) -> list[ScoreTable]:
    """The scores of groups of runs: a table for each task that all runs of the first group have.

    The last table is the mean over the tasks whose metric is better when higher, for groups that
    have all of them; it is left out if there are fewer than two such tasks.

    Raises:
        ComityError: not a run, a run that has kept no model, different dev rows.
    """
    sides = [[_Run.read(path) for path in group] for group in groups]
    tasks = [task for task in sides[0][0].predictions if _have(sides[0], task)]
    tables = [_task_table(task, sides) for task in tasks]
    counted = [table for table in tables if table.higher_is_better]
    return [*tables, _mean_table(counted)] if len(counted) > 1 else tables


@dataclass(frozen=True)
class _Run:
    """What a comparison reads of a run."""

    path: Path
    predictions: dict[str, TaskPredictions]  # by task
    trained: set[str]  # tasks

    @classmethod
    def read(cls, path: Path) -> "_Run":
        directory = RunDirectory.open(path)
        predictions = {task: kept_predictions(directory, task) for task in directory.facts().tasks}
        sections = directory.recipe().tasks
        return cls(path, predictions, {n for n in predictions if not sections[n].eval_only})


def _have(runs: Sequence[_Run], task: str) -> bool:
    return all(task in run.predictions for run in runs)


def _task_table(task: str, sides: Sequence[Sequence[_Run]]) -> ScoreTable:
    """The table of one task, in the metric of the first run."""
    having = {index: side for index, side in enumerate(sides) if _have(side, task)}
    runs = [run for side in having.values() for run in side]
    for run in runs:
        _check_same_rows(task, runs[0], run)
    found = [run.predictions[task] for run in runs]
    metric = METRICS[found[0].metric]
    draws = resampled(metric.name, found[0].gold, [of_run.predicted for of_run in found], task)
    scores = [_score(metric, of_run) for of_run in found]
    table: dict[int, Side] = {}
    start = 0
    for index, side in having.items():
        stop = start + len(side)
        trained = all(task in run.trained for run in side)
        table[index] = Side(scores[start:stop], draws[start:stop], trained)
        start = stop
    rows = len(found[0].gold)
    return ScoreTable(task, metric.name, metric.higher_is_better, rows, table)


def _score(metric: Metric, found: TaskPredictions) -> Score:
    """The score that `evaluate` gives these predictions."""
    numbers = found.probabilities
    if numbers is None and not found.target.classes:
        numbers = found.predicted
    if numbers is not None and (reason := not_finite(numbers)):
        return Score(metric.name, None, reason, metric.higher_is_better)
    return metric(found.gold, found.predicted)


def _mean_table(tables: Sequence[ScoreTable]) -> ScoreTable:
    """The mean over tasks, of each run and of each resample; the rows of each task are resampled
    apart."""
    sides = {}
    for index in tables[0].sides:
        own = [table.sides[index] for table in tables if index in table.sides]
        if len(own) == len(tables):
            sides[index] = Side(
                [_mean_of(tables, scores) for scores in zip(*(s.scores for s in own), strict=True)],
                np.mean([side.resampled for side in own], axis=0),
                all(side.trained for side in own),
            )
    return ScoreTable(MEAN, MEAN, True, sum(table.rows for table in tables), sides)


def _mean_of(tables: Sequence[ScoreTable], scores: Sequence[Score]) -> Score:
    """The mean of one run; it has no value where a task has none: it would be easier to reach."""
    named = dict(zip((table.task for table in tables), scores, strict=True))
    found = mean_score(named)
    return replace(found, value=None) if found.left_out else found


def _check_same_rows(task: str, first: _Run, other: _Run) -> None:
    one, two = first.predictions[task], other.predictions[task]
    same_file = (one.file, one.lines) == (two.file, two.lines)
    same_task = (one.target.kind, one.target.classes) == (two.target.kind, two.target.classes)
    if not (same_file and same_task and np.array_equal(one.gold, two.gold)):
        raise ComityError(
            f"{other.path}: the dev rows of {task} differ from those of {first.path} (another "
            "file, another share of it, or other labels); compare runs evaluated on the same rows"
        )
