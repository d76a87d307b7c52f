"""Finds the files that a recipe names, and reads several of them as one table, in order."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.files import path_of, path_text
from comity.tables.bad_rows import BadRows
from comity.tables.findings import Finding
from comity.tables.hub import is_hub_name, load_split
from comity.tables.locations import PartsPath, part_line
from comity.tables.rows import Row, Table, WholeRow, quoted_list

MOST_NAMED = 3
"""Entries of a list of files that messages show."""


def table_path(file: str | Sequence[str], folder: Path) -> Path:
    """The path of what a recipe names as data: a file, a pattern or list of files, a data set.

    Args:
        file: a data set of the hub is loaded. "*", "?", "[...]" and "**" make a text a pattern,
            unless it is the name of a file. The files that match it are sorted by name.
        folder: where relative paths start.

    Raises:
        ComityError: a data set cannot be loaded, no file matches a pattern, or a file is named
            twice.
    """
    if isinstance(file, str):
        if is_hub_name(file):
            return load_split(file, folder)
        if not _is_pattern(file, folder):
            return folder / path_of(file)
    entries = [file] if isinstance(file, str) else list(file)
    names: list[str] = []
    seen: set[Path] = set()
    for entry in entries:
        for name in _matching(entry, folder) if _is_pattern(entry, folder) else [entry]:
            own = folder / path_of(name)
            if own.resolve() in seen:
                raise ComityError(f"{own}: is named twice as a part of one table; name it once")
            seen.add(own.resolve())
            names.append(name)
    path = PartsPath("\n".join(names))
    path.files = tuple(folder / path_of(name) for name in names)
    path.names = tuple(names)
    path.title = str(folder / path_of(_title(entries)))
    return path


def _is_pattern(text: str, folder: Path) -> bool:
    return glob.has_magic(text) and not (folder / path_of(text)).exists()


def _matching(pattern: str, folder: Path) -> list[str]:
    """The files that match, sorted by name; those whose names begin with a dot never do."""
    found = glob.glob(str(path_of(pattern)), root_dir=folder, recursive=True)
    if not found:
        raise ComityError(f"{folder / path_of(pattern)}: no file matches; check the pattern")
    return sorted(map(path_text, found))


def _title(entries: Sequence[str]) -> str:
    more = len(entries) - MOST_NAMED
    return ", ".join(entries[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


class PartsTable(Table):
    """Tables that are read one after another as one; lines are those of `part_line`.

    Columns are found by their names in each part, so the parts may have them in another order, and
    may differ in format. A part that lacks a chosen column is an error.
    """

    def __init__(self, path: PartsPath, tables: Sequence[Table]):
        """`tables` are the parts, opened to read the same columns."""
        super().__init__(path)
        self._tables = tables
        self.missing = _missing(tables)

    @property
    def names(self) -> list[str]:
        """The keys of whole rows, of the first part."""
        return self._tables[0].names

    @property
    def columns(self) -> list[str | int]:
        """The columns of the first part."""
        return self._tables[0].columns

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns as the first part spells them."""
        return self._tables[0].chosen_names

    def describe(self) -> dict[str, Any]:
        """How the parts are read, each kind of part once."""
        kinds: list[dict[str, Any]] = []
        for table in self._tables:
            about = table.describe()
            kinds += [] if about in kinds else [about]
        same = kinds[0] if len(kinds) == 1 else {"format": "mixed", "kinds": kinds}
        return {**same, "parts": len(self._tables)}

    def findings(self) -> list[Finding]:
        """What looks wrong in any part; the example is that of the first."""
        found: dict[str, Finding] = {}
        for number, table in enumerate(self._tables):
            for own in table.findings():
                line = part_line(number, own.line)
                first = found.setdefault(own.kind, Finding(own.kind, 0, line, own.example))
                count = first.count + own.count
                found[own.kind] = Finding(own.kind, count, first.line, first.example)
        return list(found.values())

    def _all_rows(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        if self.missing:
            errors.extend(ComityError(*self.missing))
            return
        for number, table in enumerate(self._tables):
            of_part = _errors_of_part(errors, number)
            for row, own in table._all_rows(of_part, whole):
                yield row._replace(line=part_line(number, row.line)), own
            if of_part is not errors:
                errors.merge(of_part)

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        return self._all_rows(errors, whole)


def _errors_of_part(errors: ErrorList, part: int) -> ErrorList:
    """`errors`, or if it takes rows, one that takes them with the lines of a part."""
    if not isinstance(errors, BadRows):
        return errors
    return BadRows(lambda row: errors.take(row._replace(line=part_line(part, row.line))))


def _missing(tables: Sequence[Table]) -> list[str]:
    """What the parts lack; a part that differs from others is one sentence."""
    complete = next((table for table in tables if not table.missing), None)
    if complete is None:
        return tables[0].missing
    own = quoted_list(map(str, complete.columns))
    return [
        f"{table.path}: has the columns {quoted_list(map(str, table.columns))}, but {complete.path}"
        f" has {own}; give it the columns that the task reads"
        for table in tables
        if table.missing
    ] + _widths(tables)


def _widths(tables: Sequence[Table]) -> list[str]:
    """Parts without a header that have another number of columns than the first one."""
    counted = [t for t in tables if t.describe().get("header") is False]
    return [
        f"{table.path}: has {len(table.columns)} columns, but {counted[0].path} has "
        f"{len(counted[0].columns)}; without a header all parts need the same columns"
        for table in counted[1:]
        if len(table.columns) != len(counted[0].columns)
    ]
