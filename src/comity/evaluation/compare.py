"""Comparison of runs: scores with intervals, and whether a difference is more than chance.

It reads only the run directories, which hold the dev predictions of each run's best model.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.errors import ComityError, nearest
from comity.evaluation.bootstrap import Interval, percentile, resampled
from comity.evaluation.metrics import METRICS, Score, mean_score
from comity.evaluation.predictions import TaskPredictions, kept_predictions
from comity.format import plural
from comity.rng import name_key
from comity.runs import RunDirectory

MEAN = "mean"


@dataclass(frozen=True)
class Verdict:
    """How much higher one side scores than the baseline, and whether that is more than chance.

    `low` to `high` is the 95% interval of the difference, by paired bootstrap. `word` is
    "undecided" unless the interval excludes zero and every pair of runs differs in the direction of
    `difference` (`seeds_agree`). Where a side has no score there is no difference.
    """

    difference: float | None
    low: float | None
    high: float | None
    seeds_agree: bool
    word: str


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: a run, or several runs whose predictions are averaged."""

    name: str
    value: float | None
    reason: str | None  # why there is no value
    interval: Interval | None
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


def same_recipes(runs: Sequence[Path]) -> list[list[Path]]:
    """Group runs that differ only in the seed; each group is sorted by seed.

    Encoder, tokenizer and data files must have the same content; their paths may differ.

    Raises:
        ComityError: not a run, or two runs of one group with the same seed.
    """
    groups: dict[str, dict[int, Path]] = {}
    for run in runs:
        directory = RunDirectory.open(run)
        values = directory.recipe().to_dict()
        values.get("train", {}).pop("seed", None)
        if not values.get("train"):
            values.pop("train", None)
        facts = directory.facts()
        made_of = facts.inputs.digests
        group = groups.setdefault(json.dumps([values, made_of], sort_keys=True), {})
        seed = facts.seed
        if seed in group:
            raise ComityError(
                f"{run}: has the same recipe and seed ({seed}) as {group[seed]}; leave one of them "
                "out, or leave out --group-seeds"
            )
        group[seed] = run
    return [[group[seed] for seed in sorted(group)] for group in groups.values()]


def holds(better: Sequence[Path], worse: Sequence[Path], task: str) -> Verdict:
    """Check whether the runs `better` beat the runs `worse` on a task, or on the "mean".

    The word is "holds", "reversed" (the opposite holds) or "undecided". The difference is `better`
    minus `worse`, also for metrics where lower is better. Run i of one side is paired with run i of
    the other.

    Raises:
        ComityError: as `compare`, and where a side lacks the task.
    """
    comparison = compare_groups(worse, better, tasks=None if task == MEAN else [task])
    compared = comparison.mean if task == MEAN else comparison.tasks[0]
    if compared is None or len(compared.entries) < 2:
        raise ComityError(
            f"{better[0]}: has no mean to compare with {worse[0]}; name a task instead"
        )
    verdict = compared.entries[1].verdict
    assert verdict is not None
    gain, loss = ("higher", "lower") if compared.higher_is_better else ("lower", "higher")
    word = {gain: "holds", loss: "reversed"}.get(verdict.word, verdict.word)
    return replace(verdict, word=word)


# --- sides ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One or more runs with their predictions."""

    runs: Sequence[Path]
    predictions: list[dict[str, TaskPredictions]]  # of each run, by task

    @property
    def name(self) -> str:
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return f"{self.runs[0]}{more}"

    def has(self, task: str) -> bool:
        return all(task in of_run for of_run in self.predictions)


@dataclass(frozen=True)
class _Column:
    """A side's score on one task, for all rows and for each resample."""

    side: _Side
    score: Score
    of_runs: list[float | None]
    draws: NDArray[np.float64]  # [R]


def compare_groups(*groups: Sequence[Path], tasks: Sequence[str] | None = None) -> Comparison:
    """Compare each group of runs with the first, by the mean of its runs' predictions.

    Probabilities are averaged before the most probable class is taken; predicted scores are
    averaged. All groups must have the same number of runs: run i of one is paired with run i of
    another. `tasks` are the tasks to compare (default: all tasks of the first group).

    Raises:
        ComityError: not a run, no task in common, different dev rows, groups of unequal size.
    """
    sides = [_Side(group, [_read_run(run) for run in group]) for group in groups]
    first = sides[0]
    for side in sides[1:]:
        if len(side.runs) != len(first.runs):
            raise ComityError(
                f"{side.name}: this group has {plural(len(side.runs), 'run')}, but the group of "
                f"{first.name} has {len(first.runs)}; compare groups of the same size"
            )
    own = [task for task in first.predictions[0] if first.has(task)]
    for task in tasks or ():
        if task not in own:
            hint = nearest(task, own) or f"; this run has {', '.join(own)}"
            raise ComityError(f'{first.name}: unknown task "{task}"{hint}')
    columns = {task: _columns(task, sides) for task in tasks or own}
    for side in sides[1:]:
        if not any(side.has(task) for task in columns):
            raise ComityError(
                f"{side.name}: has none of the tasks of {first.name} ({', '.join(columns)}); "
                "compare runs that have a task in common"
            )
    compared = []
    for task, of_task in columns.items():
        rows = len(first.predictions[0][task].gold)
        compared.append(_compared(task, rows, of_task))
    return Comparison(compared, _mean(columns, sides) if tasks is None else None)


