"""The rows that `predict` and `encode` accept: texts, pairs, dicts, and tables in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.tables.frames import (
    column_names,
    find_column,
    frame_column,
    frame_columns,
    is_missing,
    row_labels,
)
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET, no_column, quoted_list

Names = Sequence[str | int]
"""The text columns of a task, as its recipe names them: one or two."""


class Texts:
    """Rows given to `predict` or `encode`.

    They are a single text, or an iterable of rows, or a table in memory (a DataFrame, or a dict
    from column to values). A row is a text, a pair of texts, or a dict by the recipe's column
    names. Tables are read by these names too.
    """

    def __init__(self, texts: Any, what: str):
        """`what` starts the messages.

        Raises:
            ComityError: `texts` has a type that holds no rows, or no order.
        """
        self._what = what
        self._rows: list[Any] = []
        self._table: Any = None
        self._labels: list[int] = []  # what names the rows in messages; empty for 0, 1, 2, ...
        self.one = isinstance(texts, str)
        if isinstance(texts, str):
            self._rows = [texts]
            self._check_no_path(texts)
        elif isinstance(texts, Mapping) or frame_columns(texts) is not None:
            self._table = texts
        elif isinstance(texts, (set, frozenset)):
            raise ComityError(f"{what}: a set has no order; give a list of texts")
        elif isinstance(texts, (bytes, bytearray)) or not hasattr(texts, "__iter__"):
            raise self._wrong_type(texts)
        else:
            try:
                self._rows = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
            except TypeError:  # an array of no dimensions
                raise self._wrong_type(texts) from None
            self._labels = row_labels(texts, len(self._rows))

    def columns(self, names: Names) -> list[list[str]]:
        """The texts, one list for each of `names`.

        Raises:
            ComityError: a row that has not one text for each name; names the row.
        """
        if self._table is not None:
            rows = self._table_rows(names)
        else:
            rows = [self._row(number, row, names) for number, row in enumerate(self._rows)]
        wrong = [number for number, row in enumerate(rows) if not _fits(row, len(names))]
        if wrong:
            raise ComityError(self._sentence(wrong, rows[wrong[0]], len(names)))
        return [[str(row[column]) for row in rows] for column in range(len(names))]

    def misfit(self, names: Names) -> str | None:
        """Why these rows are not for a task that reads the columns `names`, or None if they are.

        Only the first row is looked at.
        """
        if self._table is not None:
            own = self._table_names()
            lacking = [name for name in names if str(name) not in own]
            return f"the table has no column {quoted_list(map(str, lacking))}" if lacking else None
        if not self._rows:
            return None
        if isinstance(self._rows[0], Mapping):
            lacking = [name for name in names if not _has(self._rows[0], name)]
            return f"the rows have no {quoted_list(map(str, lacking))}" if lacking else None
        count = 1 if isinstance(self._rows[0], str) else len(_parts(self._rows[0]))
        if count == len(names):
            return None
        return f"it reads {_texts(len(names))} per row, and the rows have {_texts(count)}"

    def only_column(self, names: Names) -> str | int | None:
        """The one of `names` that a table or dicts have, or None: other rows, or several."""
        own: list[str] = []
        if self._table is not None:
            own = self._table_names()
        elif self._rows and isinstance(self._rows[0], Mapping):
            own = [str(name) for name in names if _has(self._rows[0], name)]
        found = [name for name in dict.fromkeys(names) if str(name) in own]
        return found[0] if len(found) == 1 else None

    @property
    def named(self) -> bool:
        """Whether rows are read by column names."""
        return self._table is not None or any(isinstance(row, Mapping) for row in self._rows)

    def _table_names(self) -> list[str]:
        return [str(name) for name in column_names(self._table)]

    def _table_rows(self, names: Names) -> list[Any]:
        own = [find_column(self._table, name, self._what) for name in names]
        columns = [self._table_column(name) for name in own]
        if len(columns) == 2 and len(columns[0]) != len(columns[1]):
            one, two = names
            raise ComityError(
                f'{self._what}: the columns "{one}" and "{two}" have {len(columns[0])} and '
                f"{len(columns[1])} rows; give each row both texts"
            )
        self._labels = row_labels(self._table, len(columns[0]))
        return list(zip(*columns, strict=True))

    def _table_column(self, name: Any) -> list[Any]:
        column = self._table[name]
        if isinstance(column, (str, bytes)) or not hasattr(column, "__iter__"):
            raise ComityError(
                f'{self._what}: expected a list of texts under "{name}", got {shortened(column)}; '
                "write one row as [{...}]"
            )
        return frame_column(self._table, name)

    def _row(self, number: int, row: Any, names: Names) -> Any:
        if not isinstance(row, Mapping):
            return _parts(row)
        for name in names:
            if not _has(row, name):
                raise ComityError(
                    f"{self._what}: {self._name(number)}: {no_column(name, map(str, row))}"
                )
        return tuple(_get(row, name) for name in names)

    def _name(self, number: int) -> str:
        """The row in a message, by its number and, where it differs, by its index."""
        label = self._labels[number] if self._labels else number
        return f"row {number}" + (f" (index {label})" if label != number else "")

    def _sentence(self, wrong: list[int], row: Any, count: int) -> str:
        more = f" (and {len(wrong) - 1:,} more like it)" if len(wrong) > 1 else ""
        where = f"{self._what}: {self._name(wrong[0])}"
        parts = row if isinstance(row, tuple) else (row,)
        if len(parts) == count and any(is_missing(part) for part in parts):
            missing = next(part for part in parts if is_missing(part))
            return f'{where} has no text ({missing!r}){more}; leave it out, or write ""'
        wanted = "one text" if count == 1 else "a pair of texts"
        given = parts[0] if len(parts) == 1 else parts
        hint = ""
        if any(isinstance(part, (bytes, bytearray)) for part in parts):
            hint = '; decode it: text.decode("utf-8")'
        elif count == 2 and len(self._rows) in (1, 2) and len(parts) == 1:
            hint = "; write one pair as [(first, second)]"
        return f"{where} must be {wanted}, got {shortened(given)}{more}{hint}"

    def _wrong_type(self, texts: Any) -> ComityError:
        hint = '; decode it: text.decode("utf-8")' if isinstance(texts, (bytes, bytearray)) else ""
        return ComityError(
            f"{self._what}: expected a text or a list of rows, got {shortened(texts)}{hint}"
        )

    def _check_no_path(self, text: str) -> None:
        """Raise where a single text names a table file, which is surely a mistake."""
        if not text.lower().endswith((*DELIMITED, *JSON_LINES, *PARQUET)) or len(text) > 4096:
            return
        try:
            is_file = Path(text).is_file()
        except (OSError, ValueError):
            return
        if is_file:
            raise ComityError(
                f'{self._what}: "{text}" is a file, not a text; run "comity predict" on it, or '
                "read its texts first"
            )


def _parts(row: Any) -> Any:
    """The texts of a row as a tuple; a row that is neither text nor sequence as it is."""
    if isinstance(row, str):
        return (row,)
    if isinstance(row, (list, tuple)):
        return tuple(row)
    if hasattr(row, "tolist") and isinstance(values := row.tolist(), list):  # a row of a DataFrame
        return tuple(values)
    return (row,)


def _fits(row: Any, count: int) -> bool:
    return len(row) == count and all(isinstance(text, str) for text in row)


def _texts(count: int) -> str:
    return "one text" if count == 1 else f"{count} texts"


def _has(row: Mapping[Any, Any], name: str | int) -> bool:
    return _get(row, name, _ABSENT) is not _ABSENT


_ABSENT = object()


def _get(row: Mapping[Any, Any], name: str | int, default: Any = None) -> Any:
    """A value of a row by name; a name with dots leads into dicts, as in JSON Lines."""
    if name in row:
        return row[name]
    first, dot, rest = str(name).partition(".")
    if dot and isinstance(row.get(first), Mapping):
        return _get(row[first], rest, default)
    return default


def shortened(value: Any) -> str:
    """A value as it is shown in a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a user's own type
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
