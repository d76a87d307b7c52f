"""Finds the dialect of delimited text: its delimiter, and whether quotes enclose fields.

A quote that opens a field may also be an ordinary character, as in files that were never quoted.
Both readings are compared over the whole file. Where the file fits both, the user must decide,
because the wrong reading joins lines without any error.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from comity.errors import ComityError
from comity.tables.csv_records import QUOTE, Record, column_name, spelled, split_records
from comity.tables.rows import TableFormat, name_key
from comity.tables.text_files import TextFile

HEAD_LINES = 200
DELIMITERS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'sep=([^\w"\r\n])[\r\n]*', re.IGNORECASE)
"""The line with which a CSV file tells Excel its delimiter. It comes first and is not a row."""

# After this many records that only quotes explain, the rest of the file is not looked at.
ENOUGH_PROOFS = 1000


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is read. `names` are those of the header, stripped."""

    encoding: str
    delimiter: str
    quoting: bool
    names: list[str] | None
    first_line: int  # where records begin: 2 after a line such as `sep=;`
    header_line: int  # line of the first record
    width: int  # fields of a row


def find_dialect(file: TextFile, columns: Sequence[str | int], format: TableFormat) -> Dialect:
    """Find out how to read a file, except for what `format` sets.

    `columns` are used as evidence only; they need not exist. Raises `ComityError` for an empty
    file, and where the delimiter or the meaning of quotes is ambiguous.
    """
    path = file.path
    head = list(islice(file.lines(), HEAD_LINES))
    separator = SEPARATOR_LINE.fullmatch(head[0]) if head else None
    first_line = 2 if separator else 1
    head = head[first_line - 1 :]
    empty = ComityError(f"{path}: the file is empty; add rows, or name another file")
    if not any(line.strip("\r\n") for line in head):
        raise empty
    if separator and format.delimiter is None:
        delimiter = separator[1]
    else:
        delimiter = _find_delimiter(path, head, columns, format)
    quoting = format.quoting
    if quoting is None:
        quoting = _find_quoting(file, delimiter, head, first_line)
    records = _head_records(head, delimiter, quoting, first_line)
    if not records:  # a second byte-order mark and nothing else
        raise empty
    first = records[0]
    names = None
    if format.header:
        if first.fields is None:
            raise ComityError(broken_quote(path, first))
        names = [column_name(field, quoting) for field in first.fields]
        width = len(names)
    else:
        widths = Counter(len(record.fields) for record in records if record.fields)
        if not widths:
            raise ComityError(broken_quote(path, first))
        width = widths.most_common(1)[0][0]
    return Dialect(file.encoding, delimiter, quoting, names, first_line, first.line, width)


QUOTE_ADVICE = (
    "close the quote, double the quotes inside the field, or set quoting = false to read quotes as "
    "text"
)


def broken_quote(path: Path, record: Record) -> str:
    """The message for a record with a quoted field that is not closed or is followed by text."""
    return f"{path}:{record.line}: {quote_detail(record)}; {QUOTE_ADVICE}"


def quote_detail(record: Record) -> str:
    """What is wrong with such a record."""
    if record.unclosed:
        return "a quoted field starts here and is not closed by the end of the file"
    on = "" if record.last == record.line else f" on line {record.last}"
    return f"a quoted field starts here, and its closing quote{on} is followed by text"


def _head_records(
    head: list[str], delimiter: str, quoting: bool, first_line: int = 1
) -> list[Record]:
    """The records of the first lines, up to one that may be closed only after them.

    The lines of a text in quotes that is longer than `head` are then not taken for records.
    """
    records = split_records(head, delimiter, quoting, first_line)
    found = [record for record in records if record.fields != [""]]
    if first_line - 1 + len(head) == HEAD_LINES:
        cut = next((i for i, record in enumerate(found) if record.unclosed), len(found))
        found = found[: max(1, cut)]
    return found


# --- the delimiter --------------------------------------------------------------------------------


def _find_delimiter(
    path: Path, head: list[str], columns: Sequence[str | int], format: TableFormat
) -> str:
    if format.delimiter is not None:
        return _declared_delimiter(path, format.delimiter)
    evidence = {d: _evidence(head, d, columns, format) for d in DELIMITERS}
    best = max(evidence.values())
    winners = [d for d in DELIMITERS if evidence[d] == best]
    equally_found = [e for e in evidence.values() if e.columns_found == best.columns_found]
    if best.regular_share == 0 and len(equally_found) > 1:
        return _unused_delimiter(path, head)
    if len(winners) > 1 and "\t" not in winners:
        raise ComityError(
            f"{path}: the delimiter could be {' or '.join(map(spelled, winners))}; set delimiter "
            f"to the right one"
        )
    delimiter = "\t" if "\t" in winners else winners[0]
    prose = delimiter != "\t" and not any(re.search(re.escape(delimiter) + r"\S", x) for x in head)
    if prose and not format.header:
        raise ComityError(
            f"{path}: every {spelled(delimiter)} is followed by a space, as in prose; set "
            f'delimiter to "{delimiter}" if it ends a field, or to "tab" if each line is one text'
        )
    return delimiter


def _declared_delimiter(path: Path, declared: str) -> str:
    delimiter = "\t" if declared in ("tab", "\\t") else declared
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ComityError(
            f'{path}: delimiter = "{declared}" is not one character; write ",", ";", "|" or "tab"'
        )
    return delimiter


class _Evidence(NamedTuple):
    """How well a delimiter explains the first lines; compared field by field, in this order."""

    columns_found: int  # of the chosen columns
    regular_share: float  # of records with the most common number of fields; 0 if that is one
    quoted_share: float  # of records whose quotes enclose fields


