"""Paths as text for files in UTF-8, and writes that fail."""

import errno
import os
import shutil

import pytest

from comity.files import copy_folder, is_utf8, path_of, path_text, write_atomically


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("name", [b"data/mood.csv", "dät漢/mö d.csv".encode(), b"caf\xe9"])
def test_a_path_is_the_same_bytes_in_any_locale(monkeypatch, encoding, name):
    # As Python decodes and encodes the names of files in a locale.
    monkeypatch.setattr(os, "fsdecode", lambda b: b.decode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsencode", lambda p: str(p).encode(encoding, "surrogateescape"))
    path = os.fsdecode(name)
    text = path_text(path)
    assert text == name.decode("utf-8", "surrogateescape")
    assert is_utf8(text) == (name != b"caf\xe9")
    assert str(path_of(text)) == path


def test_a_name_that_no_file_can_have_stays_as_it_is():
    assert path_text("\ud800.csv") == "\ud800.csv" == str(path_of("\ud800.csv"))


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, "new")
    assert caught.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == "old"


def test_the_first_error_of_a_copy_is_raised_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "from" / "inner").mkdir(parents=True)
    (tmp_path / "from" / "inner" / "file").write_text("content")
    copy_folder(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to" / "inner" / "file").read_text() == "content"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space left") as caught:
        copy_folder(tmp_path / "from", tmp_path / "again")
    assert caught.value.errno == errno.ENOSPC
