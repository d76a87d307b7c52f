"""Paths as text for files in UTF-8."""

import os

import pytest

from comity.files import is_utf8, path_of, path_text


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
