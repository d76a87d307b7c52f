"""Writes whole rows as CSV, TSV, JSON Lines or Parquet."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from comity.errors import ComityError
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET, WholeRow


def check_output(source: Path, output: Path, any_extension: bool = False) -> None:
    """Raise `ComityError` unless `output` can be written, in the format of its extension."""
    if output.is_dir() or not output.name:
        raise ComityError(f"{output}: is a directory; name a file to write")
    if not output.parent.is_dir():
        raise ComityError(f"{output}: there is no directory {output.parent}; create it")
    if source.exists() and output.exists() and source.samefile(output):
        raise ComityError(f"{output}: is the input itself; name another file to write")
    if not any_extension and output.suffix.lower() not in DELIMITED + JSON_LINES + PARQUET:
        raise ComityError(
            f"{output}: the extension sets the format; use .csv, .tsv, .jsonl or .parquet"
        )


class Writer(Protocol):
    """Writes rows to a file."""

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Finish the file."""


def table_writer(
    path: Path, extension: str, names: Sequence[str], types: Mapping[str, Any]
) -> Writer:
    """A writer of the columns `names` to `path`, in the format of `extension`.

    Args:
        types: Arrow types of columns in Parquet; other columns are texts.
    """
    if extension in DELIMITED:
        return DelimitedWriter(path, names, "," if extension == ".csv" else "\t")
    if extension in JSON_LINES:
        return JsonLinesWriter(path)
    if extension in PARQUET:
        return ParquetWriter(path, names, types)
    raise ValueError(f"no writer for the extension {extension}")


class DelimitedWriter:
    """Writes CSV or TSV with a header; lines end as in RFC 4180, so that a lone CR is quoted."""

    def __init__(self, path: Path, names: Sequence[str], delimiter: str):
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, names, delimiter=delimiter)
        self.writer.writeheader()

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows."""
        for row in rows:
            self.writer.writerow({name: cell_text(value) for name, value in row.items()})

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def cell_text(value: Any) -> str | None:
    """A value of JSON or Parquet as text: objects and lists as JSON, null as None.

    Half of a surrogate pair, which JSON can spell and no file can hold, becomes U+FFFD.
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float | list | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class JsonLinesWriter:
    """Writes one JSON object per line."""

    def __init__(self, path: Path):
        self.file = path.open("wb")

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows; half of a surrogate pair is written as the escape that it was."""
        for row in rows:
            try:
                line = json.dumps(row, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError:
                line = json.dumps(row, default=str).encode()
            self.file.write(line + b"\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class ParquetWriter:
    """Writes Parquet; columns without a type in `types` are texts."""

    def __init__(self, path: Path, names: Sequence[str], types: Mapping[str, Any]):
        import pyarrow
        import pyarrow.parquet

        kinds = dict.fromkeys(names, pyarrow.string()) | dict(types)
        self.schema = pyarrow.schema(list(kinds.items()))
        self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows; other values than texts become texts in a column of texts."""
        import pyarrow

        arrays = []
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            if field.type == pyarrow.string():
                values = [cell_text(value) for value in values]
            arrays.append(pyarrow.array(values, field.type))
        self.writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
