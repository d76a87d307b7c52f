"""The check of all files before an encoder is loaded."""

import json

import pytest
from tests.helpers import two_tasks, write_csv, write_jsonl, write_two_tasks

from comity import ComityError
from comity.data import file_check
from comity.data.file_check import check_files, check_rows
from comity.data.token_cache import cache_folder


def errors_of(recipe, folder) -> list[str]:
    with pytest.raises(ComityError) as caught:
        check_files(recipe, folder, {})
    return caught.value.messages


def test_only_the_beginning_of_sound_files_is_read(tmp_path, tiny_checkpoint, monkeypatch):
    def never(*_):
        raise AssertionError("all rows were read")

    write_two_tasks(tmp_path)
    monkeypatch.setattr(file_check, "check_rows", never)
    check_files(two_tasks(tiny_checkpoint), tmp_path, {})


def test_files_whose_first_rows_lack_values_are_read_on(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    rows = [{"text": f"row {n}", "mood": mood} for n, mood in enumerate((None, "up", "down"))]
    write_jsonl(tmp_path / "mood.jsonl", rows)
    changes = {"tasks__mood__train": "mood.jsonl", "tasks__mood__missing_labels": "skip"}
    check_files(two_tasks(tiny_checkpoint, **changes), tmp_path, {})


def test_a_missing_column_of_json_is_found(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    write_jsonl(tmp_path / "mood.jsonl", [{"text": "a", "mod": "up"}, {"text": "b", "mod": "down"}])
    [error] = errors_of(two_tasks(tiny_checkpoint, tasks__mood__train="mood.jsonl"), tmp_path)
    assert json.dumps("mood") in error


def test_errors_of_rows_come_with_a_missing_file(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    (tmp_path / "mood.csv").unlink()
    write_csv(tmp_path / "alike.csv", ["a", "b", "score"], [("x", "y", 1.0), ("x", "z", 9.0)])
    errors = errors_of(two_tasks(tiny_checkpoint), tmp_path)
    assert len(errors) == 2
    assert any("alike.csv:3:" in error for error in errors)


def test_nothing_is_cached_without_a_tokenizer(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    write_two_tasks(tmp_path)
    check_rows(two_tasks(tiny_checkpoint), tmp_path, {})
    entries = [path.name for path in (cache_folder() / "tokens").iterdir()]
    assert all(name.startswith(".building-") for name in entries)  # removed when Python ends
