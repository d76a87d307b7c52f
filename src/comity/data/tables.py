"""The one door to a user's tables: CSV, TSV, JSON lines and Parquet as rows of texts.

Nothing is guessed from a value: "NA", "null" and "007" are texts, exactly as written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comity.data.delimited import delimited_rows, find_layout
from comity.data.files import check_file, find_encoding
from comity.data.jsonlines import json_names, json_rows
from comity.data.rows import NoValue, Row, TableFormat, Value
from comity.errors import ComityError, Faults

__all__ = ["NoValue", "Row", "TableFormat", "Value", "column_names", "describe", "read_table"]

DELIMITED = (".csv", ".tsv", ".txt", ".tab")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)


def read_table(
    path: Path, columns: Sequence[str | int], format: TableFormat, faults: Faults
) -> Iterator[Row]:
    """The rows of a table, each with one value for each of `columns`, in that order.

    Rows are read as they are asked for, so memory does not grow with the file. A row that cannot be
    read (ragged, a quote that never closes, invalid JSON) is left out and a sentence about it goes
    to `faults`; so does one about a file that cannot be read at all or a column that is missing,
    and then there are no rows. The faults are complete once the rows are exhausted.

    A name with dots leads into JSON objects and Parquet structs ("data.text"). Without a header
    columns are positions, counted from 0. Blank lines are passed over; in a table of one column
    they are empty texts, except at the end of the file.
    """
    try:
        for line, values in _rows(path, columns, format, faults):
            yield Row(line, values)
    except ComityError as error:
        faults.extend(error)


def _rows(
    path: Path, columns: Sequence[str | int], format: TableFormat, faults: Faults
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    kind = _kind(path)
    if kind in DELIMITED:
        return delimited_rows(path, columns, format, faults)
    if kind in JSON_LINES:
        return json_rows(path, columns, format, faults)
    # Imported here because pyarrow is slow to import and most tables are text.
    from comity.data.parquet import parquet_rows

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
        faults = Faults()
        names = json_names(path, format, faults)
        faults.check()
        return names
    from comity.data.parquet import parquet_names

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
