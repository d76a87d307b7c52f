"""Whole rows: a table read with every column it came with, and written again in any format."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from comity.errors import ComityError
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET


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
