"""Two processes that write the same entry of the cache."""

import json
import shutil

from comity.data import token_cache


def entry(folder, text: str):
    """A folder with all that makes an entry complete."""
    folder.mkdir()
    (folder / "ids-0").write_text(text)
    sizes = {"ids-0": len(text)}
    (folder / "about.json").write_text(json.dumps({"sizes": sizes}))
    return folder


def test_the_entry_of_a_faster_process_is_used_and_never_deleted(tmp_path, monkeypatch):
    deleted = []
    original = shutil.rmtree

    def rmtree(path, **options):
        deleted.append(path)
        original(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    key, first = tmp_path / "key", entry(tmp_path / "first", "1")
    assert token_cache._publish(first, key) == key
    assert deleted == []  # not even where there was nothing: it could be there by now
    assert token_cache._publish(entry(tmp_path / "second", "2"), key) == key
    assert (key / "ids-0").read_text() == "1"
    assert deleted == [tmp_path / "second"]


def test_a_damaged_entry_is_replaced(tmp_path):
    key = entry(tmp_path / "key", "1")
    (key / "ids-0").unlink()
    assert token_cache._publish(entry(tmp_path / "second", "2"), key) == key
    assert (key / "ids-0").read_text() == "2"
