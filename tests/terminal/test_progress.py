"""Progress on standard error."""

import io
import re
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from comity.evaluation.evaluate import Evaluation
from comity.evaluation.metrics import Score
from comity.terminal import progress
from comity.terminal.progress import Display, JobProgress, JobsDisplay, SeriesDisplay
from comity.training.events import (
    DataRead,
    Evaluated,
    Resumed,
    RowsEncoded,
    RunStarted,
    StepDone,
    StepSkipped,
    StopRequested,
)
from comity.training.plan import PlannedRun


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time in seconds, as the displays see it; a test sets its one element."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def step(number: int, loss: float = 1.0, task: str = "mood", stage: int = 0) -> StepDone:
    return StepDone(number, ((task, loss),), examples=8, tokens=100, seconds=2.0, stage=stage)


def test_plain_lines_show_steps_speed_time_left_and_mean_losses(clock, capsys):
    display = Display()
    display(RunStarted(("mood",), 2, 10))
    clock[0] = 1.0
    display(step(3, loss=3.0))
    assert capsys.readouterr().err == ""  # too early for a line
    clock[0] = 20.0
    display(step(4, loss=1.0))
    # 2 steps in 20 s; 6 are left. 16 examples and 200 tokens in 4 s. The mean of 3 and 1 is 2.
    assert capsys.readouterr().err == (
        "step 4 of 10, 4 examples/s, 50 tokens/s, 1 min 00 s left; loss mood 2.0000\n"
    )


def test_each_stage_shows_its_own_losses(clock, capsys):
    display = Display()
    display(RunStarted(("mood", "alike"), 0, 10))
    for number, loss, task, stage in (
        (1, 9.0, "mood", 0),
        (2, 9.0, "alike", 0),
        (3, 1.5, "mood", 1),
    ):
        clock[0] += 20.0
        display(step(number, loss, task, stage))
    *_, last = capsys.readouterr().err.splitlines()
    assert last.endswith("; loss mood 1.5000")  # of masked words before, 9


def test_skipped_steps_and_checkpoints_are_told_even_if_quiet(capsys):
    display = Display(quiet=True)
    display(Resumed(4, ("run/checkpoint-000006: cannot be used: it has no manifest.json",)))
    display(RunStarted(("mood",), 4, 99))
    for number in range(5, 12):
        display(StepSkipped(number, "mood", "mood.csv, lines 2 and 3"))
    display(StopRequested("SIGTERM"))
    first, *skips, counted, stop = capsys.readouterr().err.splitlines()
    assert first == "run/checkpoint-000006: cannot be used: it has no manifest.json"
    assert skips[0] == (
        "step 5 was skipped: the loss of mood or its gradient is not finite (mood.csv, lines 2 and "
        "3)"
    )
    assert len(skips) == progress.MOST_TOLD
    assert counted == "further skipped steps are only counted"
    assert stop == "SIGTERM: training stops after this step, with a checkpoint"


def test_notes_are_printed_even_if_quiet(capsys):
    with Display(quiet=True) as display:
        display(DataRead(("mood: 1 row has no label",)))
        display(RunStarted(("mood",), 0, 1))
        display(step(1))
    assert capsys.readouterr().err == "mood: 1 row has no label\n"


def test_a_score_without_a_value_is_printed_with_its_reason(capsys):
    score = Score("pearson", None, "one row", True)
    evaluation = Evaluation("alike", score, {}, 0.5, 1, None)
    Display()(Evaluated(1200, {"alike": evaluation}, None))
    assert capsys.readouterr().err == "step 1,200: dev alike pearson - (one row); mean -\n"


