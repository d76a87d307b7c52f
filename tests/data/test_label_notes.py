"""Labels and scores that are read without an error but look wrong: what is said about them."""

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.tasks import UNKNOWN, load_task, notes_of, task_of
from tests.helpers import write_csv, write_jsonl

from comity.data.label_notes import placeholders
from comity.data.notes import task_notes
from comity.errors import ComityError

GOOD = ["yes", "no"] * 4


# --- placeholders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["-1", "?", "NaN", "unlabelled", "-", "n/a", "None", "\u200b"])
def test_a_placeholder_beside_classes_is_named_with_its_lines_and_can_be_ignored(tmp_path, label):
    labels = [*GOOD, label, "yes", label]
    notes = notes_of(tmp_path, labels)
    assert "2 rows have the label" in notes
    assert "looks like a missing label" in notes
    assert f"{tmp_path / 't.csv'}, lines 10 and 12" in notes
    assert "1 row has the label" in notes  # of the dev file
    if label.isprintable():
        assert f'set ignore_labels = ["{label}"] in [tasks.t]' in notes
    data = task_of(tmp_path, labels, ignore_labels=[label])
    assert data.target.classes == ("no", "yes")
    assert (len(data.train), data.train.ignored, data.dev.ignored) == (9, 2, 1)
    notes = notes_of(tmp_path, labels, ignore_labels=[label])
    assert "looks like" not in notes
    assert f"2 rows of {tmp_path / 't.csv'} have a label that ignore_labels lists" in notes
    assert "(lines 10 and 12)" in notes


def test_listed_classes_are_not_asked_about(tmp_path):
    labels = ["-1", "0", "1"] * 3
    assert "looks like a missing label" in notes_of(tmp_path, labels)
    assert notes_of(tmp_path, labels, classes=["-1", "0", "1"]) == ""


@pytest.mark.parametrize(
    ("name", "classes", "found"),
    [
        ("-1", ("-1", "0", "1"), True),
        ("-1.0", ("-1.0", "good", "bad"), True),
        ("-1", ("-2", "-1", "0"), False),  # numbers of both signs
        ("-5", ("-5", "10", "20"), False),
        ("-", ("-", "+"), False),
        ("-", ("-", "good", "bad"), True),
        ("N/A", ("N/A", "good", "bad"), True),
        ("good", ("good", "bad"), False),
    ],
)
def test_placeholders(name, classes, found):
    assert placeholders(classes) == ([name] if found else [])


def test_two_classes_of_which_one_looks_missing_are_two_classes(tmp_path):
    assert notes_of(tmp_path, ["-1", "1"] * 4) == ""


def test_placeholders_in_lists_of_labels(tmp_path):
    labels = ["red|blue", "red", "?", "blue|?", "", "red"]
    keys: dict[str, Any] = {"separator": "|", "dev": ["red", "blue"]}
    notes = notes_of(tmp_path, labels, "multi-label", **keys)
    assert '2 rows have the label "?"' in notes
    assert "lines 4 and 5" in notes
    data = task_of(tmp_path, labels, "multi-label", ignore_labels=["?"], **keys)
    assert data.target.classes == ("blue", "red")
    assert data.train.targets.tolist() == [[1, 1], [0, 1], [0, 0], [0, 1]]
    assert data.train.ignored == 2


def test_indicators_of_rows_that_nobody_labelled(tmp_path):
    rows = [["a", 1, 0], ["b", 0, -1], ["c", 0, 1], ["d", -1, -1]]
    write_csv(tmp_path / "m.csv", ["text", "red", "blue"], rows)
    files = {"train": "m.csv", "dev": "m.csv", "text": "text", "labels": ["red", "blue"]}
    with pytest.raises(ComityError, match=r'ignore_labels = \["-1"\]'):
        load_task(tmp_path, kind="multi-label", **files)
    data = load_task(tmp_path, kind="multi-label", ignore_labels=["-1"], **files)
    assert data.train.rows.tolist() == [0, 2]
    assert data.train.ignored == 2


