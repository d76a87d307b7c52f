"""What commands print: tables of data, plans, scores and comparisons."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from comity.evaluation.bootstrap import RESAMPLES
from comity.evaluation.compare import MEAN, Comparison, Entry
from comity.format import clock, or_dash, plural
from comity.runs import RunSummary, StageConflictEntry

if TYPE_CHECKING:  # these load torch, which `comity compare` does not need
    from comity.data.augment import AugmentReport
    from comity.evaluation.evaluate import Evaluation
    from comity.training.data_summary import DataSummary, SplitSummary
    from comity.training.plan import PlanSummary, SeriesPlan, StageSummary

PLAIN_WIDTH = 160
"""Columns of a table that is not printed on a terminal."""

MOST_CLASSES = 8
"""Classes whose counts are shown."""


def console(stderr: bool = False) -> Console:
    """A console for standard output or error. Off a terminal it does not wrap lines."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    # Class names and texts come from the user: brackets and colons in them are not markup.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def tell(sentence: str) -> None:
    """Print one sentence on standard error, without wrapping or markup."""
    print(sentence, file=sys.stderr, flush=True)


def _table(title: str | None, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table with left-aligned columns, then right-aligned ones."""
    table = Table(title=title, title_justify="left")
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    return table


# --- data and plan --------------------------------------------------------------------------------


def show_data(summary: "DataSummary") -> None:
    """Print what `comity check` found."""
    table = Table(title="Tasks", title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("kind, head", no_wrap=True)
    table.add_column("split", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    table.add_column("tokens: median, 95%, most")
    table.add_column("truncated", justify="right", no_wrap=True)
    for name, task in summary.tasks.items():
        splits = {"train": task.train, "dev": task.dev, **task.stages}
        firsts = [(name, task.kind), ("", task.head), *[("", "")] * len(task.stages)]
        for first, (which, split) in zip(firsts, splits.items(), strict=True):
            table.add_row(
                *first,
                which,
                f"{split.rows:,}",
                _labels(split),
                ", ".join(map(str, split.token_percentiles.values())),
                f"{split.truncated:,}",
            )
    console().print(table)
    for sentence in (*summary.notes, *summary.leaks):
        print(sentence)


def _labels(split: "SplitSummary") -> str:
    if split.counts is not None:
        shown = [f"{name}: {count:,}" for name, count in list(split.counts.items())[:MOST_CLASSES]]
        return ", ".join(shown) + (", ..." if len(split.counts) > MOST_CLASSES else "")
    if split.scores is None:
        return "-"
    return f"{split.scores.min:g} to {split.scores.max:g}, mean {split.scores.mean:.2f}"


def show_plan(plan: "PlanSummary", stderr: bool = False) -> None:
    """Print a plan: one table per stage, then memory and time."""
    out = console(stderr)
    for stage in plan.stages:
        out.print(_stage_title(stage))
        out.print(_stage_table(stage))
    for sentence in plan.notes:
        out.print(sentence)
    sizes = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in plan.memory_bytes.items())
    time_needed = "" if plan.seconds is None else f"; about {clock(plan.seconds)}"
    out.print(f"Memory: {sizes}; {plan.precision} on {plan.device}{time_needed}")


def _stage_title(stage: "StageSummary") -> str:
    masked = "" if stage.train_on == "labels" else f"{stage.train_on}, "
    return (
        f"Plan, {stage.name}: {masked}{stage.task_sampling} sampling, balancer {stage.balancer}, "
        f"{plural(stage.steps, 'step')}, {plural(stage.evaluations, 'evaluation')}"
    )


def _stage_table(stage: "StageSummary") -> Table:
    columns = ("rows", "examples", "tokens", "each row seen", "never seen")
    table = _table(None, ["task"], columns)
    for name, task in stage.tasks.items():
        least, most = task.repeats_min, task.repeats_max
        times = plural(most, "time") if least == most else f"{least} to {most} times"
        counts = (f"{number:,}" for number in (task.rows, task.examples, task.tokens))
        table.add_row(name, *counts, times, f"{task.rows_never_seen:,}")
    return table


# --- scores ---------------------------------------------------------------------------------------


def show_score(evaluation: "Evaluation") -> str:
    """`accuracy 0.4670 (loss 1.2083)`, or a dash and the reason why there is no value."""
    score = evaluation.score
    if score.value is None:
        return f"{score.name} - ({score.reason})"
    return f"{score.name} {score.value:.4f} (loss {evaluation.loss:.4f})"


def show_scores(title: str, columns: Mapping[str, Mapping[str, "Evaluation"]]) -> None:
    """Print scores of the same tasks side by side, one column for each state of the model."""
    found = [e.interval for of_column in columns.values() for e in of_column.values()]
    title += "; in parentheses: 95% intervals" if any(found) else ""
    table = _table(None, ["task", "metric"], list(columns))
    for task in next(iter(columns.values())):
        evaluations = [of_column[task] for of_column in columns.values()]
        table.add_row(task, evaluations[0].score.name, *map(_with_interval, evaluations))
    out = console()
    out.print(title)
    out.print(table)


def _with_interval(evaluation: "Evaluation") -> str:
    shown, found = or_dash(evaluation.score.value), evaluation.interval
    return shown if found is None else f"{shown} ({found.low:.4f} to {found.high:.4f})"


def show_run(summary: RunSummary) -> None:
    """Print the scores of the kept model, the best score of each task, and the conflicts."""
    best, kept = summary.best, summary.kept
    title = (
        f"{summary.run}: {summary.encoder}, {summary.precision}, kept step {best.step:,} "
        f"(selected by {best.by})"
    )
    columns = ("kept model", "best score", "at step", "on training rows")
    table = _table(title, ["task", "metric"], columns)
    for task, score in best.tasks.items():
        own = summary.best_of_task.get(task)
        table.add_row(
            task,
            score.metric,
            or_dash(score.value),
            or_dash(own and own.value),
            or_dash(own and own.step, ","),
            or_dash(kept and kept.train[task].value),
        )
    table.add_row("mean", "", or_dash(kept and kept.mean))
    out = console()
    out.print(table)
    for entry in summary.conflict:
        _show_conflict(entry, out)


def _show_conflict(entry: StageConflictEntry, out: Console) -> None:
    """Print how the task gradients of one stage relate."""
    if any(pair.observed for pair in entry.pairs):
        title = f"Cosines between task gradients, {entry.name}; in parentheses: 95% intervals"
        unit = "steps" if entry.from_steps else "probes"
        table = _table(title, ["tasks"], [unit, "mean cosine", "without noise"])
        table.add_column("conflict")
        for pair in entry.pairs:
            table.add_row(
                " / ".join(pair.tasks),
                f"{pair.observed:,}",
                _cosine(pair.cosine, pair.low, pair.high),
                _cosine(pair.expected_cosine, pair.expected_low, pair.expected_high),
                {True: "yes", False: "not found", None: f"too few {unit}"}[pair.conflicts],
            )
        out.print(table)
    if entry.unprobed is not None:
        out.print(f"{entry.name}: {entry.unprobed}")
    elif entry.reliability:
        each = (f"{task} {or_dash(value, '.3f')}" for task, value in entry.reliability.items())
        of_probes = f"mean of {plural(entry.probes, 'probe')}"
        out.print(f"Cosine between two batches of one task ({of_probes}): {', '.join(each)}")


def _cosine(value: float | None, low: float | None, high: float | None) -> str:
    shown = or_dash(value, ".3f")
    return shown if low is None else f"{shown} ({low:.3f} to {high:.3f})"


def comparison_table(comparison: Comparison) -> Table:
    """Runs side by side, compared with the first one."""
    baseline = comparison.tasks[0].entries[0].name
    title = (
        f"Compared with {baseline}; in parentheses: 95% intervals over dev rows "
        f"({RESAMPLES:,} resamples)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("run", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("difference", justify="right")
    table.add_column("verdict", no_wrap=True)
    for compared in (*comparison.tasks, *([comparison.mean] if comparison.mean else [])):
        mean = compared.task == MEAN
        first = compared.task if mean else f"{compared.task} ({compared.metric})"
        for entry in compared.entries:
            table.add_row(first, entry.name, *_comparison_cells(entry))
            first = ""
        table.add_section()
    return table


def _comparison_cells(entry: Entry) -> tuple[str, str, str]:
    interval, verdict = entry.interval, entry.verdict
    score = or_dash(entry.value)
    if interval is not None:
        score += f" ({interval.low:.4f} to {interval.high:.4f})"
    if verdict is None:
        return score, "", ""
    if verdict.difference is None:
        return score, "-", verdict.word
    between = f"({verdict.low:+.4f} to {verdict.high:+.4f})"
    return score, f"{verdict.difference:+.4f} {between}", verdict.word


# --- series and augmentation ----------------------------------------------------------------------


def show_series(plan: "SeriesPlan") -> None:
    """Print the runs of a series, which of them are finished, and the time for the others."""
    table = Table(title="Runs", title_justify="left")
    for column in ("run", "steps", "examples", "tokens", "state"):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for run in plan.runs:
        counts = (f"{number:,}" for number in (run.steps, run.examples, run.tokens))
        table.add_row(run.name, *counts, run.state)
    out = console()
    out.print(table)
    left = sum(run.state != "finished" for run in plan.runs)
    time_needed = f"; about {clock(plan.seconds)} in total" if plan.seconds else ""
    out.print(f"{left} of {plural(len(plan.runs), 'run')} to train{time_needed}")


def show_sweep(recipe: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the results of a sweep, one row of cells per point."""
    table = _table(f"Sweep of {recipe}", [], columns)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def show_augmented(output: Path, report: "AugmentReport") -> None:
    """Print how many rows were read, dropped and written."""
    dropped = {
        "identical": report.identical,
        "near-identical": report.near_identical,
        "without a result": report.without_result,
    }
    lost = ", ".join(f"{count:,} {what}" for what, count in dropped.items())
    print(f"{plural(report.rows, 'row')} read, {report.translated:,} translated; dropped: {lost}")
    print(
        f"{plural(report.empty_texts, 'empty text')} left unchanged, "
        f"{plural(report.cut_texts, 'long text')} truncated"
    )
    print(f"{output}: {plural(report.written, 'row')}, {report.augmented:,} of them new")
