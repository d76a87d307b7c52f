"""One process at a time trains in a run directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from comity.errors import ComityError

LOCK = ".lock"
"""The file whose lock the training process holds. It stays; the lock ends with the process."""

MOMENT = 1.0
"""Seconds to wait for a process that only looks whether there is a lock."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which is created if it does not exist.

    A file system without locks has none: then two processes are not kept apart.

    Raises:
        ComityError: another process holds the lock, or the directory cannot be created.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ComityError(
            f"{run}: cannot create the run directory ({error.strerror}); choose another one"
        ) from None
    # A lock that is only a file would outlast a killed process.
    lock = FileLock(run / LOCK, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire(timeout=MOMENT)
    except Timeout:
        raise _taken(run) from None
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def check_unlocked(run: Path) -> None:
    """Raise a ComityError if another process trains in a run directory."""
    if (run / LOCK).is_file():
        with locked(run):
            pass


def is_training(run: Path) -> bool:
    """Whether a process trains in a run directory now."""
    try:
        check_unlocked(run)
    except ComityError:
        return True
    return False


def _taken(run: Path) -> ComityError:
    return ComityError(
        f"{run}: another process is training this run; wait until it ends, or choose another "
        "directory with --out"
    )
