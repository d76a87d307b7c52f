"""Opens a user's table: CSV, TSV, JSON Lines or Parquet.

Values are not interpreted: "NA", "null" and "007" are texts, exactly as written.
"""

from collections.abc import Sequence
from pathlib import Path

from comity.errors import ComityError
from comity.tables.csv_reader import DelimitedTable
from comity.tables.frames import FramePath, FrameTable
from comity.tables.jsonl_reader import JsonTable
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET, Table, TableFormat
from comity.tables.text_files import check_file


def open_table(path: Path, format: TableFormat, columns: Sequence[str | int] = ()) -> Table:
    """Open a table to read the chosen columns: a file, or a table in memory (`FramePath`).

    The file name's extension sets the format. The encoding, the delimiter and the meaning of quotes
    are found here, once, unless `format` sets them; `columns` helps to tell the delimiter.

    Args:
        columns: the columns of `Table.rows`, in that order. A name with dots leads into JSON
            objects and Parquet structs ("data.text"). Without a header a column is an index,
            counted from 0.

    Raises:
        ComityError: where the file cannot be read, or lacks a column. Columns that no line of JSON
            Lines has are reported while the rows are read, together with bad lines.
    """
    if isinstance(path, FramePath):
        return FrameTable(path, path.frame, columns)
    check_file(path)
    extension = path.suffix.lower()
    if extension in DELIMITED:
        return DelimitedTable(path, format, columns)
    if extension in JSON_LINES:
        return JsonTable(path, format, columns)
    if extension in PARQUET:
        # Imported here because pyarrow is slow to import and most tables are text.
        from comity.tables.parquet_reader import ParquetTable

        return ParquetTable(path, columns)
    known = ", ".join(DELIMITED + JSON_LINES + PARQUET)
    raise ComityError(f'{path}: unknown extension "{extension}"; use one of {known}')