def test_a_placeholder_in_dev_alone_is_an_error_with_the_key(tmp_path):
    with pytest.raises(ComityError) as caught:
        task_of(tmp_path, GOOD, dev=["yes", "no", "?", "?"])
    (message,) = caught.value.messages
    assert message.startswith(f"{tmp_path / 'd.csv'}:4: the label")
    assert "(also line 5)" in message
    assert 'ignore_labels = ["?"] in [tasks.t]' in message
    assert task_of(tmp_path, GOOD, dev=["yes", "?"], ignore_labels=["?"]).dev.ignored == 1


# --- spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        ("yes", "Yes"),
        ("so so", "so  so"),
        ("so so", "so\u00a0so"),
        ("so-so", "so - so"),
        ("caf\u00e9", "cafe\u0301"),
        ("yes", "yes\u200b"),
        ("yes", "\uff59es"),
        ("1.5", "1.50"),
        ("7", "07"),
        ("yes", "\ufeffyes"),
    ],
)
def test_names_that_hardly_differ_are_named_and_can_be_joined(tmp_path, pair):
    first, second = pair
    labels = [first, first, first, second, "other", "other"]
    notes = notes_of(tmp_path, labels)
    assert notes.count("\n") == 0
    assert "(3 rows)" in notes
    assert "(1 row)" in notes
    assert 'match_labels = "loose" in [tasks.t]' in notes
    assert notes_of(tmp_path, labels, classes=[*pair, "other"]) == ""
    loose = task_of(tmp_path, labels, match_labels="loose")
    assert set(loose.target.classes) == {first, "other"}  # the most frequent spelling
    assert sorted(np.bincount(loose.train.targets)) == [2, 4]
    assert "they count as one class" in notes_of(tmp_path, labels, match_labels="loose")


def test_spaces_at_the_ends_never_matter(tmp_path):
    assert task_of(tmp_path, ["yes", "yes ", "\u00a0yes", "no"]).target.classes == ("no", "yes")


def test_two_spellings_of_a_whole_number_are_one_class_and_said_to_be(tmp_path):
    labels = ["0", "0.0", "1", "1", "0.0"]
    assert task_of(tmp_path, labels).target.classes == ("0", "1")
    notes = notes_of(tmp_path, labels)
    assert 'the class "0" is written "0.0" (2 rows) and "0" (1 row)' in notes
    apart = task_of(tmp_path, labels, classes=["0", "0.0", "1"])
    assert apart.train.targets.tolist() == [0, 1, 2, 2, 1]


def test_codes_are_neither_joined_nor_rewritten(tmp_path):
    data = task_of(tmp_path, ["345.1", "345.10", "780.39", "01", "345.10"])
    assert data.target.classes == ("01", "345.1", "345.10", "780.39")
    assert data.train.targets.tolist() == [1, 2, 3, 0, 2]


def test_tags_that_differ_in_case(tmp_path):
    notes = notes_of(tmp_path, ["red|blue", "Red", "blue", "red"], "multi-label", separator="|")
    assert 'the classes "red" (2 rows) and "Red" (1 row) differ only in case' in notes
    loose = task_of(
        tmp_path, ["red|blue", "Red", "red|RED"], "multi-label", separator="|", match_labels="loose"
    )
    assert loose.target.classes == ("blue", "red")
    assert loose.train.targets.tolist() == [[1, 1], [0, 1], [0, 1]]


def test_a_dev_label_in_another_case_names_the_key(tmp_path):
    with pytest.raises(ComityError, match=r'did you mean "yes".*match_labels = "loose"'):
        task_of(tmp_path, GOOD, dev=["YES", "no"])
    data = task_of(tmp_path, GOOD, dev=["YES", "no"], match_labels="loose")
    assert data.dev.targets.tolist() == [1, 0]


def test_only_the_first_sentences_of_a_sort_are_said(tmp_path):
    names = [f"class {n}" for n in range(9)]
    labels = [*names, *(name.upper() for name in names)] * 4
    notes = notes_of(tmp_path, labels).splitlines()
    assert len(notes) == 6
    assert notes[-1] == "t: and 4 more sentences like these"


# --- kinds ----------------------------------------------------------------------------------------