def test_the_live_table_has_a_row_for_each_task(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(
        progress, "console", lambda stderr: Console(file=shown, width=120, force_terminal=True)
    )
    with Display() as display:
        display(RunStarted(("mood", "alike"), 0, 5))
        display(step(1, loss=0.25))
        display(Evaluated(1, {"mood": evaluation_of(0.5)}, 0.5))
    assert "step 1 of 5" in shown.getvalue()
    lines = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", shown.getvalue()).splitlines()
    assert "━" * (progress.BAR // 5) in map(str.strip, lines)  # without colour, only what is done
    assert "0.2500" in shown.getvalue()
    assert "accuracy 0.5000" in shown.getvalue()
    assert "alike" in shown.getvalue()


def evaluation_of(value: float) -> Evaluation:
    return Evaluation("mood", Score("accuracy", value, None, True), {}, 0.7, 8, None)


def test_the_time_left_covers_all_runs(clock):
    runs = [
        PlannedRun("one", "to train", steps=10, examples=0, tokens=100),
        PlannedRun("two", "to train", steps=5, examples=0, tokens=300),
    ]
    display = SeriesDisplay(runs, quiet=True)
    display.run_begins(0)
    clock[0] = 5.0
    # 5 of 10 steps: 50 tokens in 5 s; 50 and 300 are left.
    assert display.time_left(5) == pytest.approx(35.0)
    clock[0] = 10.0
    display.run_ends()
    display.run_begins(1)
    # 100 tokens in 10 s; 300 are left.
    assert display.time_left(0) == pytest.approx(30.0)


def test_a_resumed_run_counts_the_steps_of_this_process_only(clock):
    runs = [
        PlannedRun("one", "to resume", steps=10, examples=0, tokens=100),
        PlannedRun("two", "to train", steps=10, examples=0, tokens=100),
    ]
    display = SeriesDisplay(runs, quiet=True)
    display.run_begins(0)
    display(RunStarted(("mood",), 8, 10))
    clock[0] = 4.0
    display.run_ends()
    display.run_begins(1)
    # 2 of 10 steps: 20 tokens in 4 s; 100 are left.
    assert display.time_left(0) == pytest.approx(20.0)


def jobs_display(quiet: bool = False) -> JobsDisplay:
    runs = [
        PlannedRun("one", "to train", steps=10, examples=0, tokens=100),
        PlannedRun("two", "to resume", steps=10, examples=0, tokens=200),
        PlannedRun("three", "to train", steps=10, examples=0, tokens=300),
    ]
    return JobsDisplay(runs, quiet)


def test_runs_at_once_have_one_line_and_what_is_said_of_a_run_has_its_name(clock, capsys):
    with jobs_display() as display:
        display.run_begins(0)
        display.run_begins(1)
        clock[0] = 10.0  # the data are read
        display.event(0, DataRead(("mood: 1 row has no label",)))
        display.event(0, RunStarted(("mood",), 0, 10))
        display.event(1, RunStarted(("mood",), 4, 10))
        clock[0] = 14.0
        display.event(0, step(2))
        display.event(1, StepSkipped(5, "mood", "a.csv, line 2"))
        display.event(1, StopRequested("SIGTERM"))
        clock[0] = 20.0
        display.event(1, step(6))
        display.event(1, step(7))
        display.event(1, Evaluated(7, {"mood": evaluation_of(0.5)}, 0.5))
        display.run_ends(0, "failed")
        clock[0] = 40.0
        display.run_begins(2)
    assert capsys.readouterr().err.splitlines() == [
        "run 1 of 3: one",
        "run 2 of 3: two",
        "two: step 5 was skipped: the loss of mood or its gradient is not finite (a.csv, line 2)",
        # 20 tokens of the first run and 40 of the second in 10 s; 80, 80 and 300 are left.
        "0 of 3 runs ended; training one (step 2 of 10), two (step 6 of 10); 1 min 17 s left",
        "two: step 7: dev mood accuracy 0.5000 (loss 0.7000); mean 0.5000",
        "one: failed",
        "run 3 of 3: three",
        # 20 and 60 tokens in 30 s; 60 and 300 are left, and nothing of the first run.
        "1 of 3 runs ended; training two (step 7 of 10), three (step 0 of 10); 2 min 15 s left",
    ]


def test_runs_at_once_that_are_quiet_tell_only_what_a_user_has_to_know(clock, capsys):
    with jobs_display(quiet=True) as display:
        display.run_begins(0)
        display.event(0, RunStarted(("mood",), 0, 10))
        clock[0] = 99.0
        display.event(0, step(1))
        display.event(0, Evaluated(1, {"mood": evaluation_of(0.5)}, 0.5))
        display.event(0, Resumed(4, ("checkpoint-000006: is damaged",)))
        display.stop_requested("SIGINT")
        display.run_ends(0, "stopped")
    assert capsys.readouterr().err.splitlines() == [
        "one: checkpoint-000006: is damaged",
        "SIGINT: every run stops after its current step, with a checkpoint",
    ]


def test_runs_at_once_share_one_live_line_on_a_terminal(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(
        progress, "console", lambda stderr: Console(file=shown, width=120, force_terminal=True)
    )
    with jobs_display() as display:
        for index in (0, 1):
            display.run_begins(index)
            display.event(index, RunStarted(("mood",), 0, 10))
            display.event(index, step(3))
        assert display.live is not None
        assert [run.live for run in display.displays] == [None] * 3
    assert "training one (step 3 of 10), two (step 3 of 10)" in shown.getvalue()


def test_a_long_job_prints_nothing_off_a_terminal(clock, capsys):
    with JobProgress() as job:
        clock[0] = 100.0
        job("forward", 1, 10)
    assert capsys.readouterr() == ("", "")


def test_a_long_job_shows_a_bar_on_a_terminal_after_two_seconds(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with JobProgress() as job:
        clock[0] = 1.0
        job("forward", 1, 10)
        assert shown.getvalue() == ""
        clock[0] = 3.0
        job("forward", 7, 10)
    assert "forward" in shown.getvalue()
    assert "7/10" in shown.getvalue()


def test_encoding_is_shown_and_does_not_count_as_time_of_steps(clock, capsys):
    display = Display()
    display(RunStarted(("mood",), 2, 10))
    clock[0] = 1.0
    display(RowsEncoded("mood", 100, 5000))
    assert capsys.readouterr().err == ""  # too early for a line
    clock[0] = 20.0
    display(RowsEncoded("mood", 2000, 5000))
    assert capsys.readouterr().err == "mood: 2,000 of 5,000 rows encoded\n"
    clock[0] = 30.0
    display(RowsEncoded("mood", 5000, 5000))
    clock[0] = 34.0
    display(replace(step(3), tokens=0))
    clock[0] = 38.0  # two steps in 8 seconds: six more in 24
    display(replace(step(4), tokens=0))
    assert capsys.readouterr().err == ("step 4 of 10, 4 examples/s, 24 s left; loss mood 1.0000\n")
