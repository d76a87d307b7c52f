"""What all table readers share: formats, rows and their values, and the interface `Table`."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from comity.errors import ComityError, ErrorList, nearest

DELIMITED = (".csv", ".tsv", ".txt", ".tab")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)

CHUNK = 2048
"""Rows read and written at a time."""


@dataclass(frozen=True)
class TableFormat:
    """How to read a text file; None means that the reader finds out.

    `delimiter` is one character (a tab may be written "tab"). With `header = False` columns are
    named by index, counted from 0. `quoting = False` makes quote characters ordinary text.
    `encoding` is the name of a Python codec.
    """

    delimiter: str | None = None
    header: bool = True
    quoting: bool | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class NoValue:
    """Why a column has no value in a row, such as "no key 'label'"."""

    reason: str


# None is a null of JSON or Parquet; an empty text is "".
Value = str | list[str] | None | NoValue


class Row(NamedTuple):
    """The values of the chosen columns; `line` counts from 1 (in Parquet, rows from 1)."""

    line: int
    values: tuple[Value, ...]


WholeRow = dict[str, Any]
"""A row with every column of its table, with the types of JSON or Parquet, else as texts."""


class Table(ABC):
    """A user's table: its column names, how it is read, and its rows.

    Rows are read when they are asked for, so memory does not grow with the file.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The keys of whole rows, none of them twice.

        Where a header is empty or repeats a name, the key is "column 2" or has a "_" added. Raises
        `ComityError` where JSON lines cannot be read.
        """

    @property
    @abstractmethod
    def chosen_names(self) -> list[str]:
        """The key of each chosen column in whole rows; a dotted key leads into objects."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How the file is read: "format", for text also "encoding", "delimiter" and so on."""

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow types of the columns, for a table that has them."""
        return {}

    def rows(self, errors: ErrorList) -> Iterator[Row]:
        """The rows, each with one value for each chosen column.

        A row that cannot be read (wrong number of fields, a quote that is not closed, invalid JSON)
        is left out and added to `errors`, as is an error that ends the reading. The errors are
        complete once all rows are read. Blank lines are skipped; in a table of one column they are
        empty texts, except at the end of the file.
        """
        return (row for row, _ in self._all_rows(errors, whole=False))

    def whole_rows(self, errors: ErrorList) -> Iterator[tuple[Row, WholeRow]]:
        """The rows as in `rows`, each with the same row in full, its keys as in `names`."""
        return self._all_rows(errors, whole=True)

    def _all_rows(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        try:
            yield from self._read(errors, whole)
        except ComityError as error:
            errors.extend(error)

    @abstractmethod
    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        """Read the file once; without `whole` the whole rows are empty.

        Errors of single rows are added to `errors`. Raises `ComityError` where reading must end.
        """


def as_text(path: Path, line: int, value: Value, errors: ErrorList) -> str:
    """A value as a text: a null is empty, and what is not a text is an error and empty."""
    if isinstance(value, NoValue):
        errors.add(f"{path}:{line}: {value.reason}; give the row a text")
    elif isinstance(value, list):
        errors.add(f"{path}:{line}: the text is a list; write it as one text")
    return value if isinstance(value, str) else ""


def row_texts(path: Path, row: Row, errors: ErrorList) -> tuple[str, ...]:
    """The values of a row as texts, see `as_text`."""
    return tuple([as_text(path, row.line, value, errors) for value in row.values])


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, with "_" added until it differs from all names in `taken`."""
    while name in taken:
        name += "_"
    return name


def quoted_list(names: Iterable[str], most: int = 12, longest: int = 40) -> str:
    """Names in quotes for a message; a long list and long names are shortened.

    >>> quoted_list(["text", "label"])
    '"text", "label"'
    """
    names = list(names)
    cut = [shown(name if len(name) <= longest else name[:longest] + "...") for name in names[:most]]
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([f'"{name}"' for name in cut] + more)


def shown(text: str) -> str:
    """`text` on one line: line ends and other unprintable characters as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def no_column(name: str | int, names: Iterable[str]) -> str:
    """The part of a message that says which column is missing and which columns there are."""
    names = [shown(name) for name in names]
    hint = nearest(name, names) or "; correct the name"
    return f'no column "{name}" (the columns are {quoted_list(names)}){hint}'
