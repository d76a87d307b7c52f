"""Splits: files are read once, their errors, and dev rows that share no text with training."""

import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv

from comity.data.splits import _groups, load_tasks
from comity.data.token_cache import TextEncoder
from comity.errors import ComityError

WORDS = TextEncoder(lambda texts: [[len(word) for word in t.split()] for t in texts], 100, "words")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Training and dev files of two tasks, with quotes, and an empty cache."""
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    moods = [(f'"{text}",\nsaid I', mood) for text, mood in mood_rows(0, 12)]
    write_csv(folder / "mood.csv", ["text", "mood"], moods)
    write_csv(folder / "mood-dev.csv", ["text", "mood"], mood_rows(100, 6))
    write_csv(folder / "alike.csv", ["a", "b", "score"], alike_rows(0, 12))
    write_csv(folder / "alike-dev.csv", ["a", "b", "score"], alike_rows(100, 6))
    return folder


def load(folder: Path, **changes: Any) -> dict[str, Any]:
    return load_tasks(two_tasks(Path("encoder"), **changes), folder, WORDS, 128)


def test_a_file_is_opened_at_most_three_times_and_hashed_once(folder, monkeypatch):
    opens: Counter[str] = Counter()
    digests: Counter[str] = Counter()
    real_open, real_digest = io.open, hashlib.file_digest

    def counted_open(file: Any, *args: Any, **keys: Any) -> Any:
        opens[Path(file).name if isinstance(file, str | Path) else ""] += 1
        return real_open(file, *args, **keys)

    def counted_digest(file: Any, *args: Any) -> Any:
        digests[Path(file.name).name] += 1
        return real_digest(file, *args)

    monkeypatch.setattr("io.open", counted_open)
    monkeypatch.setattr("builtins.open", counted_open)
    monkeypatch.setattr("hashlib.file_digest", counted_digest)
    names = ["mood.csv", "mood-dev.csv", "alike.csv", "alike-dev.csv"]
    assert len(load(folder)["mood"].train) == 12
    assert [digests[name] for name in names] == [1] * 4
    assert all(2 <= opens[name] <= 3 for name in names), opens
    opens.clear()
    digests.clear()
    assert len(load(folder)["mood"].train) == 12  # now from the cache
    assert [digests[name] for name in names] == [1] * 4
    assert [opens[name] for name in names] == [1] * 4


def test_a_file_of_several_splits_is_read_once(folder, monkeypatch):
    digests: Counter[str] = Counter()
    real_digest = hashlib.file_digest

    def counted_digest(file: Any, *args: Any) -> Any:
        digests[Path(file.name).name] += 1
        return real_digest(file, *args)

    monkeypatch.setattr("hashlib.file_digest", counted_digest)
    tasks = load(folder, tasks__mood__dev="mood.csv")
    assert tasks["mood"].train.table is tasks["mood"].dev.table
    assert digests["mood.csv"] == 1


def test_training_labels_are_read_once(folder, monkeypatch):
    import comity.data.labels as labels

    read: Counter[str] = Counter()
    real = labels._read_column

    def counted(name: str, task: Any, table: Any, *rest: Any) -> Any:
        read[table.path.name] += 1
        return real(name, task, table, *rest)

    monkeypatch.setattr(labels, "_read_column", counted)
    tasks = load(folder)
    assert (read["mood.csv"], read["alike.csv"]) == (1, 1)
    assert tasks["mood"].train.targets.tolist() == [
        int(mood == "up") for _, mood in mood_rows(0, 12)
    ]
    assert tasks["alike"].train.targets.tolist() == [score for *_, score in alike_rows(0, 12)]


def test_errors_of_all_files_are_reported_together(folder):
    (folder / "mood.csv").write_text("text,mood\na,up\nb\n")
    (folder / "alike-dev.csv").unlink()
    (folder / "alike.csv").write_text("a,b,score\nx,y,high\n")
    with pytest.raises(ComityError) as caught:
        load(folder)
    first, second, third = caught.value.messages
    assert "mood.csv:3: 1 field, but the header has 2" in first
    assert "alike-dev.csv: there is no such file" in second
    assert 'alike.csv:2: the score "high" is not a number' in third


def test_an_unreadable_file_of_two_tasks_is_reported_once(folder):
    (folder / "mood-dev.csv").unlink()
    task = {"kind": "classification", "train": "mood.csv", "dev": "mood-dev.csv"}
    with pytest.raises(ComityError) as caught:
        load(folder, tasks__again={**task, "text": "text", "label": "mood"})
    (message,) = caught.value.messages
    assert "mood-dev.csv: there is no such file" in message


# --- rows that share a text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "groups"),
    [
        # A group's number is the rank of its smallest hash.
        ([[30], [10], [30], [20]], [2, 0, 2, 1]),
        ([[5, 6], [7, 8], [6, 7], [1, 2]], [1, 1, 1, 0]),
        ([[9, 9], [3, 4], [4, 9], [8, 8]], [0, 0, 0, 1]),
        ([[2, 50], [40, 41], [1, 60], [60, 50]], [0, 1, 0, 0]),
    ],
)
def test_groups_by_hand(keys, groups):
    assert _groups(np.array(keys, dtype=np.uint64)).tolist() == groups


def test_no_rows_have_no_groups():
    for columns in (1, 2):
        assert _groups(np.empty((0, columns), dtype=np.uint64)).tolist() == []


def groups_by_union(rows: list[tuple[int, ...]]) -> list[int]:
    """The same by a union-find over the texts; groups numbered by their smallest text."""
    parent: dict[int, int] = {text: text for row in rows for text in row}

    def root(text: int) -> int:
        while parent[text] != text:
            text = parent[text]
        return text

    for first, *others in rows:
        for other in others:
            parent[root(other)] = root(first)
    members = defaultdict(list)
    for text in parent:
        members[root(text)].append(text)
    smallest = {top: min(texts) for top, texts in members.items()}
    order = sorted(smallest.values())
    return [order.index(smallest[root(row[0])]) for row in rows]


hashes = st.integers(0, 30) | st.integers(2**63, 2**63 + 5)


@given(
    st.lists(st.tuples(hashes, hashes), min_size=1, max_size=40)
    | st.lists(st.tuples(hashes), min_size=1, max_size=40)
)
@settings(deadline=None, max_examples=200)
def test_groups_equal_a_union_find(rows):
    assert _groups(np.array(rows, dtype=np.uint64)).tolist() == groups_by_union(rows)
