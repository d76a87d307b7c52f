"""Reads Parquet and other Arrow tables: strings, numbers and lists of all types as texts."""

import math
import uuid
from abc import abstractmethod
from collections import Counter
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
from comity.tables.parquet_footer import RowGroup, row_groups
from comity.tables.rows import (
    ArrowColumn,
    ArrowValue,
    JsonNumber,
    NoValue,
    Row,
    Table,
    Value,
    WholeRow,
    check_width,
    free_names,
    name_key,
    no_column,
)

BATCH_ROWS = 4096
BATCH_BYTES = 256 << 20
"""Bytes of one column of a batch. A dictionary that repeats one long text can exceed it, so that
fewer rows are read at a time."""

ROWS_PER_BYTE = 16
GROWTH = 1000
SMALL_ROWS, SMALL_BYTES = 1_000_000, 256 << 20
"""Bounds of what a file can claim to hold: rows (or items of lists) for each of its bytes, and how
many times larger its values can be. Real texts are far below; a small file can have the second
number of either."""


class ArrowTable(Table):
    """A table that comes in Arrow's record batches."""

    first_row = 1

    def __init__(self, path: Path, schema: pa.Schema, columns: Sequence[str | int]):
        super().__init__(path)
        self._schema = schema
        check_width(path, len(schema.names))
        self._names = free_names(schema.names)
        self._paths = self._find_columns([str(column) for column in columns])

    @abstractmethod
    def batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """All rows, with some of the outer columns or all."""

    @property
    def names(self) -> list[str]:
        """The names of the outer columns, made different."""
        return self._names

    @property
    def columns(self) -> list[str | int]:
        """The columns that are no structs, and the fields of structs with dots, if they differ."""
        names = list(_dotted_names(self._schema))
        counts = Counter(names)
        return [name for name in names if counts[name] == 1]

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns as the file spells them; a name with dots may lead into structs."""
        return [".".join(path) for path in self._paths]

    def arrow_types(self) -> dict[str, Any]:
        """The field of each outer column."""
        return {
            name: field.with_name(name)
            for name, field in zip(self._names, self._schema, strict=True)
        }

    def arrow_metadata(self) -> dict[bytes, bytes]:
        """The metadata of the file."""
        return self._schema.metadata or {}

    def _find_columns(self, columns: Sequence[str]) -> list[list[str]]:
        """For each column the path to it: its outer column and the fields below."""
        found = [_find_path(self._schema, column) for column in columns]
        self.missing = [
            f"{self.path}: {no_column(column, _dotted_names(self._schema))}"
            for column, names in zip(columns, found, strict=True)
            if not names
        ]
        self.missing += [
            f'{self.path}: the column "{name}" occurs twice; rename one'
            for name in dict.fromkeys(names[0] for names in found if names)
            if len(self._schema.get_all_field_indices(name)) > 1
        ]
        return found

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        if self.missing:
            return
        outer = None if whole else list(dict.fromkeys(path[0] for path in self._paths))
        line = self.first_row - 1
        for batch in self.batches(outer):
            values = [self._column(batch, path) for path in self._paths]
            rows = zip(*values, strict=True) if values else ((),) * batch.num_rows
            columns = [ArrowColumn(array, plain_values) for array in batch.columns]
            for index, row in enumerate(rows):
                line += 1
                own: WholeRow = {}
                if whole:
                    cells = [ArrowValue(column, index) for column in columns]
                    own = dict(zip(self._names, cells, strict=True))
                yield Row(line, row), own
        if line < self.first_row:
            raise ComityError(f"{self.path}: there are no rows; add rows")

    def _column(self, batch: pa.RecordBatch, path: list[str]) -> list[Value]:
        return _column(batch, path)


class ParquetTable(ArrowTable):
    """A Parquet table. See `open_table` for arguments and errors; a line is a row, from 1."""

    def __init__(self, path: Path, columns: Sequence[str | int]):
        with _opened(path) as file:
            schema = file.schema_arrow
            leaves = map(file.schema.column, range(len(file.schema)))
            self._texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        super().__init__(path, schema, columns)

    def describe(self) -> dict[str, Any]:
        """The format; everything else is in the file."""
        return {"format": "parquet"}

    def batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """All rows, with some of the outer columns or all."""
        size = self.path.stat().st_size
        most = max(SMALL_BYTES, GROWTH * size)
        with _opened(self.path) as file:
            groups = row_groups(self.path)
            _check_claims(self.path, groups, size, most)
            rows = self._rows_of_batch(groups, columns, size, most)
            read = 0
            for batch in file.iter_batches(rows, columns=columns):
                whole = _decoded(batch)
                read += whole.nbytes
                if read > most:
                    raise _too_large(self.path, size, most)
                yield whole

    def _rows_of_batch(
        self, groups: list[RowGroup], columns: list[str] | None, size: int, most: int
    ) -> int:
        """How many rows fit into memory, by the longest text in the dictionary of each row group.

        Raises `ComityError` where lists of such texts may have more than `most` bytes.
        """
        rows = BATCH_ROWS
        with _opened(self.path, read_dictionary=self._texts, buffer_size=1 << 20) as file:
            for number, group in enumerate(groups):
                first = next(file.iter_batches(1, row_groups=[number], columns=columns), None)
                longest = max(map(_longest, first.columns), default=0) if first else 0
                items = max((chunk.values for chunk in group.chunks), default=0)
                if items > group.rows and longest * items > most:
                    raise _too_large(self.path, size, most)
                rows = min(rows, BATCH_BYTES // max(1, longest))
        return max(1, rows)


def _check_claims(path: Path, groups: list[RowGroup], size: int, most: int) -> None:
    """Raise `ComityError` if a file of `size` bytes claims more than it can hold."""
    chunks = [chunk for group in groups for chunk in group.chunks]
    counts = [sum(group.rows for group in groups), *(chunk.values for chunk in chunks)]
    if max((chunk.size for chunk in chunks), default=0) > most:
        raise _too_large(path, size, most)
    if max(counts) > max(SMALL_ROWS, ROWS_PER_BYTE * size):
        raise ComityError(
            f"{path}: claims {max(counts):,} rows or items in {size:,} bytes, which no table of "
            "texts has; write it again without repeated rows"
        )


def _too_large(path: Path, size: int, most: int) -> ComityError:
    return ComityError(
        f"{path}: its {size:,} bytes hold more than {most:,} bytes of values, which no table of "
        "texts has; write it again without repeated rows"
    )


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch without dictionaries in its outer columns."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _longest(array: Any) -> int:
    """Bytes of the longest text in the dictionaries of an array."""
    types = pa.types
    if isinstance(array.type, pa.BaseExtensionType):
        return _longest(array.storage)
    if types.is_struct(array.type):
        return max(map(_longest, array.flatten()), default=0)
    if types.is_map(array.type):
        return max(_longest(array.keys), _longest(array.items))
    if types.is_nested(array.type):
        return _longest(array.flatten())
    if not types.is_dictionary(array.type):
        return 0
    lengths = pc.call_function("binary_length", [array.dictionary])
    return pc.call_function("max", [lengths]).as_py() or 0


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[pq.ParquetFile]:
    """The open file; whatever pyarrow raises on damaged bytes becomes a `ComityError`."""
    try:
        # pyarrow takes no path whose characters the locale does not have.
        with path.open("rb") as source, pq.ParquetFile(source, **options) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ComityError(
            f"{path}: the file is not Parquet or is damaged ({reason}); write it again"
        ) from None


def _find_path(schema: pa.Schema, name: str) -> list[str]:
    """The path to a column, also if the file spells it in another Unicode form, or []."""
    found = _path_to(schema, name)
    if found or name.isascii():
        return found
    return next((_path_to(schema, n) for n in _dotted_names(schema) if _same(n, name)), [])


def _same(first: str, second: str) -> bool:
    return name_key(first) == name_key(second)


def _path_to(fields: Any, name: str) -> list[str]:
    """The path to `name` in a schema or struct, or []; a field whose name has dots is preferred."""
    names = [field.name for field in fields]
    if name in names:
        return [name]
    for dot in (i for i, character in enumerate(name) if character == "."):
        outer, rest = name[:dot], name[dot + 1 :]
        if outer in names and pa.types.is_struct(kind := fields.field(outer).type):
            below = _path_to(kind, rest)
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
        texts = array.cast(pa.string()).to_pylist()
        if types.is_decimal(kind):
            return [None if text is None else JsonNumber(text) for text in texts]
        return texts
    except pa.ArrowException:
        return _refused(array, kind)


def _number(value: float | None, spell: Any) -> Value:
    """The shortest spelling, without an exponent unless it would be very long.

    NaN is a missing value: pandas and others write it for one.
    """
    if value is None or math.isnan(value):
        return None
    if 1e-9 < abs(value) < 1e18:
        return JsonNumber(np.format_float_positional(spell(value), trim="0"))
    return JsonNumber(spell(value))


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


# --- values that are only copied ------------------------------------------------------------------


def plain_values(array: Any) -> list[Any]:
    """The values of any array as texts, numbers, lists and objects that JSON can hold.

    Times, durations and decimals are texts with all their digits (a duration as in ISO 8601:
    PT1.5S). Bytes are texts where they are UTF-8, else hexadecimal digits after "0x". NaN is a
    null and an infinity the text "Infinity".
    """
    kind = array.type
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        values = plain_values(array.storage)
        if kind.extension_name == "arrow.uuid":
            stored = array.storage.to_pylist()
            return [None if value is None else str(uuid.UUID(bytes=value)) for value in stored]
        if kind.extension_name == "arrow.bool8":
            return [None if value is None else bool(value) for value in values]
        return values
    if types.is_dictionary(kind):
        return plain_values(array.dictionary_decode())
    if types.is_boolean(kind) or types.is_integer(kind):
        return array.to_pylist()
    if types.is_floating(kind):
        return [_plain_float(value, kind.bit_width) for value in array.to_pylist()]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        stored = array.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode(errors="replace") for value in stored]
    if _is_binary(kind):
        return [_plain_bytes(value) for value in array.to_pylist()]
    if types.is_duration(kind):
        return [_plain_duration(value, kind.unit) for value in array.cast(pa.int64()).to_pylist()]
    if types.is_map(kind):
        pair = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        lists = plain_values(array.cast(pa.list_(pair)))
        return [None if v is None else [list(pair.values()) for pair in v] for v in lists]
    if types.is_struct(kind):
        return _plain_structs(array)
    if types.is_nested(kind):
        return _plain_lists(array)
    return _plain_others(array)


def _is_binary(kind: Any) -> bool:
    types = pa.types
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _plain_float(value: float | None, bits: int) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    # The shortest spelling of the width as stored, as in `_values`.
    return value if bits == 64 else float(str({16: np.float16, 32: np.float32}[bits](value)))


def _plain_bytes(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def _plain_duration(count: int | None, unit: str) -> str | None:
    if count is None:
        return None
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    whole, part = divmod(abs(count), 10**digits)
    fraction = f".{part:0{digits}d}".rstrip("0") if part else ""
    return f"{'-' if count < 0 else ''}PT{whole}{fraction}S"


def _plain_structs(array: Any) -> list[Any]:
    names = free_names(field.name for field in array.type)
    columns = [plain_values(column) for column in array.flatten()]
    rows = zip(*columns, strict=True) if columns else ((),) * len(array)
    absent = array.is_null().to_pylist()
    return [
        None if null else dict(zip(names, row, strict=True))
        for null, row in zip(absent, rows, strict=True)
    ]


def _plain_lists(array: Any) -> list[Any]:
    items = iter(plain_values(array.flatten()))
    lengths = pc.call_function("list_value_length", [array]).to_pylist()
    return [None if length is None else [next(items) for _ in range(length)] for length in lengths]


def _plain_others(array: Any) -> list[Any]:
    """Dates, times and decimals as texts; whatever cannot be cast as Arrow prints it."""
    try:
        texts = array.cast(pa.string()).to_pylist()
        return _with_far_years(texts, array) if pa.types.is_timestamp(array.type) else texts
    except pa.ArrowException:
        nulls = array.is_null().to_pylist()
        printed = [array.slice(index, 1).to_string() for index in range(len(array))]
        return [
            None if null else " ".join(text.strip("[] \n").split())
            for null, text in zip(nulls, printed, strict=True)
        ]


def _with_far_years(texts: list[Any], array: Any) -> list[Any]:
    """Timestamps as texts; Arrow prints a year beyond 32767 as "<value out of range: ...>"."""
    zone = "Z" if array.type.tz else ""
    numbers = array.cast(pa.int64()).to_pylist()
    return [
        str(np.datetime64(number, array.type.unit)).replace("T", " ") + zone
        if text is not None and text.startswith("<")
        else text
        for text, number in zip(texts, numbers, strict=True)
    ]
