"""Delimited text (CSV, TSV and their like): the asked columns of each row, or its fault."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from comity.errors import ComityError, ErrorList, nearest
from comity.tables.csv_dialect import find_delimiter, finds_quoting
from comity.tables.csv_records import QUOTE, Record, column_name, spelled, split_records, unquoted
from comity.tables.rows import Position, TableFormat, quoted_list, shown
from comity.tables.text_files import find_encoding, text_lines

HEAD_LINES = 200


@dataclass(frozen=True)
class Layout:
    """What a file turned out to be. `names` are the header's, stripped; `width` counts fields."""

    first_line: int  # where the first record stands
    encoding: str
    delimiter: str
    quoting: bool
    names: list[str] | None
    width: int


def delimited_rows(
    path: Path, columns: Sequence[str | int], format: TableFormat, errors: ErrorList
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and values of each good row; errors of single rows are added to `errors`.

    Raises `ComityError` where the file cannot be read at all.
    """
    layout = find_layout(path, columns, format)
    positions = _positions(path, columns, layout)
    records = _content(path, layout)
    header = next(records).fields if layout.names is not None else None
    rows = 0
    for record in records:
        rows += 1
        line, fields = record.line, record.fields
        if fields is None or len(fields) != layout.width:
            errors.add(_bad_record(path, record, layout, format))
        elif fields == header and layout.width > 1:
            errors.add(
                f"{path}:{line}: the header stands here again, as in files glued together; "
                f"remove the line"
            )
        elif layout.quoting:
            yield line, tuple([unquoted(fields[place]) for place in positions])
        else:
            yield line, tuple([fields[place] for place in positions])
    if rows == 0:
        raise ComityError(f"{path}: the file has a header and no rows; add rows to it")


def find_layout(path: Path, columns: Sequence[str | int], format: TableFormat) -> Layout:
    """Find out, or take from `format`, how to read the file; `columns` are evidence, no demand.

    Raises `ComityError` for an empty file, and where the delimiter or the meaning of quotes
    cannot be told.
    """
    encoding = find_encoding(path, format.encoding)
    head = list(islice(text_lines(path, encoding), HEAD_LINES))
    if not any(line.strip("\r\n") for line in head):
        raise ComityError(f"{path}: the file is empty; give a file with rows")
    delimiter = find_delimiter(path, head, columns, format)
    quoting = format.quoting
    if quoting is None:
        quoting = finds_quoting(path, encoding, delimiter, head)
    records = [r for r in split_records(head, delimiter, quoting) if r.fields != [""]]
    names = None
    if format.header:
        if records[0].fields is None:
            raise ComityError(_broken_quote(path, records[0]))
        names = [column_name(field, quoting) for field in records[0].fields]
        width = len(names)
    else:
        widths = Counter(len(record.fields) for record in records if record.fields)
        if not widths:
            raise ComityError(_broken_quote(path, records[0]))
        width = widths.most_common(1)[0][0]
    return Layout(records[0].line, encoding, delimiter, quoting, names, width)


def _content(path: Path, layout: Layout) -> Iterator[Record]:
    """The records without blank lines, which say nothing.

    In a table of one column a blank line is an empty text, except at the end of the file.
    """
    lines = text_lines(path, layout.encoding)
    blanks: list[Record] = []
    before_header = layout.names is not None
    for record in split_records(lines, layout.delimiter, layout.quoting):
        if record.fields == [""]:
            if layout.width == 1 and not before_header:
                blanks.append(record)
            continue
        before_header = False
        if blanks:
            yield from blanks
            blanks.clear()
        yield record


def _broken_quote(path: Path, record: Record) -> str:
    if record.last == record.line:
        what = "a quote opens a field here and its closing quote is missing or followed by text"
    else:
        what = f"a quote opens a field here and does not close rightly up to line {record.last}"
    return (
        f"{path}:{record.line}: {what}; close it, double the quotes inside, or set quoting = false "
        f"to read quotes as text"
    )


def _bad_record(path: Path, record: Record, layout: Layout, format: TableFormat) -> str:
    line, last, fields = record.line, record.last, record.fields
    if fields is None:
        return _broken_quote(path, record)
    count = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
    expected = f"the header has {layout.width}" if layout.names else f"most have {layout.width}"
    advice = "mend the line or quote a text that holds the delimiter"
    if any(field.startswith(QUOTE) for field in fields):
        where = f" (a quoted field ends on line {last})" if last > line else ""
        other = "false if quotes are text" if layout.quoting else "true if quotes enclose fields"
        advice = f"mend the line{where}, or set quoting = {other}"
    elif len(fields) == layout.width + 1 and fields[-1] == "":
        advice = "remove the delimiter at the end of the lines, or end the header with one too"
    elif layout.width == 1:
        advice = 'set delimiter = "tab" if each line is one text, or name all columns in the header'
    delimiter = "" if format.delimiter else f" (delimiter {spelled(layout.delimiter)})"
    return f"{path}:{line}: {count}, {expected}{delimiter}; {advice}"


def _positions(path: Path, columns: Sequence[str | int], layout: Layout) -> list[int]:
    """Where the asked columns stand. Raises `ComityError` if one is missing."""
    positions: list[int] = []
    errors: list[str] = []
    for column in columns:
        if isinstance(column, Position) and column < layout.width:
            positions.append(int(column))
            continue
        if layout.names is None:
            text = str(column)
            if text.isdecimal() and int(text) < layout.width:
                positions.append(int(text))
            else:
                errors.append(
                    f'{path}: no column "{column}"; without a header the columns are numbered from '
                    f"0 to {layout.width - 1}"
                )
            continue
        places = [i for i, name in enumerate(layout.names) if name == str(column).strip()]
        if len(places) == 1:
            positions.append(places[0])
        elif places:
            errors.append(
                f'{path}:{layout.first_line}: the header holds "{column}" {len(places)} times; '
                f"rename one of the columns {places}"
            )
        else:
            errors.append(_missing(path, column, layout))
    if errors:
        raise ComityError(*errors)
    return positions


def _missing(path: Path, column: str | int, layout: Layout) -> str:
    names = [shown(name) for name in layout.names or []]
    if isinstance(column, int):
        return (
            f"{path}:{layout.first_line}: column {column} is a position, but the first line is "
            f"read as a header ({quoted_list(names)}); set header = false or give a name"
        )
    alone = f", one field with the delimiter {spelled(layout.delimiter)}" if len(names) == 1 else ""
    return (
        f'{path}:{layout.first_line}: no column "{column}"{nearest(column, names)}; the first line '
        f"holds {quoted_list(names)}{alone}; set header = false if it is a row already"
    )
