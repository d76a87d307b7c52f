"""Reads delimited text: CSV, TSV and similar files."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.tables.csv_dialect import Dialect, broken_quote, find_dialect
from comity.tables.csv_records import QUOTE, Record, spelled, split_records, unquoted
from comity.tables.rows import (
    Row,
    Table,
    TableFormat,
    WholeRow,
    close_name,
    free_name,
    name_key,
    quoted_list,
    shortened,
)
from comity.tables.spreadsheets import unprotected
from comity.tables.text_files import TextFile, open_text


class DelimitedTable(Table):
    """A table of delimited text. See `open_table` for arguments and errors."""

    def __init__(self, path: Path, format: TableFormat, columns: Sequence[str | int]):
        super().__init__(path)
        self._format = format
        with open_text(path, format.encoding) as file:
            self._dialect = find_dialect(file, columns, format)
        self._indices = self._find_columns(columns)
        if self.missing and (self._dialect.names or [""])[0].startswith('{"'):
            self.missing = [
                f"{path}: the file begins like JSON Lines; if it is, rename it to end in .jsonl"
            ]

    @property
    def names(self) -> list[str]:
        """The names in the header, made different, or the indices of the columns."""
        names: list[str] = []
        for index, name in enumerate(self._dialect.names or map(str, range(self._dialect.width))):
            names.append(free_name(name or f"column {index}", names))
        return names

    @property
    def columns(self) -> list[str | int]:
        """The names that occur once in the header, or without one the indices of the columns."""
        names = self._dialect.names
        if names is None:
            return list(range(self._dialect.width))
        return [name for name in names if name and names.count(name) == 1]

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

    def _find_columns(self, columns: Sequence[str | int]) -> list[int]:
        """The indices of the columns; those that are missing are added to `missing`."""
        find = _find_index if self._dialect.names is None else _find_name
        indices: list[int] = []
        for column in columns:
            try:
                indices.append(find(self.path, column, self._dialect))
            except ComityError as error:
                self.missing += [m for m in error.messages if m not in self.missing]
        return indices

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        if self.missing:
            return
        indices, names = self._indices, self.names
        count = 0
        for record, fields in self._records(errors):
            count += 1
            if fields is None:
                continue
            chosen = fields if whole else [fields[index] for index in indices]
            texts = [self._text(field, record.line) for field in chosen]
            if whole:
                values = tuple([texts[index] for index in indices])
                yield Row(record.line, values), dict(zip(names, texts, strict=True))
            else:
                yield Row(record.line, tuple(texts)), {}
        if count == 0:
            raise ComityError(f"{self.path}: the file has a header but no rows; add rows")

    def _records(self, errors: ErrorList) -> Iterator[tuple[Record, list[str] | None]]:
        """The records after the header and their fields, None where a record is an error.

        Reading ends at a quoted field that is never closed. After one that is closed in the wrong
        place, a wrong number of fields is not a separate error: the line may be part of that field.
        """
        dialect = self._dialect
        broken = False
        with open_text(self.path, dialect.encoding) as file:
            records = _records_with_content(file, dialect)
            header = next(records).fields if dialect.names is not None else None
            for record in records:
                fields = record.fields
                if fields is None:
                    broken = True
                    errors.add(broken_quote(self.path, record), kind="quotes")
                elif len(fields) != dialect.width:
                    if not broken:
                        errors.add(self._wrong_width(record, len(fields)), kind="fields")
                    fields = None
                elif fields == header and dialect.width > 1:
                    errors.add(
                        f"{self.path}:{record.line}: the header is repeated here, as if files were "
                        "joined; remove the line",
                        kind="header",
                    )
                    fields = None
                yield record, fields
                if record.unclosed:
                    return

    def _text(self, field: str, line: int) -> str:
        """A field without the quotes around it and without the mark for spreadsheets."""
        text = unquoted(field) if self._dialect.quoting else field
        plain = unprotected(text)
        if len(plain) < len(text):
            self._findings.add("spreadsheet mark", line, shortened(text))
        return plain

    def _wrong_width(self, record: Record, count: int) -> str:
        dialect, fields = self._dialect, record.fields or []
        expected = f"but the header has {dialect.width}"
        if not dialect.names:
            expected = f"but most lines have {dialect.width}"
        advice = "correct the line or quote a text that contains the delimiter"
        if any(field.startswith(QUOTE) for field in fields):
            where = f" (a quoted field ends on line {record.last})"
            where = where if record.last > record.line else ""
            key = "false if quotes are text" if dialect.quoting else "true if quotes enclose fields"
            advice = f"correct the line{where}, or set quoting = {key}"
        elif count == dialect.width + 1 and fields[-1] == "":
            advice = (
                "remove the delimiter at the end of the line, or add one at the end of the header"
            )
        elif dialect.width == 1:
            advice = (
                'set delimiter = "tab" if each line is one text, or name all columns in the header'
            )
        delimiter = "" if self._format.delimiter else f" (delimiter {spelled(dialect.delimiter)})"
        where = f"{self.path}:{record.line}"
        return f"{where}: {plural(count, 'field')}, {expected}{delimiter}; {advice}"


def _records_with_content(file: TextFile, dialect: Dialect) -> Iterator[Record]:
    """The records without blank lines.

    In a table of one column a blank line is an empty text, except at the end of the file.
    """
    blanks: list[Record] = []
    before_header = dialect.names is not None
    first_line = dialect.first_line
    lines = islice(file.lines(), first_line - 1, None)
    for record in split_records(lines, dialect.delimiter, dialect.quoting, first_line):
        if record.fields == [""]:
            if dialect.width == 1 and not before_header:
                blanks.append(record)
            continue
        before_header = False
        if blanks:
            yield from blanks
            blanks.clear()
        yield record


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
    names = dialect.names or []
    where = f"{path}:{dialect.header_line}"
    found = [i for i, name in enumerate(names) if name == str(column)]
    found = found or [i for i, name in enumerate(names) if name_key(name) == name_key(column)]
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
    hint = close_name(column, names) or (
        "; correct the name, or set header = false if this line is already a row"
    )
    raise ComityError(f'{where}: no column "{column}" (the header has {listed}){hint}')
