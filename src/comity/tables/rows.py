"""What every reader of tables speaks: formats, rows, and the values that a row may lack."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from comity.errors import nearest

DELIMITED = (".csv", ".tsv", ".txt", ".tab")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)

CHUNK = 2048
"""Rows read and written at a time."""


@dataclass(frozen=True)
class TableFormat:
    """How a text file is to be read; None stands for "find out".

    `delimiter` is one character (a tab may be spelled "tab"). `header = False` names columns by
    position, counted from 0. `quoting = False` makes quote characters ordinary text. `encoding` is
    the name of a Python codec.
    """

    delimiter: str | None = None
    header: bool = True
    quoting: bool | None = None
    encoding: str | None = None


class Position(int):
    """A column of delimited text by its place, counted from 0, whatever the header calls it."""


@dataclass(frozen=True)
class NoValue:
    """Why a column has no value in a row, such as "no key 'label'"."""

    reason: str


# None is a null of JSON or Parquet; an empty text is "".
Value = str | list[str] | None | NoValue


class Row(NamedTuple):
    """The values of the asked columns; `line` counts from 1 (Parquet: the row counts from 1)."""

    line: int
    values: tuple[Value, ...]


def quoted_list(names: Iterable[str], most: int = 12, longest: int = 40) -> str:
    """Names as they may stand in a sentence, cut where there are too many or one is too long.

    >>> quoted_list(["text", "label"])
    '"text", "label"'
    """
    names = list(names)
    cut = [shown(name if len(name) <= longest else name[:longest] + "...") for name in names[:most]]
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([f'"{name}"' for name in cut] + more)


def shown(text: str) -> str:
    """`text` on one line: line ends and what else cannot be printed as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def no_column(name: str | int, names: Iterable[str]) -> str:
    """The part of a sentence that says which column is missing and which stand in the file."""
    names = [shown(name) for name in names]
    return f'no column "{name}"{nearest(name, names)}; the columns are {quoted_list(names)}'
