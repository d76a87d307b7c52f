"""The one door to a user's tables: CSV, TSV, JSON lines and Parquet as rows of texts.

Nothing is guessed from a value: "NA", "null" and "007" are texts, exactly as written.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.tables.csv_reader import delimited_rows, find_layout
from comity.tables.jsonl_reader import json_names, json_rows
from comity.tables.rows import (
    CHUNK,
    DELIMITED,
    JSON_LINES,
    PARQUET,
    NoValue,
    Position,
    Row,
    TableFormat,
    Value,
)
from comity.tables.text_files import check_file, find_encoding, text_lines


def read_table(
    path: Path, columns: Sequence[str | int], format: TableFormat, errors: ErrorList
) -> Iterator[Row]:
    """The rows of a table, each with one value for each of `columns`, in that order.

    Rows are read as they are asked for, so memory does not grow with the file. A row that cannot be
    read (ragged, a quote that never closes, invalid JSON) is left out and a sentence about it goes
    to `errors`; so does one about a file that cannot be read at all or a column that is missing,
    and then there are no rows. The errors are complete once the rows are exhausted.

    A name with dots leads into JSON objects and Parquet structs ("data.text"). Without a header
    columns are positions, counted from 0. Blank lines are passed over; in a table of one column
    they are empty texts, except at the end of the file.
    """
    try:
        for line, values in _rows(path, columns, format, errors):
            yield Row(line, values)
    except ComityError as error:
        errors.extend(error)


def _rows(
    path: Path, columns: Sequence[str | int], format: TableFormat, errors: ErrorList
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    kind = _kind(path)
    if kind in DELIMITED:
        return delimited_rows(path, columns, format, errors)
    if kind in JSON_LINES:
        return json_rows(path, columns, format, errors)
    # Imported here because pyarrow is slow to import and most tables are text.
    from comity.tables.parquet_reader import parquet_rows

    return parquet_rows(path, columns)


def column_names(path: Path, format: TableFormat, columns: Sequence[str | int] = ()) -> list[str]:
    """The columns of a table: the header's names, the keys of all JSON lines, or positions.

    `columns`, the ones that will be asked for, help to tell the delimiter. Raises `ComityError`
    where the file cannot be read.
    """
    kind = _kind(path)
    if kind in DELIMITED:
        layout = find_layout(path, columns, format)
        return layout.names or [str(position) for position in range(layout.width)]
    if kind in JSON_LINES:
        errors = ErrorList()
        names = json_names(path, format, errors)
        errors.check()
        return names
    from comity.tables.parquet_reader import parquet_names

    return parquet_names(path)


def describe(path: Path, format: TableFormat, columns: Sequence[str | int] = ()) -> dict[str, Any]:
    """How a table is read: "format", and for text "encoding", "delimiter", "quoting", "header".

    `columns`, the ones that will be asked for, help to tell the delimiter. Raises `ComityError`
    where the file cannot be read.
    """
    kind = _kind(path)
    if kind in PARQUET:
        return {"format": "parquet"}
    if kind in JSON_LINES:
        return {"format": "json lines", "encoding": find_encoding(path, format.encoding)}
    layout = find_layout(path, columns, format)
    return {
        "format": "delimited text",
        "encoding": layout.encoding,
        "delimiter": "tab" if layout.delimiter == "\t" else layout.delimiter,
        "quoting": layout.quoting,
        "header": format.header,
    }


def _kind(path: Path) -> str:
    """The ending in lower case, of a file that can be read."""
    check_file(path)
    ending = path.suffix.lower()
    if ending not in DELIMITED + JSON_LINES + PARQUET:
        endings = ", ".join(DELIMITED + JSON_LINES + PARQUET)
        raise ComityError(f'{path}: the ending "{ending}" tells no format; use one of {endings}')
    return ending


Own = dict[str, Any]
"""The columns that a row of the input came with."""


# --- reading --------------------------------------------------------------------------------------


def own_names(source: Path, format: TableFormat, texts: Sequence[str | int]) -> list[str]:
    """The input's column names; those of delimited text so that none is empty or stands twice."""
    names = column_names(source, format, texts)
    if source.suffix.lower() not in DELIMITED:
        return names  # the keys of its rows
    found: list[str] = []
    for place, name in enumerate(names):
        found.append(free_name(name or f"column {place}", found))
    return found


def free_name(name: str, taken: Sequence[str]) -> str:
    """`name`, with a mark behind it where it is taken."""
    while name in taken:
        name += "_"
    return name


def whole_rows(
    source: Path,
    texts: Sequence[str | int],
    names: Sequence[str],
    format: TableFormat,
    errors: ErrorList,
) -> Iterator[tuple[Row, Own]]:
    """Each row's values of the columns `texts`, and the row as it came under `names`."""
    ending = source.suffix.lower()
    if ending in DELIMITED:
        own_columns = [Position(place) for place in range(len(names))]
        for row in read_table(source, [*texts, *own_columns], format, errors):
            own = row.values[len(texts) :]
            yield Row(row.line, row.values[: len(texts)]), dict(zip(names, own, strict=True))
        return
    whole = _parquet_rows(source) if ending in PARQUET else _json_rows(source, format)
    for row in read_table(source, texts, format, errors):
        line, own = next(whole)
        while line < row.line:  # lines that were left out as errors
            line, own = next(whole)
        yield row, own


def _json_rows(source: Path, format: TableFormat) -> Iterator[tuple[int, Own]]:
    for number, line in enumerate(text_lines(source, find_encoding(source, format.encoding)), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:  # the reader says so
                continue


def _parquet_rows(source: Path) -> Iterator[tuple[int, Own]]:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(source).iter_batches(CHUNK):
        for own in batch.to_pylist():
            number += 1
            yield number, own


def row_texts(source: Path, row: Row, errors: ErrorList) -> tuple[str, ...]:
    """The values of a row as texts: a null is an empty one, what is no text a fault."""
    texts = []
    for value in row.values:
        if isinstance(value, NoValue | list):
            reason = value.reason if isinstance(value, NoValue) else "the text is a list"
            errors.add(f"{source}:{row.line}: {reason}; give the row a text")
        texts.append(value if isinstance(value, str) else "")
    return tuple(texts)
