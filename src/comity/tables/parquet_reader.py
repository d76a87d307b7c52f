"""Reads Parquet: strings, numbers and lists of all Arrow types as texts."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from comity.errors import ComityError, ErrorList
from comity.tables.rows import NoValue, Row, Table, Value, WholeRow, no_column, shown

BATCH_ROWS = 4096


class ParquetTable(Table):
    """A Parquet table. See `open_table` for arguments and errors; a line is a row, from 1."""

    def __init__(self, path: Path, columns: Sequence[str | int]):
        super().__init__(path)
        self._columns = [str(column) for column in columns]
        with _opened(path) as file:
            self._schema = file.schema_arrow
            self._paths = _find_columns(path, self._columns, self._schema)

    @property
    def names(self) -> list[str]:
        """The names of the outer columns."""
        return list(dict.fromkeys(self._schema.names))

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns; a name with dots may lead into structs."""
        return self._columns

    def describe(self) -> dict[str, Any]:
        """The format; everything else is in the file."""
        return {"format": "parquet"}

    def arrow_types(self) -> dict[str, Any]:
        """The type of each outer column."""
        return {field.name: field.type for field in self._schema}

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        outer = None if whole else list(dict.fromkeys(path[0] for path in self._paths))
        line = 0
        with _opened(self.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=outer):
                values = [_column(batch, path) for path in self._paths]
                rows = zip(*values, strict=True) if values else ((),) * batch.num_rows
                whole_rows = self._whole(batch) if whole else ({} for _ in range(batch.num_rows))
                for row, own in zip(rows, whole_rows, strict=True):
                    line += 1
                    yield Row(line, row), own
        if line == 0:
            raise ComityError(f"{self.path}: the file has no rows; add rows")

    def _whole(self, batch: pa.RecordBatch) -> Iterator[WholeRow]:
        names = batch.schema.names
        columns = [
            self._objects(name, array) for name, array in zip(names, batch.columns, strict=True)
        ]
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))

    def _objects(self, name: str, array: Any) -> list[Any]:
        """The values of one column as Python objects."""
        try:
            return array.to_pylist()
        except (ValueError, OverflowError) as error:
            raise ComityError(
                f'{self.path}: the column "{shown(name)}" has values that cannot be copied to the '
                f"output ({str(error).splitlines()[0][:120]}); remove the column or write it as "
                "text"
            ) from None


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever pyarrow raises on damaged bytes becomes a `ComityError`."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ComityError(
            f"{path}: the file is not Parquet or is damaged ({reason}); write it again"
        ) from None


def _find_columns(path: Path, columns: Sequence[str], schema: pa.Schema) -> list[list[str]]:
    """For each column the path to it: its outer column and the fields below."""
    found = [_find_path(schema, column) for column in columns]
    errors = [
        f"{path}: {no_column(column, _dotted_names(schema))}"
        for column, names in zip(columns, found, strict=True)
        if not names
    ]
    errors += [
        f'{path}: the column "{name}" occurs twice; rename one'
        for name in dict.fromkeys(names[0] for names in found if names)
        if len(schema.get_all_field_indices(name)) > 1
    ]
    if errors:
        raise ComityError(*errors)
    return found


def _find_path(fields: Any, name: str) -> list[str]:
    """The path to `name` in a schema or struct, or []; a field whose name has dots is preferred."""
    names = [field.name for field in fields]
    if name in names:
        return [name]
    for dot in (i for i, character in enumerate(name) if character == "."):
        outer, rest = name[:dot], name[dot + 1 :]
        if outer in names and pa.types.is_struct(kind := fields.field(outer).type):
            below = _find_path(kind, rest)
            if below:
                return [outer, *below]
    return []


def _dotted_names(fields: Any) -> Iterator[str]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner}" for inner in _dotted_names(field.type))
        else:
            yield field.name


def _column(batch: pa.RecordBatch, path: list[str]) -> list[Value]:
    array: Any = batch.column(path[0])
    reasons: list[str | None] = [None] * len(array)
    for outer, inner in pairwise(path):
        if array.null_count:
            absent = array.is_null().to_pylist()
            reason = f"'{outer}' is null, so it has no key '{inner}'"
            reasons = [
                known or (reason if null else None)
                for known, null in zip(reasons, absent, strict=True)
            ]
        array = array.field(inner)
    values = _values(array)
    if len(path) == 1:
        return values
    return [
        NoValue(reason) if reason else value for reason, value in zip(reasons, values, strict=True)
    ]


def _values(array: Any) -> list[Value]:
    kind = array.type
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage)
    if types.is_dictionary(kind):
        return _values(array.dictionary_decode())
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _texts(array)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return [_text(value) for value in array.to_pylist()]
    if types.is_floating(kind):
        # The shortest spelling of the width as stored: 0.1 for the float32 nearest to it.
        spell = {16: np.float16, 32: np.float32, 64: np.float64}[kind.bit_width]
        return [_number(value, spell) for value in array.to_pylist()]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(array)
    if types.is_nested(kind):
        return _refused(array, kind)
    try:
        return array.cast(pa.string()).to_pylist()
    except pa.ArrowException:
        return _refused(array, kind)


def _number(value: float | None, spell: Any) -> Value:
    """The shortest spelling, without an exponent unless it would be very long.

    NaN is a missing value: pandas and others write it for one.
    """
    if value is None or math.isnan(value):
        return None
    if 1e-9 < abs(value) < 1e18:
        return np.format_float_positional(spell(value), trim="0")
    return str(spell(value))


def _refused(array: Any, kind: Any) -> list[Value]:
    """`NoValue` for each value of a type that cannot be a text; nulls stay nulls."""
    what = "an object" if pa.types.is_struct(kind) else f"of type {kind}"
    reason = NoValue(f"the value is {what}, not a text or a number")
    return [None if null else reason for null in array.is_null().to_pylist()]


def _texts(array: Any) -> list[Value]:
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        return [_text(value) for value in array.cast(pa.large_binary()).to_pylist()]


def _text(value: bytes | None) -> Value:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return NoValue("the bytes are not UTF-8")


def _lists(array: Any) -> list[Value]:
    items = iter(_values(array.flatten()))
    lists: list[Value] = []
    for length in pc.call_function("list_value_length", [array]).to_pylist():
        if length is None:
            lists.append(None)
            continue
        values = [next(items) for _ in range(length)]
        texts = [value for value in values if isinstance(value, str)]
        holds_others = len(texts) < length
        lists.append(
            NoValue("the list contains other values than texts and numbers")
            if holds_others
            else texts
        )
    return lists