def _columns(task: str, sides: Sequence[_Side]) -> list[_Column]:
    """The column of each side that has the task, in the metric of the first."""
    having = [side for side in sides if side.has(task)]
    reference = having[0].predictions[0][task]
    for side in having:
        for run, of_run in zip(side.runs, side.predictions, strict=True):
            _check_same_rows(task, (having[0].runs[0], reference), (run, of_run[task]))
    gold, metric = reference.gold, METRICS[reference.metric]
    predictions = [_averaged([of_run[task] for of_run in side.predictions]) for side in having]
    draws = resampled(metric.name, gold, predictions, seed=name_key(task))
    columns = []
    for side, predicted, of_side in zip(having, predictions, draws, strict=True):
        of_runs = [metric(gold, of_run[task].predicted).value for of_run in side.predictions]
        columns.append(_Column(side, metric(gold, predicted), of_runs, of_side))
    return columns


def _check_same_rows(
    task: str, first: tuple[Path, TaskPredictions], other: tuple[Path, TaskPredictions]
) -> None:
    (run, one), (other_run, two) = first, other
    same_file = (one.file, one.lines) == (two.file, two.lines)
    same_task = (one.target.kind, one.target.classes) == (two.target.kind, two.target.classes)
    if not (same_file and same_task and np.array_equal(one.gold, two.gold)):
        raise ComityError(
            f"{other_run}: the dev rows of {task} differ from those of {run} (another file, "
            "another share of it, or other labels); compare runs evaluated on the same rows"
        )


def _averaged(runs: Sequence[TaskPredictions]) -> NDArray:
    """The combined prediction of several runs, in the same form as gold."""
    if len(runs) == 1:
        return runs[0].predicted
    if runs[0].target.kind not in ("classification", "multi-label"):
        return np.mean([run.predicted for run in runs], axis=0)
    known = [run.probabilities for run in runs if run.probabilities is not None]
    probabilities = np.mean(known, axis=0)
    if runs[0].target.kind == "multi-label":
        return (probabilities > 0.5).astype(np.int64)
    return np.array(runs[0].target.classes)[probabilities.argmax(axis=1)]


def _mean(columns: dict[str, list[_Column]], sides: Sequence[_Side]) -> Compared | None:
    """The mean over the tasks whose metric is better when higher, for sides that have them all."""
    counted = {t: found for t, found in columns.items() if found[0].score.higher_is_better}
    if len(counted) < 2:
        return None
    means = []
    for side in sides:
        own = [column for found in counted.values() for column in found if column.side is side]
        if len(own) < len(counted):
            continue
        score = mean_score(dict(zip(counted, (column.score for column in own), strict=True)))
        if score.left_out:  # a mean over fewer tasks is not comparable
            score = replace(score, value=None)
        runs = zip(*(column.of_runs for column in own), strict=True)
        of_runs = [None if None in values else float(np.mean(values)) for values in runs]
        draws = np.mean([column.draws for column in own], axis=0)
        means.append(_Column(side, score, of_runs, draws))
    rows = sum(len(sides[0].predictions[0][task].gold) for task in counted)
    return _compared(MEAN, rows, means)


def _compared(task: str, rows: int, columns: Sequence[_Column]) -> Compared:
    entries = []
    for column in columns:
        score = column.score
        verdict = None if column is columns[0] else _verdict(columns[0], column)
        interval = percentile(column.draws)
        entries.append(
            Entry(column.side.name, score.value, score.reason, interval, column.of_runs, verdict)
        )
    score = columns[0].score
    return Compared(task, score.name, score.higher_is_better, rows, entries)


def _verdict(first: _Column, other: _Column) -> Verdict:
    interval = percentile(other.draws - first.draws)
    before, after = first.score.value, other.score.value
    if before is None or after is None or interval is None:
        return Verdict(None, None, None, False, "undecided")
    difference = after - before
    agree = all(
        one is not None and two is not None and (two - one) * difference > 0
        for one, two in zip(first.of_runs, other.of_runs, strict=True)
    )
    word = "higher" if difference > 0 else "lower"
    decided = agree and interval.sign * difference > 0
    low, high = interval.low, interval.high
    return Verdict(difference, low, high, agree, word if decided else "undecided")


# --- reading --------------------------------------------------------------------------------------


def _read_run(run: Path) -> dict[str, TaskPredictions]:
    directory = RunDirectory.open(run)
    return {task: kept_predictions(directory, task) for task in directory.facts().tasks}
