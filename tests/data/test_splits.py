"""Splits: files are read once, their errors, and dev rows that share no text with training."""

import gc
import hashlib
import io
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.tasks import UNKNOWN, load_task
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv
from tokenizers.normalizers import BertNormalizer

from comity.data.leakage import find_leaks
from comity.data.notes import task_notes
from comity.data.splits import _groups, read_tasks, split_off
from comity.data.token_cache import TextEncoder, is_blank
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
    return read_tasks(two_tasks(Path("encoder"), **changes), folder).tokenised(WORDS, 128)


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
    assert tasks["mood"].train.table.texts is tasks["mood"].dev.table.texts
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


def test_errors_of_dev_come_with_those_of_training(folder):
    (folder / "mood.csv").write_text("text,mood\na,up\nb\n")
    (folder / "mood-dev.csv").write_text("text,mood\na,sideways\nb,\n")
    (folder / "alike.csv").write_text("a,b,score\nx,y,high\n ,y,1\n")
    (folder / "alike-dev.csv").write_text("a,b,score\nx,y,9\n")
    with pytest.raises(ComityError) as caught:
        load(folder, tasks__alike__empty_texts="error")
    messages = caught.value.messages
    assert [m.removeprefix(f"{folder}/").split(": ")[0] for m in messages] == [
        "mood.csv:3",
        "mood-dev.csv:3",  # whether "sideways" is a class depends on the training rows
        "alike.csv:2",
        "alike.csv:3",
        "alike-dev.csv:2",
    ]
    with pytest.raises(ComityError, match=r'mood-dev.csv:2: the label "sideways" is not a class'):
        load(folder, tasks__mood__classes=["down", "up"])


def test_another_tokenizer_reads_the_file_again_and_no_text_is_left(folder, tmp_path):
    changes = {"tasks__mood__train": "mood-dev.csv"}
    first = load(folder, **changes)
    entries = {path.name for path in (tmp_path / "cache" / "tokens").iterdir()}
    assert len(entries) == 2 * 3
    assert not any(name.startswith(".building-") for name in entries)
    other = TextEncoder(lambda texts: [[ord(c) for c in text] for text in texts], 200, "letters")
    tasks = read_tasks(two_tasks(Path("encoder"), **changes), folder).tokenised(other, 128)
    texts = [text for text, _ in mood_rows(100, 6)]
    ids = tasks["mood"].train.table.texts[0].ids
    assert "".join(map(chr, ids)) == "".join(texts)
    again = load(folder, **changes)["mood"].train.table.texts[0].ids
    assert again.tolist() == first["mood"].train.table.texts[0].ids.tolist()


def test_a_file_that_changes_before_it_is_read_again_is_an_error(folder):
    load(folder)
    tables = read_tasks(two_tasks(Path("encoder")), folder)  # from the cache
    write_csv(folder / "mood.csv", ["text", "mood"], mood_rows(0, 12))
    other = TextEncoder(WORDS.encode, WORDS.size, "other")
    with pytest.raises(ComityError, match=r"mood.csv: has changed while it was read"):
        tables.tokenised(other, 128)


def test_texts_of_files_with_errors_are_not_left(folder, tmp_path):
    (folder / "alike.csv").write_text("a,b,score\nx,y,high\n")
    with pytest.raises(ComityError):
        load(folder)
    gc.collect()
    left = [path.name for path in (tmp_path / "cache" / "tokens").iterdir()]
    assert not any(name.startswith(".building-") for name in left)


def test_texts_without_tokens_are_blank():
    """Where BERT's tokenizer drops a character; its tables are older than Python's."""
    normalizer = BertNormalizer(lowercase=True, strip_accents=True)
    for code in (*range(0xD800), *range(0xE000, 0x20000)):
        character, category = chr(code), unicodedata.category(chr(code))
        dropped = not normalizer.normalize_str(character).strip()
        if category in ("Mn", "Cf"):
            assert is_blank(character)
        elif category != "Mc":
            assert is_blank(character) == dropped, hex(code)


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
@settings(max_examples=200)
def test_groups_equal_a_union_find(rows):
    assert _groups(np.array(rows, dtype=np.uint64)).tolist() == groups_by_union(rows)


# --- dev as a share -------------------------------------------------------------------------------

PAIRS: dict[str, Any] = {
    "kind": "classification",
    "train": "p.csv",
    "texts": ["a", "b"],
    "label": "label",
}


