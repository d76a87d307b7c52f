"""What all table readers share: formats, rows and their values, and the interface `Table`."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from comity.errors import ComityError, ErrorList, nearest
from comity.tables.bad_rows import NO_TEXT, BadRow, report_row
from comity.tables.findings import Finding, Findings

DELIMITED = (".csv", ".tsv", ".txt", ".tab")
JSON_LINES = (".jsonl", ".ndjson", ".json")
JSON_ARRAY = (".json",)
"""Of the extensions of JSON: those that are written as one array. All are read either way."""

PARQUET = (".parquet",)

MOST_COLUMNS = 10_000

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
    """Why a column has no value in a row, such as "no key 'label'".

    `copied` is what a copy of the row holds instead.
    """

    reason: str
    copied: Any = field(default=None, compare=False)


class JsonNumber(str):
    """A number of JSON as it is spelled, so that a copy has the same digits.

    Fractions of Parquet and DataFrames are spelled as in JSON: their decimal mark is a point,
    whatever the recipe's `decimal_mark` says of texts.
    """


# None is a null of JSON or Parquet; an empty text is "".
Value = str | list[str] | None | NoValue


class Row(NamedTuple):
    """The values of the chosen columns; `line` counts from 1 (in Parquet, rows from 1)."""

    line: int
    values: tuple[Value, ...]


class ArrowColumn:
    """Some values of a Parquet column, in Arrow's memory and as values of JSON."""

    def __init__(self, array: Any, convert: Callable[[Any], list[Any]]):
        """`array` is an Arrow array; `convert` gives its values as JSON can hold them."""
        self.array = array
        self._convert = convert

    @cached_property
    def plain(self) -> list[Any]:
        """The values as texts, numbers, lists and objects, converted once."""
        return self._convert(self.array)


class ArrowValue(NamedTuple):
    """One value of a Parquet column, whatever its type."""

    column: ArrowColumn
    position: int

    @property
    def plain(self) -> Any:
        """The value as JSON can hold it."""
        return self.column.plain[self.position]


WholeRow = dict[str, Any]
"""A row with every column of its table.

Values are texts (delimited text), values of JSON with numbers as `JsonNumber`, or `ArrowValue`.
"""


