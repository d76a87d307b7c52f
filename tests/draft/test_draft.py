"""Drafts of recipes: what is guessed from a table, and that `check` accepts the recipe."""

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import alike_rows, mood_rows, write_csv, write_jsonl

from comity.data.splits import read_tasks
from comity.draft.draft import Draft, draft_recipe
from comity.errors import ComityError
from comity.recipe.recipe import Recipe


def keys_of(draft: Draft, name: str) -> dict[str, Any]:
    """The keys of a task and their values."""
    return {key: guess.value for key, guess in draft.tasks[name].keys.items()}


def drafted(folder: Path, rows: list[tuple], names: list[str], dev: list[tuple] | None = None):
    """The keys of the task of one file, which `check` must accept, and the draft."""
    file = write_csv(folder / "t.csv", names, rows)
    if dev is not None:
        write_csv(folder / "t-dev.csv", names, dev)
    draft = draft_recipe([file], folder / "recipe.toml")
    accept(draft, folder)
    (name,) = draft.tasks
    return keys_of(draft, name), draft


def accept(draft: Draft, folder: Path) -> None:
    """Read the recipe and its files as `check` does."""
    values = tomllib.loads(draft.text)
    recipe = Recipe.from_dict(values)
    read_tasks(recipe, folder)
    assert {name: task["kind"] for name, task in values["tasks"].items()} == {
        name: keys_of(draft, name)["kind"] for name in draft.tasks
    }


def texts(count: int, word: str = "film") -> list[str]:
    return [f"the {word} number {number} is long" for number in range(count)]


def pairs(count: int) -> list[tuple[str, str]]:
    return list(zip(texts(count), texts(count, "book"), strict=True))


# --- kinds ----------------------------------------------------------------------------------------


def test_classes_of_one_text(tmp_path):
    rows = [(number, *row) for number, row in enumerate(mood_rows(0, 30))]
    keys, draft = drafted(tmp_path, rows, ["id", "text", "mood"])
    assert keys == {
        "kind": "classification",
        "dev": 0.1,
        "text": "text",
        "label": "mood",
        "train": "t.csv",
    }
    (task,) = draft.tasks.values()
    assert task.unused == {"id": "is named like an id"}
    assert task.keys["kind"].evidence == '"mood" has 2 values: down and up'
    assert draft.notes == []


def test_scores_of_pairs(tmp_path):
    keys, _ = drafted(tmp_path, alike_rows(0, 30), ["a", "b", "score"])
    assert (keys["kind"], keys["texts"], keys["label"]) == ("classification", ["a", "b"], "score")
    rows = [(a, b, score + number / 100) for number, (a, b, score) in enumerate(alike_rows(0, 30))]
    keys, _ = drafted(tmp_path, rows, ["a", "b", "score"])
    assert (keys["kind"], keys["scale"]) == ("similarity", [0, 5])
    assert "head" not in keys


@pytest.mark.parametrize(
    ("scores", "scale", "head"),
    [
        ([0.1, 0.9, 0.5], [0, 1], "regression"),
        ([-0.5, 0.9, 0.5], [-1, 1], "regression"),
        ([7.5, 1, 2], [0, 10], None),
        ([7.5, 99, 2], [0, 100], "regression"),
        ([-7.5, 9.2, 2], [-8, 10], "regression"),
    ],
)
def test_scales(tmp_path, scores, scale, head):
    rows = [(*pair, scores[n % 3]) for n, pair in enumerate(pairs(12))]
    keys, _ = drafted(tmp_path, rows, ["text1", "text2", "similarity"])
    assert (keys["kind"], keys["scale"], keys.get("head")) == ("similarity", scale, head)


def test_numbers_of_one_text(tmp_path):
    rows = [(text, number / 3) for number, text in enumerate(texts(30))]
    assert drafted(tmp_path, rows, ["text", "price"])[0]["kind"] == "regression"
    rows = [(text, f"{number},5") for number, text in enumerate(texts(30))]
    keys, _ = drafted(tmp_path, rows, ["text", "price"])
    assert (keys["kind"], keys["decimal_mark"]) == ("regression", ",")
    rows = [(text, 1 + number % 5) for number, text in enumerate(texts(30))]
    assert drafted(tmp_path, rows, ["text", "stars"])[0]["kind"] == "classification"
    rows = [(text, ("345.1", "345.10", "780.3")[n % 3]) for n, text in enumerate(texts(30))]
    assert drafted(tmp_path, rows, ["text", "code"])[0]["kind"] == "classification"


