"""Splits delimited text into records and fields.

Python's csv module reads on without an error where a quote is not closed. Here such a record is
marked, and fields keep their quotes so that the caller can tell what they mean.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

QUOTE = '"'

# A quoted field with more characters is taken for one that is not closed, so that one stray quote
# does not read the rest of a large file into memory.
LONGEST_QUOTED = 1_000_000

UP_TO_CLOSING_QUOTE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')


class Record(NamedTuple):
    """One record: its first and last line, its fields as written, and whether they have quotes.

    `fields` is None where a quoted field that opens on `line` is not closed, or where its closing
    quote, on `last`, is followed by text.
    """

    line: int
    last: int
    fields: list[str] | None
    quotes: bool = False


def split_records(lines: Iterable[str], delimiter: str, quoting: bool) -> Iterator[Record]:
    """The records of `lines` (given with their ends), including blank ones.

    After a broken quoted field the next record begins on the line after the one where it opened.
    """
    source = iter(lines)
    if not quoting:
        for number, line in enumerate(source, 1):
            yield Record(number, number, line.rstrip("\r\n").split(delimiter))
        return
    strict = _strict_fields(delimiter)
    waiting = deque[str]()  # lines read ahead in search of a closing quote
    number = 0
    while True:
        line = waiting.popleft() if waiting else next(source, None)
        if line is None:
            return
        number += 1
        if QUOTE not in line:
            yield Record(number, number, line.rstrip("\r\n").split(delimiter))
            continue
        content = line.rstrip("\r\n")
        fields, taken = strict.findall(delimiter + content), []
        if delimiter.join(fields) != content:  # something else than well-formed fields on one line
            fields, taken = _split_quoted(line, delimiter, source, waiting)
        yield Record(number, number + len(taken), fields, True)
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
    text: str, delimiter: str, source: Iterator[str], waiting: deque[str]
) -> tuple[list[str] | None, list[str]]:
    """The fields of the record that begins with line `text`, and its further lines.

    None instead of the fields if a quoted field is not closed or if text follows its end.
    """
    fields: list[str] = []
    taken: list[str] = []
    start = 0
    while True:
        if text.startswith(QUOTE, start):
            inside = start + 1
            while not (closing := UP_TO_CLOSING_QUOTE.match(text, inside)):
                inside = len(text)
                more = waiting.popleft() if waiting else next(source, None)
                if more is None:
                    return None, taken
                taken.append(more)
                text += more
                if len(text) - start > LONGEST_QUOTED:
                    return None, taken
            end = closing.end()
        else:
            end = text.find(delimiter, start)
            if end < 0:
                end = len(text.rstrip("\r\n"))
        fields.append(text[start:end])
        if text.startswith(delimiter, end):
            start = end + 1
        elif text[end : end + 1] in ("", "\r", "\n"):
            return fields, taken
        else:
            return None, taken


def unquoted(field: str) -> str:
    """A field without the quotes that enclose it."""
    return field[1:-1].replace('""', QUOTE) if field.startswith(QUOTE) else field


def column_name(field: str, quoting: bool) -> str:
    """A field of a header as the user writes the column's name."""
    return (unquoted(field) if quoting else field).strip().strip("\ufeff").strip()


def spelled(delimiter: str) -> str:
    """A delimiter as a user would write it in a recipe."""
    return "tab" if delimiter == "\t" else f'"{delimiter}"'
