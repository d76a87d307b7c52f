"""What the terminal shows: tables of data and plan, and the progress of a run.

Live on a terminal, plain lines elsewhere; everything but results goes to standard error.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from comity.evaluate import Evaluation
from comity.metrics import mean_score
from comity.progress import Listener
from comity.training import Trainer

if TYPE_CHECKING:
    from comity.data.augment import AugmentReport

PLAIN_WIDTH = 160
PLAIN_EVERY = 15.0
"""Seconds between two plain lines of progress."""


def console(stderr: bool = False) -> Console:
    """A console that never breaks a line where nobody looks at a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    # Class names and texts are a user's: brackets and colons in them mean nothing.
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def tell(sentence: str) -> None:
    """One sentence for the user, on standard error, as it is (no wrapping, no markup)."""
    print(sentence, file=sys.stderr, flush=True)


def or_dash(value: float | None, form: str = ".4f") -> str:
    """A number as `form` has it, or a dash where there is none."""
    return "-" if value is None else format(value, form)


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
        what = "" if stage["objective"] == "tasks" else f"{stage['objective']}, "
        title = (
            f"Plan, {stage['name']}: {what}{stage['schedule']}, {stage['balancer']}, "
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


def clock(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> clock(75), clock(3.2), clock(7300)
    ('1 min 15 s', '3 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# --- a run ---------------------------------------------------------------------------------------


class Display(Listener):
    """Progress of a run on standard error: a live table on a terminal, else plain lines."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live: Live | None = None
        self.scores: dict[str, str] = {}
        self.losses: dict[str, float] = {}
        self.speed = ""
        self.started = time.perf_counter()
        self.first_step = 0
        self.last_line = time.perf_counter()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the first step."""
        return time.perf_counter() - self.started

    def planned(self, trainer: Trainer) -> None:
        self.started = time.perf_counter()
        self.first_step = trainer.progress.step
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(console=console(stderr=True), refresh_per_second=4)
            self.live.start()

    def stepped(self, trainer: Trainer) -> None:
        for task, values in trainer.tally.losses.items():
            recent = values[-20:]
            self.losses[task] = sum(recent) / len(recent)
        if self.quiet:
            return
        if self.live is not None:
            self.live.update(self._table(trainer))
        elif time.perf_counter() - self.last_line > PLAIN_EVERY:
            self.last_line = time.perf_counter()
            tell(self._line(trainer))

    def evaluated(self, trainer: Trainer, evaluations: dict[str, Evaluation]) -> None:
        self.scores = {task: show_score(e) for task, e in evaluations.items()}
        if self.quiet:
            return
        if self.live is not None:
            self.live.update(self._table(trainer))
        shown = ", ".join(f"{task} {score}" for task, score in self.scores.items())
        mean = mean_score({task: e.score for task, e in evaluations.items()})
        line = f"step {trainer.progress.step:,}: dev {shown}; mean {or_dash(mean.value)}"
        if self.live is not None:
            self.live.console.print(line)
        else:
            tell(line)

    def _pace(self, trainer: Trainer) -> tuple[str, str, str]:
        """Steps done, examples and tokens per second, and the time left."""
        total = sum(len(plan.steps) for plan in trainer.plans)
        done = trainer.progress.step
        left = self.elapsed / max(done - self.first_step, 1) * (total - done)
        tally = trainer.tally
        if tally.seconds:  # else just emptied into the metrics; the last pace stands
            examples, tokens = tally.examples / tally.seconds, tally.tokens / tally.seconds
            self.speed = f"{examples:,.0f} examples/s, {tokens:,.0f} tokens/s"
        return f"step {done:,} of {total:,}", self.speed, f"{clock(left)} left"

    def _line(self, trainer: Trainer) -> str:
        losses = ", ".join(f"{task} {loss:.4f}" for task, loss in self.losses.items())
        return f"{', '.join(self._pace(trainer))}; loss {losses}"

    def _table(self, trainer: Trainer) -> Table:
        table = Table(title=" · ".join(self._pace(trainer)), title_justify="left")
        for column in ("task", "training loss", "dev"):
            table.add_column(column)
        for task in trainer.prepared.tasks:
            loss = f"{self.losses[task]:.4f}" if task in self.losses else "-"
            table.add_row(task, loss, self.scores.get(task, "-"))
        return table


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


class Advance:
    """How far a long job is: one line on a terminal, from the third second on; else nothing."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.job = ""
        self.job_started = self.started
        self.shown = False

    def __enter__(self) -> "Advance":
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print(file=sys.stderr)

    def __call__(self, job: str, done: int, total: int) -> None:
        """Show that `done` of `total` texts are through the job."""
        now = time.perf_counter()
        if job != self.job:
            self.job, self.job_started = job, now if self.job else self.started
        if now - self.started < 2 or not sys.stderr.isatty():
            return
        self.shown = True
        left = clock((now - self.job_started) / done * (total - done))
        line = f"{job}: {done:,} of {total:,}, {left} left"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


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