def _evidence(
    head: list[str], delimiter: str, columns: Sequence[str | int], format: TableFormat
) -> _Evidence:
    """The better of what both readings of quotes give, field by field."""
    found, share, fitting = 0, 0.0, 0.0
    for quoting in (True, False):
        if format.quoting not in (None, quoting):
            continue
        records = [record.fields for record in _head_records(head, delimiter, quoting)]
        if not records:
            continue
        width, count = Counter(len(fields or ()) for fields in records).most_common(1)[0]
        if width > 1:
            share = max(share, count / len(records))
        if quoting:
            fitting = sum(map(_quotes_fit, records)) / len(records)
        if format.header:
            names = {name_key(column_name(field, quoting)) for field in records[0] or ()}
            found = max(found, sum(name_key(column) in names for column in columns))
        else:
            found = max(found, sum(int(c) < width for c in columns if str(c).isdecimal()))
    return _Evidence(found, share, fitting)


def _quotes_fit(fields: list[str] | None) -> bool:
    return fields is not None and not any(QUOTE in f and f[0] != QUOTE for f in fields)


def _unused_delimiter(path: Path, head: list[str]) -> str:
    """For a table of one column: a delimiter that occurs in no line, the usual one first."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    for delimiter in (usual, "\t", "|", ";", ","):
        for quoting in (True, False):
            if all(len(r.fields or ()) == 1 for r in split_records(head, delimiter, quoting)):
                return delimiter
    return usual


# --- quotes ---------------------------------------------------------------------------------------


@dataclass
class _Survey:
    """Counts over all lines of a file of what fits either reading of its quotes."""

    records: int = 0
    odd_records: int = 0  # with an unusual number of fields, where quotes enclose fields
    odd_lines: int = 0  # lines with an unusual number of fields, where quotes are text
    broken: int = 0  # records with a quoted field that is not closed, or not before a delimiter
    plain: int = 0  # fields with a quote inside and none at the start
    quoted: int = 0  # fields in quotes
    proofs: int = 0  # records that only quotes explain
    doubts: int = 0  # records of several lines, each of which could also be a row
    first_doubt: Record | None = None


def _find_quoting(file: TextFile, delimiter: str, head: list[str], first_line: int) -> bool:
    """Whether quotes enclose fields. Raises `ComityError` where that is ambiguous."""
    if not file.contains(b'"'):
        return False
    records = _head_records(head, delimiter, True)
    widths = Counter(len(record.fields) for record in records if record.fields)
    width = widths.most_common(1)[0][0] if widths else head[0].count(delimiter) + 1
    survey = _survey(file, delimiter, width, first_line)
    if survey.proofs > survey.doubts:
        return True  # records that do not fit are then errors
    contradicted = survey.broken or survey.plain or survey.odd_records > survey.odd_lines
    # With commas or semicolons quotes usually enclose fields, so one that does not fit is an error;
    # with tabs it makes all of them text, unless most rows have fields in quotes.
    if contradicted and delimiter not in ",;" and 2 * survey.quoted <= survey.records:
        return False
    if survey.first_doubt:
        line, last = survey.first_doubt.line, survey.first_doubt.last
        raise ComityError(
            f"{file.path}:{line}: a quoted field starts here and ends on line {last}, but each "
            f"line could also be a row; set quoting = false if quotes are text, or quoting = true "
            f"if fields span lines"
        )
    return True


def _survey(file: TextFile, delimiter: str, width: int, first_line: int) -> _Survey:
    survey = _Survey()

    def counted() -> Iterator[str]:
        for line in islice(file.lines(), first_line - 1, None):
            if line.count(delimiter) + 1 != width and line not in ("\n", "\r\n", "\r"):
                survey.odd_lines += 1
            yield line

    for record in split_records(counted(), delimiter, True, first_line):
        fields = record.fields
        if fields == [""]:
            continue
        survey.records += 1
        if fields is None:
            survey.broken += 1
            continue
        if len(fields) != width:
            survey.odd_records += 1
        if record.quotes:
            _count_quotes(survey, record, fields, delimiter, width)
            if survey.proofs - survey.doubts >= ENOUGH_PROOFS:
                break
    return survey


def _count_quotes(
    survey: _Survey, record: Record, fields: list[str], delimiter: str, width: int
) -> None:
    quoted = [field for field in fields if field[:1] == QUOTE]
    text = delimiter.join(fields)
    if len(quoted) < len(fields):
        survey.plain += sum(QUOTE in field for field in fields) - len(quoted)
    if not quoted:
        return
    survey.quoted += len(quoted)
    several = record.last > record.line
    lines = [line for line in re.split(r"[\r\n]+", text) if line] if several else [text]
    rows = all(line.count(delimiter) + 1 == width for line in lines)
    if len(fields) == width and not rows:
        survey.proofs += 1
    elif len(fields) == width and several:
        if delimiter == "\t" or width == 1 or not _looks_like_prose(fields, delimiter):
            survey.doubts += 1
            survey.first_doubt = survey.first_doubt or record
    elif '""' in text and any('""' in field[1:-1] and field.strip(QUOTE) for field in quoted):
        survey.proofs += 1


def _looks_like_prose(fields: list[str], delimiter: str) -> bool:
    """Whether delimiters inside fields of several lines are followed by a space, and others not.

    Then those inside are punctuation, not the ends of fields whose quotes were forgotten.
    """
    if any(field[:1].isspace() for field in fields[1:]):
        return False
    inside = re.compile(re.escape(delimiter) + r"(?!\s)")
    return not any(re.search(r"[\r\n]", field) and inside.search(field) for field in fields)
