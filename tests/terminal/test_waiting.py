"""The spinner for long jobs."""

import io
import sys

import pytest

from comity.terminal import waiting
from comity.terminal.waiting import Waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error on a terminal; not a fixture, since pytest replaces it before each test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def test_a_long_job_is_shown(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(waiting, "QUICK", 0.0)
    with Waiting("reading the data") as job:
        job.timer.join()
        assert "reading the data" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_a_short_job_is_not_shown(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(waiting, "QUICK", 1e6)
    with Waiting("reading"):
        pass
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_shown_off_a_terminal_or_if_quiet(monkeypatch, quiet):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(waiting, "QUICK", 0.0)
    if not quiet:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Waiting("reading", quiet=quiet) as job:
        assert not job.timer.is_alive()
    assert terminal.getvalue() == ""
