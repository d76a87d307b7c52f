"""What a report says: everything that a run directory shows, as typed records.

A report is about one run. Further runs are baselines. Runs without weights, without data files or
without an end have what they have; what is missing is None or empty.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comity.data.summary import RunData
from comity.evaluation.compare import Comparison, Verdict, compare_groups, same_recipes
from comity.report.tasks import TaskView, task_view
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, StageConflictEntry, TrainEntry
from comity.runs.facts import RunFacts
from comity.runs.summary import RunSummary, run_summary, stage_conflicts

FORMAT = "comity report 1"


@dataclass(frozen=True)
class Curve:
    """Losses and scores of one task over steps; None where a value was not finite or missing."""

    task: str
    metric: str
    train_loss: list[tuple[int, float | None]]  # mean over the steps since the point before
    dev_loss: list[tuple[int, float | None]]
    dev_score: list[tuple[int, float | None]]
    sample_loss: list[tuple[int, float | None]]  # on a fixed sample of the training rows
    sample_score: list[tuple[int, float | None]]


@dataclass(frozen=True)
class StageConflict:
    """The conflict between the tasks of one stage."""

    name: str
    tasks: list[str]
    summary: StageConflictEntry | None  # None before the first evaluation of the stage
    steps: list[ConflictEntry]  # means over training steps; empty for the balancer `sum`
    probes: list[ConflictEntry]


@dataclass(frozen=True)
class Speed:
    """The time of the training steps, without evaluations and checkpoints."""

    seconds: float
    examples: int
    examples_per_second: float
    tokens_per_second: float
    over_steps: list[tuple[int, float]]  # tokens per second, since the point before


@dataclass(frozen=True)
class Report:
    """A report on one run."""

    format: str
    run: RunSummary
    facts: RunFacts
    recipe: str  # TOML
    scores: Comparison | None  # None before a model is kept
    curves: list[Curve]
    conflict: list[StageConflict]
    tasks: list[TaskView]  # empty before a model is kept
    data: RunData | None  # None for a run of an earlier version
    speed: Speed | None
    texts: bool  # whether texts were asked for

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def collect(runs: Sequence[Path], group_seeds: bool = False, texts: bool = True) -> Report:
    """Collect the report of the first run; the others are its baselines.

    Args:
        runs: run directories.
        group_seeds: runs whose recipes differ only in their seed form one side.
        texts: whether to show texts of the data.

    Raises:
        ComityError: not a run, a damaged run, or baselines that cannot be compared with it.
    """
    directory = RunDirectory.open(runs[0])
    summary = run_summary(directory)
    kept = directory.has_best()
    return Report(
        format=FORMAT,
        run=summary,
        facts=directory.facts(),
        recipe=(directory.path / "recipe.toml").read_text(encoding="utf-8-sig"),
        scores=_scores(runs, group_seeds) if kept or len(runs) > 1 else None,
        curves=_curves(directory, summary),
        conflict=_conflict(directory),
        tasks=[task_view(directory, task, texts) for task in directory.facts().tasks]
        if kept
        else [],
        data=directory.data(),
        speed=_speed(directory),
        texts=texts,
    )


# --- scores ---------------------------------------------------------------------------------------


def _scores(runs: Sequence[Path], group_seeds: bool) -> Comparison:
    """The scores of all runs; a verdict says how the first run differs from the baseline.

    `comity compare` does the opposite: its first run is the baseline.
    """
    groups = same_recipes(runs) if group_seeds else [[run] for run in runs]
    found = compare_groups(*groups)
    turned = [
        replace(
            table,
            entries=[
                replace(entry, verdict=entry.verdict and _turned(entry.verdict))
                for entry in table.entries
            ],
        )
        for table in [*found.tasks, *([found.mean] if found.mean else [])]
    ]
    mean = turned.pop() if found.mean else None
    return Comparison(turned, mean)


def _turned(verdict: Verdict) -> Verdict:
    """The verdict on the first side, from the one on the other side."""
    if verdict.difference is None or verdict.low is None or verdict.high is None:
        return verdict
    opposite = {"higher": "lower", "lower": "higher"}
    word = opposite.get(verdict.verdict or "", verdict.verdict)
    return Verdict(-verdict.difference, -verdict.high, -verdict.low, verdict.p, word)


# --- curves and speed -----------------------------------------------------------------------------


def _curves(directory: RunDirectory, summary: RunSummary) -> list[Curve]:
    trained, evaluations = directory.entries(TrainEntry), summary.evaluations
    return [
        Curve(
            task=task,
            metric=facts.metric,
            train_loss=[(e.step, e.loss[task]) for e in trained if task in e.loss],
            dev_loss=[(e.step, e.tasks[task].loss) for e in evaluations if task in e.tasks],
            dev_score=[(e.step, e.tasks[task].value) for e in evaluations if task in e.tasks],
            sample_loss=[(e.step, e.train[task].loss) for e in evaluations if task in e.train],
            sample_score=[(e.step, e.train[task].value) for e in evaluations if task in e.train],
        )
        for task, facts in directory.facts().tasks.items()
    ]


def _speed(directory: RunDirectory) -> Speed | None:
    """Each train entry has the speed since the one before, and examples since the start."""
    entries = directory.entries(TrainEntry)
    before, seconds, tokens = 0, 0.0, 0.0
    for entry in entries:
        passed = (entry.examples - before) / (entry.examples_per_second or math.inf)
        seconds += passed
        tokens += passed * entry.tokens_per_second
        before = entry.examples
    if seconds <= 0:
        return None
    return Speed(
        seconds=seconds,
        examples=before,
        examples_per_second=before / seconds,
        tokens_per_second=tokens / seconds,
        over_steps=[(entry.step, entry.tokens_per_second) for entry in entries],
    )


# --- conflict -------------------------------------------------------------------------------------


def _conflict(directory: RunDirectory) -> list[StageConflict]:
    """The conflict of each stage: its last summary, and the entries up to it.

    Entries after the last summary are those of a stage that has not been evaluated since.
    """
    summaries, entries = stage_conflicts(directory), directory.entries(ConflictEntry)
    stages, start = [], -1
    for summary in summaries:
        tasks = _tasks_of(summary)
        own = [e for e in entries if start < e.step <= summary.step]
        start = summary.step
        stages.append(_stage(summary.name, tasks, summary, own))
    later = [entry for entry in entries if entry.step > start]
    if later and stages and stages[-1].tasks == later[-1].tasks:
        last = stages.pop()
        own = [*last.steps, *last.probes, *later]
        stages.append(_stage(last.name, last.tasks, last.summary, own))
    elif later:
        stages.append(_stage("the present stage", later[-1].tasks, None, later))
    return stages


def _stage(
    name: str,
    tasks: list[str],
    summary: StageConflictEntry | None,
    entries: Sequence[ConflictEntry],
) -> StageConflict:
    own = [entry for entry in entries if entry.tasks == tasks]
    steps = [entry for entry in own if entry.steps is not None]
    return StageConflict(name, tasks, summary, steps, [e for e in own if e.steps is None])


def _tasks_of(summary: StageConflictEntry) -> list[str]:
    """The tasks of a stage, in the order of its pairs."""
    return list(dict.fromkeys(task for pair in summary.pairs for task in pair.tasks))
