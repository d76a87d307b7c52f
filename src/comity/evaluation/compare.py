"""Runs side by side: each score with its interval, and whether a difference is more than chance.

Only the runs' directories are read: the predictions of each kept model on dev stand there.
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
from comity.rng import name_key
from comity.runs import RunDirectory

MEAN = "mean"


@dataclass(frozen=True)
class Verdict:
    """How much higher one side scores than the other, and whether that is more than chance.

    `low` to `high` is the 95 % interval of the paired bootstrap. The word is decided only where it
    leaves out zero and the runs, pair by pair, differ in the direction of `difference`
    (`seeds_agree`). Where a side has no score there is no difference either.
    """

    difference: float | None
    low: float | None
    high: float | None
    seeds_agree: bool
    word: str


@dataclass(frozen=True)
class Entry:
    """One side of a comparison: a run, or several whose predictions are averaged."""

    name: str
    value: float | None
    reason: str | None  # why there is no value
    interval: Interval | None
    of_runs: list[float | None]  # each run's own score
    verdict: Verdict | None  # against the first side; None for that one itself


@dataclass(frozen=True)
class Compared:
    """One task, or the mean over tasks: the first side, then the others that have it."""

    task: str
    metric: str
    higher_is_better: bool
    rows: int
    entries: list[Entry]


@dataclass(frozen=True)
class Comparison:
    """All tasks of the first side, and the mean over them where there are several."""

    tasks: list[Compared]
    mean: Compared | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(runs: Sequence[Path], group_seeds: bool = False) -> Comparison:
    """Each run against the first, on the tasks of the first that it has too.

    With `group_seeds`, runs whose recipes differ in the seed alone are one side together.

    Raises:
        ComityError: not a run, no task in common, other dev rows.
    """
    return compare_groups(*(same_recipes(runs) if group_seeds else [[run] for run in runs]))


def same_recipes(runs: Sequence[Path]) -> list[list[Path]]:
    """Runs that differ in the seed alone, together and by seed; groups as they come.

    Encoder, tokenizer and files must be the same too, wherever they stood.

    Raises:
        ComityError: not a run, or a seed that stands twice in a group.
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
                f"{run}: has the seed {seed}, as {group[seed]} of the same recipe has; leave one "
                "out, or leave out --group-seeds"
            )
        group[seed] = run
    return [[group[seed] for seed in sorted(group)] for group in groups.values()]


def holds(better: Sequence[Path], worse: Sequence[Path], task: str) -> Verdict:
    """Whether the runs of `better` are better than those of `worse` at a task, or on the "mean".

    The word is "holds", "reversed" (the opposite holds) or "undecided". The difference is `better`
    less `worse`, also where a lower score is the better one. Run i of one side is paired with run
    i of the other.

    Raises:
        ComityError: as `compare`, and where a side lacks the task.
    """
    comparison = compare_groups(worse, better, tasks=None if task == MEAN else [task])
    compared = comparison.mean if task == MEAN else comparison.tasks[0]
    if compared is None or len(compared.entries) < 2:
        raise ComityError(
            f"{better[0]}: has no mean to compare with that of {worse[0]}; name a task instead"
        )
    verdict = compared.entries[1].verdict
    assert verdict is not None
    gain, loss = ("higher", "lower") if compared.higher_is_better else ("lower", "higher")
    word = {gain: "holds", loss: "reversed"}.get(verdict.word, verdict.word)
    return replace(verdict, word=word)


# --- sides ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One or more runs with what each says of each task."""

    runs: Sequence[Path]
    judged: list[dict[str, TaskPredictions]]  # of each run

    @property
    def name(self) -> str:
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return f"{self.runs[0]}{more}"

    def has(self, task: str) -> bool:
        return all(task in judged for judged in self.judged)


@dataclass(frozen=True)
class _Column:
    """A side's score on one task, as it is and over the resamples."""

    side: _Side
    score: Score
    of_runs: list[float | None]
    draws: NDArray[np.float64]  # [R]


