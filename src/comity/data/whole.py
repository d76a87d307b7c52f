"""Whole rows: a table read with every column it came with, and written again in any format."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from comity.data.files import find_encoding, text_lines
from comity.data.rows import NoValue, Position, Row, TableFormat
from comity.data.tables import DELIMITED, JSON_LINES, PARQUET, column_names, read_table
from comity.errors import ComityError, Faults

CHUNK = 2048
"""Rows read and written at a time."""

Own = dict[str, Any]
"""The columns that a row of the input came with."""


def check_output(source: Path, output: Path, any_ending: bool = False) -> None:
    """Raise `ComityError` unless `output` can be written in the format of its ending."""
    if output.is_dir() or not output.name:
        raise ComityError(f"{output}: is a directory; name a file to write")
    if not output.parent.is_dir():
        raise ComityError(f"{output}: there is no directory {output.parent}; make it")
    if source.exists() and output.exists() and source.samefile(output):
        raise ComityError(f"{output}: is the input itself; name another file to write")
    if not any_ending and output.suffix.lower() not in DELIMITED + JSON_LINES + PARQUET:
        raise ComityError(
            f"{output}: the ending says the format; use .csv, .tsv, .jsonl or .parquet"
        )


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
    faults: Faults,
) -> Iterator[tuple[Row, Own]]:
    """Each row's values of the columns `texts`, and the row as it came under `names`."""
    ending = source.suffix.lower()
    if ending in DELIMITED:
        own_columns = [Position(place) for place in range(len(names))]
        for row in read_table(source, [*texts, *own_columns], format, faults):
            own = row.values[len(texts) :]
            yield Row(row.line, row.values[: len(texts)]), dict(zip(names, own, strict=True))
        return
    whole = _parquet_rows(source) if ending in PARQUET else _json_rows(source, format)
    for row in read_table(source, texts, format, faults):
        line, own = next(whole)
        while line < row.line:  # lines that were left out as faults
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


def row_texts(source: Path, row: Row, faults: Faults) -> tuple[str, ...]:
    """The values of a row as texts: a null is an empty one, what is no text a fault."""
    texts = []
    for value in row.values:
        if isinstance(value, NoValue | list):
            reason = value.reason if isinstance(value, NoValue) else "the text is a list"
            faults.add(f"{source}:{row.line}: {reason}; give the row a text")
        texts.append(value if isinstance(value, str) else "")
    return tuple(texts)


# --- writing --------------------------------------------------------------------------------------


class Writer(Protocol):
    """Writes rows as mappings from column to value."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Finish the file."""


def table_writer(
    path: Path, ending: str, source: Path, names: Sequence[str], types: Mapping[str, Any]
) -> Writer:
    """Writes `path` in the format of `ending`.

    `types` are the Arrow types of columns that Parquet shall not hold as the input does (its own
    types where it is Parquet, else text).
    """
    if ending in DELIMITED:
        return DelimitedWriter(path, names, "," if ending == ".csv" else "\t")
    if ending in JSON_LINES:
        return JsonLinesWriter(path)
    return ParquetWriter(path, source, names, types)


class DelimitedWriter:
    """CSV or TSV with a header, lines ended as RFC 4180 has it (so that a bare CR is quoted)."""

    def __init__(self, path: Path, names: Sequence[str], delimiter: str):
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, names, delimiter=delimiter)
        self.writer.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            self.writer.writerow({name: _as_text(value) for name, value in row.items()})

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def _as_text(value: Any) -> str | None:
    """A value of JSON or Parquet as text: nested ones as JSON, a null as nothing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, path: Path):
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class ParquetWriter:
    """Parquet in the input's own types, where it has any, else text; `types` go before both."""

    def __init__(self, path: Path, source: Path, names: Sequence[str], types: Mapping[str, Any]):
        import pyarrow
        import pyarrow.parquet

        kinds = {name: pyarrow.string() for name in names}
        if source.suffix.lower() in PARQUET:
            kinds |= {field.name: field.type for field in pyarrow.parquet.read_schema(source)}
        self.schema = pyarrow.schema(list((kinds | dict(types)).items()))
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; what does not fit a text column is written as text."""
        import pyarrow

        arrays = []
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            if field.type == pyarrow.string():
                values = [_as_text(value) for value in values]
            arrays.append(pyarrow.array(values, field.type))
        self.writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