def test_labels_in_one_cell_in_lists_and_in_columns(tmp_path):
    tags = ["red;round", "blue", "", "blue;red", "round"]
    rows = [(text, tags[number % 5]) for number, text in enumerate(texts(20))]
    keys, _ = drafted(tmp_path, rows, ["text", "tags"])
    assert (keys["kind"], keys["separator"]) == ("multi-label", ";")
    assert "missing_labels" not in keys  # a row without tags has none
    rows = [(text, n % 2, n % 3 // 2, n % 5 // 4) for n, text in enumerate(texts(20))]
    keys, _ = drafted(tmp_path, rows, ["text", "red", "round", "blue"])
    assert (keys["kind"], keys["labels"]) == ("multi-label", ["red", "round", "blue"])
    values = [{"t": {"text": t}, "tags": tags[n % 5].split(";")} for n, t in enumerate(texts(20))]
    file = write_jsonl(tmp_path / "j.jsonl", [row | {"tags": row["tags"]} for row in values])
    draft = draft_recipe([file], tmp_path / "recipe.toml")
    accept(draft, tmp_path)
    keys = keys_of(draft, "j")
    assert (keys["kind"], keys["text"], keys["label"]) == ("multi-label", "t.text", "tags")


# --- texts and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [("sentence1", "sentence2"), ("question_a", "question_b"), ("premise", "hypothesis"),
     ("text", "text2"), ("left", "right"), ("QuestionOne", "QuestionTwo")],
)  # fmt: skip
def test_names_of_pairs(tmp_path, names):
    rows = [
        (f"{text} and more of it to say", text, "yn"[number % 2], "a longer comment than all")
        for number, text in enumerate(texts(20))
    ]
    keys, _ = drafted(tmp_path, rows, [*names, "label", "remark"])
    assert keys["texts"] == list(names)


def test_of_two_texts_that_are_no_pair_the_one_named_so_is_read(tmp_path):
    rows = [(f"{t} {t} {t} by a writer", t, "yn"[n % 2]) for n, t in enumerate(texts(20))]
    keys, draft = drafted(tmp_path, rows, ["author_bio", "review", "label"])
    assert keys["text"] == "review"
    assert draft.tasks["t"].unused == {"author_bio": "may be a text too"}


def test_several_labels_are_several_tasks(tmp_path):
    rows = [(t, "ab"[n % 2], "xyz"[n % 3], n % 4) for n, t in enumerate(texts(24))]
    file = write_csv(tmp_path / "t.csv", ["text", "mood", "topic", "place"], rows)
    draft = draft_recipe([file], tmp_path / "recipe.toml")
    accept(draft, tmp_path)
    assert list(draft.tasks) == ["t-mood", "t-topic"]
    assert draft.notes == [f'{file}: "place" may be a label too; add a task for it if it is one']
    assert draft.tasks["t-mood"].unused == {
        "topic": "is the label of another task",
        "place": "may be a label too",
    }


def test_the_text_of_a_label_is_no_second_task(tmp_path):
    rows = [(t, n % 2, ["bad", "good"][n % 2]) for n, t in enumerate(texts(24))]
    keys, _ = drafted(tmp_path, rows, ["text", "label", "label_text"])
    assert keys["label"] == "label"


def test_columns_that_say_nothing_are_not_used(tmp_path):
    rows = [(n, t, "v1", "", "yn"[n % 2]) for n, t in enumerate(texts(24))]
    keys, draft = drafted(tmp_path, rows, ["n", "t", "version", "note", "answer"])
    assert (keys["text"], keys["label"]) == ("t", "answer")
    assert draft.tasks["t"].unused == {
        "n": "numbers the rows",
        "version": "is the same in all rows",
        "note": "is empty",
    }


def test_missing_labels_and_marks_for_them(tmp_path):
    labels = ["up", "down", "", "?", "up", "down"]
    rows = [(t, labels[n % 6]) for n, t in enumerate(texts(36))]
    keys, draft = drafted(tmp_path, rows, ["text", "label"])
    assert (keys["missing_labels"], keys["ignore_labels"]) == ("skip", ["?"])
    assert draft.tasks["t"].keys["missing_labels"].evidence == "6 rows without a label"
    numbers = [0.5, 1.5, "n/a", 2.5, 3.25, 4]
    rows = [(t, numbers[n % 6]) for n, t in enumerate(texts(36))]
    keys, _ = drafted(tmp_path, rows, ["text", "rating"])
    assert (keys["kind"], keys["ignore_labels"]) == ("regression", ["n/a"])


def test_a_file_without_a_header(tmp_path):
    rows = [(t, "yn"[n % 2]) for n, t in enumerate(texts(24))]
    keys, _ = drafted(tmp_path, rows[1:], [*rows[0]])
    assert (keys["header"], keys["text"], keys["label"]) == (False, 0, 1)


# --- dev sets -------------------------------------------------------------------------------------