def compare_groups(*groups: Sequence[Path], tasks: Sequence[str] | None = None) -> Comparison:
    """Each group of runs against the first, by the mean of its runs' predictions.

    Probabilities are averaged before the most probable class is taken; scores are averaged. Groups
    have equally many runs, and run i of one is paired with run i of another. `tasks` are those to
    compare (all of the first group unless named).

    Raises:
        ComityError: not a run, no task in common, other dev rows, groups of unequal size.
    """
    sides = [_Side(group, [_read_run(run) for run in group]) for group in groups]
    first = sides[0]
    for side in sides[1:]:
        if len(side.runs) != len(first.runs):
            raise ComityError(
                f"{side.name}: {len(side.runs)} runs cannot be paired with the "
                f"{len(first.runs)} of {first.name}; give as many of each"
            )
    own = [task for task in first.judged[0] if first.has(task)]
    for task in tasks or ():
        if task not in own:
            raise ComityError(
                f'{first.name}: has no task "{task}"{nearest(task, own)}; it has {", ".join(own)}'
            )
    columns = {task: _columns(task, sides) for task in tasks or own}
    for side in sides[1:]:
        if not any(side.has(task) for task in columns):
            raise ComityError(
                f"{side.name}: has none of the tasks {', '.join(columns)} of {first.name}; "
                "compare runs that have a task in common"
            )
    compared = []
    for task, of_task in columns.items():
        rows = len(first.judged[0][task].gold)
        compared.append(_compared(task, rows, of_task))
    return Comparison(compared, _mean(columns, sides) if tasks is None else None)


def _columns(task: str, sides: Sequence[_Side]) -> list[_Column]:
    """The column of each side that has the task, by the metric of the first."""
    having = [side for side in sides if side.has(task)]
    reference = having[0].judged[0][task]
    for side in having:
        for run, judged in zip(side.runs, side.judged, strict=True):
            _check_same_rows(task, (having[0].runs[0], reference), (run, judged[task]))
    metric, gold = reference.metric, reference.gold
    predictions = [_averaged([judged[task] for judged in side.judged]) for side in having]
    draws = resampled(metric, gold, predictions, seed=name_key(task))
    columns = []
    for side, predicted, of_side in zip(having, predictions, draws, strict=True):
        of_runs = [METRICS[metric](gold, judged[task].predicted).value for judged in side.judged]
        columns.append(_Column(side, METRICS[metric](gold, predicted), of_runs, of_side))
    return columns


def _check_same_rows(
    task: str, first: tuple[Path, TaskPredictions], other: tuple[Path, TaskPredictions]
) -> None:
    (run, one), (other_run, two) = first, other
    same_file = (one.file, one.lines) == (two.file, two.lines)
    same_task = (one.target.kind, one.target.classes) == (two.target.kind, two.target.classes)
    if not (same_file and same_task and np.array_equal(one.gold, two.gold)):
        raise ComityError(
            f"{other_run}: its dev rows of {task} are not those of {run} (another file, another "
            "share of it or other labels); compare runs that were judged on the same rows"
        )


def _averaged(runs: Sequence[TaskPredictions]) -> NDArray:
    """The prediction of several runs together, spelled as gold is."""
    if len(runs) == 1:
        return runs[0].predicted
    if runs[0].target.kind not in ("classification", "multi-label"):
        return np.mean([judged.predicted for judged in runs], axis=0)
    known = [judged.probabilities for judged in runs if judged.probabilities is not None]
    probabilities = np.mean(known, axis=0)
    if runs[0].target.kind == "multi-label":
        return (probabilities > 0.5).astype(np.int64)
    return np.array(runs[0].target.classes)[probabilities.argmax(axis=1)]


def _mean(columns: dict[str, list[_Column]], sides: Sequence[_Side]) -> Compared | None:
    """The mean over the tasks whose metric is better when higher, of the sides that have all."""
    counted = {t: found for t, found in columns.items() if found[0].score.higher_is_better}
    if len(counted) < 2:
        return None
    means = []
    for side in sides:
        own = [column for found in counted.values() for column in found if column.side is side]
        if len(own) < len(counted):
            continue
        score = mean_score(dict(zip(counted, (column.score for column in own), strict=True)))
        if score.left_out:  # the mean of fewer tasks is another figure
            score = replace(score, value=None)
        runs = zip(*(column.of_runs for column in own), strict=True)
        of_runs = [None if None in values else float(np.mean(values)) for values in runs]
        draws = np.mean([column.draws for column in own], axis=0)
        means.append(_Column(side, score, of_runs, draws))
    rows = sum(len(sides[0].judged[0][task].gold) for task in counted)
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


# --- what a run directory holds -------------------------------------------------------------------


def _read_run(run: Path) -> dict[str, TaskPredictions]:
    directory = RunDirectory.open(run)
    return {task: kept_predictions(directory, task) for task in directory.facts().tasks}
