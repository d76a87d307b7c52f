"""What the terminal shows: tables of data and plan, and the progress of a run.

Live on a terminal, plain lines elsewhere; everything but results goes to standard error.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from comity.evaluation.bootstrap import RESAMPLES
from comity.evaluation.compare import MEAN, Comparison, Entry
from comity.evaluation.evaluate import Evaluation
from comity.format import clock, or_dash

if TYPE_CHECKING:
    from comity.data.augment import AugmentReport


# --- the table ------------------------------------------------------------------------------------


def comparison_table(comparison: Comparison) -> Table:
    """The comparison for the terminal."""
    first = comparison.tasks[0].entries[0].name
    title = f"Against {first}; 95 % intervals over dev rows, {RESAMPLES:,} resamples"
    table = Table(title=title, title_justify="left")
    for column in ("task", "metric", "run"):
        table.add_column(column)
    for column in ("score", "95 %", "difference", "95 %"):
        table.add_column(column, justify="right")
    table.add_column("")
    for compared in (*comparison.tasks, *([comparison.mean] if comparison.mean else [])):
        metric = "" if compared.task == MEAN else compared.metric
        for number, entry in enumerate(compared.entries):
            of_task = ("", "") if number else (compared.task, metric)
            table.add_row(*of_task, entry.name, *_cells(entry))
        table.add_section()
    return table


def _cells(entry: Entry) -> tuple[str, ...]:
    interval, verdict = entry.interval, entry.verdict
    score = or_dash(entry.value)
    shown = "-" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"
    if verdict is None:
        return score, shown, "", "", ""
    if verdict.difference is None:
        return score, shown, "-", "-", verdict.word
    between = f"{verdict.low:+.4f} to {verdict.high:+.4f}"
    return score, shown, f"{verdict.difference:+.4f}", between, verdict.word


PLAIN_WIDTH = 160


def console(stderr: bool = False) -> Console:
    """A console that never breaks a line where nobody looks at a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    # Class names and texts are a user's: brackets and colons in them mean nothing.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def tell(sentence: str) -> None:
    """One sentence for the user, on standard error, as it is (no wrapping, no markup)."""
    print(sentence, file=sys.stderr, flush=True)


# --- data and plan --------------------------------------------------------------------------------


def show_data(summary: Mapping[str, Any]) -> None:
    """The tables of `check`."""
    table = Table(title="Tasks", title_justify="left")
    for column in ("task", "kind", "head", "split", "rows", "labels", "tokens 50/95/100 %", "cut"):
        table.add_column(column, justify="right" if column in ("rows", "cut") else "left")
    for name, task in summary["tasks"].items():
        splits = {"train": task["train"], "dev": task["dev"], **task["stages"]}
        for number, (which, split) in enumerate(splits.items()):
            first = (name, task["kind"], task["head"]) if number == 0 else ("", "", "")
            lengths = "/".join(str(v) for v in split["token_percentiles"].values())
            table.add_row(
                *first,
                which,
                f"{split['rows']:,}",
                _labels(split),
                lengths,
                str(split["truncated"]),
            )
    console().print(table)
    for sentence in (*summary["notes"], *summary["leaks"]):
        print(sentence)


def _labels(split: Mapping[str, Any]) -> str:
    if "counts" in split:
        shown = [f"{name}: {count:,}" for name, count in list(split["counts"].items())[:8]]
        return ", ".join(shown) + (", ..." if len(split["counts"]) > 8 else "")
    if "scores" not in split:
        return "-"
    return "{min:g} to {max:g}, mean {mean:.2f}".format(**split["scores"])