def test_measurements_as_classes(tmp_path):
    labels = [f"{n / 7:.3f}" for n in range(250)]
    notes = notes_of(tmp_path, labels)
    assert '"label" has 250 different labels in 500 rows; is it a regression?' in notes
    text = [f"some {n} words" for n in range(250)]
    assert "is it the right column?" in notes_of(tmp_path, text)
    assert "different labels" not in notes_of(tmp_path, [str(n % 30) for n in range(300)])
    assert "is it a regression?" in notes_of(tmp_path, [f"{n % 30}.5" for n in range(300)])


def test_thousands_of_classes(tmp_path):
    data = task_of(tmp_path, [f"class {n}" for n in range(5000)], dev=["class 1"])
    assert len(data.target.classes) == 5000


def test_a_number_of_two_values(tmp_path):
    notes = notes_of(tmp_path, [0, 1] * 20, "regression")
    assert "only two different numbers (0 and 1); is it a classification?" in notes


# --- classes without rows -------------------------------------------------------------------------


def test_a_class_that_is_only_listed(tmp_path):
    notes = notes_of(tmp_path, GOOD, classes=["no", "yes", "maybe"], dev=["yes", "no", "maybe"])
    assert 'the class "maybe" has no training row, but 1 dev row' in notes
    many = [f"c{n}" for n in range(12)]
    notes = notes_of(tmp_path, GOOD, classes=["no", "yes", *many])
    assert "12 classes have no training row" in notes
    assert "and 4 more" in notes


@pytest.mark.parametrize("seed", range(6))
def test_a_class_whose_only_rows_are_drawn_for_dev(tmp_path, seed):
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(14)] + [("the only one", "rare")]
    write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    task = {"train": "t.csv", "dev": 0.4, "text": "text", "label": "label"}
    data = load_task(tmp_path, {"split_seed": seed}, kind="classification", **task)
    said = 'the class "rare" has no training row, but 1 dev row' in "".join(task_notes(data, 99))
    assert said == (14 in data.dev.rows)


def test_one_class_in_dev(tmp_path):
    assert '2 dev rows have only one class, "no"' in notes_of(tmp_path, GOOD, dev=["no", "no"])


def test_the_same_text_with_two_classes(tmp_path):
    rows = [("a", "x"), ("b", "y"), ("A ", "y"), ("c", "x"), ("c", "x"), ("d", "y")]
    write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    files = {"train": "t.csv", "dev": "t.csv", "text": "text", "label": "label"}
    notes = "\n".join(task_notes(load_task(tmp_path, kind="classification", **files), UNKNOWN))
    assert "2 training rows have the same texts as another row with a different class" in notes
    assert "lines 2 and 4" in notes


# --- scores ---------------------------------------------------------------------------------------


def test_scores_on_a_fifth_of_the_scale(tmp_path):
    scores = [n / 10 for n in range(11)]
    notes = notes_of(tmp_path, scores, "similarity").splitlines()
    assert len(notes) == 2
    assert "from 0 to 1, a fifth of the scale from 0 to 5 or less" in notes[0]
    assert "set scale = [0, 1] in [tasks.t]" in notes[0]
    assert "rounds 11 different training scores to 0 and 1" in notes[1]
    (only,) = notes_of(tmp_path, scores, "similarity", scale=[0, 1]).splitlines()
    assert "rounds 11" in only
    assert notes_of(tmp_path, scores, "similarity", scale=[0, 1], head="cosine") == ""
    assert notes_of(tmp_path, [0, 1, 2, 1.5], "similarity") == ""
    assert "all 4 training scores are 3" in notes_of(tmp_path, [3] * 4, "similarity", dev=[1, 2])
    assert "fifth" not in notes_of(tmp_path, [0, 5, 0, 5], "similarity")


