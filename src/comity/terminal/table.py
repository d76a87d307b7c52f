"""A table that fits the terminal without cutting a number."""

from collections.abc import Iterator

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

WINNER, LOSER = "bold green", "red"
"""Styles of results."""

FOLDED = 24
"""Characters that a column of text may be narrowed to."""

BESIDE = 12
"""Characters that a cell needs beside its heading; otherwise it is printed below."""


class Table(rich.table.Table):
    """A table that narrows its columns to fit, but not below a word: no number is ever cut.

    Long words of left-aligned columns are the exception, they are folded. Where that is not enough,
    the rows are printed one below the other, with one cell per line.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        widths, least = (list(map(size, self.columns)) for size in (_widest, _narrowest))
        if _framed(least) > width:
            yield from self._records(console, width)
            return
        while _framed(widths) > width:
            slack = [now - lowest for now, lowest in zip(widths, least, strict=True)]
            widths[slack.index(max(slack))] -= 1
        for column, size in zip(self.columns, widths, strict=True):
            column.width, column.no_wrap, column.overflow = size, False, "fold"
        yield from super().__rich_console__(console, options)

    def _records(self, console: Console, width: int) -> Iterator[Text]:
        """The rows one below the other: "heading  cell" lines, and an empty line between rows."""
        if self.title:
            yield _text(self.title)
        headings = [_text(column.header).plain for column in self.columns]
        indent = max(map(len, headings), default=0) + 2
        rows = list(zip(*(column.cells for column in self.columns), strict=True))
        numbers = [c for c in self.columns if c.justify == "right"]
        widest = max((_text(cell).cell_len for c in numbers for cell in c.cells), default=0)
        beside = indent + max(widest, BESIDE) <= width
        first = Text()
        for number, row in enumerate(rows):
            if number:
                yield Text()
            first = _text(row[0]) if _text(row[0]).plain else first  # as in the row above
            row = (first, *row[1:])
            for heading, cell in zip(headings, map(_text, row), strict=True):
                if not cell.plain:
                    continue
                if not beside:
                    yield Text(heading)
                start = indent if beside else 2
                label = heading if beside else ""
                for line in cell.wrap(console, max(width - start, 1), overflow="fold"):
                    yield Text(label.ljust(start)) + line
                    label = ""


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _widest(column: rich.table.Column) -> int:
    """The width at which nothing in a column wraps."""
    cells = [_text(cell).cell_len for cell in column.cells]
    return max([_text(column.header).cell_len, *cells])


def _narrowest(column: rich.table.Column) -> int:
    """The width at which a column is still readable: that of its longest word."""
    texts = map(_text, (column.header, *column.cells))
    longest = max((Text(word).cell_len for text in texts for word in text.plain.split()), default=1)
    return longest if column.justify == "right" else min(longest, FOLDED)


def _framed(widths: list[int]) -> int:
    """The width of a table with columns of these widths, its lines and spaces included."""
    return sum(widths) + 3 * len(widths) + 1
