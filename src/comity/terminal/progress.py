"""Progress on standard error: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from comity.evaluation.evaluate import Evaluation
from comity.evaluation.metrics import mean_score
from comity.format import clock, or_dash
from comity.terminal.views import console, show_score, tell
from comity.training.events import Listener

if TYPE_CHECKING:
    from comity.experiments.runner import PlannedRun
    from comity.training.trainer import Trainer

if TYPE_CHECKING:
    pass

PLAIN_EVERY = 15.0
"""Seconds between two plain lines of progress."""


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

    def planned(self, trainer: "Trainer") -> None:
        self.started = time.perf_counter()
        self.first_step = trainer.progress.step
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(console=console(stderr=True), refresh_per_second=4)
            self.live.start()

    def stepped(self, trainer: "Trainer") -> None:
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

    def evaluated(self, trainer: "Trainer", evaluations: dict[str, Evaluation]) -> None:
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

    def _pace(self, trainer: "Trainer") -> tuple[str, str, str]:
        """Steps done, examples and tokens per second, and the time left."""
        total = sum(len(plan.steps) for plan in trainer.plans)
        done = trainer.progress.step
        left = self.elapsed / max(done - self.first_step, 1) * (total - done)
        tally = trainer.tally
        if tally.seconds:  # else just emptied into the metrics; the last pace stands
            examples, tokens = tally.examples / tally.seconds, tally.tokens / tally.seconds
            self.speed = f"{examples:,.0f} examples/s, {tokens:,.0f} tokens/s"
        return f"step {done:,} of {total:,}", self.speed, f"{clock(left)} left"

    def _line(self, trainer: "Trainer") -> str:
        losses = ", ".join(f"{task} {loss:.4f}" for task, loss in self.losses.items())
        return f"{', '.join(self._pace(trainer))}; loss {losses}"

    def _table(self, trainer: "Trainer") -> Table:
        table = Table(title=" · ".join(self._pace(trainer)), title_justify="left")
        for column in ("task", "training loss", "dev"):
            table.add_column(column)
        for task in trainer.prepared.tasks:
            loss = f"{self.losses[task]:.4f}" if task in self.losses else "-"
            table.add_row(task, loss, self.scores.get(task, "-"))
        return table


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


class SeriesDisplay(Display):
    """The progress of the run that goes, with the time left for all of them."""

    def __init__(self, runs: "Sequence[PlannedRun]", quiet: bool = False):
        super().__init__(quiet)
        self.runs = list(runs)
        self.current = 0  # its place among the runs
        self.seen = 0.0  # tokens of the runs before, as far as this process trained them
        self.began = time.perf_counter()

    def begins(self, run: "PlannedRun") -> None:
        """Before a run is prepared."""
        self._close()  # the one before may have failed
        self.current = self.runs.index(run)
        self.first_step = 0
        if not self.quiet:
            tell(f"run {self.current + 1} of {len(self.runs)}: {run.name}")

    def ends(self, run: "PlannedRun") -> None:
        """After a run; it counts with the steps that this process took."""
        self.seen += run.tokens * (1 - self.first_step / max(run.steps, 1))
        self._close()

    def _close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def planned(self, trainer: "Trainer") -> None:
        self.scores, self.losses = {}, {}
        super().planned(trainer)

    def _pace(self, trainer: "Trainer") -> tuple[str, str, str]:
        position, speed, left = super()._pace(trainer)
        number = f"run {self.current + 1} of {len(self.runs)}"
        whole = clock(self.time_left(trainer.progress.step))
        return f"{number}, {position}", speed, f"{left}, {whole} for all runs"

    def time_left(self, step: int) -> float:
        """Seconds for all runs from `step` of this one on, by the tokens per second so far."""
        run = self.runs[self.current]
        per_step = run.tokens / max(run.steps, 1)
        seen = self.seen + per_step * (step - self.first_step)
        after = sum(later.tokens for later in self.runs[self.current + 1 :])
        left = per_step * (run.steps - step) + after
        return (time.perf_counter() - self.began) / max(seen, 1.0) * left
