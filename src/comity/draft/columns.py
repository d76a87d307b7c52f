"""Counts what is in the columns of a table: the evidence for a draft of a recipe."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from comity.data.labels import PLACEHOLDERS
from comity.errors import ErrorList
from comity.tables.reader import open_table
from comity.tables.rows import DELIMITED, JsonNumber, NoValue, TableFormat, Value
from comity.targets import is_number, is_whole, loose_key

MOST_VALUES = 20_000
"""Different values of a column that are counted one by one."""

LONGEST_NAME = 60
"""Characters of a column's name above which a first line is probably not a header."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def words_of(name: str) -> list[str]:
    """The words of a column's or file's name, in lower case.

    >>> words_of("is_duplicate"), words_of("textA"), words_of("sentence1")
    (['is', 'duplicate'], ['text', 'a'], ['sentence', '1'])
    """
    return [word.lower() for word in _WORD.findall(name)]


def as_number(text: str) -> float | None:
    """A text as a finite number, or None.

    >>> as_number("2.50"), as_number("1e-3"), as_number("nan"), as_number("1_0")
    (2.5, 0.001, None, None)
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


@dataclass
class Column:
    """What is in one column of a table."""

    name: str | int  # as a recipe writes it
    rows: int = 0
    absent: int = 0  # rows without a value
    lacking: int = 0  # of those: rows that lack the column, as in JSON, or have no text in it
    empty: int = 0  # rows with an empty text
    lists: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # rows of each text, while they are few
    uncounted: int = 0  # rows whose text came after MOST_VALUES others
    items: Counter[str] = field(default_factory=Counter)  # rows of each item of lists
    words: int = 0  # of the different texts
    numbers: int = 0  # different texts that are numbers with a decimal point
    comma_numbers: int = 0  # different texts that are numbers if the decimal mark is a comma
    fractions: int = 0  # different texts that are numbers and not whole
    placeholders: set[str] = field(default_factory=set)  # such as "n/a"; no numbers
    low: float = float("inf")
    high: float = float("-inf")
    in_order: bool = True  # every value is the whole number after the one before
    _previous: Decimal | None = None

    def add(self, value: Value) -> None:
        """Count the value of one row."""
        self.rows += 1
        if isinstance(value, list):
            self.lists += 1
            self.items.update(dict.fromkeys(value, 1))
            return
        if not isinstance(value, str):
            self.absent += 1
            self.lacking += isinstance(value, NoValue)
            return
        text = value.strip()
        if not text:
            self.empty += 1
            return
        self._check_order(text)
        if text in self.counts:
            self.counts[text] += 1
            return
        if len(self.counts) < MOST_VALUES:
            self.counts[text] = 1
        else:
            self.uncounted += 1
        self._look(text, isinstance(value, JsonNumber))

    def joined(self, other: "Column") -> "Column":
        """A column with the values of both."""
        joined = Column(self.name)
        for part in (self, other):
            joined.rows += part.rows
            joined.absent += part.absent
            joined.empty += part.empty
            joined.lists += part.lists
            joined.uncounted += part.uncounted
            joined.counts.update(part.counts)
            joined.items.update(part.items)
            joined.placeholders |= part.placeholders
            joined.low, joined.high = min(joined.low, part.low), max(joined.high, part.high)
        joined.numbers = self.numbers + other.numbers
        joined.comma_numbers = self.comma_numbers + other.comma_numbers
        return joined

    def _check_order(self, text: str) -> None:
        if self.in_order:
            number = Decimal(text) if is_whole(text) else None
            follows = self._previous is None or number == self._previous + 1
            self.in_order, self._previous = number is not None and follows, number

    def _look(self, text: str, stored_as_number: bool) -> None:
        """Count what a text is; it was not seen before."""
        self.words += len(text.split())
        number = as_number(text)
        self.numbers += number is not None
        if not stored_as_number and "." not in text:
            number = as_number(text.replace(",", "."))
        self.comma_numbers += number is not None and (stored_as_number or "." not in text)
        if number is not None:
            self.fractions += not number.is_integer()
            self.low, self.high = min(self.low, number), max(self.high, number)
        elif loose_key(text) in PLACEHOLDERS:
            self.placeholders.add(text)

    @property
    def filled(self) -> int:
        """Rows with a text."""
        return self.rows - self.absent - self.empty - self.lists

    @property
    def distinct(self) -> int:
        """The number of different texts; too high if there are more than MOST_VALUES."""
        return len(self.counts) + self.uncounted

    @property
    def values(self) -> int:
        """The number of different texts that are no placeholders."""
        return self.distinct - len(self.placeholders)

    @property
    def is_unique(self) -> bool:
        """Whether no text occurs twice."""
        return self.distinct == self.filled

    @property
    def is_numeric(self) -> bool:
        """Whether all texts are numbers, but for placeholders."""
        return 0 < self.values == max(self.numbers, self.comma_numbers)

    @property
    def decimal_mark(self) -> str:
        """The decimal mark of a numeric column."""
        return "," if self.comma_numbers > self.numbers else "."

    @property
    def words_per_text(self) -> float:
        """Words of a text on average, each different text counted once."""
        return self.words / max(self.distinct, 1)


@dataclass(frozen=True)
class TableColumns:
    """A table and its columns."""

    path: Path
    format: TableFormat
    reading: dict[str, Any]  # see `Table.describe`
    rows: int
    columns: list[Column]

    def column(self, name: str | int) -> Column | None:
        """The column that a recipe calls `name`."""
        return next((column for column in self.columns if column.name == name), None)


def read_columns(path: Path, format: TableFormat | None = None) -> TableColumns:
    """Read a table and count what is in its columns.

    Whether delimited text has a header is guessed, unless `format` is given.

    Raises:
        ComityError: every error of the file's rows.
    """
    if format is not None:
        return _read(path, format)
    table = _read(path, TableFormat())
    if path.suffix.lower() in DELIMITED and not _has_header(table.columns):
        return _read(path, TableFormat(header=False))
    return table


def _read(path: Path, format: TableFormat) -> TableColumns:
    names = open_table(path, format).columns
    table = open_table(path, format, names)
    columns = [Column(name) for name in names]
    errors = ErrorList()
    rows = 0
    for row in table.rows(errors):
        rows += 1
        for column, value in zip(columns, row.values, strict=True):
            column.add(value)
    errors.check()
    return TableColumns(path, format, table.describe(), rows, columns)


def _has_header(columns: Sequence[Column]) -> bool:
    """Whether the first line names the columns: it is no number, no long text and no value."""
    for column in columns:
        name = str(column.name)
        if is_number(name) or len(name) > LONGEST_NAME:
            return False
        if name in column.counts and 2 * column.distinct <= column.filled:
            return False
    return True
