"""Records of delimited text (CSV, TSV and their like): lines cut into fields, quotes obeyed or not.

Python's own csv module goes on in silence where a quote does not close; here such a record is told
apart, and the fields keep their quotes so that a caller can judge them.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

QUOTE = '"'

# A quoted field longer than this many characters is taken for one that never closes, so that one
# stray quote does not draw the rest of a large file into memory.
LONGEST_QUOTED = 1_000_000

UP_TO_CLOSING_QUOTE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')


class Record(NamedTuple):
    """One record: the lines it spans, its fields as written, and whether they hold quotes.

    `fields` is None where a quoted field that opens on `line` does not close, or where its closing
    quote, on `last`, is followed by text.
    """

    line: int
    last: int
    fields: list[str] | None
    quotes: bool = False


def split_records(lines: Iterable[str], delimiter: str, quoting: bool) -> Iterator[Record]:
    """Records of `lines` (with their ends as written), blank ones among them.

    After a broken quoted field reading goes on with the line after the one where it opened.
    """
    source = iter(lines)
    if not quoting:
        for number, line in enumerate(source, 1):
            yield Record(number, number, line.rstrip("\r\n").split(delimiter))
        return
    strict = _strict_fields(delimiter)
    waiting = deque[str]()  # lines read ahead for a quote that turned out not to close
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
        if delimiter.join(fields) != content:  # not only well-formed fields on one line
            fields, taken = _split_quoted(line, delimiter, source, waiting)
        yield Record(number, number + len(taken), fields, True)
        if fields is None:
            waiting.extendleft(reversed(taken))
        else:
            number += len(taken)


def _strict_fields(delimiter: str) -> re.Pattern[str]:
    """Finds the fields of a line that begins with an extra delimiter and is well formed."""
    mark = re.escape(delimiter)
    end = rf"(?={mark}|\Z)"
    return re.compile(rf'{mark}("[^"]*+(?:""[^"]*+)*+"{end}|[^"{mark}][^{mark}]*+|{end})')


def _split_quoted(
    text: str, delimiter: str, source: Iterator[str], waiting: deque[str]
) -> tuple[list[str] | None, list[str]]:
    """Fields of the record that begins with line `text`, and the further lines that it took.

    None in place of the fields if a quoted field does not close or if text follows its end.
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
    """A field of a header as the name that a user writes."""
    return (unquoted(field) if quoting else field).strip().strip("\ufeff").strip()


def spelled(delimiter: str) -> str:
    """A delimiter as a user would write it in a recipe."""
    return "tab" if delimiter == "\t" else f'"{delimiter}"'
