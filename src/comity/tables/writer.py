"""Writes whole rows as CSV, TSV, JSON Lines, a JSON array or Parquet."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Protocol

from comity.errors import ComityError
from comity.tables.rows import (
    DELIMITED,
    JSON_ARRAY,
    JSON_LINES,
    PARQUET,
    ArrowValue,
    JsonNumber,
    NoValue,
    WholeRow,
    free_names,
)
from comity.tables.spreadsheets import protected


def check_output(source: Path, output: Path, any_extension: bool = False) -> None:
    """Raise `ComityError` unless `output` can be written, in the format of its extension.

    Missing folders are not an error: `new_file` makes them.
    """
    if output.is_dir() or not output.name:
        raise ComityError(f"{output}: is a directory; name a file to write")
    folder = _existing_parent(output)
    if not folder.is_dir():
        raise ComityError(f"{output}: {folder} is not a directory; choose another folder")
    if source.exists() and output.exists() and source.samefile(output):
        raise ComityError(f"{output}: is the input itself; name another file to write")
    if output.exists() and not output.is_file():
        raise ComityError(f"{output}: is not a regular file; name a file to write")
    if not any_extension and output.suffix.lower() not in DELIMITED + JSON_LINES + PARQUET:
        raise ComityError(
            f"{output}: the extension sets the format; use .csv, .tsv (or .txt, .tab), .jsonl (or "
            ".ndjson), .json or .parquet"
        )


@contextmanager
def new_file(output: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `output` unless an error is raised.

    Missing folders are made at the end, so an error leaves none behind.

    Raises:
        ComityError: the temporary file cannot be created or renamed.
    """
    partial = _existing_parent(output) / f".{output.name[:100]}.part"
    try:
        yield partial
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(output)
    except OSError as error:
        if error.filename is None or Path(error.filename) != partial:
            raise
        raise ComityError(
            f"{output}: cannot be written ({error.strerror}); choose another location"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(folder for folder in path.absolute().parents if folder.exists())


class Writer(Protocol):
    """Writes rows to a file."""

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Finish the file."""


def table_writer(
    path: Path,
    extension: str,
    names: Sequence[str],
    types: Mapping[str, Any],
    metadata: Mapping[bytes, bytes] | None = None,
    raw: bool = False,
) -> Writer:
    """A writer of the columns `names` to `path`, in the format of `extension`.

    Args:
        types: Arrow types or fields of columns in Parquet; other columns are texts.
        metadata: the metadata of a Parquet file.
        raw: write cells of delimited text as they are, also those that a spreadsheet would run.
    """
    if extension in DELIMITED:
        return DelimitedWriter(path, names, "," if extension == ".csv" else "\t", raw)
    if extension in JSON_ARRAY:
        return JsonArrayWriter(path)
    if extension in JSON_LINES:
        return JsonLinesWriter(path)
    if extension in PARQUET:
        return ParquetWriter(path, names, types, metadata)
    raise ValueError(f"no writer for the extension {extension}")


# --- values as text -------------------------------------------------------------------------------


def json_text(value: Any, ascii_only: bool = False) -> str:
    """A value of a whole row as JSON; numbers keep their spelling.

    NaN becomes null, since JSON has none, and an infinity the text "Infinity".
    """
    if isinstance(value, ArrowValue):
        value = value.plain
    if isinstance(value, NoValue):
        value = value.copied
    if isinstance(value, JsonNumber):
        return str(value)
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=ascii_only)}: {json_text(item, ascii_only)}"
            for key, item in value.items()
        ]
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join([json_text(item, ascii_only) for item in value])}]"
    if isinstance(value, float) and not math.isfinite(value):
        value = None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value, ensure_ascii=ascii_only, default=str)


def cell_text(value: Any) -> str | None:
    """A value of a whole row as one text: objects and lists as JSON, null as None.

    Half of a surrogate pair, which JSON can spell and no file can hold, becomes U+FFFD.
    """
    if isinstance(value, ArrowValue):
        value = value.plain
    if isinstance(value, NoValue):
        value = value.copied
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    infinite = isinstance(value, float) and math.isinf(value)
    text = value if isinstance(value, str) else json_text(value)
    text = text.strip('"') if infinite else text
    if text.isascii():
        return str(text)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _written_names(names: Iterable[str]) -> list[str]:
    """The names as a file can hold them, none of them twice."""
    return free_names(cell_text(name) or "" for name in names)


# --- writers --------------------------------------------------------------------------------------


class DelimitedWriter:
    """Writes CSV or TSV with a header; lines end as in RFC 4180, so that a lone CR is quoted."""

    def __init__(self, path: Path, names: Sequence[str], delimiter: str, raw: bool = False):
        """With `raw` cells that a spreadsheet would run are not protected."""
        self.names = list(names)
        self.raw = raw
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file, delimiter=delimiter)
        self.writer.writerow(map(self._cell, _written_names(names)))

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows."""
        for row in rows:
            self.writer.writerow([self._cell(row.get(name)) for name in self.names])

    def _cell(self, value: Any) -> str | None:
        text = cell_text(value)
        return text if text is None or self.raw else protected(text)

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class JsonLinesWriter:
    """Writes one JSON object per line."""

    start, between, end = b"", b"", b""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self.file.write(self.start)
        self.is_empty = True

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows; half of a surrogate pair is written as the escape that it was."""
        for row in rows:
            try:
                line = json_text(row).encode()
            except UnicodeEncodeError:
                line = json_text(row, ascii_only=True).encode()
            self.file.write((b"" if self.is_empty else self.between + b"\n") + line)
            self.is_empty = False

    def close(self) -> None:
        """Finish the file."""
        self.file.write((b"" if self.is_empty else b"\n") + self.end)
        self.file.close()


class JsonArrayWriter(JsonLinesWriter):
    """Writes one JSON array, with one object per line."""

    start, between, end = b"[\n", b",", b"]\n"


class ParquetWriter:
    """Writes Parquet; columns without a type in `types` are texts."""

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        types: Mapping[str, Any],
        metadata: Mapping[bytes, bytes] | None = None,
    ):
        """`types` has Arrow types or fields by name."""
        import pyarrow
        import pyarrow.parquet

        self.names = list(names)
        fields = []
        for name, written in zip(names, _written_names(names), strict=True):
            kind = types.get(name, pyarrow.string())
            is_field = isinstance(kind, pyarrow.Field)
            fields.append(kind.with_name(written) if is_field else pyarrow.field(written, kind))
        self.schema = pyarrow.schema(fields, metadata=dict(metadata or {}))
        # pyarrow takes no path whose characters the locale does not have.
        self.file = path.open("wb")
        self.writer = pyarrow.parquet.ParquetWriter(self.file, self.schema)

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows; other values than texts become texts in a column of texts."""
        import pyarrow

        arrays = [
            _arrow_array([row.get(name) for row in rows], field.type)
            for name, field in zip(self.names, self.schema, strict=True)
        ]
        self.writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
        self.file.close()


def _arrow_array(values: Sequence[Any], kind: Any) -> Any:
    """An Arrow array of a type; values that come from Arrow are not converted."""
    import pyarrow

    pieces = []
    for is_arrow, group in groupby(values, lambda value: isinstance(value, ArrowValue)):
        part = list(group)
        if is_arrow and all(value.column.array.type == kind for value in part):
            pieces.extend(_slices(part))
        elif kind == pyarrow.string():
            pieces.append(pyarrow.array([cell_text(value) for value in part], kind))
        else:
            pieces.append(pyarrow.array([_number(value) for value in part], kind))
    return pyarrow.concat_arrays(pieces) if pieces else pyarrow.array([], kind)


def _slices(values: Sequence[ArrowValue]) -> Iterator[Any]:
    """The values as slices of their arrays, one for each run of neighbours."""
    starts = [0]
    for position, (one, two) in enumerate(pairwise(values), 1):
        if one.column is not two.column or two.position != one.position + 1:
            starts.append(position)
    for start, stop in pairwise([*starts, len(values)]):
        yield values[start].column.array.slice(values[start].position, stop - start)


def _number(value: Any) -> Any:
    """A value as pyarrow takes it."""
    if isinstance(value, NoValue):
        value = value.copied
    if isinstance(value, ArrowValue):
        return value.column.array[value.position].as_py()
    if isinstance(value, JsonNumber):
        return int(value) if value.lstrip("-").isdecimal() else float(value)
    return value
