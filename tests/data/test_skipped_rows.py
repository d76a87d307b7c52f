"""`bad_rows = "skip"`: which rows a task uses, which it lists, and when it refuses."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.tasks import UNKNOWN, WORDS, load_task
from tests.helpers import write_csv, write_jsonl

from comity.data.notes import task_notes
from comity.data.splits import Split, read_tasks
from comity.errors import ComityError
from comity.recipe.recipe import Recipe
from comity.tables.reader import table_digest

MOOD: dict[str, Any] = {
    "kind": "classification",
    "train": "t.csv",
    "dev": "d.csv",
    "text": "text",
    "label": "label",
    "classes": ["down", "up"],
    "bad_rows": "skip",
}
SCORE: dict[str, Any] = {
    "kind": "similarity",
    "head": "regression",
    "train": "t.csv",
    "dev": "d.csv",
    "texts": ["a", "b"],
    "label": "label",
    "bad_rows": "skip",
}


def entries(split: Split) -> list[dict[str, Any]]:
    """What is listed of a split."""
    assert split.skipped.entries is not None
    return list(map(json.loads, split.skipped.entries.read_text().splitlines()))


def reasons(split: Split) -> dict[int, str]:
    """The reason of each listed row by its line."""
    found = entries(split)
    assert len({entry["line"] for entry in found}) == len(found)
    return {entry["line"]: entry["reason"] for entry in found}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dev file of each task, and an empty cache."""
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    write_csv(tmp_path / "d.csv", ["text", "label"], [("a b", "up"), ("c d", "down")])
    write_csv(tmp_path / "s.csv", ["a", "b", "label"], [("a b", "c", 1), ("c d", "e", 4)])
    return tmp_path


def test_each_kind_of_bad_row_is_left_out_and_listed_in_order(folder):
    (folder / "t.csv").write_bytes(
        b'text,label\nt2,up\nt3\nt4,\nt5,sideways\nt6,down\n"t7,up\nt8 \xe9,up\nt9,up\n,down\n'
        b"t11,down\nt12,up\nt13,up\n"
    )
    data = load_task(folder, **MOOD, empty_texts="error")
    split = data.train
    assert split.table.lines[split.rows].tolist() == [2, 6, 9, 11, 12, 13]
    assert split.targets.tolist() == [1, 0, 1, 0, 1, 1]
    assert reasons(split) == {
        3: "wrong number of fields",
        4: "no label",
        5: "unknown label",
        7: "broken quotes",
        8: "undecodable bytes",
        10: "empty text",
    }
    assert list(reasons(split)) == sorted(reasons(split))
    assert entries(split)[2] == {
        "task": "t",
        "file": str(folder / "t.csv"),
        "line": 5,
        "column": "label",
        "reason": "unknown label",
        "detail": 'the label "sideways" is not a class of the training rows (down, up)',
    }
    assert entries(split)[5]["column"] == "text"
    notes = "\n".join(task_notes(data, UNKNOWN))
    assert f"t: 6 rows of {folder}/t.csv cannot be used and are left out: " in notes
    assert "wrong number of fields 1, " in notes
    assert f"(first: {folder}/t.csv:3: 1 field, but the header has 2" in notes


VALUES = st.sampled_from([0, "2.5", 5, "high", "", None, 6, -1, "4,5", [1]])


@settings(max_examples=30)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["one text", None, {"x": 1}, ["l"], 3]), VALUES)),
    extension=st.sampled_from(["jsonl", "csv", "parquet"]),
)
def test_random_scores(tmp_path_factory, rows, extension):
    """The rows that are used are those that this test would use, by their values."""
    folder = tmp_path_factory.mktemp("scores")
    write_csv(folder / "d.csv", ["a", "b", "label"], [("a b", "c", 1), ("c d", "e", 4)])
    good = ("one text", 2.5)
    rows = [*rows, *[good] * (len(rows) + 2)]  # at least half of them
    values = [{"a": text, "b": f"b{n}", "label": label} for n, (text, label) in enumerate(rows)]
    first = 1
    if extension == "jsonl":
        write_jsonl(folder / "t.jsonl", values)
    else:  # what has no nested values writes them as texts
        values = [{**v, "a": str(v["a"]), "label": str(v["label"])} for v in values]
        frame = pd.DataFrame(values)
        if extension == "csv":
            frame.to_csv(folder / "t.csv", index=False)
            first = 2
        else:
            frame.to_parquet(folder / "t.parquet")
    split = load_task(folder, **{**SCORE, "train": f"t.{extension}"}).train
    usable = {}
    for line, row in enumerate(values, start=first):
        try:
            score = float(row["label"])
        except (TypeError, ValueError):
            continue
        if 0 <= score <= 5 and (row["a"] is None or not isinstance(row["a"], list | dict)):
            usable[line] = score
    assert dict(zip(split.table.lines[split.rows].tolist(), split.targets, strict=True)) == usable
    assert set(reasons(split)) == set(range(first, first + len(values))) - set(usable)


