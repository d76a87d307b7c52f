"""Reads delimited text: CSV, TSV and similar files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.tables.bad_rows import ENCODING, FIELDS, HEADER, QUOTES, BadRow, report_row
from comity.tables.csv_dialect import QUOTE_ADVICE, Dialect, find_dialect, quote_detail
from comity.tables.csv_records import QUOTE, Record, spelled, split_records, unquoted
from comity.tables.rows import (
    Row,
    Table,
    TableFormat,
    WholeRow,
    check_width,
    close_name,
    free_names,
    name_key,
    quoted_list,
    shortened,
)
from comity.tables.spreadsheets import unprotected
from comity.tables.text_files import TextFile, open_text

LONGEST_FIELD = 10_000
"""Lines of a quoted field from which a lenient table takes it for one that is never closed, so that
the rest of a file is not held in memory."""

LONGEST_REMAINDER = 100
"""Lines after a broken quoted field that may be the rest of it."""


class _RowError(NamedTuple):
    bad: BadRow
    advice: str
    kind: str


class DelimitedTable(Table):
    """A table of delimited text. See `open_table` for arguments and errors."""

    def __init__(
        self,
        path: Path,
        format: TableFormat,
        columns: Sequence[str | int],
        lenient: bool = False,
    ):
        super().__init__(path)
        self._format = format
        self._lenient = lenient
        with open_text(path, format.encoding, lenient) as file:
            self._dialect = find_dialect(file, columns, format)
            check_width(path, self._dialect.width)
            in_header = any(map(file.undecoded, self._dialect.names or ()))
        if in_header:
            _check_encoding(path, format.encoding)
        self._indices = self._find_columns(columns)
        if self.missing and (self._dialect.names or [""])[0].startswith('{"'):
            self.missing = [
                f"{path}: the file begins like JSON Lines; if it is, rename it to end in .jsonl"
            ]

    @property
    def names(self) -> list[str]:
        """The names in the header, made different, or the indices of the columns."""
        names = self._dialect.names or map(str, range(self._dialect.width))
        return free_names(name or f"column {index}" for index, name in enumerate(names))

    @property
    def columns(self) -> list[str | int]:
        """The names that occur once in the header, or without one the indices of the columns."""
        names = self._dialect.names
        if names is None:
            return list(range(self._dialect.width))
        counts = Counter(names)
        return [name for name in names if name and counts[name] == 1]

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
        A lenient table is read to its end, and each such line is reported.
        """
        dialect, lenient = self._dialect, self._lenient
        broken = False
        with open_text(self.path, dialect.encoding, lenient) as file:
            records = _records_with_content(file, dialect)
            header = next(records).fields if dialect.names is not None else None
            for record, open_since in _with_remainders(records) if lenient else _alone(records):
                error = self._error(record, open_since, header, file)
                broken = broken or record.fields is None
                if error is not None and (lenient or error.bad.reason != FIELDS or not broken):
                    report_row(errors, self.path, *error)
                yield record, None if error else record.fields
                if record.unclosed and not lenient:
                    return

    def _error(
        self, record: Record, open_since: int | None, header: list[str] | None, file: TextFile
    ) -> _RowError | None:
        """Why a record is not a row; `open_since` as in `_with_remainders`."""
        line, fields = record.line, record.fields
        if fields is None:
            return _RowError(BadRow(line, QUOTES, quote_detail(record)), QUOTE_ADVICE, "quotes")
        if open_since is not None:
            detail = f"may be part of the quoted field that starts on line {open_since}"
            return _RowError(BadRow(line, QUOTES, detail), QUOTE_ADVICE, "quotes")
        if file.lenient and (detail := next(filter(None, map(file.undecoded, fields)), "")):
            return _RowError(BadRow(line, ENCODING, detail), "set encoding", "encoding")
        if len(fields) != self._dialect.width:
            detail, advice = self._wrong_width(record, len(fields))
            if file.lenient and record.last > line:
                detail += f", up to line {record.last}"
            return _RowError(BadRow(line, FIELDS, detail), advice, "fields")
        if fields == header and self._dialect.width > 1:
            detail = "the header is repeated here, as if files were joined"
            return _RowError(BadRow(line, HEADER, detail), "remove the line", "header")
        return None

    def _text(self, field: str, line: int) -> str:
        """A field without the quotes around it and without the mark for spreadsheets."""
        text = unquoted(field) if self._dialect.quoting else field
        plain = unprotected(text)
        if len(plain) < len(text):
            self._findings.add("spreadsheet mark", line, shortened(text))
        return plain

    def _wrong_width(self, record: Record, count: int) -> tuple[str, str]:
        """What is wrong with the number of fields, and what to do."""
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
        return f"{plural(count, 'field')}, {expected}{delimiter}", advice


def _check_encoding(path: Path, encoding: str | None) -> None:
    """Raise `ComityError` at the first byte that does not fit the encoding."""
    with open_text(path, encoding) as file:
        for _ in file.lines():
            pass


def _alone(records: Iterator[Record]) -> Iterator[tuple[Record, None]]:
    return ((record, None) for record in records)


def _with_remainders(records: Iterator[Record]) -> Iterator[tuple[Record, int | None]]:
    """Each record, and the line of a broken quoted field that it is the rest of, or None.

    A single quote inside a quoted field of several lines breaks the field on its first line. The
    lines up to the one that closes the field may look like rows. If the next quote closes nothing,
    the broken line alone is wrong.
    """
    open_since: int | None = None
    waiting: list[Record] = []
    for record in records:
        if open_since is not None:
            closes = _closes(record)
            waiting.append(record)
            if not (closes or _opens(record) or len(waiting) > LONGEST_REMAINDER):
                continue
            yield from [(one, open_since if closes else None) for one in waiting]
            waiting.clear()
            open_since = None
        else:
            yield record, None
        if record.odd:
            open_since = record.line
    yield from [(one, None) for one in waiting]


def _closes(record: Record) -> bool:
    """Whether a field ends with a quote that it does not open."""
    return any(
        field.endswith(QUOTE) and not field.startswith(QUOTE) and field.count(QUOTE) % 2
        for field in (record.fields or ())
    )


def _opens(record: Record) -> bool:
    """Whether a field begins with a quote."""
    return record.fields is None or any(field.startswith(QUOTE) for field in record.fields)


def _records_with_content(file: TextFile, dialect: Dialect) -> Iterator[Record]:
    """The records without blank lines.

    In a table of one column a blank line is an empty text, except at the end of the file.
    """
    blanks: list[Record] = []
    before_header = dialect.names is not None
    first_line = dialect.first_line
    lines = islice(file.lines(), first_line - 1, None)
    longest = LONGEST_FIELD if file.lenient else None
    for record in split_records(lines, dialect.delimiter, dialect.quoting, first_line, longest):
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
