"""Progress on standard error: a live table on a terminal, plain lines otherwise."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.text import Text

from comity.format import clock, or_dash, plural
from comity.terminal.table import Table
from comity.terminal.views import console, show_plan, show_score, tell
from comity.terminal.waiting import QUICK, Waiting
from comity.training.events import (
    DataRead,
    Evaluated,
    Event,
    Planned,
    Resumed,
    RowsEncoded,
    RowsLabelled,
    RunStarted,
    SavingFailed,
    SavingWorks,
    StepDone,
    StepSkipped,
    StopRequested,
    TrackerNote,
)
from comity.training.plan import PlannedRun

PLAIN_EVERY = 15.0
"""Seconds between two plain lines of progress."""

BAR = 40
"""Characters in the progress bar of a run, at most."""

RECENT = 20
"""Steps over which the shown losses and speed are averaged."""

MOST_TOLD = 5
"""Skipped steps of a run that are printed one by one."""


class Display:
    """Shows one run: notes on the data, the plan, then losses and scores. A listener.

    With `quiet`, only the notes are shown.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.live: Live | None = None
        self.waiting: Waiting | None = None
        self.started = time.perf_counter()
        self.last_line = self.started
        self._reset(RunStarted((), 0, 0))

    def _reset(self, run: RunStarted) -> None:
        self.run = run
        self.since = run.step  # the step at which the clock was started
        self.skipped = 0  # steps
        self.scores: dict[str, str] = {}
        self.losses = {task: deque[float](maxlen=RECENT) for task in run.tasks}
        self.recent: deque[StepDone] = deque(maxlen=RECENT)

    def __enter__(self) -> Self:
        self._wait_for("reading the encoder and the data")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the live table and the spinner, if there are any."""
        if self.waiting is not None:
            self.waiting.stop()
            self.waiting = None
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _tell(self, sentence: str) -> None:
        tell(sentence)

    def _wait_for(self, job: str) -> None:
        self.close()
        self.waiting = Waiting(job, self.quiet).__enter__()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case DataRead():
                self.data_read(event)
            case RowsLabelled():
                rows = plural(event.rows, "training row")
                self._wait_for(f"{event.teacher} labels {rows} of {event.task}")
            case Planned():
                self.planned(event)
            case Resumed():
                self.resumed(event)
            case RunStarted():
                self.run_started(event)
            case RowsEncoded():
                self.rows_encoded(event)
            case StepSkipped():
                self.step_skipped(event)
            case StopRequested():
                self._tell(f"{event.signal}: training stops after this step, with a checkpoint")
            case SavingFailed():
                self._tell(
                    f"{event.path}: cannot be written ({event.reason}); training continues and "
                    "tries again at every checkpoint, so free some space or correct the cause"
                )
            case SavingWorks():
                self._tell("The run can be written again; nothing is lost.")
            case StepDone():
                self.step_done(event)
            case Evaluated():
                self.evaluated(event)
            case TrackerNote():
                if event.failed or not self.quiet:
                    self._tell(event.sentence)

    @property
    def elapsed(self) -> float:
        """Seconds since the steps began."""
        return time.perf_counter() - self.started

    def data_read(self, event: DataRead) -> None:
        """Print the notes on the data."""
        self.close()
        for sentence in event.notes:
            self._tell(sentence)
        self._wait_for("planning the run")

    def planned(self, event: Planned) -> None:
        """Print the plan."""
        self.close()
        if not self.quiet:
            show_plan(event.plan, stderr=True)

    def resumed(self, event: Resumed) -> None:
        """Print where the run continues, and which checkpoints it does not use."""
        self.close()
        for sentence in event.notes:
            self._tell(sentence)
        if not self.quiet:
            self._tell(f"continuing after step {event.step:,}")

    def run_started(self, event: RunStarted) -> None:
        """Start the clock and, on a terminal, the live table."""
        self.close()
        self.started = self.last_line = time.perf_counter()
        self._reset(event)
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(console=console(stderr=True), refresh_per_second=4)
            self.live.start()

    def rows_encoded(self, event: RowsEncoded) -> None:
        """Show how many rows are encoded, and restart the clock: the steps come after."""
        self.started, self.since = time.perf_counter(), self.step
        line = f"{event.task}: {event.done:,} of {plural(event.rows, 'row')} encoded"
        if self.live is not None:
            self.live.update(Text(line))
        elif not self.quiet and self._line_is_due():
            self._tell(line)

    def _line_is_due(self) -> bool:
        """Whether the last plain line of progress was long ago; the caller prints the next one."""
        now = time.perf_counter()
        if now - self.last_line <= PLAIN_EVERY:
            return False
        self.last_line = now
        return True

    def step_skipped(self, event: StepSkipped) -> None:
        """Print which step was skipped; after the first few only the summary counts them."""
        self.skipped += 1
        if self.skipped > MOST_TOLD:
            return
        self._tell(
            f"step {event.step:,} was skipped: the loss of {event.task} or its gradient is not "
            f"finite ({event.where})"
        )
        if self.skipped == MOST_TOLD:
            self._tell("further skipped steps are only counted")

    def step_done(self, event: StepDone) -> None:
        """Update losses and speed."""
        if self.recent and self.recent[-1].stage != event.stage:
            self.losses.clear()  # the loss of another stage may be another one, as of masked words
        self.recent.append(event)
        for task, loss in event.losses:
            self.losses.setdefault(task, deque(maxlen=RECENT)).append(loss)
        if self.quiet:
            return
        if self.live is not None:
            self.live.update(self._picture())
        elif self._line_is_due():
            self._tell(self._line())

    def evaluated(self, event: Evaluated) -> None:
        """Print the dev scores."""
        self.scores = {task: show_score(e) for task, e in event.evaluations.items()}
        if self.quiet:
            return
        shown = ", ".join(f"{task} {score}" for task, score in self.scores.items())
        line = f"step {event.step:,}: dev {shown}; mean {or_dash(event.mean)}"
        if self.live is not None:
            self.live.update(self._picture())
            self.live.console.print(line)
        else:
            self._tell(line)

    @property
    def step(self) -> int:
        """Steps done in the run."""
        return self.recent[-1].step if self.recent else self.run.step

    def _pace(self) -> list[str]:
        """Steps done, speed, and time left."""
        done, total = self.step, self.run.total_steps
        left = self.elapsed / max(done - self.since, 1) * (total - done)
        seconds = max(sum(step.seconds for step in self.recent), 1e-9)
        examples = sum(step.examples for step in self.recent) / seconds
        tokens = sum(step.tokens for step in self.recent) / seconds
        speed = f"{examples:,.0f} examples/s"
        if tokens:  # a frozen encoder reads none in a step
            speed += f", {tokens:,.0f} tokens/s"
        return [f"step {done:,} of {total:,}", speed, f"{clock(left)} left"]

    def _mean_losses(self) -> dict[str, float]:
        return {task: sum(seen) / len(seen) for task, seen in self.losses.items() if seen}

    def _line(self) -> str:
        losses = ", ".join(f"{task} {loss:.4f}" for task, loss in self._mean_losses().items())
        return f"{', '.join(self._pace())}; loss {losses}"

    def _picture(self) -> Group:
        """Steps, speed and time left, a bar, and the table of tasks."""
        pace = Text(" · ".join(self._pace()))
        bar = ProgressBar(max(self.run.total_steps, 1), self.step, width=BAR)
        return Group(pace, Padding(bar), self._table())  # the bar itself does not end its line

    def _table(self) -> Table:
        table = Table()
        for column in ("task", "training loss", "dev"):
            table.add_column(column)
        losses = self._mean_losses()
        for task in self.run.tasks:
            table.add_row(task, or_dash(losses.get(task)), self.scores.get(task, "-"))
        return table


class SeriesDisplay(Display):
    """Shows the runs of a series one after another, with the time left for all of them."""

    def __init__(self, runs: Sequence[PlannedRun], quiet: bool = False):
        super().__init__(quiet)
        self.runs = list(runs)
        self.current = 0  # index of the run in progress
        self.tokens_before = 0.0  # trained in earlier runs of this process
        self.began = time.perf_counter()

    def run_begins(self, index: int) -> None:
        """Print the name of the run that starts; call it before the run is prepared."""
        self.close()  # the previous run may have failed
        self.current = index
        self._reset(RunStarted((), 0, 0))
        if not self.quiet:
            tell(f"run {index + 1} of {len(self.runs)}: {self.runs[index].name}")

    def run_ends(self) -> None:
        """Count the steps that this process took; call it after a run."""
        run = self.runs[self.current]
        self.tokens_before += run.tokens * (1 - self.run.step / max(run.steps, 1))
        self.close()

    def data_read(self, event: DataRead) -> None:
        """Print nothing: the series has printed the notes of all runs, each once."""

    def planned(self, event: Planned) -> None:
        """Print nothing: the series has printed one table of all runs."""

    def _pace(self) -> list[str]:
        step, speed, left = super()._pace()
        run = f"run {self.current + 1} of {len(self.runs)}"
        return [run, step, speed, f"{left}, {clock(self.time_left(self.step))} for all runs"]

    def time_left(self, step: int) -> float:
        """Seconds for all remaining runs after `step` steps of this one, by tokens per second."""
        run = self.runs[self.current]
        per_step = run.tokens / max(run.steps, 1)
        seen = self.tokens_before + per_step * (step - self.run.step)
        after = sum(later.tokens for later in self.runs[self.current + 1 :])
        left = per_step * (run.steps - step) + after
        return (time.perf_counter() - self.began) / max(seen, 1.0) * left


class _OneOfSeveral(Display):
    """Shows a run that trains beside others: only lines, which begin with its name."""

    def __init__(self, name: str, quiet: bool):
        super().__init__(quiet)
        self.name = name

    def __call__(self, event: Event) -> None:
        """Show an event, unless `JobsDisplay` or the series shows the same for all runs."""
        if not isinstance(event, DataRead | Planned | StopRequested):
            super().__call__(event)

    def run_started(self, event: RunStarted) -> None:
        """Start without a live table."""
        self._reset(event)

    def _tell(self, sentence: str) -> None:
        tell(f"{self.name}: {sentence}")

    def _wait_for(self, job: str) -> None:
        pass

    def _line_is_due(self) -> bool:
        return False


class JobsDisplay:
    """Shows the runs of a series that train at once: one line on all, and lines with their names.

    The line is live on a terminal, and printed from time to time elsewhere.
    """

    def __init__(self, runs: Sequence[PlannedRun], quiet: bool = False):
        self.runs = list(runs)
        self.quiet = quiet
        self.displays = [_OneOfSeveral(run.name, quiet) for run in runs]
        self.training: list[int] = []  # indices of runs
        self.ended: set[int] = set()
        self.live: Live | None = None
        self.began: float | None = None
        self.last_line = time.perf_counter()

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            self.live = Live(console=console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def run_begins(self, index: int) -> None:
        """Print the name of a run that starts."""
        self.training.append(index)
        if not self.quiet:
            tell(f"run {index + 1} of {len(self.runs)}: {self.runs[index].name}")
        self._show()

    def event(self, index: int, event: Event) -> None:
        """Show an event of a run. The clock starts when the first one has read its data."""
        if self.began is None and isinstance(event, RunStarted):
            self.began = time.perf_counter()
        self.displays[index](event)
        self._show()

    def run_ends(self, index: int, how: str) -> None:
        """Print how a run has ended: "finished", "failed" or "stopped"."""
        self.training.remove(index)
        self.ended.add(index)
        if not self.quiet:
            tell(f"{self.runs[index].name}: {how}")
        self._show()

    def stop_requested(self, signal: str) -> None:
        """Print that a signal has arrived."""
        tell(f"{signal}: every run stops after its current step, with a checkpoint")

    def _show(self) -> None:
        if self.live is not None:
            self.live.update(Text(self._line()))
        elif not self.quiet and time.perf_counter() - self.last_line > PLAIN_EVERY:
            self.last_line = time.perf_counter()
            tell(self._line())

    def _line(self) -> str:
        names = ", ".join(
            f"{self.runs[n].name} (step {self.displays[n].step:,} of {self.runs[n].steps:,})"
            for n in self.training
        )
        seconds = self.time_left()
        parts = [
            f"{len(self.ended)} of {plural(len(self.runs), 'run')} ended",
            *([f"training {names}"] if names else []),
            *([f"{clock(seconds)} left"] if seconds is not None else []),
        ]
        return "; ".join(parts)

    def time_left(self) -> float | None:
        """Seconds for all remaining steps, by tokens per second; None before the first step."""
        seen = left = 0.0
        for index, (run, display) in enumerate(zip(self.runs, self.displays, strict=True)):
            per_step = run.tokens / max(run.steps, 1)
            seen += per_step * (display.step - display.run.step)
            left += 0 if index in self.ended else per_step * (run.steps - display.step)
        if self.began is None or not seen:
            return None
        return (time.perf_counter() - self.began) / seen * left


class JobProgress:
    """A progress bar for a long job on a terminal, shown after two seconds; otherwise nothing."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console(stderr=True))
        self.jobs: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def __call__(self, job: str, done: int, total: int) -> None:
        """Show that `done` of `total` items of a job are done."""
        if job not in self.jobs:
            self.jobs[job] = self.bar.add_task(job, total=total)
        self.bar.update(self.jobs[job], completed=done)
        if time.perf_counter() - self.started > QUICK and sys.stderr.isatty():
            self.bar.start()
