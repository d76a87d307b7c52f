"""Splits delimited text into records and fields.

Python's csv module reads on without an error where a quote is not closed. Here such a record is
marked, and fields keep their quotes so that the caller can tell what they mean.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from comity.tables.spreadsheets import unprotected

QUOTE = '"'

BYTE_ORDER_MARK = "\ufeff"

UP_TO_CLOSING_QUOTE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')


class Record(NamedTuple):
    """One record: its first and last line, its fields as written, and whether they have quotes.

    `fields` is None where a quoted field that opens on `line` is not closed by the end of the file
    (`unclosed`), or where its closing quote, on `last`, is followed by text. `odd`: its first line
    has an odd number of quotes, so that the next lines may belong to the field.
    """

    line: int
    last: int
    fields: list[str] | None
    quotes: bool = False
    unclosed: bool = False
    odd: bool = False


def split_records(
    lines: Iterable[str],
    delimiter: str,
    quoting: bool,
    first_line: int = 1,
    longest: int | None = None,
) -> Iterator[Record]:
    """The records of `lines` (given with their ends), including blank ones.

    `first_line` is the number of the first of them. A quoted field of more than `longest` lines
    counts as not closed.

    After a broken quoted field the next record begins on the line after the one where it opened.
    A byte order mark at the start of a record, as in files that were joined, is dropped.
    """
    source = iter(lines)
    if not quoting:
        for number, line in enumerate(source, first_line):
            content = line.removeprefix(BYTE_ORDER_MARK).rstrip("\r\n")
            yield Record(number, number, content.split(delimiter))
        return
    strict = _strict_fields(delimiter)
    waiting = deque[str]()  # lines read ahead in search of a closing quote
    number = first_line - 1
    while True:
        line = waiting.popleft() if waiting else next(source, None)
        if line is None:
            return
        number += 1
        line = line.removeprefix(BYTE_ORDER_MARK)
        if QUOTE not in line:
            yield Record(number, number, line.rstrip("\r\n").split(delimiter))
            continue
        content = line.rstrip("\r\n")
        fields, taken, unclosed = strict.findall(delimiter + content), [], False
        if delimiter.join(fields) != content:  # something else than well-formed fields on one line
            fields, taken, unclosed = _split_quoted(line, delimiter, source, waiting, longest)
        odd = fields is None and line.count(QUOTE) % 2 == 1
        yield Record(number, number + len(taken), fields, True, unclosed, odd)
        if fields is None:
            waiting.extendleft(reversed(taken))
        else:
            number += len(taken)


def _strict_fields(delimiter: str) -> re.Pattern[str]:
    """A pattern that finds the fields of a well-formed line after an extra delimiter."""
    mark = re.escape(delimiter)
    end = rf"(?={mark}|\Z)"
    return re.compile(rf'{mark}("[^"]*+(?:""[^"]*+)*+"{end}|[^"{mark}][^{mark}]*+|{end})')


def _split_quoted(
    text: str,
    delimiter: str,
    source: Iterator[str],
    waiting: deque[str],
    longest: int | None,
) -> tuple[list[str] | None, list[str], bool]:
    """The fields of the record that begins with line `text`, its further lines, and `unclosed`.

    None instead of the fields if a quoted field is not closed or if text follows its end.
    """
    fields: list[str] = []
    taken: list[str] = []
    start = 0
    while True:
        if text.startswith(QUOTE, start):
            inside = start + 1
            parts = [text]
            while not (closing := UP_TO_CLOSING_QUOTE.match(parts[-1], inside)):
                inside = 0
                if longest is not None and len(taken) >= longest:
                    return None, taken, True
                more = waiting.popleft() if waiting else next(source, None)
                if more is None:
                    return None, taken, True
                taken.append(more)
                parts.append(more)
            end = sum(map(len, parts[:-1])) + closing.end()
            text = "".join(parts)
        else:
            end = text.find(delimiter, start)
            if end < 0:
                end = len(text.rstrip("\r\n"))
        fields.append(text[start:end])
        if text.startswith(delimiter, end):
            start = end + 1
        elif text[end : end + 1] in ("", "\r", "\n"):
            return fields, taken, False
        else:
            return None, taken, False


def unquoted(field: str) -> str:
    """A field without the quotes that enclose it."""
    return field[1:-1].replace('""', QUOTE) if field.startswith(QUOTE) else field


def column_name(field: str, quoting: bool) -> str:
    """A field of a header as the user writes the column's name."""
    name = unprotected(unquoted(field) if quoting else field)
    return name.strip().strip(BYTE_ORDER_MARK).strip()


def spelled(delimiter: str) -> str:
    """A delimiter as a user would write it in a recipe."""
    return "tab" if delimiter == "\t" else f'"{delimiter}"'
