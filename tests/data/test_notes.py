"""What is said about the texts of a task and about rows that were left out."""

import pytest
from tests.data.tasks import UNKNOWN, load_task, task_of
from tests.helpers import write_csv

from comity.data.notes import task_notes, unknown_share

SAID = {
    "kind": "classification",
    "train": "t.csv",
    "dev": "d.csv",
    "text": "text",
    "label": "label",
}
PAIRS = {"kind": "classification", "train": "t.csv", "dev": "d.csv", "texts": ["a", "b"]}


def notes_of_rows(folder, columns, rows, dev_rows, /, **task):
    write_csv(folder / "t.csv", columns, rows)
    write_csv(folder / "d.csv", columns, dev_rows)
    data = load_task(folder, **task)
    return "\n".join(task_notes(data, UNKNOWN))


def rows_of(count, text="text {}"):
    return [(text.format(n), "yn"[n % 2]) for n in range(count)]


@pytest.mark.parametrize(("empty", "verb"), [("keep", "kept"), ("drop", "left out")])
def test_every_empty_line_is_named_up_to_ten(tmp_path, empty, verb):
    train = [*rows_of(8), ("", "y"), ("  ", "n")]
    header = ["text", "label"]
    found = notes_of_rows(tmp_path, header, train, rows_of(2), **SAID, empty_texts=empty)
    where = f"{tmp_path / 't.csv'}, lines 10 and 11"
    assert f"2 training rows have an empty text; {verb} ({where})" in found
    train = rows_of(8) + [("", "y")] * 30
    found = notes_of_rows(tmp_path, header, train, rows_of(2), **SAID, empty_texts=empty)
    assert "lines 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 20 more" in found


def test_rows_without_a_label_are_named(tmp_path):
    train = [*rows_of(4), ("a", ""), ("b", "")]
    found = notes_of_rows(
        tmp_path, ["text", "label"], train, rows_of(2), **SAID, missing_labels="skip"
    )
    assert f"2 rows of {tmp_path / 't.csv'} have no label; left out (lines 6 and 7)" in found


def test_zero_bytes_are_counted(tmp_path):
    train = [*rows_of(4), ("a\0b", "y"), ("c\0", "n")]
    found = notes_of_rows(tmp_path, ["text", "label"], train, rows_of(2), **SAID)
    assert "2 training rows have a zero byte in a text" in found
    assert f"{tmp_path / 't.csv'}, lines 6 and 7" in found
    assert "zero byte" not in notes_of_rows(
        tmp_path, ["text", "label"], rows_of(4), rows_of(2), **SAID
    )


def test_texts_decoded_with_the_wrong_encoding_are_named_in_every_file(tmp_path):
    train = [*rows_of(6, "Gerät {} geht nicht"), ("a", "y")]
    task = {**SAID, "dev": 0.25, "encoding": "cp1252"}
    for _ in range(2):  # the second time from the cache
        found = notes_of_rows(tmp_path, ["text", "label"], train, rows_of(2), **task)
        said = (
            f'{tmp_path / "t.csv"}: 6 values look like text decoded with the wrong encoding ("GerÃ'
        )
        assert found.count(said) == 1 and "correct `encoding`" in found
    found = notes_of_rows(tmp_path, ["text", "label"], train, [("x\ufffd", "y")] * 2, **SAID)
    assert "wrong encoding" not in found
    assert f"{tmp_path / 'd.csv'}: 2 values contain U+FFFD" in found


def test_texts_in_another_language_are_told_by_unknown_tokens(tmp_path):
    train = [("one x1 three x2", "y"), ("x3", "n"), ("", "n")]
    found = notes_of_rows(tmp_path, ["text", "label"], train, rows_of(2), **SAID)
    assert f"60% of the tokens in {tmp_path / 't.csv'} are unknown" in found
    assert "d.csv" not in found.replace("dev rows", "")
    data = load_task(tmp_path, **SAID)
    assert unknown_share(data, data.train, UNKNOWN) == pytest.approx(3 / 5)
    assert unknown_share(data, data.dev, UNKNOWN) == 0


def test_only_the_texts_that_a_task_reads_count(tmp_path):
    rows = [(f"text {n}", "xx xy", "yn"[n % 2]) for n in range(4)]
    found = notes_of_rows(
        tmp_path, ["a", "b", "label"], rows, rows, **PAIRS, label="label", view="first"
    )
    assert "unknown" not in found


def test_the_label_is_the_text(tmp_path):
    rows = [(name, name) for name in ("good", "bad")] * 4
    found = notes_of_rows(tmp_path, ["text", "label"], rows, rows, **SAID)
    assert 'the label "label" is the same as the text "text"' in found
    task = {**SAID, "label": "text"}
    # The recipe refuses one column for both; two columns with the same content are told.
    with pytest.raises(Exception, match="both text and label"):
        load_task(tmp_path, **task)


def test_texts_that_do_not_differ(tmp_path):
    found = notes_of_rows(tmp_path, ["text", "label"], rows_of(6, "the same"), rows_of(2), **SAID)
    assert 'the text "text" is the same in all 6 training rows' in found
    assert "is the same in all" not in "\n".join(task_notes(task_of(tmp_path, ["a", "b"] * 3), 99))


def test_pairs_of_the_same_column(tmp_path):
    rows = [(f"text {n}", f"TEXT  {n}", "yn"[n % 2]) for n in range(6)]
    found = notes_of_rows(tmp_path, ["a", "b", "label"], rows, rows, **PAIRS, label="label")
    assert 'the texts "a" and "b" are the same in all 6 training rows' in found


def test_columns_that_are_swapped_in_dev(tmp_path):
    train = [(f"question {n}", f"answer {n}", "yn"[n % 2]) for n in range(8)]
    dev = [(second, first, label) for first, second, label in train]
    found = notes_of_rows(tmp_path, ["a", "b", "label"], train, dev, **PAIRS, label="label")
    assert "are the two columns swapped in one of the two sets?" in found
    found = notes_of_rows(tmp_path, ["a", "b", "label"], train, train, **PAIRS, label="label")
    assert "swapped" not in found