def write_pairs(folder: Path, pairs: list[tuple[str, str]]) -> None:
    rows = [(*pair, "yn"[number % 2]) for number, pair in enumerate(pairs)]
    write_csv(folder / "p.csv", ["a", "b", "label"], rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bodies", [16, 4, 0])
def test_an_empty_text_links_no_rows(tmp_path, seed, bodies):
    pairs = [(f"title {n}", f"body {n}" if n < bodies else " ") for n in range(40)]
    write_pairs(tmp_path, pairs)
    data = load_task(tmp_path, {"split_seed": seed}, dev=0.25, **PAIRS)
    assert (len(data.train), len(data.dev)) == (30, 10)
    assert data.split_note == ""
    assert (data.dev.rows >= bodies).any()


def test_rows_without_any_text_are_groups_of_their_own(tmp_path):
    write_pairs(tmp_path, [("", "")] * 20 + [(f"a {n}", f"b {n}") for n in range(4)])
    data = load_task(tmp_path, dev=0.5, **PAIRS)
    assert (len(data.train), len(data.dev)) == (12, 12)


def test_an_empty_text_does_not_hide_the_other(tmp_path):
    write_pairs(tmp_path, [("same", "")] * 12 + [("", "same")] * 4 + [("x", "")] * 16)
    data = load_task(tmp_path, dev=0.5, **PAIRS)
    assert sorted(data.dev.rows.tolist()) in (list(range(16)), list(range(16, 32)))


def recurring(questions: int, count: int) -> list[tuple[str, str]]:
    """Pairs whose texts recur, so that all of them are linked."""
    drawn = np.random.default_rng(0).integers(questions, size=(count, 2))
    return [(f"question {a}", f"question {b}") for a, b in drawn]


def test_pairs_that_are_all_linked_say_what_links_them_and_can_be_drawn_singly(tmp_path):
    pairs = [("question 7", f"question {n % 119 + 8}") for n in range(30)] + recurring(120, 270)
    write_pairs(tmp_path, pairs)
    with pytest.raises(ComityError) as caught:
        load_task(tmp_path, dev=0.1, **PAIRS)
    (message,) = caught.value.messages
    often = sum("question 7" in pair for pair in pairs)
    assert f'such as "question 7", in {often} rows' in message
    assert "dev has 0 of the 30 rows that dev = 0.1 asks for" in message
    assert "rows can only be training rows" in message
    assert 'set split = "rows" in [tasks.t]' in message
    assert "raise" not in message
    data = load_task(tmp_path, dev=0.1, split="rows", **PAIRS)
    assert (len(data.train), len(data.dev)) == (270, 30)
    known = {text for row in data.train.rows for text in pairs[row]}
    sharing = sum(any(text in known for text in pairs[row]) for row in data.dev.rows)
    assert f"{sharing} of 30 dev rows share a text with training rows" in data.split_note
    assert any(data.split_note in note for note in task_notes(data, UNKNOWN))


def test_one_large_group_beside_single_rows_is_told(tmp_path):
    write_pairs(
        tmp_path,
        [("hub", f"spoke {n}") for n in range(60)] + [(f"a{n}", f"b{n}") for n in range(40)],
    )
    data = load_task(tmp_path, dev=0.2, **PAIRS)
    assert len(data.dev) == 20
    assert data.dev.rows.min() >= 60
    assert "60 of 100 rows can only be training rows" in data.split_note
    assert '"hub", in 60 rows' in data.split_note


def test_a_share_that_groups_cannot_fill_is_told(tmp_path):
    write_pairs(tmp_path, [(f"group {n // 20}", f"b {n}") for n in range(100)])
    data = load_task(tmp_path, dev=0.3, **PAIRS)
    assert len(data.dev) == 20
    assert "dev has 20 of the 30 rows" in data.split_note


def test_a_plain_draw_needs_no_sentence(tmp_path):
    write_pairs(tmp_path, [(f"a {n // 2}", f"b {n}") for n in range(100)])
    for split in ("groups", "rows"):
        data = load_task(tmp_path, dev=0.1, split=split, **PAIRS)
        assert len(data.dev) == 10
        assert (data.split_note == "") == (split == "groups")


def test_the_split_seed_draws_the_dev_rows_and_the_seed_does_not(tmp_path):
    write_pairs(tmp_path, [(f"a {n}", f"b {n}") for n in range(100)])
    base = load_task(tmp_path, dev=0.2, **PAIRS).dev.rows.tolist()
    assert load_task(tmp_path, {"seed": 7}, dev=0.2, **PAIRS).dev.rows.tolist() == base
    other = load_task(tmp_path, {"split_seed": 7}, dev=0.2, **PAIRS)
    assert other.dev.rows.tolist() != base
    again = split_off(load_whole(tmp_path), 0.2, 7)[1]
    assert again.rows.tolist() == other.dev.rows.tolist()


def load_whole(folder: Path) -> Any:
    return load_task(folder, dev="p.csv", **PAIRS).train


@pytest.mark.parametrize("split", ["groups", "rows"])
def test_mean_and_deviation_come_from_the_training_rows(tmp_path, split):
    scores = [float(n * n) for n in range(50)]
    write_csv(tmp_path / "r.csv", ["text", "label"], [(f"t {n}", s) for n, s in enumerate(scores)])
    task = {"train": "r.csv", "dev": 0.3, "text": "text", "label": "label", "split": split}
    data = load_task(tmp_path, kind="regression", **task)
    kept = [scores[row] for row in data.train.rows]
    assert len(kept) == 35
    assert data.target.mean == pytest.approx(np.mean(kept))
    assert data.target.deviation == pytest.approx(np.std(kept))


def test_one_file_for_training_and_dev_is_told(tmp_path):
    write_pairs(tmp_path, [(f"a {n}", f"b {n}") for n in range(10)])
    (tmp_path / "copy.csv").write_bytes((tmp_path / "p.csv").read_bytes())
    for dev in ("p.csv", "copy.csv"):
        data = load_task(tmp_path, dev=dev, **PAIRS)
        columns = data.read_columns
        (leak,), masks = find_leaks({"t": (data.train, columns)}, {"t": (data.dev, columns)})
        assert masks["t"].all()
        sentence = leak.sentence(False)
        assert f"{dev}, the dev set of t, is also training data of t (10 rows)" in sentence
        assert "name another set in tasks.t.dev" in sentence
    data = load_task(tmp_path, dev=0.5, **PAIRS)
    assert find_leaks({"t": (data.train, columns)}, {"t": (data.dev, columns)})[0] == []


def test_keys_of_a_share_have_no_effect_on_files(tmp_path):
    write_pairs(tmp_path, [("a", "b"), ("c", "d")])
    with pytest.raises(ComityError, match=r"split: has no effect here .dev is a file"):
        load_task(tmp_path, dev="p.csv", split="rows", **PAIRS)
    with pytest.raises(ComityError, match=r"split_seed: has no effect here .every task has a dev"):
        load_task(tmp_path, {"split_seed": 1}, dev="p.csv", **PAIRS)