def write_texts(path: Path) -> None:
    """Five lines, of which the third is no JSON and the fourth has no text."""
    rows = [{"text": "a b", "label": "up"}, {"text": "c", "label": "down"}]
    lines = [*map(json.dumps, rows), "oops", '{"label": "up"}', '{"text": "z zz", "label": "up"}']
    path.write_text("\n".join(lines) + "\n")


def test_the_second_reading_comes_from_the_cache_with_the_same_list(folder, monkeypatch):
    write_jsonl(
        folder / "t.jsonl", [{"text": "a b", "label": "up"}, {"text": "c", "label": "down"}]
    )
    with (folder / "t.jsonl").open("a") as file:
        file.write('oops\n{"label": "up"}\n{"text": "z", "label": "up"}\n')
    task = {**MOOD, "train": "t.jsonl"}
    first = load_task(folder, **task).train
    monkeypatch.setattr("comity.data.token_cache._RowWriter", None)  # nothing is built again
    again = load_task(folder, **task).train
    assert again.rows.tolist() == first.rows.tolist() == [0, 1, 3]
    assert entries(again) == entries(first)
    assert [entry["line"] for entry in entries(first)] == [3, 4]
    assert again.table.texts[0].ids.tolist() == first.table.texts[0].ids.tolist()


def test_another_tokenizer_reads_the_same_rows_again(folder):
    write_jsonl(
        folder / "t.jsonl", [{"text": "a b", "label": "up"}, {"text": "c", "label": "down"}]
    )
    with (folder / "t.jsonl").open("a") as file:
        file.write('oops\n{"label": "up"}\n{"text": "z zz", "label": "up"}\n')
    recipe = Recipe.from_dict({"tasks": {"t": {**MOOD, "train": "t.jsonl"}}})
    load_task(folder, **{**MOOD, "train": "t.jsonl"})
    other = replace(WORDS, fingerprint="another one")
    split = read_tasks(recipe, folder).tokenised(other, 128)["t"].train
    assert split.table.texts[0].ids.tolist() == [1, 1, 1, 1, 2]
    assert split.rows.tolist() == [0, 1, 3]


def test_a_table_that_was_read_without_its_bad_rows_is_not_used_otherwise(folder):
    write_texts(folder / "t.jsonl")
    task = {**MOOD, "train": "t.jsonl"}
    assert len(load_task(folder, **task).train) == 3
    with pytest.raises(ComityError, match=r"t\.jsonl:3: column 1: not valid JSON"):
        load_task(folder, **{**task, "bad_rows": "error"})


def test_rows_keep_their_indices_whatever_columns_are_read(folder):
    """Soft labels and folds name rows by their index in the table."""
    rows = [
        {"text": f"w{n}", "other": f"v{n}", "label": "updown"[n % 2 * 2 :][:2]} for n in range(6)
    ]
    rows = [{**row, "label": ["up", "down"][n % 2]} for n, row in enumerate(rows)]
    del rows[1]["other"]
    write_jsonl(folder / "t.jsonl", rows)
    one = load_task(folder, **{**MOOD, "train": "t.jsonl", "dev": 0.2}).train
    two = {k: v for k, v in MOOD.items() if k != "text"} | {"texts": ["text", "other"]}
    both = load_task(folder, **{**two, "train": "t.jsonl", "dev": 0.2}).train
    assert len(one.table) == len(both.table) == 6
    assert 1 not in both.rows
    assert both.table.lines[5] == one.table.lines[5] == 6


def test_too_many_bad_rows_are_an_error_with_advice(folder):
    write_csv(folder / "t.csv", ["text", "label"], [("a", "x"), ("b", "y"), ("c", "up")])
    with pytest.raises(ComityError) as caught:
        load_task(folder, **MOOD)
    assert caught.value.messages == [
        f"{folder}/t.csv: 2 of 3 rows cannot be used for t (unknown label 2), which is too many to "
        f'leave out, such as {folder}/t.csv:2: the label "x" is not a class of the training rows '
        "(down, up); correct the columns and the kind of [tasks.t], or the file"
    ]
    write_csv(
        folder / "t.csv", ["text", "label"], [("a", "x"), ("b", "y"), ("c", "up"), ("d", "down")]
    )
    assert len(load_task(folder, **MOOD).train) == 2  # half of them


def test_missing_and_ignored_labels_have_their_own_keys(folder):
    rows = [("a", ""), ("b", "n/a"), ("c", "up"), ("d", "down"), ("e", "sideways")]
    write_csv(folder / "t.csv", ["text", "label"], rows)
    split = load_task(folder, **MOOD, missing_labels="skip", ignore_labels=["n/a"]).train
    assert (split.unlabelled, split.ignored, dict(split.skipped.counts)) == (
        1, 1, {"unknown label": 1}
    )  # fmt: skip
    assert split.table.lines[split.rows].tolist() == [4, 5]


