"""Rows that a task leaves out because they cannot be used (`bad_rows = "skip"`), and their list.

The list is a file of JSON Lines, since there may be millions of such rows.
"""

import atexit
import hashlib
import heapq
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.data.token_cache import TokenTable
from comity.format import plural
from comity.tables.bad_rows import BadRow
from comity.tables.locations import file_and_line, location

MOST_SKIPPED = 0.5
"""The share of a file's rows above which leaving them out is an error: something else is wrong."""


class BadLabels(NamedTuple):
    """Rows of a table whose label in one column cannot be used."""

    rows: NDArray[np.integer]  # [m], indices in the table, ascending
    column: str
    codes: NDArray[np.integer]  # [m], of the rows' values
    describe: Callable[[int], tuple[str, str]]  # reason and detail, as in `BadRow`, of a code


@dataclass(frozen=True)
class SkippedRows:
    """The rows of a file that a task leaves out."""

    counts: Mapping[str, int] = field(default_factory=dict)  # by reason, the most frequent first
    first: str = ""  # where the first one is, and what is wrong with it
    entries: Path | None = None  # JSON Lines: task, file, line, column, reason, detail of each
    digest: str = ""  # SHA-256 of `entries`

    @property
    def total(self) -> int:
        """The number of rows."""
        return sum(self.counts.values())

    @property
    def by_reason(self) -> str:
        """The counts in words, such as "no label 3, broken quotes 1"."""
        return ", ".join(f"{reason} {count:,}" for reason, count in self.counts.items())


def skip_rows(task: str, table: TokenTable, labels: list[BadLabels]) -> SkippedRows:
    """List the rows of a table that a task leaves out, in the order of the file.

    Each row is listed once: with what is wrong with its texts, or else with its first wrong label.
    """
    known = np.zeros(len(table), dtype=bool)
    known[table.without_texts] = True
    found: list[Iterator[BadRow]] = [table.unread_rows(), table.rows_without_texts()]
    for own in labels:
        new = ~known[own.rows]
        known[own.rows] = True
        found.append(_of_labels(table, own._replace(rows=own.rows[new], codes=own.codes[new])))
    counts: Counter[str] = Counter()
    first, digest = "", hashlib.sha256()
    path = _temporary_folder() / "skipped-rows.jsonl"
    with path.open("wb") as file:
        for row in heapq.merge(*found, key=lambda row: row.line):
            counts[row.reason] += 1
            first = first or f"{location(table.path, row.line)}: {row.detail}"
            line = _entry(task, table.path, row)
            digest.update(line)
            file.write(line)
    return SkippedRows(dict(counts.most_common()), first, path, digest.hexdigest())


def too_many(task: str, table: TokenTable, skipped: SkippedRows) -> str:
    """The message for a file of which too many rows would be left out, or ""."""
    rows = len(table) + sum(1 for _ in table.unread_rows())
    if skipped.total <= MOST_SKIPPED * rows:
        return ""
    return (
        f"{table.path}: {skipped.total:,} of {plural(rows, 'row')} cannot be used for {task} "
        f"({skipped.by_reason}), which is too many to leave out, such as {skipped.first}; correct "
        f"the columns and the kind of [tasks.{task}], or the file"
    )


def _of_labels(table: TokenTable, labels: BadLabels) -> Iterator[BadRow]:
    for row, code in zip(labels.rows.tolist(), labels.codes.tolist(), strict=True):
        reason, detail = labels.describe(code)
        yield BadRow(int(table.lines[row]), reason, detail, labels.column)


def _entry(task: str, path: Path, row: BadRow) -> bytes:
    file, line = file_and_line(path, row.line)
    entry = {"task": task, "file": str(file), "line": line}
    entry |= {"column": row.column} if row.column else {}
    return json.dumps({**entry, "reason": row.reason, "detail": row.detail}).encode() + b"\n"


def _temporary_folder() -> Path:
    """A folder that is deleted when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="comity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
