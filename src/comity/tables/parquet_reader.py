"""Parquet: every string type, number and list of Arrow as the text that other formats hold."""

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

from comity.errors import ComityError
from comity.tables.rows import NoValue, Value, no_column

BATCH_ROWS = 4096


def parquet_rows(
    path: Path, columns: Sequence[str | int]
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """Number, counted from 1, and values of each row.

    Raises `ComityError` where the file is damaged or lacks a column.
    """
    with _opened(path) as file:
        steps = _find_columns(path, columns, file.schema_arrow)
        outer = list(dict.fromkeys(names[0] for names in steps))
        row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=outer):
            values = [_column(batch, names) for names in steps]
            rows = zip(*values, strict=True) if values else ((),) * batch.num_rows
            for values_of_row in rows:
                row += 1
                yield row, values_of_row
        if row == 0:
            raise ComityError(f"{path}: the file has no rows; add rows to it")


def parquet_names(path: Path) -> list[str]:
    """The names of the outer columns."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; whatever pyarrow raises on damaged bytes becomes one sentence."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ComityError(
            f"{path}: the file is no Parquet or is damaged ({reason}); write it again"
        ) from None


def _find_columns(path: Path, columns: Sequence[str | int], schema: pa.Schema) -> list[list[str]]:
    """For each column the outer column and the fields below that lead to it."""
    found = [_steps(schema, str(column)) for column in columns]
    errors = [
        f"{path}: {no_column(column, _dotted(schema))}"
        for column, steps in zip(columns, found, strict=True)
        if not steps
    ]
    errors += [
        f'{path}: the column "{name}" stands twice; rename one'
        for name in dict.fromkeys(steps[0] for steps in found if steps)
        if len(schema.get_all_field_indices(name)) > 1
    ]
    if errors:
        raise ComityError(*errors)
    return found


def _steps(fields: Any, name: str) -> list[str]:
    """The path to `name` in a schema or struct, or nothing; a name that holds dots goes first."""
    names = [field.name for field in fields]
    if name in names:
        return [name]
    for dot in (i for i, character in enumerate(name) if character == "."):
        outer, rest = name[:dot], name[dot + 1 :]
        if outer in names and pa.types.is_struct(kind := fields.field(outer).type):
            below = _steps(kind, rest)
            if below:
                return [outer, *below]
    return []


def _dotted(fields: Any) -> Iterator[str]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner}" for inner in _dotted(field.type))
        else:
            yield field.name


def _column(batch: pa.RecordBatch, steps: list[str]) -> list[Value]:
    array: Any = batch.column(steps[0])
    reasons: list[str | None] = [None] * len(array)
    for outer, inner in pairwise(steps):
        if array.null_count:
            absent = array.is_null().to_pylist()
            reason = f"'{outer}' is null, so it has no key '{inner}'"
            reasons = [
                known or (reason if null else None)
                for known, null in zip(reasons, absent, strict=True)
            ]
        array = array.field(inner)
    values = _values(array)
    if len(steps) == 1:
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
    """The shortest spelling, without an exponent where one can read it.

    pandas and others write NaN where a value is missing.
    """
    if value is None or math.isnan(value):
        return None
    if 1e-9 < abs(value) < 1e18:
        return np.format_float_positional(spell(value), trim="0")
    return str(spell(value))


def _refused(array: Any, kind: Any) -> list[Value]:
    """No value where there is one, but none that could be a text; nulls stay nulls."""
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
            NoValue("the list holds more than texts and numbers") if holds_others else texts
        )
    return lists