def test_a_ranking_without_positive_pairs(tmp_path):
    objective = [{"loss": "ranking"}]
    notes = notes_of(tmp_path, [0, 1, 2, 3.9], "similarity", objectives=objective)
    assert "no training pair reaches positive_from = 0.8" in notes
    assert notes_of(tmp_path, [0, 1, 2, 4], "similarity", objectives=objective) == ""


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ([-1, 2.5, 3, -1, 0], "-1"),
        ([-999, 20, 30, 40, 35], "-999"),
        ([9999, 20, 30, 40, 35], "9999"),
        ([-1, 2, -3, 4, -1], None),
        ([-1, 2, 3, 4], None),  # a single -1 may be a measurement
        ([99, 95, 80, 70], None),
    ],
)
def test_numbers_that_stand_for_a_missing_one(tmp_path, scores, found):
    notes = notes_of(tmp_path, scores, "regression", dev=[1, 2])
    assert ("looks like a missing value" in notes) == (found is not None)
    if found is not None:
        assert f'ignore_labels = ["{found}"]' in notes
        data = task_of(tmp_path, scores, "regression", dev=[1, 2], ignore_labels=[found])
        kept = [score for score in scores if score != float(found)]
        assert data.train.targets.tolist() == kept
        assert data.target.mean == pytest.approx(np.mean(kept))


# --- kinds of values, one sentence for a whole column ---------------------------------------------


def errors_of(folder: Path, labels: list[Any], kind: str, **keys: Any) -> list[str]:
    with pytest.raises(ComityError) as caught:
        task_of(folder, labels, kind, dev=keys.pop("dev", labels[:1]), **keys)
    return [message for message in caught.value.messages if "t.csv" in message]


def test_a_column_of_names_is_not_a_number(tmp_path):
    (message,) = errors_of(tmp_path, ["reds", "blues"] * 200, "regression")
    assert message == (
        f'{tmp_path / "t.csv"}:2: none of 400 values in "label" is a number, such as "reds"; is it '
        "a classification?"
    )
    (message,) = errors_of(tmp_path, ["?", *["reds", "blues"] * 20], "regression")
    assert "t.csv:3: none of 41" in message
    assert message.endswith("is it a classification?")
    (message,) = errors_of(tmp_path, ["reds"] * 380 + ["1.5"] * 20, "regression", dev=["1"])
    assert "380 of 400 values" in message


@pytest.mark.parametrize("kind", ["jsonl", "float64", "float32", "decimal"])
def test_what_is_stored_as_a_number_has_a_point_whatever_the_decimal_mark(tmp_path, kind):
    rows = [("a", "1,5"), ("b", "2"), ("c", "-0,25"), ("d", "-1")]
    (tmp_path / "t.tsv").write_text("text\tn\n" + "".join(f"{t}\t{n}\n" for t, n in rows))
    numbers, dev = (
        [0.5, -1.0, 3.0, 2.25],
        tmp_path / f"d.{'jsonl' if kind == 'jsonl' else 'parquet'}",
    )
    texts = ["w", "x", "y", "z"]
    if kind == "jsonl":
        write_jsonl(dev, [{"text": t, "n": n} for t, n in zip(texts, numbers, strict=True)])
    else:
        type = pa.decimal128(5, 2) if kind == "decimal" else getattr(pa, kind)()
        column = pa.array(
            [Decimal(str(n)) for n in numbers] if kind == "decimal" else numbers, type
        )
        pq.write_table(pa.table({"text": texts, "n": column}), dev)
    task = {"kind": "regression", "train": "t.tsv", "dev": dev.name, "text": "text", "label": "n"}
    for _ in range(2):  # the second time from the cache
        data = load_task(tmp_path, **task, decimal_mark=",", ignore_labels=["-1"])
        assert data.train.targets.tolist() == [1.5, 2.0, -0.25]
        assert data.dev.targets.tolist() == [0.5, 3.0, 2.25]


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_correlation_on_one_or_two_dev_rows_says_nothing(tmp_path, metric):
    def notes(dev: list[str]) -> str:
        return notes_of(tmp_path, ["1", "2", "3"], "regression", dev, metric=metric)

    name = metric.capitalize()
    assert f"{name} has no value on dev (only one row)" in notes(["1"])
    assert f"{name} is always 1 or -1 on 2 dev rows; add dev rows" in notes(["1", "2"])
    assert f"{name} has no value on dev (all 2 gold scores are 1.0)" in notes(["1", "1"])
    assert name not in notes(["1", "2", "3"])


