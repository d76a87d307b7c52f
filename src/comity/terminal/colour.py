"""Colour on the terminal, without rich: for messages that should appear at once."""

import os
from typing import TextIO

RED, PLAIN = "\033[1;31m", "\033[0m"


def red(text: str, stream: TextIO) -> str:
    """The text in red if `stream` shows colour, else unchanged."""
    return f"{RED}{text}{PLAIN}" if shows_colour(stream) else text


def shows_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal with colour; `NO_COLOR` turns colour off (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return stream.isatty() and not plain
