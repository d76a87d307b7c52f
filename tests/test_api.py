"""`comity.train`: progress from Python, as a notebook or a log file gets it."""

import io

import pytest

from comity import train
from comity.training.events import Evaluated, RunStarted, StepDone
from tests.helpers import two_tasks, write_two_tasks


@pytest.fixture
def job(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path / "data")
    return two_tasks(tiny_checkpoint), tmp_path / "data", tmp_path / "run"


class NotebookStream(io.StringIO):
    """Standard error of a notebook's kernel: a stream that is no terminal."""


def test_progress_is_printed_as_lines_where_there_is_no_terminal(job, monkeypatch, capsys):
    stream = NotebookStream()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("comity.terminal.progress.PLAIN_EVERY", 0.0)
    train(*job)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Plan, stage 1: ")
    assert any(line.startswith("step 1 of 4, ") and "loss mood" in line for line in lines)
    assert any(line.startswith("step 4: dev mood accuracy") for line in lines)
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert capsys.readouterr().out == ""


def test_quiet_prints_nothing_and_events_still_arrive(job, capsys):
    seen = []
    train(*job, quiet=True, on_event=seen.append)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("Warning: ")] == []
    kinds = [type(event) for event in seen]
    assert (kinds.count(RunStarted), kinds.count(StepDone), kinds.count(Evaluated)) == (1, 4, 1)