def test_a_class_with_one_row_is_named(tmp_path):
    notes = notes_of(tmp_path, [*GOOD * 2, "rare"], dev=["yes", "no"])
    assert '1 class has only one row, too few to learn from: "rare"; add rows, or merge' in notes
    assert "only one row, too few" not in notes_of(
        tmp_path, [*GOOD * 2, "rare"], dev=["yes", "rare"]
    )
    # Too many classes for the rows are another note.
    many = [f"label {n}" for n in range(30)]
    assert "only one row, too few" not in notes_of(tmp_path, many, dev=many[:2])


@pytest.mark.parametrize(
    ("score", "mark", "advice"),
    [
        ("50%", ".", "remove the percent sign"),
        ("1,234", ".", "remove the thousands separators, or set decimal_mark"),
        ("1,234,567", ".", "remove the thousands separators"),
        ("1.234.567,5", ",", "remove the thousands separators"),
        ("1 234", ".", "remove the thousands separators"),
        ("2,5", ".", 'set decimal_mark = ","'),
        ("2.5", ",", 'set decimal_mark = "."'),
        ("n/a", ".", 'set ignore_labels = ["n/a"] in [tasks.t]'),
        ("high", ".", "correct it"),
    ],
)
def test_numbers_that_cannot_be_read(tmp_path, score, mark, advice):
    half = "1" + mark + "5"
    labels = [half, "2", "3", score, "4"]
    (message,) = errors_of(tmp_path, labels, "regression", dev=["1"], decimal_mark=mark)
    assert f't.csv:5: the score "{score}" is not a number' in message
    assert advice in message


def test_a_score_outside_the_scale_that_stands_for_none(tmp_path):
    (message,) = errors_of(tmp_path, [1, 2, -999, 4, 5], "similarity")
    assert "outside the scale" in message
    assert 'ignore_labels = ["-999"]' in message
    data = task_of(tmp_path, [1, 2, -999, 4, 5], "similarity", dev=[1], ignore_labels=["-999.0"])
    assert data.train.targets.tolist() == [1, 2, 4, 5]


def test_lists_as_classes_and_texts_as_lists(tmp_path):
    write_jsonl(tmp_path / "l.jsonl", [{"text": f"t{n}", "label": ["a"]} for n in range(9)])
    files = {"train": "l.jsonl", "dev": "l.jsonl", "text": "text", "label": "label"}
    with pytest.raises(ComityError) as caught:
        load_task(tmp_path, kind="classification", **files)
    (message,) = caught.value.messages
    assert 'none of 9 values in "label" is a single class' in message
    assert "multi-label" in message
    (message,) = errors_of(tmp_path, ["a,b", "a", "b", "b,c"], "multi-label", dev=[""])
    assert "none of 4 values" in message
    assert "separator" in message


def test_one_error_for_each_wrong_label_however_many_rows_have_it(tmp_path):
    labels = [*GOOD, "maybe", "maybe", "never", "maybe"]
    messages = errors_of(tmp_path, labels, "classification", classes=["no", "yes"], dev=["no"])
    assert len(messages) == 2
    assert 't.csv:10: the label "maybe" is not a class' in messages[0]
    assert "(also lines 11 and 13)" in messages[0]


def test_many_unknown_labels_are_counted(tmp_path):
    labels = [*GOOD, *(f"class {n}" for n in range(3000))]
    with pytest.raises(ComityError) as caught:
        task_of(tmp_path, labels, classes=["no", "yes"], dev=["no"])
    assert len(caught.value.messages) == 21
    assert caught.value.messages[-1] == "and 2,980 more errors"


def test_a_column_without_labels_is_one_sentence(tmp_path):
    (message,) = errors_of(tmp_path, ["yes", "no", *[""] * 40], "classification", dev=["no"])
    assert '40 of 42 rows have no label in "label"' in message
    assert "lines 4, 5, 6" in message
    assert 'missing_labels = "skip"' in message


def test_the_labels_of_csv_files_are_read_as_they_are_written(tmp_path):
    data = task_of(tmp_path, ["001", "002", "010", "001"])
    with (tmp_path / "t.csv").open(newline="") as file:
        written = [row["label"] for row in csv.DictReader(file)]
    assert [data.target.classes[t] for t in data.train.targets] == written