def show_plan(summary: Mapping[str, Any], stderr: bool = False) -> None:
    """The plan as a table for each stage."""
    out = console(stderr)
    for stage in summary["stages"]:
        what = "" if stage["train_on"] == "labels" else f"{stage['train_on']}, "
        title = (
            f"Plan, {stage['name']}: {what}{stage['task_sampling']}, {stage['balancer']}, "
            f"{stage['steps']:,} steps, {stage['evaluations']} evaluations"
        )
        table = Table(title=title, title_justify="left")
        for column in ("task", "rows", "examples", "tokens", "each row seen", "never seen"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for name, task in stage["tasks"].items():
            least, most = task["repeats_min"], task["repeats_max"]
            times = f"{least} times" if least == most else f"{least} to {most} times"
            table.add_row(
                name,
                f"{task['rows']:,}",
                f"{task['examples']:,}",
                f"{task['tokens']:,}",
                times,
                f"{task['rows_never_seen']:,}",
            )
        out.print(table)
    for sentence in summary["notes"]:
        out.print(sentence)
    sizes = ", ".join(f"{k} {v / 1e6:,.0f} MB" for k, v in summary["memory_bytes"].items())
    time_needed = "" if summary["seconds"] is None else f"; about {clock(summary['seconds'])}"
    out.print(f"Memory: {sizes}; {summary['precision']} on {summary['device']}{time_needed}")


def show_score(evaluation: Evaluation) -> str:
    """`accuracy 0.4670 (loss 1.2083)`, or a dash in place of a value and why there is none."""
    score = evaluation.score
    if score.value is None:
        return f"{score.name} - ({score.reason})"
    return f"{score.name} {score.value:.4f} (loss {evaluation.loss:.4f})"


def show_scores(title: str, columns: Mapping[str, Mapping[str, Evaluation]]) -> None:
    """Scores of the same tasks side by side, one column for each state of the model."""
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for column in columns:
        table.add_column(column, justify="right")
    for task in next(iter(columns.values())):
        rows: Sequence[Evaluation] = [evaluations[task] for evaluations in columns.values()]
        table.add_row(task, rows[0].score.name, *(_with_interval(e) for e in rows))
    console().print(table)


def _with_interval(evaluation: Evaluation) -> str:
    shown, found = or_dash(evaluation.score.value), evaluation.interval
    return shown if found is None else f"{shown} ({found.low:.4f} to {found.high:.4f})"


def show_run(summary: Mapping[str, Any]) -> None:
    """A run's scores: the kept model's, each task's own best, and the share of conflict."""
    best = summary["best"]
    title = f"{summary['run']}: {summary['encoder']}, {summary['precision']}, kept step"
    table = Table(title=f"{title} {best['step']:,} (best by {best['by']})", title_justify="left")
    for column in ("task", "metric", "kept model", "own best", "at step", "on training rows"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    kept = next((e for e in summary["evaluations"] if e["step"] == best["step"]), None)
    for task, score in best["tasks"].items():
        own = summary["best_of_task"].get(task)
        on_train = kept["train"][task]["value"] if kept else None
        table.add_row(
            task,
            score["name"],
            or_dash(score["value"]),
            or_dash(own["value"] if own else None),
            f"{own['step']:,}" if own else "-",
            or_dash(on_train),
        )
    mean = kept["mean"] if kept else None
    table.add_row("mean", "", or_dash(mean))
    out = console()
    out.print(table)
    conflict = summary["conflict"]
    if conflict:
        share = f"{conflict['share_of_steps']:.0%}"
        out.print(f"Task gradients conflicted in {share} of the steps that were watched.")


def show_augmented(output: Path, report: "AugmentReport") -> None:
    """What was read, dropped and written."""
    dropped = {
        "identical": report.identical,
        "near-identical": report.near_identical,
        "without a result": report.without_result,
    }
    lost = ", ".join(f"{count:,} {what}" for what, count in dropped.items())
    print(f"{report.rows:,} rows read, {report.translated:,} translated; dropped: {lost}")
    print(f"{report.empty_texts:,} empty texts left alone, {report.cut_texts:,} long texts cut")
    print(f"{output}: {report.written:,} rows, {report.augmented:,} of them new")


def show_series(plan: Mapping[str, Any]) -> None:
    """The table of a series before it is trained."""
    table = Table(title="Runs", title_justify="left")
    for column in ("run", "steps", "examples", "tokens", "state"):
        table.add_column(column, justify="left" if column in ("run", "state") else "right")
    for run in plan["runs"]:
        counts = [f"{run[what]:,}" for what in ("steps", "examples", "tokens")]
        table.add_row(run["name"], *counts, run["state"])
    out = console()
    out.print(table)
    left = sum(run["state"] != "finished" for run in plan["runs"])
    needed = f"; about {clock(plan['seconds'])} in all" if plan["seconds"] else ""
    out.print(f"{left} of {len(plan['runs'])} runs to train{needed}")


def show_sweep(results: Mapping[str, Any]) -> None:
    """The table of a sweep; the best score is marked: the mean, or the task that decides."""
    from comity.experiments.sweep import _cell, _judged

    points = results["points"]
    tasks = list(points[0]["tasks"])
    known = [v for v in (_judged(results, point) for point in points) if v is not None]
    best = (min if results["lower_is_better"] else max)(known, default=None)
    table = Table(title=f"Sweep of {results['recipe']}", title_justify="left")
    for column in (*results["swept"], *tasks, "mean", "at step"):
        table.add_column(column, justify="right")
    for point in points:
        values = [str(_cell(value)) for value in point["values"].values()]
        of_all = {"mean": point["mean"]} if len(point["tasks"]) > 1 else {}
        scores = {**point["tasks"], **of_all}
        shown = {name: _four(score) for name, score in scores.items()}
        if best is not None and _judged(results, point) == best:
            shown[results["judged_by"]] += " *"
        table.add_row(*values, *shown.values(), f"{point['step']:,}")
    console().print(table)


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
