"""Names the rows of a table in messages: by file and line, or by table in memory and index."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.format import some

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # the class of this system


class FramePath(_Path):
    """The name of a table in memory, with the table; it goes wherever the path of a file goes.

    `open_table` reads the table. `comity.tables.frames.frame_path` makes one.
    """

    frame: Any = None
    title: str = ""
    """What messages call the table; a path would lose a slash of "hf://"."""
    rows: tuple[str, str] = ("row", "rows")
    """What messages call one row and several; their numbers are those of `row_labels`."""

    def __str__(self) -> str:
        return self.title or super().__str__()


class PartsPath(_Path):
    """The name of one table in several files, its parts; it goes wherever a file's path goes.

    A row of it has one number for its part and its line, see `part_line`.
    `comity.tables.parts.table_path` makes one.
    """

    title: str = ""
    """What messages call all parts together."""
    files: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    """The files as the recipe names them, or as they match its pattern."""

    def __str__(self) -> str:
        return self.title

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartsPath) and self.files == other.files

    def __hash__(self) -> int:
        return hash(self.files)


PART = 10**12
"""The first line of the second part is `PART + 1`, that of the third `2 * PART + 1`."""


def part_line(part: int, line: int) -> int:
    """A line of a part, counted from 0, as one number."""
    return part * PART + line


def file_and_line(path: Path, line: int) -> tuple[Path, int]:
    """The file of a row and its line there."""
    if not isinstance(path, PartsPath):
        return path, line
    part, own = divmod(line, PART)
    return path.files[part], own


def row_name(path: Path, line: int) -> int | str:
    """A row in records of a run: its line, or in a table of several files "part-2.csv:3"."""
    if not isinstance(path, PartsPath):
        return line
    part, own = divmod(line, PART)
    return f"{path.names[part]}:{own}"


def file_text(file: str | Sequence[str]) -> str:
    """A recipe's file, or list of files, on one line.

    >>> file_text(["a.csv", "b.csv"])
    'a.csv, b.csv'
    """
    return file if isinstance(file, str) else ", ".join(file)


def location(path: Path, line: int) -> str:
    """Where a row is.

    >>> location(Path("data.csv"), 3), location(FramePath("DataFrame of mood dev"), 3)
    ('data.csv:3', 'DataFrame of mood dev, row 3')
    """
    path, line = file_and_line(path, line)
    return f"{path}, {row_list(path, [line])}" if isinstance(path, FramePath) else f"{path}:{line}"


def locations(path: Path, lines: Sequence[int], count: int, most: int = 10) -> str:
    """Where `count` rows are, of which the first are given.

    >>> locations(Path("data.csv"), [3], 1), locations(Path("data.csv"), [3, 7], 14)
    ('data.csv:3', 'data.csv, lines 3, 7 and 12 more')
    """
    if count == 1:
        return location(path, lines[0])
    rows = row_list(path, lines, count, most)
    return rows if isinstance(path, PartsPath) else f"{path}, {rows}"


def row_list(path: Path, lines: Sequence[int], count: int | None = None, most: int = 10) -> str:
    """The same without the path, such as "lines 3 and 7"; `count` may be more than are given.

    In a table of several files each row has its file.
    """
    count = len(lines) if count is None else count
    if isinstance(path, PartsPath):
        return some([location(path, line) for line in lines[:most]], count, most)
    one, several = path.rows if isinstance(path, FramePath) else ("line", "lines")
    return f"{one if count == 1 else several} {some(lines, count, most)}"