def test_a_dev_set_with_other_labels(tmp_path):
    rows = [(t, "yn"[n % 2]) for n, t in enumerate(texts(24))]
    dev = [(t, ["y", "n", "maybe", "?"][n % 4]) for n, t in enumerate(texts(8, "book"))]
    keys, draft = drafted(tmp_path, rows, ["text", "label"], dev)
    assert (keys["dev"], keys["classes"]) == ("t-dev.csv", ["maybe", "n", "y"])
    assert keys["ignore_labels"] == ["?"]
    assert draft.tasks["t"].keys["classes"].evidence == "only the dev set has 1 value: maybe"
    tags = [(t, ["a|b", "c", "b|c"][n % 3]) for n, t in enumerate(texts(24))]
    keys, _ = drafted(tmp_path, tags, ["text", "tags"], [("a new text here", "a|d")])
    assert keys["classes"] == ["a", "b", "c", "d"]


def test_a_dev_set_widens_the_scale(tmp_path):
    rows = [(*pair, n / 24) for n, pair in enumerate(pairs(24))]
    dev = [("a first text", "a second text", 4.5)]
    assert drafted(tmp_path, rows, ["a", "b", "score"], dev)[0]["scale"] == [0, 5]


@pytest.mark.parametrize(
    ("names", "label", "problem"),
    [
        (["text", "gold"], "y", 'has no column "label"'),
        (["text", "label"], "-1", 'has no labels in "label"'),
        (["text", "label"], "", 'has no labels in "label"'),
    ],
)
def test_a_dev_set_that_cannot_be_evaluated(tmp_path, names, label, problem):
    rows = [(t, "yn"[n % 2]) for n, t in enumerate(texts(24))]
    write_csv(tmp_path / "t-dev.csv", names, [(t, label) for t in texts(4, "book")])
    keys, draft = drafted(tmp_path, rows, ["text", "label"])
    assert keys["dev"] == 0.1
    assert draft.notes == [f"{tmp_path}/t-dev.csv: {problem}, so it is not the dev set of t"]


def test_pairs_that_share_texts_are_split_by_rows(tmp_path):
    rows = [(f"one of {n % 2}", text, "yn"[n % 2]) for n, text in enumerate(texts(24))]
    keys, _ = drafted(tmp_path, rows, ["text1", "text2", "label"])
    assert (keys["dev"], keys["split"]) == (0.1, "rows")


def test_tables_that_are_too_small(tmp_path):
    with pytest.raises(ComityError, match="cannot be divided into training and dev rows"):
        drafted(tmp_path, [("a b c", "y"), ("d e f", "n")], ["text", "label"])


# --- errors ---------------------------------------------------------------------------------------


def test_what_cannot_be_guessed_is_one_sentence(tmp_path):
    one = write_csv(tmp_path / "one.csv", ["text", "label"], [(t, "up") for t in texts(9)])
    two = write_csv(tmp_path / "two.csv", ["text"], [(t,) for t in texts(9)])
    three = write_csv(tmp_path / "three.csv", ["x", "y"], [(n, n % 2) for n in range(9)])
    with pytest.raises(ComityError) as caught:
        draft_recipe([one, two, three], tmp_path / "recipe.toml")
    assert caught.value.messages == [
        f'{one}: "label" looks like the label, but all its values are "up"; add rows with other '
        "labels",
        f"{two}: no column looks like a label; write its task by hand",
        f"{three}: no column looks like a text; write its task by hand",
    ]
    good = write_csv(tmp_path / "good.csv", ["text", "mood"], mood_rows(0, 30))
    draft = draft_recipe([good, two], tmp_path / "recipe.toml")
    assert list(draft.tasks) == ["good"]
    assert draft.notes == caught.value.messages[1:2]


def test_all_errors_of_all_files_come_together(tmp_path):
    short = write_csv(tmp_path / "short.csv", ["text", "label"], [("a",), ("b", "c")])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"\n')
    with pytest.raises(ComityError) as caught:
        draft_recipe([short, broken], tmp_path / "recipe.toml")
    assert [message.split(": ")[0] for message in caught.value.messages] == [
        f"{short}:2",
        f"{broken}:1",
    ]
    with pytest.raises(ComityError) as caught:
        draft_recipe([tmp_path / "none.csv", tmp_path], tmp_path / "recipe.toml")
    assert len(caught.value.messages) == 2


# --- any table ------------------------------------------------------------------------------------

word = st.text(alphabet="abcdefgéß你 .;\"'-", min_size=1, max_size=6)
sentence = st.lists(word, min_size=3, max_size=8).map(" ".join)


