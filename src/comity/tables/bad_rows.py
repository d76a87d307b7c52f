"""Rows that cannot be used: reported as errors, or handed over so that they are left out."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from comity.errors import ErrorList
from comity.tables.locations import location


class BadRow(NamedTuple):
    """A row that cannot be used."""

    line: int
    reason: str
    """What is wrong in general, by which rows are counted: "wrong number of fields"."""

    detail: str
    """What is wrong in this row, as an error message says it."""

    column: str = ""
    """The column that is wrong; empty for a row as a whole."""


FIELDS = "wrong number of fields"
QUOTES = "broken quotes"
HEADER = "repeated header"
ENCODING = "undecodable bytes"
JSON = "invalid JSON"
NO_TEXT = "no text"


class BadRows(ErrorList):
    """Hands over each row that cannot be used; other errors are collected as in `ErrorList`."""

    def __init__(self, take: Callable[[BadRow], None], limit: int = 20):
        super().__init__(limit)
        self.taken = 0
        self._take = take

    def take(self, row: BadRow) -> None:
        """Hand over one row."""
        self.taken += 1
        self._take(row)


def report_row(
    errors: ErrorList, path: Path, row: BadRow, advice: str, kind: str | None = None
) -> None:
    """Add the error of a row, or hand the row over to `BadRows`; `kind` is as in `ErrorList`."""
    if isinstance(errors, BadRows):
        errors.take(row)
    else:
        errors.add(f"{location(path, row.line)}: {row.detail}; {advice}", kind=kind)


def taken(errors: ErrorList) -> int:
    """How many rows were handed over."""
    return errors.taken if isinstance(errors, BadRows) else 0
