"""Reads delimited text: CSV, TSV and similar files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList, nearest
from comity.format import plural
from comity.tables.csv_dialect import Dialect, broken_quote, find_dialect
from comity.tables.csv_records import QUOTE, Record, spelled, split_records, unquoted
from comity.tables.rows import Row, Table, TableFormat, WholeRow, free_name, quoted_list, shown
from comity.tables.text_files import TextFile, open_text


class DelimitedTable(Table):
    """A table of delimited text. See `open_table` for arguments and errors."""

    def __init__(self, path: Path, format: TableFormat, columns: Sequence[str | int]):
        super().__init__(path)
        self._format = format
        with open_text(path, format.encoding) as file:
            self._dialect = find_dialect(file, columns, format)
        self._indices = _find_columns(path, columns, self._dialect)

    @property
    def names(self) -> list[str]:
        """The names in the header, made different, or the indices of the columns."""
        names: list[str] = []
        for index, name in enumerate(self._dialect.names or map(str, range(self._dialect.width))):
            names.append(free_name(name or f"column {index}", names))
        return names

    @property
    def chosen_names(self) -> list[str]:
        """The key of each chosen column in whole rows."""
        names = self.names
        return [names[index] for index in self._indices]

    def describe(self) -> dict[str, Any]:
        """The dialect, under the names of the recipe's keys."""
        dialect = self._dialect
        return {
            "format": "delimited text",
            "encoding": dialect.encoding,
            "delimiter": "tab" if dialect.delimiter == "\t" else dialect.delimiter,
            "quoting": dialect.quoting,
            "header": dialect.names is not None,
        }

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        dialect, indices, names = self._dialect, self._indices, self.names
        with open_text(self.path, dialect.encoding) as file:
            records = _records_with_content(file, dialect)
            header = next(records).fields if dialect.names is not None else None
            count = 0
            for record in records:
                count += 1
                fields = record.fields
                if fields is None or len(fields) != dialect.width:
                    errors.add(_bad_record(self.path, record, dialect, self._format))
                    continue
                if fields == header and dialect.width > 1:
                    errors.add(
                        f"{self.path}:{record.line}: the header is repeated here, as if files were "
                        f"joined; remove the line"
                    )
                    continue
                if whole and dialect.quoting:
                    fields = [unquoted(field) for field in fields]
                    values = tuple([fields[index] for index in indices])
                elif dialect.quoting:
                    values = tuple([unquoted(fields[index]) for index in indices])
                else:
                    values = tuple([fields[index] for index in indices])
                own = dict(zip(names, fields, strict=True)) if whole else {}
                yield Row(record.line, values), own
        if count == 0:
            raise ComityError(f"{self.path}: the file has a header but no rows; add rows")


def _records_with_content(file: TextFile, dialect: Dialect) -> Iterator[Record]:
    """The records without blank lines.

    In a table of one column a blank line is an empty text, except at the end of the file.
    """
    blanks: list[Record] = []
    before_header = dialect.names is not None
    for record in split_records(file.lines(), dialect.delimiter, dialect.quoting):
        if record.fields == [""]:
            if dialect.width == 1 and not before_header:
                blanks.append(record)
            continue
        before_header = False
        if blanks:
            yield from blanks
            blanks.clear()
        yield record


def _bad_record(path: Path, record: Record, dialect: Dialect, format: TableFormat) -> str:
    line, last, fields = record.line, record.last, record.fields
    if fields is None:
        return broken_quote(path, record)
    count = plural(len(fields), "field")
    expected = f"but the header has {dialect.width}"
    if not dialect.names:
        expected = f"but most lines have {dialect.width}"
    advice = "correct the line or quote a text that contains the delimiter"
    if any(field.startswith(QUOTE) for field in fields):
        where = f" (a quoted field ends on line {last})" if last > line else ""
        other = "false if quotes are text" if dialect.quoting else "true if quotes enclose fields"
        advice = f"correct the line{where}, or set quoting = {other}"
    elif len(fields) == dialect.width + 1 and fields[-1] == "":
        advice = "remove the delimiter at the end of the line, or add one at the end of the header"
    elif dialect.width == 1:
        advice = 'set delimiter = "tab" if each line is one text, or name all columns in the header'
    delimiter = "" if format.delimiter else f" (delimiter {spelled(dialect.delimiter)})"
    return f"{path}:{line}: {count}, {expected}{delimiter}; {advice}"


def _find_columns(path: Path, columns: Sequence[str | int], dialect: Dialect) -> list[int]:
    """The indices of the columns. Raises `ComityError` with every column that is missing."""
    find = _find_index if dialect.names is None else _find_name
    indices: list[int] = []
    errors: list[str] = []
    for column in columns:
        try:
            indices.append(find(path, column, dialect))
        except ComityError as error:
            errors.extend(error.messages)
    if errors:
        raise ComityError(*errors)
    return indices


def _find_index(path: Path, column: str | int, dialect: Dialect) -> int:
    """The index that `column` is, in a file without a header."""
    text = str(column)
    if text.isdecimal() and int(text) < dialect.width:
        return int(text)
    raise ComityError(
        f'{path}: no column "{column}"; without a header, give an index from 0 to '
        f"{dialect.width - 1}"
    )


def _find_name(path: Path, column: str | int, dialect: Dialect) -> int:
    """The index of the column that the header calls `column`."""
    names = [shown(name) for name in dialect.names or []]
    where = f"{path}:{dialect.header_line}"
    found = [i for i, name in enumerate(dialect.names or []) if name == str(column).strip()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ComityError(
            f'{where}: "{column}" occurs {len(found)} times in the header; rename one of the '
            f"columns {found}"
        )
    if isinstance(column, int):
        raise ComityError(
            f"{where}: column {column} is an index, but the first line is read as a header "
            f"({quoted_list(names)}); set header = false or give a name"
        )
    single = f", one field with the delimiter {spelled(dialect.delimiter)}"
    listed = quoted_list(names) + (single if len(names) == 1 else "")
    hint = nearest(column, names) or (
        "; correct the name, or set header = false if this line is already a row"
    )
    raise ComityError(f'{where}: no column "{column}" (the header has {listed}){hint}')
