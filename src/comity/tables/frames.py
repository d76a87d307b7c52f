"""Reads tables in memory: DataFrames of pandas or polars, Arrow tables, Hugging Face data sets.

No such library is imported here: a table is whatever has column names and gives a column by its
name.
"""

import hashlib
import json
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from comity.errors import ComityError, ErrorList
from comity.tables.locations import FramePath
from comity.tables.rows import JsonNumber, NoValue, Row, Table, Value, WholeRow, no_column, shown


def frame_columns(value: Any) -> list[Any] | None:
    """The column names of a table in memory, or None if `value` is something else."""
    if isinstance(value, (str, bytes, Mapping, type)) or not hasattr(value, "__getitem__"):
        return None
    for attribute in ("column_names", "columns"):
        names = getattr(value, attribute, None)
        if names is not None and not callable(names):
            try:
                return list(names)
            except TypeError:
                return None
    return None


def column_names(table: Any) -> list[Any]:
    """The column names of a table in memory, or of a dict from column to values."""
    return list(table) if isinstance(table, Mapping) else frame_columns(table) or []


def frame_column(frame: Any, name: Any) -> list[Any]:
    """A column of a table in memory as Python objects."""
    column = frame[name]
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(column, method):
            return getattr(column, method)()
    return list(column)


def find_column(table: Any, name: str | int, what: str) -> Any:
    """The column's own name, which may be a number where a recipe has text.

    Raises:
        ComityError: the table lacks the column, or has it twice; `what` starts the message.
    """
    names = column_names(table)
    same = [own for own in names if str(own) == str(name)]
    if not same:
        raise ComityError(f"{what}: {no_column(name, map(str, names))}")
    if len(same) > 1:
        raise ComityError(f'{what}: the column "{shown(str(name))}" occurs twice; rename one')
    return same[0]


def is_missing(value: Any) -> bool:
    """Whether a value is what libraries write for an empty cell: None, NaN, NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and math.isnan(value)


def row_labels(frame: Any, rows: int) -> list[int]:
    """What names the rows in messages: the index where it is unique numbers, else 0, 1, 2, ..."""
    labels = _index(frame)
    return labels if labels is not None and len(labels) == rows else list(range(rows))


def _index(frame: Any) -> list[int] | None:
    """The index of a DataFrame if it is unique numbers from 0."""
    index = getattr(frame, "index", None)
    if index is None or not hasattr(index, "tolist"):
        return None
    labels = index.tolist()
    numbered = all(type(label) is int and label >= 0 for label in labels)
    return labels if numbered and len(set(labels)) == len(labels) else None


class FrameTable(Table):
    """A table in memory; `line` is a row's index. Arguments and errors are as in `open_table`."""

    def __init__(self, path: Path, frame: Any, columns: Sequence[str | int] = ()):
        """`path` is the table's name in messages."""
        super().__init__(path)
        names = frame_columns(frame)
        assert names is not None
        self._frame = frame
        self._names = [str(name) for name in names]
        self._columns = [str(column) for column in columns]
        errors = ErrorList()
        for column in columns:
            try:
                find_column(frame, column, str(path))
            except ComityError as error:
                errors.extend(error)
        errors.check()

    @property
    def names(self) -> list[str]:
        """The column names."""
        return list(dict.fromkeys(self._names))

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns."""
        return self._columns

    def describe(self) -> dict[str, Any]:
        """The library's name for the table."""
        return {"format": "in memory", "type": _type_name(self._frame)}

    @property
    def digest(self) -> str:
        """SHA-256 of all columns: their names, index and values as they are read."""
        hashed = hashlib.sha256()
        for number, name in enumerate(frame_columns(self._frame) or []):
            if self._names.index(str(name)) < number:
                raise ComityError(
                    f'{self.path}: the column "{shown(str(name))}" occurs twice; rename one'
                )
            values = [frame_value(value, str(name)) for value in frame_column(self._frame, name)]
            plain = [[v.reason] if isinstance(v, NoValue) else v for v in values]
            hashed.update(json.dumps([str(name), plain]).encode())
            if not number:
                hashed.update(json.dumps(row_labels(self._frame, len(values))).encode())
        return hashed.hexdigest()

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        names = [find_column(self._frame, column, str(self.path)) for column in self._columns]
        columns = [frame_column(self._frame, name) for name in names]
        rows = len(columns[0]) if columns else 0
        if not rows:
            raise ComityError(f"{self.path}: the table has no rows; add rows")
        for line, values in zip(
            row_labels(self._frame, rows), zip(*columns, strict=True), strict=True
        ):
            cells = zip(values, self._columns, strict=True)
            row = Row(line, tuple(frame_value(value, name) for value, name in cells))
            yield row, dict(zip(self._columns, values, strict=True)) if whole else {}


def frame_value(value: Any, name: str) -> Value:
    """A Python object as a value of the column `name`, spelled as the file readers spell it."""
    if isinstance(value, str):
        return value if _is_text(value) else NoValue(f"'{name}' contains half of a surrogate pair")
    if is_missing(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        plain = 1e-9 < abs(value) < 1e18  # as the reader of Parquet
        return JsonNumber(np.format_float_positional(value, trim="0") if plain else value)
    if isinstance(value, Decimal):
        return JsonNumber(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        items = [frame_value(item, name) for item in value]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            return texts
        return NoValue(f"the list '{name}' contains other values than texts and numbers")
    return NoValue(f"'{name}' is of the type {_type_name(value)}, not text")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type_name(value: Any) -> str:
    """A type as its users call it: "pandas DataFrame", "bytes"."""
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library == "builtins" else f"{library} {kind.__name__}"


# --- tables where paths are expected --------------------------------------------------------------


def frame_path(frame: Any, role: str = "") -> FramePath:
    """The path of a table in memory; messages call it "pandas DataFrame of ROLE".

    They call its rows by the index if `row_labels` does.
    """
    path = FramePath(_type_name(frame) + (f" of {role}" if role else ""))
    path.frame = frame
    if _index(frame) is not None:
        path.rows = ("index", "indices")
    return path


def memory_name(role: str) -> str:
    """What a recipe says where a file would be, for the table in memory of `role`.

    >>> memory_name("mood train")
    '<table in memory: mood train>'
    """
    return f"<table in memory: {role}>"


def memory_role(name: str) -> str | None:
    """The role that `memory_name` made the name of, or None if the name is that of a file."""
    start, end = memory_name("\0").split("\0")
    named = name.startswith(start) and name.endswith(end)
    return name.removeprefix(start).removesuffix(end) if named else None


def not_in_memory(name: str) -> str:
    """The message for a table in memory that was not passed again."""
    return (
        f"{name}: the run was given this table in memory, so it is in no file; pass it again in "
        "the recipe of train(), or name a labelled file or table"
    )
