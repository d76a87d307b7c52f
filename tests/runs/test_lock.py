"""One process at a time trains in a run directory."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from comity import ComityError
from comity.runs.directory import RunDirectory
from comity.runs.lock import LOCK, check_unlocked, locked


def _hold(run: Path, holding) -> None:
    with locked(run):
        holding.set()
        signal.pause()


def test_a_second_process_is_refused_until_the_first_one_ends_however_it_ends(tmp_path):
    context = multiprocessing.get_context("spawn")
    holding = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", holding))
    process.start()
    assert holding.wait(60)
    for check in (check_unlocked, lambda run: locked(run).__enter__()):
        with pytest.raises(ComityError, match="another process is training this run; wait"):
            check(tmp_path / "run")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    check_unlocked(tmp_path / "run")
    with locked(tmp_path / "run"):
        pass


def test_the_file_of_the_lock_does_not_make_a_directory_a_run(tmp_path):
    with locked(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    RunDirectory.check_new(tmp_path / "run")
    RunDirectory.create(tmp_path / "run")


def test_a_directory_that_cannot_be_created_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ComityError, match="cannot create the run directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch):
    def unsupported(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", unsupported)
    with locked(tmp_path / "run"):
        check_unlocked(tmp_path / "run")
