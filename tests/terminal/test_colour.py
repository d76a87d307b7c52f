"""Colour on the terminal."""

import io
import sys

import pytest

from comity.cli.main import main
from comity.terminal import views
from comity.terminal.colour import shows_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colourful(monkeypatch) -> None:
    """An environment in which terminals show colour."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_colour_only_on_a_terminal(monkeypatch):
    assert shows_colour(Terminal())
    assert not shows_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # no-color.org: only when it is not empty
    assert shows_colour(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_colour(Terminal())


def test_errors_are_red_on_a_terminal(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["info", "nowhere"]) == 2
    assert terminal.getvalue().startswith("\033[1;31merror:\033[0m nowhere: no such directory")


def test_errors_have_no_colour_in_a_file(capsys):
    assert main(["info", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere")


@pytest.mark.parametrize("plain", [True, False])
def test_winners_are_coloured(monkeypatch, plain):
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    views.show_sweep("r.toml", ["train.lr", "mood"], [["0.001", "0.5000 *"], ["0.002", "0.25"]])
    assert ("\033[1;32m0.5000 *" in terminal.getvalue()) != plain
    assert "0.25" in terminal.getvalue()
