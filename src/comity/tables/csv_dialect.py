"""What delimited text means: which delimiter, and whether quotes enclose fields.

A quote that opens a field may also be an ordinary character, as in files that were never quoted.
Both readings are held against the whole file; where they cannot be told apart the user is asked,
because the wrong one glues lines together without a word.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from comity.errors import ComityError
from comity.tables.csv_records import QUOTE, Record, column_name, spelled, split_records
from comity.tables.rows import TableFormat
from comity.tables.text_files import CHUNK_BYTES, text_lines

DELIMITERS = (",", ";", "\t", "|")

# So many records that only quotes explain settle it; the rest of the file need not be looked at.
ENOUGH_PROOFS = 1000


def find_delimiter(
    path: Path, head: list[str], columns: Sequence[str | int], format: TableFormat
) -> str:
    if format.delimiter is not None:
        delimiter = "\t" if format.delimiter in ("tab", "\\t") else format.delimiter
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise ComityError(
                f'{path}: delimiter = "{format.delimiter}" is not one character; write ",", ";", '
                f'"|" or "tab"'
            )
        return delimiter
    evidence = {d: _evidence(head, d, columns, format) for d in DELIMITERS}
    best = max(evidence.values())
    winners = [d for d in DELIMITERS if evidence[d] == best]
    if best[1] == 0 and sum(found == best[0] for found, _, _ in evidence.values()) > 1:
        return _unused_delimiter(path, head)
    if len(winners) > 1 and "\t" not in winners:
        raise ComityError(
            f"{path}: the lines can be cut by {' or by '.join(map(spelled, winners))}; set "
            f"delimiter to the right one"
        )
    delimiter = "\t" if "\t" in winners else winners[0]
    prose = delimiter != "\t" and not any(re.search(re.escape(delimiter) + r"\S", x) for x in head)
    if prose and not format.header:
        raise ComityError(
            f"{path}: each {spelled(delimiter)} stands before a blank, as in prose; set delimiter "
            f'to "{delimiter}" if it ends a field, or to "tab" if each line is one text'
        )
    return delimiter


def _evidence(
    head: list[str], delimiter: str, columns: Sequence[str | int], format: TableFormat
) -> tuple[int, float, float]:
    """How many of the asked columns there would be; which share of the records would have the most
    common number of fields (0 where that is one); in which share quotes would stand as in CSV."""
    found, share, fitting = 0, 0.0, 0.0
    for quoting in (True, False):
        if format.quoting not in (None, quoting):
            continue
        records = [r.fields for r in split_records(head, delimiter, quoting) if r.fields != [""]]
        width, count = Counter(len(fields or ()) for fields in records).most_common(1)[0]
        if width > 1:
            share = max(share, count / len(records))
        if quoting:
            fitting = sum(map(_quotes_fit, records)) / len(records)
        if format.header:
            names = {column_name(field, quoting) for field in records[0] or ()}
            found = max(found, sum(str(column).strip() in names for column in columns))
        else:
            found = max(found, sum(int(c) < width for c in columns if str(c).isdecimal()))
    return found, share, fitting


def _quotes_fit(fields: list[str] | None) -> bool:
    return fields is not None and not any(QUOTE in f and f[0] != QUOTE for f in fields)


def _unused_delimiter(path: Path, head: list[str]) -> str:
    """For a table of one column: a delimiter that cuts no line, the ending's usual one first."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    for delimiter in (usual, "\t", "|", ";", ","):
        for quoting in (True, False):
            if all(len(r.fields or ()) == 1 for r in split_records(head, delimiter, quoting)):
                return delimiter
    return usual


def _holds_quotes(path: Path) -> bool:
    """Whether the byte of a quote stands anywhere: most files need no closer look."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            if b'"' in chunk:
                return True
    return False


@dataclass
class Survey:
    """What the two readings of a file's quotes look like over all its lines."""

    records: int = 0
    odd_records: int = 0  # with another number of fields than most, quotes enclosing fields
    odd_lines: int = 0  # the same of lines, quotes being text
    broken: int = 0  # records with a quoted field that does not close, or not before a delimiter
    plain: int = 0  # fields with a quote inside that none opens
    quoted: int = 0  # fields in quotes
    proofs: int = 0  # records that only quotes explain
    doubts: int = 0  # records of several lines, each of which also reads as a row
    first_doubt: Record | None = None


def finds_quoting(path: Path, encoding: str, delimiter: str, head: list[str]) -> bool:
    """Whether quotes enclose fields. Raises `ComityError` where it cannot be told."""
    if not _holds_quotes(path):
        return False
    records = [r.fields for r in split_records(head, delimiter, True) if r.fields != [""]]
    widths = Counter(len(fields) for fields in records if fields)
    width = widths.most_common(1)[0][0] if widths else head[0].count(delimiter) + 1
    survey = _survey(path, encoding, delimiter, width)
    if survey.proofs > survey.doubts:
        return True  # and what does not fit is a fault
    contradicted = survey.broken or survey.plain or survey.odd_records > survey.odd_lines
    # With commas or semicolons quotes are the custom, so one that does not fit is a fault; with
    # tabs it makes all of them text, unless most rows have fields in quotes.
    if contradicted and delimiter not in ",;" and 2 * survey.quoted <= survey.records:
        return False
    if survey.first_doubt:
        line, last = survey.first_doubt.line, survey.first_doubt.last
        raise ComityError(
            f"{path}:{line}: a quote opens a field here and closes on line {last}, but each line "
            f"also reads as a row of its own; set quoting = false if quotes are text, or quoting = "
            f"true if fields span lines"
        )
    return True


def _survey(path: Path, encoding: str, delimiter: str, width: int) -> Survey:
    survey = Survey()

    def counted() -> Iterator[str]:
        for line in text_lines(path, encoding):
            if line.count(delimiter) + 1 != width and line not in ("\n", "\r\n", "\r"):
                survey.odd_lines += 1
            yield line

    for record in split_records(counted(), delimiter, quoting=True):
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
            _look_at_quotes(survey, record, fields, delimiter, width)
            if survey.proofs - survey.doubts >= ENOUGH_PROOFS:
                break
    return survey


def _look_at_quotes(
    survey: Survey, record: Record, fields: list[str], delimiter: str, width: int
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
    """Whether the delimiters in fields of several lines stand as in sentences, before a blank,
    and those between fields do not: then the former are no forgotten ends of fields."""
    if any(field[:1].isspace() for field in fields[1:]):
        return False
    inside = re.compile(re.escape(delimiter) + r"(?!\s)")
    return not any(re.search(r"[\r\n]", field) and inside.search(field) for field in fields)
