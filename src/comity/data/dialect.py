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

from comity.data.files import CHUNK_BYTES, text_lines
from comity.data.records import QUOTE, Record, column_name, spelled, split_records
from comity.data.rows import TableFormat
from comity.errors import ComityError

DELIMITERS = (",", ";", "\t", "|")


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
    if best[1] == 0:
        return _unused_delimiter(path, head)
    if len(winners) > 1 and "\t" not in winners:
        raise ComityError(
            f"{path}: the lines can be cut by {' or by '.join(map(spelled, winners))}; set "
            f"delimiter to the right one"
        )
    return "\t" if len(winners) > 1 else winners[0]


def _evidence(
    head: list[str], delimiter: str, columns: Sequence[str | int], format: TableFormat
) -> tuple[int, float]:
    """How many of the asked columns there would be, and which share of the records would have the
    most common number of fields (0 where that number is one)."""
    found, share = 0, 0.0
    for quoting in (True, False):
        if format.quoting not in (None, quoting):
            continue
        records = [r.fields for r in split_records(head, delimiter, quoting) if r.fields != [""]]
        width, count = Counter(len(fields or ()) for fields in records).most_common(1)[0]
        if width > 1:
            share = max(share, count / len(records))
        if format.header:
            names = {column_name(field, quoting) for field in records[0] or ()}
            found = max(found, sum(str(column).strip() in names for column in columns))
        else:
            found = max(found, sum(int(c) < width for c in columns if str(c).isdecimal()))
    return found, share


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

    cut: Counter[int]  # fields per line, quotes being text
    enclosed: Counter[int]  # fields per record, quotes enclosing fields
    broken: int = 0  # quoted fields that do not close, or not before a delimiter
    plain: int = 0  # records with a quote inside a field that none opens
    quoted: int = 0  # fields in quotes
    doubled: int = 0  # fields in quotes with doubled quotes inside
    prose: bool = True  # in fields of several lines each delimiter is followed by a blank
    glued: Record | None = None  # the first record of several lines


def finds_quoting(path: Path, encoding: str, delimiter: str) -> bool:
    """Whether quotes enclose fields. Raises `ComityError` where it cannot be told."""
    if not _holds_quotes(path):
        return False
    survey = _survey(path, encoding, delimiter)
    uniform = len(survey.cut) <= 1
    clean = survey.broken == 0 and len(survey.enclosed) <= 1
    if not uniform:
        # Only quoting can explain clean records; else the reading with fewer faults is reported.
        odd = sum(survey.enclosed.values()) - max(survey.enclosed.values(), default=0)
        return clean or survey.broken + odd <= survey.cut.total() - max(survey.cut.values())
    if survey.doubled:
        return True
    if not clean or survey.plain:
        # The lines are even without quoting and the quotes do not fit: text, unless most rows have
        # fields in quotes, and then the few that do not fit are faults.
        return 2 * survey.quoted > survey.enclosed.total()
    if survey.glued is None or (survey.prose and delimiter != "\t" and max(survey.cut) > 1):
        return True
    raise ComityError(
        f"{path}:{survey.glued.line}: a quote opens a field here and closes on line "
        f"{survey.glued.last}, but each line also reads as a row of its own; set quoting = false "
        f"if quotes are text, or quoting = true if fields span lines"
    )


def _survey(path: Path, encoding: str, delimiter: str) -> Survey:
    survey = Survey(Counter(), Counter())

    def counted() -> Iterator[str]:
        for line in text_lines(path, encoding):
            if line not in ("\n", "\r\n", "\r"):
                survey.cut[line.count(delimiter) + 1] += 1
            yield line

    for record in split_records(counted(), delimiter, quoting=True):
        fields = record.fields
        if fields is None:
            survey.broken += 1
            continue
        if fields == [""]:
            continue
        survey.enclosed[len(fields)] += 1
        for field in fields:
            if not field.startswith(QUOTE):
                survey.plain += QUOTE in field
                continue
            survey.quoted += 1
            survey.doubled += '""' in field[1:-1]
        if record.last > record.line:
            survey.glued = survey.glued or record
            survey.prose = survey.prose and _looks_like_prose(fields, delimiter)
    return survey


def _looks_like_prose(fields: list[str], delimiter: str) -> bool:
    """Whether the delimiters in fields of several lines stand as in sentences, before a blank,
    and those between fields do not: then the former are no forgotten ends of fields."""
    inside = re.compile(re.escape(delimiter) + r"(?!\s)")
    if any(field[:1].isspace() for field in fields[1:]):
        return False
    return not any(re.search(r"[\r\n]", field) and inside.search(field) for field in fields)