LABELS = {
    "classes": lambda row: ("ja", "nein", "weiß nicht")[row % 3],
    "numbers": lambda row: str(1 + row % 3),
    "scores": lambda row: round(1 + row / 7, 3),
    "tags": lambda row: ("red;blue", "red", "blue;green", "green")[row % 4],
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, list[Any]], str, bool]:
    """Columns in any order, of which some are neither; the sort of label; whether it has pairs."""
    rows = range(draw(st.integers(12, 30)))
    names = draw(st.sampled_from([["text"], ["sentence1", "sentence2"], ["left", "right"]]))
    columns: dict[str, list[Any]] = {}
    for name in names:
        start = draw(st.lists(sentence, min_size=len(rows), max_size=len(rows)))
        columns[name] = [f"{start[row]} {row}" for row in rows]
    sort = draw(st.sampled_from(sorted(LABELS)))
    columns["tags" if sort == "tags" else "label"] = [LABELS[sort](row) for row in rows]
    if draw(st.booleans()):
        columns["id"] = [f"r{row}" for row in rows]
    if draw(st.booleans()):
        columns["source"] = ["web" for _ in rows]
    order = draw(st.permutations(list(columns)))
    texts = iter(names)  # the first text comes first
    named = [next(texts) if name in names else name for name in order]
    return {name: columns[name] for name in named}, sort, len(names) > 1


def write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            csv.writer(file, delimiter=delimiter).writerows([list(columns), *rows])


@given(tables(), st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_check_accepts_the_draft_of_any_table(tmp_path_factory, table, extension, with_dev):
    columns, sort, is_pair = table
    folder = tmp_path_factory.mktemp("draft")
    write_table(folder / f"t-train{extension}", columns)
    if with_dev:
        write_table(folder / f"t-dev{extension}", {n: v[:7] for n, v in columns.items()})
    draft = draft_recipe([folder / f"t-train{extension}"], folder / "recipe.toml")
    accept(draft, folder)
    (name,) = draft.tasks
    keys = keys_of(draft, name)
    kinds = {"tags": "multi-label", "scores": "similarity" if is_pair else "regression"}
    assert keys["kind"] == kinds.get(sort, "classification")
    assert ("texts" in keys) == is_pair
    assert (keys["dev"] == f"t-dev{extension}") == with_dev


# --- real files -----------------------------------------------------------------------------------


def test_the_files_of_the_course(shared, tmp_path):
    names = ["ids-sst-train.csv", "quora-train.csv", "sts-train.csv"]
    files = [shared / "data" / name for name in names]
    if not all(file.exists() for file in files):
        pytest.skip("the course's files are not there")
    draft = draft_recipe(files, shared / "data" / "recipe.toml")
    assert keys_of(draft, "ids-sst") == {
        "kind": "classification",
        "train": "ids-sst-train.csv",
        "dev": "ids-sst-dev.csv",
        "text": "sentence",
        "label": "sentiment",
    }
    assert draft.tasks["ids-sst"].keys["kind"].evidence.endswith("5 values: 0, 1, 2, 3 and 4")
    pair = ["sentence1", "sentence2"]
    quora, sts = keys_of(draft, "quora"), keys_of(draft, "sts")
    assert (quora["kind"], quora["texts"]) == ("classification", pair)
    assert quora["label"] == "is_duplicate"
    assert draft.tasks["quora"].keys["kind"].evidence.endswith("2 values: 0 and 1")
    assert (sts["kind"], sts["texts"], sts["scale"]) == ("similarity", pair, [0, 5])
    accept(draft, shared / "data")


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("IN-01/sts-train.csv", {"header": False, "texts": [5, 6], "label": 4, "scale": [0, 5]}),
        ("IN-05/texts.csv", {"kind": "classification", "text": "text", "label": "label"}),
        ("IN-09/grades.csv", {"kind": "similarity", "decimal_mark": ",", "scale": [0, 5]}),
        ("IN-11/noheader.csv", {"kind": "classification", "header": False, "text": 0, "label": 1}),
        ("IN-17/struct.parquet", {"text": "item.text", "label": "item.label"}),
        ("LB-05/ratings.csv", {"kind": "classification", "label": "stars"}),
        ("LB-11/multi.csv", {"kind": "multi-label", "separator": "|", "label": "tags"}),
        ("LB-11/multi.jsonl", {"kind": "multi-label", "label": "tags"}),
        ("LB-11/multi-columns.csv", {"kind": "multi-label", "labels": ["red", "round", "blue"]}),
        ("N-05/parcels.csv", {"kind": "classification", "label": "verdict"}),
        ("N-09/train.csv", {"kind": "similarity", "scale": [0, 1], "dev": "dev.csv"}),
    ],
)
def test_the_cases(shared, file, wanted):
    path = shared / "cases" / "files" / file
    if not path.exists():
        pytest.skip("the cases are not there")
    draft = draft_recipe([path], path.parent / "recipe.toml")
    accept(draft, path.parent)
    (name,) = draft.tasks
    assert keys_of(draft, name).items() >= wanted.items()
