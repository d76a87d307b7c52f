"""Opens a user's table: CSV, TSV, JSON Lines or Parquet.

Values are not interpreted: "NA", "null" and "007" are texts, exactly as written.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from comity.errors import ComityError
from comity.tables.csv_reader import DelimitedTable
from comity.tables.frames import FrameTable
from comity.tables.hub import HubPath
from comity.tables.jsonl_reader import JsonTable
from comity.tables.locations import FramePath, PartsPath
from comity.tables.parts import PartsTable
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET, Table, TableFormat
from comity.tables.text_files import (
    HEAD_BYTES,
    cannot_read,
    check_file,
    open_bytes,
    refuse_foreign,
)


def open_table(
    path: Path,
    format: TableFormat,
    columns: Sequence[str | int] = (),
    extension: str | None = None,
    lenient: bool = False,
) -> Table:
    """Open a table to read the chosen columns.

    It is a file, several files (`PartsPath`), a table in memory (`FramePath`), or a split of a data
    set (`HubPath`).

    The file name's extension sets the format, unless `extension` does (".csv"). The encoding, the
    delimiter and the meaning of quotes are found here, once, unless `format` sets them; `columns`
    helps to tell the delimiter.

    Args:
        columns: the columns of `Table.rows`, in that order. A name with dots leads into JSON
            objects and Parquet structs ("data.text"). Without a header a column is an index,
            counted from 0. Names are compared in Unicode's form NFC, without spaces at the ends.
            Columns that the table lacks are in `Table.missing`, and errors when rows are read.
        lenient: for `BadRows`: a byte that does not fit the encoding, or a quote that is never
            closed, is an error of its row only.

    Raises:
        ComityError: the file cannot be read.
    """
    if isinstance(path, HubPath):
        from comity.tables.hub_reader import HubTable

        return HubTable(path, columns)
    if isinstance(path, FramePath):
        return FrameTable(path, path.frame, columns)
    if isinstance(path, PartsPath):
        return PartsTable(
            path, [open_table(file, format, columns, None, lenient) for file in path.files]
        )
    check_file(path)
    extension = path.suffix.lower() if extension is None else extension
    if extension in DELIMITED:
        return DelimitedTable(path, format, columns, lenient)
    if extension in JSON_LINES:
        return JsonTable(path, format, columns, lenient)
    if extension in PARQUET:
        # Imported here because pyarrow is slow to import and most tables are text.
        from comity.tables.parquet_reader import ParquetTable

        return ParquetTable(path, columns)
    with open_bytes(path) as file:
        refuse_foreign(path, file.read(HEAD_BYTES))
    known = ", ".join(DELIMITED + JSON_LINES + PARQUET)
    raise ComityError(f'{path}: unknown extension "{extension}"; use one of {known}')


def table_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, of the digests of several files, or of a table's values.

    Raises:
        ComityError: the file cannot be read.
    """
    if isinstance(path, HubPath):
        from comity.tables.hub_reader import HubTable

        return HubTable(path).digest
    if isinstance(path, FramePath):
        return FrameTable(path, path.frame).digest
    if isinstance(path, PartsPath):
        return joined_digest([table_digest(file) for file in path.files])
    with open_bytes(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ComityError(cannot_read(path, error)) from None


def joined_digest(digests: Sequence[str]) -> str:
    """The digest of a table in several files with these digests."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_format(path: Path, format: TableFormat, extension: str | None = None) -> None:
    """Raise `ComityError` for each option of `format` that has no effect on a file's format."""
    extension = path.suffix.lower() if extension is None else extension
    unused = ["delimiter", "header", "quoting"] if extension in JSON_LINES + PARQUET else []
    unused += ["encoding"] if extension in PARQUET else []
    options = [
        f"--no-{key}" if getattr(format, key) is False else f"--{key}"
        for key in unused
        if getattr(format, key) != getattr(TableFormat(), key)
    ]
    if options:
        raise ComityError(*[f"{o} has no effect on {path}; remove it" for o in options])
