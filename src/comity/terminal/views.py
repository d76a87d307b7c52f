"""What commands print: tables of data, plans, scores and comparisons."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from comity.evaluation.compare import MEAN, Comparison, Entry
from comity.format import clock, or_dash, p_value, plural, precision_name, some
from comity.runs.calibration import TaskCalibration, TaskMix
from comity.runs.entries import StageConflictEntry
from comity.runs.summary import RunSummary
from comity.terminal.table import LOSER, WINNER, Table

if TYPE_CHECKING:  # these load torch, which `comity compare` does not need
    from comity.data.augment import AugmentReport
    from comity.data.summary import SplitSummary
    from comity.evaluation.evaluate import Evaluation
    from comity.training.data_summary import DataSummary
    from comity.training.plan import PlanSummary, SeriesPlan, StageSummary

PLAIN_WIDTH = 160
"""Characters in a line that is not printed on a terminal, unless COLUMNS is set."""

MOST_CLASSES = 8
"""Classes whose counts, or whose confusion matrix, are shown."""

MOST_CLASS_ROWS = 20
"""Classes whose precision, recall and F1 are shown."""

MOST_CONFUSIONS = 10
"""Pairs of classes that are shown where the matrix is too wide."""

LONGEST_NAME = 24
"""Columns for the name of a class; a longer name is folded."""

SHORT_NAME = 6
"""Mean length of names that fit as the heads of `MOST_CLASSES` columns."""


def console(stderr: bool = False) -> Console:
    """A console for standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns
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
    table.add_column("kind; head, pooling", no_wrap=True)
    table.add_column("split", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    table.add_column("tokens: median, 95%, most")
    table.add_column("truncated", justify="right", no_wrap=True)
    table.add_column("unknown", justify="right", no_wrap=True)
    for name, task in summary.tasks.items():
        firsts = [
            (name, task.kind),
            ("", f"{task.head}, {task.pooling}"),
            *[("", "")] * (len(task.splits) - 2),
        ]
        for first, (which, split) in zip(firsts, task.splits.items(), strict=True):
            table.add_row(
                *first,
                which,
                f"{split.rows:,}",
                _labels(split),
                ", ".join(map(str, split.token_percentiles.values())),
                f"{split.truncated:,}",
                f"{split.unknown:.1%}",
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
    found = split.scores
    return f"{found.min:g} to {found.max:g}, mean {found.mean:.4g}, deviation {found.deviation:.4g}"


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
    out.print(f"Memory: {sizes}; {precision_name(plan.precision)} on {plan.device}{time_needed}")


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


ROW_COUNTS = {
    "unlabelled": "without a label; left out",
    "ignored": "with a label that ignore_labels lists; left out",
    "empty": "with an empty text",
    "dropped": "left out because of an empty text",
    "truncated": "truncated",
    "clipped": "with a score beyond the scale; clipped to its end",
}
"""What `show_evaluation` prints for each count in `Evaluation.rows`."""

CROSS_FITTED = "Cross-fitted: fitted on one half of the dev rows, measured on the other half."


def show_evaluation(evaluation: "Evaluation") -> None:
    """Print one task's other metrics, the scores of its classes, and what was taken for what.

    The tables fit into 80 columns: with many classes the largest ones and the most frequent
    confusions are shown.
    """
    out = console()
    others = [f"{name} {or_dash(s.value)}" for name, s in evaluation.others.items()]
    head = f"{evaluation.task}, {plural(evaluation.n, 'row')}"
    out.print(f"{head}: {', '.join(others)}" if others else head)
    if evaluation.is_calibrated:
        found = f"temperature {evaluation.temperature:.4f}"
        if evaluation.threshold is not None:
            found += f", threshold {evaluation.threshold:.4f}"
        out.print(f"{evaluation.task}: calibrated, {found}")
    if evaluation.classes:
        _show_classes(out, evaluation)
    if evaluation.confusion is not None:
        if len(evaluation.names) <= MOST_CLASSES:
            out.print(f"{evaluation.task}, rows by true class (down) and predicted class (across):")
            out.print(_confusion_table(evaluation.names, evaluation.confusion))
        else:
            _show_confusions(out, evaluation.names, evaluation.confusion)
    for what, count in evaluation.rows.items():
        if count:
            out.print(f"{evaluation.task}: {plural(count, 'row')} {ROW_COUNTS[what]}")
    if evaluation.score.reason:
        out.print(
            f"{evaluation.task}: {evaluation.score.name} has no value ({evaluation.score.reason})"
        )
    if evaluation.warning:
        out.print(f"Warning: {evaluation.task}: {evaluation.warning}")


def _show_classes(out: Console, evaluation: "Evaluation") -> None:
    table = _table(None, [], [])
    table.add_column("class", overflow="fold", max_width=LONGEST_NAME)
    for column in ("precision", "recall", "F1", "rows", "predicted"):
        table.add_column(column, justify="right", no_wrap=True)
    found = list(zip(evaluation.names, evaluation.classes, strict=True))
    if len(found) > MOST_CLASS_ROWS:
        found = sorted(found, key=lambda pair: -pair[1].rows)[:MOST_CLASS_ROWS]
    for name, score in found:
        shares = (or_dash(share) for share in (score.precision, score.recall, score.f1))
        table.add_row(name, *shares, f"{score.rows:,}", f"{score.predicted:,}")
    out.print(table)
    if len(evaluation.names) > len(found):
        out.print(
            f"Only the {len(found)} classes with the most rows are shown, of "
            f"{len(evaluation.names):,}; --json has all."
        )


def _confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Rows are true classes and columns predicted ones, which have numbers if names are long."""
    short = sum(map(len, names)) <= MOST_CLASSES * SHORT_NAME and max(map(len, names)) <= 12
    heads = list(names) if short else [str(number) for number in range(1, len(names) + 1)]
    rows = names if short else [f"{n} {name}" for n, name in enumerate(names, start=1)]
    table = Table()
    table.add_column("", overflow="fold", max_width=LONGEST_NAME)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in zip(rows, counts, strict=True):
        table.add_row(name, *(f"{count:,}" for count in row))
    return table


def _show_confusions(out: Console, names: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """The most frequent confusions, where a matrix would be too wide."""
    found = [
        (count, gold, predicted)
        for gold, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and gold != predicted
    ]
    found.sort(key=lambda confusion: -confusion[0])
    if not found:
        return
    table = Table(title="Most frequent confusions", title_justify="left")
    for column in ("true class", "predicted class"):
        table.add_column(column, overflow="fold", max_width=LONGEST_NAME)
    table.add_column("rows", justify="right", no_wrap=True)
    for count, gold, predicted in found[:MOST_CONFUSIONS]:
        table.add_row(names[gold], names[predicted], f"{count:,}")
    out.print(table)
    if len(found) > MOST_CONFUSIONS:
        out.print(
            f"Only {MOST_CONFUSIONS} of {len(found):,} kinds of confusion are shown; --json has "
            "the whole matrix."
        )


def show_run(summary: RunSummary) -> None:
    """Print the scores of the kept model, the best score of each task, and the conflicts."""
    best, kept = summary.best, summary.kept
    if not summary.finished:
        print(f"{summary.run}: {summary.status}")
    if best is None:
        return
    kind = "soup" if summary.soup else f"kept step {best.step:,}"
    title = (
        f"{summary.run}: {summary.encoder}, {precision_name(summary.precision)}, "
        f"{kind} (selected by {best.by})"
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
            or_dash(kept.train[task].value if kept and task in kept.train else None),
        )
    table.add_row("mean", "", or_dash(kept and kept.mean))
    out = console()
    out.print(table)
    show_mixes(best.mixes)
    show_calibration(best.calibration)
    if best.fit.tasks:
        what = ["the fitted mix"] * bool(best.mixes) + ["the calibration"] * bool(best.calibration)
        out.print(
            f'The column "kept model" is with {" and ".join(what)}, the others are as trained.'
        )
    if summary.average:
        out.print(f"Evaluated and kept: the {summary.average}.")
    if summary.soup:
        kept = [member.run for member in summary.soup if member.kept]
        out.print(
            f"A soup: the mean of the weights of {some(kept, len(kept))}, chosen on dev from "
            f"{plural(len(summary.soup), 'run')}."
        )
    if summary.skipped:
        steps = plural(summary.skipped, "step")
        out.print(f"{steps} skipped, because a loss or gradient was not finite.")
    for entry in summary.conflict:
        _show_conflict(entry, out)
    for sentence in summary.warnings:
        out.print(f"Warning: {sentence}")


def show_mixes(mixes: Mapping[str, TaskMix]) -> None:
    """Print the share of the head on the pair that was fitted, and what it is worth elsewhere."""
    if not mixes:
        return
    table = _table(
        "Mix of two heads, fitted on dev", ["task", "measure"], ["mix", "at 0.5", "cross-fitted"]
    )
    for task, found in mixes.items():
        cells = f"{found.mix:g}", or_dash(found.equal), or_dash(found.cross_fitted)
        table.add_row(task, found.metric, *cells)
    out = console()
    out.print(table)
    out.print(f"{CROSS_FITTED} Both scores are means over the two halves.")
    for task, found in mixes.items():
        for note in found.notes:
            out.print(f"{task}: {note}")


def show_calibration(calibration: Mapping[str, TaskCalibration]) -> None:
    """Print what was fitted for each calibrated task, and what it is worth on other rows."""
    if not calibration:
        return
    table = _table(
        "Calibration on dev",
        ["task", "fitted", "measure"],
        ["as trained", "cross-fitted"],
    )
    for task, found in calibration.items():
        fitted = [task, "", ""], [f"temperature {found.temperature:.4f}", "", ""]
        if found.threshold is not None:
            fitted[1][1] = f"threshold {found.threshold:.4f}"
        before, after = found.as_trained, found.cross_fitted
        measures = (
            (found.metric, before and before.value, after and after.value),
            ("log loss", before and before.log_loss, after and after.log_loss),
            (
                "calibration error",
                before and before.calibration_error,
                after and after.calibration_error,
            ),
        )
        for name, what, (measure, *values) in zip(*fitted, measures, strict=True):
            table.add_row(name, what, measure, *map(or_dash, values))
        table.add_section()
    out = console()
    out.print(table)
    out.print(CROSS_FITTED)
    for task, found in calibration.items():
        for note in found.notes:
            out.print(f"{task}: {note}")


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


GROUP_SEEDS = "train at least two seeds of each recipe and use --group-seeds"
"""How `comity compare` reaches a verdict."""


def show_comparison(comparison: Comparison, for_verdicts: str = GROUP_SEEDS) -> None:
    """Print runs side by side, compared with the first one, and how to read the table.

    `for_verdicts` says what to do where a side has one run.
    """
    out = console()
    out.print(comparison_table(comparison))
    tested = [verdict for verdict in comparison.verdicts if verdict.p is not None]
    if tested:
        out.print(
            "Intervals of several runs cover other seeds and other dev rows; p is two-sided, "
            f"adjusted for {plural(len(tested), 'difference')} (Holm)."
        )
    if len(tested) < sum(verdict.difference is not None for verdict in comparison.verdicts):
        out.print(
            "A single run says nothing about other seeds: its intervals cover dev rows alone. For "
            f"verdicts, {for_verdicts}."
        )


def comparison_table(comparison: Comparison) -> Table:
    """Runs side by side, compared with the first one."""
    baseline = comparison.tasks[0].entries[0].name
    title = f"Compared with {baseline}; in parentheses: 95% intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("run", overflow="fold")
    # Words of this width are numbers: a narrow terminal wraps between them, never within.
    table.add_column("score", justify="right", min_width=9)
    table.add_column("difference", justify="right", min_width=9)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for compared in (*comparison.tasks, *([comparison.mean] if comparison.mean else [])):
        mean = compared.task == MEAN
        first = compared.task if mean else f"{compared.task} ({compared.metric})"
        for entry in compared.entries:
            table.add_row(first, entry.name, *_comparison_cells(entry))
            first = ""
        table.add_section()
    return table


def _comparison_cells(entry: Entry) -> tuple[str, str, str, str | Text]:
    interval, verdict = entry.interval, entry.verdict
    score = or_dash(entry.value)
    if entry.spread is not None:
        score += f" ± {entry.spread:.4f}"
    if interval is not None:
        score += f" ({interval.low:.4f} to {interval.high:.4f})"
    if verdict is None:
        return score, "", "", ""
    if verdict.difference is None:
        return score, "-", "-", "-"
    between = f"({verdict.low:+.4f} to {verdict.high:+.4f})"
    difference = f"{verdict.difference:+.4f} {between}"
    return score, difference, p_value(verdict.p), _coloured(verdict.verdict or "-")


def _coloured(word: str) -> Text:
    """A verdict in the colour of a winner or loser."""
    return Text(word, style={"higher": WINNER, "lower": LOSER}.get(word, ""))


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
        table.add_row(*(Text(cell, style=WINNER if cell.endswith("*") else "") for cell in row))
    console().print(table)


def show_baseline(recipe: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the scores of tasks that were trained alone, one row of cells per task."""
    table = _table(f"Tasks of {recipe}, on dev", ["task"], columns)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def show_ablation(recipe: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print what each part of a recipe is worth, one row of cells per part."""
    table = _table(f"What each part of {recipe} is worth, on dev", ["part"], columns)
    for row in rows:
        table.add_row(*row)
    out = console()
    out.print(table)
    out.print(
        "Scores of the whole recipe minus those without the part, as means over seeds. The "
        "interval, p (two-sided, Holm over all differences) and the verdict are of the last score. "
        "A single seed gives no verdict."
    )


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