class Table(ABC):
    """A user's table: its column names, how it is read, and its rows.

    Rows are read when they are asked for, so memory does not grow with the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.missing: list[str] = []
        """A message for each chosen column that the table lacks; its rows cannot be read then."""
        self._findings = Findings()

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The keys of whole rows, none of them twice.

        Where a header is empty or repeats a name, the key is "column 2" or has a "_" added. Raises
        `ComityError` where JSON lines cannot be read.
        """

    @property
    def columns(self) -> list[str | int]:
        """What a recipe can choose: the names, or without a header the indices of the columns.

        A name with dots leads into objects. Raises `ComityError` as `names`.
        """
        return list(self.names)

    @property
    @abstractmethod
    def chosen_names(self) -> list[str]:
        """The key of each chosen column in whole rows; a dotted key leads into objects."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How the file is read: "format", for text also "encoding", "delimiter" and so on."""

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow types or fields of the columns; a column without one is written as texts."""
        return {}

    def arrow_metadata(self) -> dict[bytes, bytes]:
        """The metadata of a Parquet file, such as which column is pandas's index."""
        return {}

    def findings(self) -> list[Finding]:
        """What looks wrong in the values of the chosen columns; complete once the rows are read."""
        return self._findings.found()

    def rows(self, errors: ErrorList) -> Iterator[Row]:
        """The rows, each with one value for each chosen column.

        A row that cannot be read (wrong number of fields, a quote that is not closed, invalid JSON)
        is left out and added to `errors`, as is an error that ends the reading. The errors are
        complete once all rows are read. Blank lines are skipped; in a table of one column they are
        empty texts, except at the end of the file. `BadRows` as `errors` are given such rows.
        """
        return (row for row, _ in self._all_rows(errors, whole=False))

    def whole_rows(self, errors: ErrorList) -> Iterator[tuple[Row, WholeRow]]:
        """The rows as in `rows`, each with the same row in full, its keys as in `names`."""
        return self._all_rows(errors, whole=True)

    def _all_rows(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        self._findings = Findings()
        try:
            for row, own in self._read(errors, whole):
                for value in row.values:
                    if isinstance(value, str):
                        self._findings.look(row.line, value)
                yield row, own
            if self.missing:
                raise ComityError(*self.missing)
        except ComityError as error:
            errors.extend(error)

    @abstractmethod
    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        """Read the file once; without `whole` the whole rows are empty.

        Yields nothing if columns are missing, but may add errors of rows.
        Errors of single rows are added to `errors`. Raises `ComityError` where reading must end.
        """


def as_text(path: Path, line: int, value: Value, errors: ErrorList, column: str = "") -> str:
    """A value as a text: a null is empty, and what is not a text is an error and empty."""
    if isinstance(value, NoValue):
        bad = BadRow(line, NO_TEXT, value.reason, column)
        report_row(errors, path, bad, "give the row a text", value.reason)
    elif isinstance(value, list):
        bad = BadRow(line, NO_TEXT, "the text is a list", column)
        report_row(errors, path, bad, "write it as one text", "list")
    return value if isinstance(value, str) else ""


def row_texts(path: Path, row: Row, errors: ErrorList) -> tuple[str, ...]:
    """The values of a row as texts, see `as_text`."""
    return tuple([as_text(path, row.line, value, errors) for value in row.values])


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, with "_" added until it differs from all names in `taken`."""
    while name in taken:
        name += "_"
    return name


def free_names(names: Iterable[str]) -> list[str]:
    """Each name as `free_name` makes it different from those before it.

    >>> free_names(["a", "b", "a", "a_"])
    ['a', 'b', 'a_', 'a__']
    """
    found: dict[str, None] = {}
    tails: dict[str, str] = {}  # "_" that were added to a name the last time it occurred
    for name in names:
        free = free_name(name + tails.get(name, ""), found)
        tails[name] = free[len(name) :]
        found[free] = None
    return list(found)


def check_width(path: Path, width: int) -> None:
    """Raise `ComityError` if a table has more columns than any table of texts."""
    if width > MOST_COLUMNS:
        raise ComityError(
            f"{path}: has {width:,} columns, and at most {MOST_COLUMNS:,} are read; leave out "
            "those that no task needs, or check the delimiter"
        )


def quoted_list(names: Iterable[str], most: int = 12, longest: int = 40) -> str:
    """Names in quotes for a message; a long list and long names are shortened.

    >>> quoted_list(["text", "label"])
    '"text", "label"'
    """
    names = list(names)
    cut = [shortened(name, longest) for name in names[:most]]
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([f'"{name}"' for name in cut] + more)


def shortened(text: str, longest: int = 40) -> str:
    """`text` on one line, with at most `longest` characters."""
    return shown(text if len(text) <= longest else text[:longest] + "...")


def shown(text: str) -> str:
    """`text` on one line: line ends and other unprintable characters as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def name_key(name: str | int) -> str:
    """What a column's name is compared by: Unicode form and spaces at its ends do not matter."""
    return unicodedata.normalize("NFC", str(name)).strip()


def no_column(name: str | int, names: Iterable[str]) -> str:
    """The part of a message that says which column is missing and which columns there are."""
    names = list(names)
    hint = close_name(name, names) or "; correct the name"
    return f'no column "{name}" (the columns are {quoted_list(names)}){hint}'


def close_name(name: str | int, names: Iterable[str]) -> str:
    """A suggestion that ends a message, or "" if no name is close.

    >>> close_name("the text", ["the\\u00a0text", "label"])
    '; there is "the\\\\xa0text", with other spaces: rename the column, or copy its name'
    """
    names = list(names)
    for other in names:
        if _letters(other) == _letters(str(name)) and name_key(other) != name_key(name):
            return f'; there is "{shown(other)}", with other spaces: rename the column, or ' + (
                "copy its name"
            )
    return nearest(name, map(shown, names))


def _letters(name: str) -> str:
    """A name without spaces and invisible characters."""
    folded = unicodedata.normalize("NFKC", name)
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")