def test_a_dev_label_that_is_no_class_and_a_label_that_no_map_has(folder):
    write_csv(folder / "t.csv", ["text", "label"], [("a", "up"), ("b", "down")])
    write_csv(folder / "d.csv", ["text", "label"], [("c", "up"), ("d", "sideways")])
    write_csv(
        folder / "m.csv", ["text", "label"], [("e", "1"), ("f", "0"), ("g", "2"), ("h", "up")]
    )
    file = {"file": "m.csv", "label_map": {"1": "up", "0": "down"}}
    stages = [{"data": {"t": file}, "steps": 1}, {"steps": 1}]
    task = {k: v for k, v in MOOD.items() if k not in ("classes", "bad_rows")}
    recipe = Recipe.from_dict(
        {"train": {"bad_rows": "skip"}, "stages": stages, "tasks": {"t": task}}
    )
    data = read_tasks(recipe, folder).tasks["t"]
    assert reasons(data.dev) == {3: "unknown label"}
    assert reasons(data.stage_train["m.csv"]) == {4: "unknown label", 5: "unknown label"}
    assert "is not in the label_map" in entries(data.stage_train["m.csv"])[0]["detail"]
    assert data.stage_train["m.csv"].targets.tolist() == [1, 0]


def test_a_multi_label_row_is_listed_once_with_its_first_wrong_column(folder):
    rows = [("a", 1, 0), ("b", 2, "x"), ("c", 0, ""), ("d", 0, 1), ("e", 1, 1)]
    for name in ("t", "d"):
        write_csv(folder / f"{name}.csv", ["text", "one", "two"], rows)
    keys = ("kind", "label", "classes")
    task = {k: v for k, v in MOOD.items() if k not in keys} | {"labels": ["one", "two"]}
    split = load_task(folder, **task, kind="multi-label").train
    assert [(e["line"], e["column"], e["reason"]) for e in entries(split)] == [
        (3, "one", "label is not 0 or 1"), (4, "two", "no label")
    ]  # fmt: skip
    assert split.targets.tolist() == [[1, 0], [0, 1], [1, 1]]


def test_parts_are_listed_by_their_files(folder):
    write_csv(folder / "p1.csv", ["text", "label"], [("a", "up"), ("b", "x"), ("c", "down")])
    (folder / "p2.jsonl").write_text('{"text": "d", "label": "up"}\noops\n')
    split = load_task(folder, **{**MOOD, "train": ["p1.csv", "p*.jsonl"]}).train
    assert [(Path(e["file"]).name, e["line"]) for e in entries(split)] == [
        ("p1.csv", 3), ("p2.jsonl", 2)
    ]  # fmt: skip
    assert len(split) == 3


def test_a_dev_share_counts_bad_rows_once(folder):
    rows = [(f"text {n}", ["up", "down"][n % 2]) for n in range(10)] + [("bad", "x")]
    write_csv(folder / "t.csv", ["text", "label"], rows)
    data = load_task(folder, **{**MOOD, "dev": 0.3})
    assert len(data.train) + len(data.dev) == 10
    assert (data.train.skipped.total, data.dev.skipped.total) == (1, 0)


def test_a_task_may_decide_otherwise_than_train(folder):
    write_csv(folder / "t.csv", ["text", "label"], [("a", "up"), ("b", "down"), ("c", "x")])
    strict = {k: v for k, v in MOOD.items() if k != "bad_rows"}
    assert len(load_task(folder, {"bad_rows": "skip"}, **strict).train) == 2
    with pytest.raises(ComityError, match=r't\.csv:4: the label "x" is not a class'):
        load_task(folder, **strict)
    with pytest.raises(ComityError, match=r"train\.bad_rows: has no effect here \(every task"):
        load_task(folder, {"bad_rows": "skip"}, **{**MOOD, "bad_rows": "error"})


def test_a_broken_copy_gives_the_same_rows_as_the_whole_file(folder):
    """Two readings that share nothing but the values: what is trained on is the same."""
    rows = [(f"text {n}", ["up", "down"][n % 2]) for n in range(20)]
    write_csv(folder / "t.csv", ["text", "label"], rows)
    whole = load_task(folder, **MOOD).train
    lines = (folder / "t.csv").read_text().splitlines()
    for at in (3, 9, 17):
        lines.insert(at, f"row {at} is broken")
    (folder / "b.csv").write_text("\n".join(lines) + "\n")
    broken = load_task(folder, **{**MOOD, "train": "b.csv"}).train
    assert np.array_equal(broken.table.keys, whole.table.keys)
    assert broken.targets.tolist() == whole.targets.tolist()
    assert Counter(reasons(broken).values()) == {"wrong number of fields": 3}


@pytest.mark.parametrize("train", ["t.csv", ["t.csv", "d.csv"]])
def test_a_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch, train):
    def changed_after(path: Path) -> str:
        digest = table_digest(path)
        if path.name == "t.csv":
            with path.open("a") as file:
                file.write("new text,up\n")
        return digest

    rows = [(f"text {n}", ["up", "down"][n % 2]) for n in range(12)]
    write_csv(folder / "t.csv", ["text", "label"], rows)
    monkeypatch.setattr("comity.data.token_cache.table_digest", changed_after)
    task = {**MOOD, "train": train, "dev": 0.2}
    with pytest.raises(ComityError, match=r"t\.csv: has changed while it was read; start again"):
        load_task(folder, **task)
    monkeypatch.undo()
    assert len(load_task(folder, **task).train.table) == (13 if train == "t.csv" else 15)
