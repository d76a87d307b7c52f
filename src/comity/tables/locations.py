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


def location(path: Path, line: int) -> str:
    """Where a row is.

    >>> location(Path("data.csv"), 3), location(FramePath("DataFrame of mood dev"), 3)
    ('data.csv:3', 'DataFrame of mood dev, row 3')
    """
    return f"{path}, {row_list(path, [line])}" if isinstance(path, FramePath) else f"{path}:{line}"


def locations(path: Path, lines: Sequence[int], count: int, most: int = 10) -> str:
    """Where `count` rows are, of which the first are given.

    >>> locations(Path("data.csv"), [3], 1), locations(Path("data.csv"), [3, 7], 14)
    ('data.csv:3', 'data.csv, lines 3, 7 and 12 more')
    """
    return (
        location(path, lines[0]) if count == 1 else f"{path}, {row_list(path, lines, count, most)}"
    )


def row_list(path: Path, lines: Sequence[int], count: int | None = None, most: int = 10) -> str:
    """The same without the path, such as "lines 3 and 7"; `count` may be more than are given."""
    count = len(lines) if count is None else count
    one, several = path.rows if isinstance(path, FramePath) else ("line", "lines")
    return f"{one if count == 1 else several} {some(lines, count, most)}"
