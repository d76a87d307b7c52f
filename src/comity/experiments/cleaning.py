"""Finds what can be deleted: checkpoints of finished runs, leftovers, cached token ids."""

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from comity.data.token_cache import cache_folder
from comity.errors import ComityError
from comity.runs.directory import LEFTOVERS, RunDirectory

CHECKPOINTS, UNFINISHED, CACHE = "checkpoints", "leftovers", "cache"
KINDS = (CHECKPOINTS, UNFINISHED, CACHE)
"""What `comity clean` deletes: see `Found.kind`."""

_CACHED = re.compile("[0-9a-f]{32}")

IN_USE = 3600.0
"""Seconds since its last change during which a temporary file may still be written."""


@dataclass(frozen=True)
class Found:
    """A file or folder of a run or of the cache. Kept models are never among them."""

    path: Path
    kind: str  # checkpoints (of runs), leftovers (of killed processes), cache (token ids)
    bytes: int
    seconds: float  # since its last change
    kept: str | None  # why it is not deleted


def find(folders: Sequence[Path], kinds: Sequence[str] = KINDS) -> list[Found]:
    """What there is of each kind: in the runs below some folders, and in the token cache.

    Raises:
        ComityError: one of the folders does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ComityError(f"{folder}: no such directory; name a folder that contains runs")
    found = []
    for run in dict.fromkeys(run for folder in folders for run in _runs(folder)):
        found.extend(_of_run(run))
    tokens = cache_folder() / "tokens"
    for path in sorted(tokens.glob("*")):
        if path.name.startswith(".building-"):
            found.append(_leftover(path))
        elif _CACHED.fullmatch(path.name):  # nothing else in the folder is ours
            found.append(_found(path, CACHE))
    return [one for one in found if one.kind in kinds]


def delete(found: Sequence[Found]) -> None:
    """Delete everything that is not kept.

    Raises:
        ComityError: something cannot be deleted; what comes before it is gone.
    """
    for one in found:
        if one.kept is not None:
            continue
        try:
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            raise ComityError(
                f"{error.filename or one.path}: cannot be deleted ({error.strerror}); change its "
                "permissions, or delete it by hand"
            ) from None


def _runs(folder: Path) -> Iterator[RunDirectory]:
    """The runs in a folder and below it."""
    for path, names, files in os.walk(folder):
        if "run.json" not in files:
            names.sort()
            continue
        names.clear()  # no run inside a run
        try:
            yield RunDirectory.open(Path(path))
        except ComityError:  # damaged, or the run.json of something else
            continue


def _of_run(run: RunDirectory) -> Iterator[Found]:
    try:
        kept = None if run.is_finished() else "needed to resume the run"
    except ComityError:
        kept = "the run is damaged"
    for path in run.checkpoints():
        yield _found(path, CHECKPOINTS, kept)
    for pattern in LEFTOVERS:
        for path in sorted(run.path.glob(pattern)):
            yield _leftover(path)


def _leftover(path: Path) -> Found:
    found = _found(path, UNFINISHED)
    kept = "may still be written" if found.seconds < IN_USE else None
    return Found(found.path, found.kind, found.bytes, found.seconds, kept)


def _found(path: Path, kind: str, kept: str | None = None) -> Found:
    size, changed = 0, 0.0
    for file in (path, *path.rglob("*")):
        try:
            status = file.lstat()
        except OSError:  # deleted meanwhile
            continue
        size += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        changed = max(changed, status.st_mtime)
    return Found(path, kind, size, max(time.time() - changed, 0.0), kept)
