"""Back-translation: which rows are dropped or kept, and nothing is translated twice."""

import csv
import json
from collections.abc import Callable
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers import mood_rows, two_tasks, write_csv, write_jsonl, write_two_tasks

from comity.data.augment import AugmentReport, augment, cache_path, check_augment
from comity.errors import ComityError, ErrorList
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat
from comity.training.setup import prepare


class Fake:
    """A translator that applies `change` to each text and records the texts."""

    def __init__(self, change: Callable[[str], str], fail_at: int | None = None):
        self.change = change
        self.fail_at = fail_at
        self.calls: list[list[str]] = []

    @property
    def asked(self) -> list[str]:
        return [text for call in self.calls for text in call]

    def __call__(self, texts: list[str]) -> list[str]:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the machine went down")
        self.calls.append(list(texts))
        return [self.change(text) for text in texts]


def to_pivot(text: str) -> str:
    return f"<{text}>"


def there() -> Fake:
    return Fake(to_pivot)


def again(**others: str) -> Fake:
    """The way back: the same text, except for `others`, which come back as given."""
    return Fake(lambda pivot: others.get(pivot[1:-1], pivot[1:-1]))


def never() -> Fake:
    def refuse(text: str) -> str:
        raise AssertionError(f"{text!r} was translated")

    return Fake(refuse)


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


def error_of(path: Path, columns: list[str], output: Path, **options: Any) -> str:
    """The message of a call that must fail before anything is translated."""
    with pytest.raises(ComityError) as caught:
        augment(path, columns, output, never(), never(), **options)
    (message,) = caught.value.messages
    return message


# --- what is dropped ------------------------------------------------------------------------------


def test_an_identical_row_is_dropped_and_the_others_keep_their_other_columns(tmp_path):
    rows = [(1, "good film", "0.0", "a"), (2, "bad film", "1.0", "NA"), (3, "tea", "2", "")]
    source = write_csv(tmp_path / "in.csv", ["id", "text", "label", "note"], rows)
    back = again(**{"good film": "fine film", "tea": "hot tea"})
    report = augment(source, ["text"], tmp_path / "out.csv", there(), back)
    assert read_back(tmp_path / "out.csv") == [
        {"id": "1", "text": "fine film", "label": "0.0", "note": "a"},
        {"id": "3", "text": "hot tea", "label": "2", "note": ""},
    ]
    assert report == AugmentReport(
        rows=3,
        without_text=0,
        translated=3,
        without_result=0,
        identical=1,
        near_identical=0,
        augmented=2,
        written=2,
        empty_texts=0,
        cut_texts=0,
    )


@pytest.mark.parametrize(
    ("result", "is_identical"),
    [
        ("A good film.", True),
        ("  a GOOD \n film. ", True),
        ("a good film", False),
        ("a good  film!", False),
        ("agood film.", False),
    ],
)
def test_identical_ignores_case_and_white_space(tmp_path, result, is_identical):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], [(1, " a good film."), (2, "other")])
    back = again(**{" a good film.": result, "other": "something else"})
    report = augment(source, ["text"], tmp_path / "out.csv", there(), back)
    assert report.identical == int(is_identical)


def test_a_pair_is_dropped_only_where_both_texts_come_back_identical(tmp_path):
    rows = [("same", "same too"), ("same", "other"), ("other", "same"), ("other", "other")]
    source = write_csv(tmp_path / "in.csv", ["a", "b"], rows)
    report = augment(source, ["a", "b"], tmp_path / "out.csv", there(), again(other="new"))
    assert [tuple(row.values()) for row in read_back(tmp_path / "out.csv")] == [
        ("same", "new"),
        ("new", "same"),
        ("new", "new"),
    ]
    assert (report.identical, report.augmented) == (1, 3)


def test_a_column_that_is_not_named_stays(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["a", "b"], [("one", "one")])
    augment(source, ["b"], tmp_path / "out.csv", there(), again(one="two"))
    assert read_back(tmp_path / "out.csv") == [{"a": "one", "b": "two"}]


# "abcd" and "abce" share 3 of 4 characters: 2 * 3 / (4 + 4) = 0.75.
@pytest.mark.parametrize(("share", "dropped"), [(None, 0), (0.76, 0), (0.75, 1), (0.5, 1)])
def test_near_identical_rows_are_dropped_by_option(tmp_path, share, dropped):
    rows = [(1, "abcd"), (2, "wxyz"), (3, "same")]
    source = write_csv(tmp_path / "in.csv", ["n", "text"], rows)
    back = again(abcd="abce", wxyz="1234")
    report = augment(source, ["text"], tmp_path / "out.csv", there(), back, drop_similar=share)
    assert (report.identical, report.near_identical) == (1, dropped)
    assert report.augmented == 2 - dropped


def test_long_texts_of_few_letters_can_be_near_identical(tmp_path):
    # By default difflib ignores letters this frequent; 399 of 400 letters are shared.
    long = "ab" * 200
    source = write_csv(tmp_path / "in.csv", ["n", "text"], [(1, long), (2, "other")])
    back = again(**{long: "c" + long[1:], "other": "new"})
    report = augment(source, ["text"], tmp_path / "out.csv", there(), back, drop_similar=0.99)
    assert (report.near_identical, report.augmented) == (1, 1)


@given(st.text("ab ", min_size=1), st.text("ab ", min_size=1), st.floats(0.1, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_similarity_is_difflibs_ratio_of_the_normalised_texts(tmp_path, text, result, cut):
    plain, changed = " ".join(text.split()), " ".join(result.split())
    rows = [{"text": text}, {"text": "12345"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    output = tmp_path / "out.jsonl"
    for left in (output, cache_path(output)):
        left.unlink(missing_ok=True)
    back = again(**{text: result, "12345": "67890"})
    report = augment(source, ["text"], output, there(), back, drop_similar=cut)
    if not plain:
        expected = "without_text"
    elif not changed:
        expected = "without_result"
    elif plain == changed:
        expected = "identical"
    elif SequenceMatcher(None, plain, changed, autojunk=False).ratio() >= cut:
        expected = "near_identical"
    else:
        expected = "augmented"
    counts = {name: getattr(report, name) for name in OUTCOMES}
    assert counts == {name: int(name == expected) + int(name == "augmented") for name in OUTCOMES}


OUTCOMES = ("without_text", "without_result", "identical", "near_identical", "augmented")


def test_empty_texts_are_not_translated_and_stay_as_they_were(tmp_path):
    rows = [{"a": "", "b": " "}, {"a": None, "b": "x"}, {"a": "y", "b": "\t\n"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    forward = there()
    report = augment(source, ["a", "b"], tmp_path / "out.jsonl", forward, again(x="X2", y="Y2"))
    assert sorted(forward.asked) == ["x", "y"]
    assert read_back(tmp_path / "out.jsonl") == [{"a": None, "b": "X2"}, {"a": "Y2", "b": "\t\n"}]
    assert (report.rows, report.without_text, report.translated, report.empty_texts) == (3, 1, 2, 4)


def test_a_row_that_comes_back_empty_is_dropped_and_counted(tmp_path):
    rows = [(1, "lost there"), (2, "lost on the way back"), (3, "kept")]
    source = write_csv(tmp_path / "in.csv", ["n", "text"], rows)
    forward = Fake(lambda text: " " if text == "lost there" else to_pivot(text))
    back = again(**{"lost on the way back": "\n", "kept": "held"})
    report = augment(source, ["text"], tmp_path / "out.csv", forward, back)
    assert sorted(back.asked) == ["<kept>", "<lost on the way back>"]
    assert read_back(tmp_path / "out.csv") == [{"n": "3", "text": "held"}]
    assert (report.translated, report.without_result, report.identical) == (3, 2, 0)


# --- what is kept ---------------------------------------------------------------------------------

CELLS = st.text(st.sampled_from('ab";, \n\r\té\u2028'), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from([".csv", ".tsv"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_can_be_written_to_delimited_files(tmp_path, pairs, ending):
    rows = [{"id": str(n), "note": note, "text": text} for n, (note, text) in enumerate(pairs)]
    source = write_jsonl(tmp_path / "in.jsonl", [*rows, {"id": "z", "note": "", "text": "end"}])
    output = tmp_path / f"out{ending}"
    for left in (output, cache_path(output)):
        left.unlink(missing_ok=True)
    augment(source, ["text"], output, there(), Fake(lambda pivot: f'{pivot[1:-1]}, "new"\n'))
    expected = [row for row in rows if row["text"].strip()] + [
        {"id": "z", "note": "", "text": "end"}
    ]
    expected = [row | {"text": f'{row["text"]}, "new"\n'} for row in expected]
    # The only apostrophes are those that protect cells that begin with a tab or carriage return.
    unmarked = [{k: v.removeprefix("'") for k, v in row.items()} for row in read_back(output)]
    assert unmarked == expected
    errors = ErrorList()
    found = list(open_table(output, TableFormat(), ["id", "note", "text"]).rows(errors))
    errors.check()
    assert [row.values for row in found] == [tuple(row.values()) for row in expected]


def test_quoted_texts_of_a_csv_file_are_kept(tmp_path):
    rows = [("1", 'he said "no",\nthen left', "a;b"), ("2", "x\ty", '"')]
    source = write_csv(tmp_path / "in.csv", ["id", "note", "text"], rows)
    augment(source, ["text"], tmp_path / "out.csv", there(), Fake(lambda pivot: pivot + '"\n,'))
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["id", "note", "text"]
    assert found == [[n, note, f'<{text}>"\n,'] for n, note, text in rows]


def test_json_keeps_its_types(tmp_path):
    own = {"id": 7, "score": 2.5, "hard": True, "tags": ["a", 1], "none": None, "about": {"x": [1]}}
    source = write_jsonl(
        tmp_path / "in.jsonl", [own | {"text": "é one"}, {"text": "two", "id": "8"}]
    )
    augment(source, ["text"], tmp_path / "out.jsonl", there(), Fake(str.upper))
    found = read_back(tmp_path / "out.jsonl")
    assert found == [own | {"text": "<É ONE>"}, {"text": "<TWO>", "id": "8"}]
    assert list(found[0]) == [*own, "text"]


def test_parquet_keeps_its_types(tmp_path):
    table = pyarrow.table(
        {
            "id": pyarrow.array([1, None, 3], pyarrow.int16()),
            "text": ["one", None, "three"],
            "label": pyarrow.array([0.5, 1.5, 2.5], pyarrow.float32()),
            "tags": [["a"], [], None],
            "about": [{"x": 1}, {"x": None}, None],
            "when": pyarrow.array([datetime(2020, 1, 2)] * 3, pyarrow.timestamp("us")),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    augment(tmp_path / "in.parquet", ["text"], output, there(), Fake(str.upper))
    kept = table.filter(pyarrow.array([True, False, True]))
    expected = kept.set_column(1, "text", pyarrow.array(["<ONE>", "<THREE>"]))
    assert pyarrow.parquet.read_table(output).equals(expected)


def test_numbers_in_a_translated_column_become_texts_in_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": [5, 6]}), tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    back = again(**{"5": "five"})
    augment(tmp_path / "in.parquet", ["text"], output, there(), back, with_source=True)
    assert read_back(output) == [{"text": "5"}, {"text": "6"}, {"text": "five"}]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_dotted_name_leads_into_objects(tmp_path, ending):
    rows = [{"data": {"text": "one", "n": 1}, "y": 1}, {"data": {"text": "two", "n": 2}, "y": 0}]
    source = tmp_path / f"in{ending}"
    if ending == ".jsonl":
        write_jsonl(source, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    output = tmp_path / f"out{ending}"
    augment(source, ["data.text"], output, there(), Fake(str.upper), with_source=True)
    new = [
        row | {"data": row["data"] | {"text": f"<{row['data']['text'].upper()}>"}} for row in rows
    ]
    assert read_back(output) == rows + new


def test_other_columns_with_equal_or_empty_names_are_kept(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["a", "a", "", "a_"], [["1", "2", "3", "text"]])
    augment(source, ["a_"], tmp_path / "out.csv", there(), again(text="words"))
    (found,) = read_back(tmp_path / "out.csv")
    assert list(found.values()) == ["1", "2", "3", "words"]


def test_a_file_without_a_header_is_read_as_declared(tmp_path):
    (tmp_path / "in.tsv").write_text("one\t1\ntwo\t0\n")
    as_declared = TableFormat(header=False)
    output = tmp_path / "out.csv"
    augment(tmp_path / "in.tsv", [0], output, there(), again(two="2nd"), format=as_declared)
    assert read_back(output) == [{"0": "2nd", "1": "0"}]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_empty_key_of_json_stays(tmp_path, ending):
    source = write_jsonl(tmp_path / "in.jsonl", [{"": "x", "text": "one"}])
    output = tmp_path / f"out{ending}"
    augment(source, ["text"], output, there(), again(one="two"))
    assert read_back(output) == [{"": "x", "text": "two"}]


def test_the_source_is_written_first_if_wanted(tmp_path):
    rows = [("1", "one", "x"), ("2", "", "y"), ("3", "three", "z")]
    source = write_csv(tmp_path / "in.csv", ["id", "text", "label"], rows)
    back = again(one="a one")
    report = augment(source, ["text"], tmp_path / "out.csv", there(), back, with_source=True)
    assert [tuple(row.values()) for row in read_back(tmp_path / "out.csv")] == [
        *rows,
        ("1", "a one", "x"),
    ]
    assert (report.augmented, report.written) == (1, 4)


def test_a_recipe_trains_on_the_augmented_file(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    back = Fake(lambda pivot: pivot[1:-1].replace("the", "that"))
    augment(tmp_path / "mood.csv", ["text"], tmp_path / "more.csv", there(), back, with_source=True)
    prepared = prepare(two_tasks(tiny_checkpoint, tasks__mood__train="more.csv"), tmp_path)
    assert len(prepared.tasks["mood"].train) == 2 * len(mood_rows(0, 36))


# --- each text once, and resuming -----------------------------------------------------------------


def words(count: int) -> list[tuple[int, str]]:
    """Rows of different texts, the first the longest."""
    return [(n, f"text {n:02d} " + "x" * (count - n)) for n in range(count)]


def test_equal_texts_and_equal_pivots_are_translated_once(tmp_path):
    rows = [("a", "b"), ("b", "a"), ("a", "a"), ("A", "b")]
    source = write_csv(tmp_path / "in.csv", ["one", "two"], rows)
    forward, back = Fake(str.upper), Fake(str.lower)
    augment(source, ["one", "two"], tmp_path / "out.csv", forward, Fake(lambda t: t + "!"))
    assert sorted(forward.asked) == ["A", "a", "b"]
    forward, output = Fake(str.upper), tmp_path / "second.csv"
    back = Fake(lambda text: text + "!")
    augment(source, ["one", "two"], output, forward, back)
    assert sorted(back.asked) == ["A", "B"]
    assert [tuple(row.values()) for row in read_back(output)] == [
        (f"{a.upper()}!", f"{b.upper()}!") for a, b in rows
    ]


def test_batches_hold_texts_of_about_equal_length(tmp_path):
    texts = ["x" * n for n in (1, 30, 2, 31, 3, 29, 4)]
    source = write_csv(tmp_path / "in.csv", ["n", "text"], enumerate(texts))
    forward = there()
    augment(source, ["text"], tmp_path / "out.csv", forward, Fake(str.upper), batch_size=3)
    assert [[len(text) for text in call] for call in forward.calls] == [
        [31, 30, 29],
        [4, 3, 2],
        [1],
    ]


@pytest.mark.parametrize("way", ["forward", "back"])
def test_a_stopped_call_resumes_with_the_other_texts_only(tmp_path, way):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(10))
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    augment(source, ["text"], whole, there(), Fake(str.upper), batch_size=3)

    stops = {"forward": Fake(to_pivot, fail_at=2), "back": Fake(str.upper, fail_at=2)}
    forward, back = (stops[way], Fake(str.upper)) if way == "forward" else (there(), stops[way])
    with pytest.raises(RuntimeError, match="went down"):
        augment(source, ["text"], output, forward, back, batch_size=3)
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.csv",
        "whole.csv",
        "whole.csv.cache.jsonl",
        "out.csv.cache.jsonl",
    }

    forward, back = there(), Fake(str.upper)
    augment(source, ["text"], output, forward, back, batch_size=3)
    left = {"forward": (4, 10), "back": (0, 4)}[way]  # of 10, two batches of 3 were done
    assert (len(forward.asked), len(back.asked)) == left
    assert output.read_bytes() == whole.read_bytes()


def test_each_batch_is_on_disk_before_the_next_begins(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(6))
    output = tmp_path / "out.csv"
    lines: list[int] = []

    def forward(texts: list[str]) -> list[str]:
        lines.append(len(cache_path(output).read_text().splitlines()))
        return texts

    augment(source, ["text"], output, forward, Fake(to_pivot), batch_size=2)
    assert lines == [0, 2, 4]


def test_an_incomplete_line_of_the_cache_is_translated_again(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(4))
    output = tmp_path / "out.csv"
    augment(source, ["text"], output, there(), Fake(str.upper))
    first, cache = output.read_bytes(), cache_path(output)
    lines = cache.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    for kept, damaged in ((lines[:-1], lines[-1][:20]), (lines[:-2], b"{}\n" + lines[-1])):
        cache.write_bytes(b"".join(kept) + damaged)
        output.unlink()
        forward, back = there(), Fake(str.upper)
        augment(source, ["text"], output, forward, back)
        assert (len(forward.asked), len(back.asked)) == (0, 1)
        assert output.read_bytes() == first
        output.unlink()
        augment(source, ["text"], output, never(), never())  # the cache is whole again
        assert output.read_bytes() == first


def test_translators_do_not_share_cached_translations(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(4))
    output = tmp_path / "out.csv"
    for fingerprint, asked in (("small", 4), ("large", 4), ("small", 0)):
        output.unlink(missing_ok=True)
        forward = there()
        forward.fingerprint = fingerprint  # type: ignore[attr-defined]
        augment(source, ["text"], output, forward, Fake(str.upper))
        assert len(forward.asked) == asked


def test_texts_too_long_for_a_translator_are_counted_also_when_resuming(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], [(1, "abc"), (2, "abcd"), (3, "abcd")])
    for number in (1, 2):
        forward, back = there(), Fake(str.upper)
        # Different texts: "abcd" there; "<abc>" and "<abcd>" back.
        for translator, most in ((forward, 3), (back, 4)):
            translator.count_cut = lambda texts, most=most: sum(len(t) > most for t in texts)  # type: ignore[attr-defined]
        output = tmp_path / "out.csv"
        assert augment(source, ["text"], output, forward, back).cut_texts == 3
        output.unlink()
        assert len(forward.asked) == (2 if number == 1 else 0)


def test_progress_is_called_after_each_batch(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(5))
    expected: list[tuple[str, int, int]] = []

    def progress(*about: Any) -> None:
        expected.append(about)  # type: ignore[arg-type]

    output = tmp_path / "out.csv"
    back = Fake(str.upper)
    augment(source, ["text"], output, there(), back, batch_size=2, progress=progress)
    assert expected == [(way, done, 5) for way in ("forward", "back") for done in (2, 4, 5)]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "columns", "output", "options", "expected"),
    [
        ("none.csv", ["text"], "out.csv", {}, "none.csv: there is no such file"),
        (
            "in.csv",
            ["txt"],
            "out.csv",
            {},
            'no column "txt" (the header has "n", "text"); did you mean "text"?',
        ),
        ("in.csv", [], "out.csv", {}, "--column is missing; name at least one"),
        ("in.csv", ["text", "text "], "out.csv", {}, '"text" is given 2 times'),
        ("in.csv", ["text"], "out.xlsx", {}, "use .csv, .tsv"),
        ("in.csv", ["text"], "in.csv/out.csv", {}, "in.csv is not a directory"),
        ("in.csv", ["text"], ".", {}, "is a directory"),
        ("in.csv", ["text"], "in.csv", {}, "is the input itself"),
        ("in.csv", ["text"], "old.csv", {}, "already exists and is not overwritten"),
        (
            "in.csv",
            ["text"],
            "out.csv",
            {"batch_size": 0},
            "--batch-size must be at least 1",
        ),
        (
            "in.csv",
            ["text"],
            "out.csv",
            {"drop_similar": 0.0},
            "must be above 0 and at most 1, got 0.0",
        ),
        (
            "in.csv",
            ["text"],
            "out.csv",
            {"drop_similar": 1.5},
            "must be above 0 and at most 1, got 1.5",
        ),
        ("ragged.csv", ["text"], "out.csv", {}, "ragged.csv:3: 3 fields, but the header has 2"),
        ("list.jsonl", ["text"], "out.csv", {}, "list.jsonl:2: the text is a list"),
        ("list.jsonl", ["none"], "out.csv", {}, 'no column "none"'),
    ],
)
def test_an_error_is_one_message_before_anything_is_translated(
    tmp_path, source, columns, output, options, expected
):
    write_csv(tmp_path / "in.csv", ["n", "text"], [(1, "one")])
    (tmp_path / "old.csv").write_text("precious")
    (tmp_path / "ragged.csv").write_text("n,text\n1,one\n2,two,three\n")
    write_jsonl(tmp_path / "list.jsonl", [{"text": "one"}, {"text": ["two"]}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert expected in error_of(tmp_path / source, columns, tmp_path / output, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("source", "format", "option"),
    [
        ("in.jsonl", TableFormat(delimiter=";"), "--delimiter"),
        ("in.jsonl", TableFormat(header=False), "--no-header"),
        ("in.parquet", TableFormat(quoting=False), "--no-quoting"),
        ("in.parquet", TableFormat(encoding="cp1252"), "--encoding"),
    ],
)
def test_an_option_without_effect_is_an_error(tmp_path, source, format, option):
    write_jsonl(tmp_path / "in.jsonl", [{"text": "one"}])
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), tmp_path / "in.parquet")
    message = error_of(tmp_path / source, ["text"], tmp_path / "out.csv", format=format)
    assert message == f"{option} has no effect on {tmp_path / source}; remove it"


def test_all_errors_are_reported_together_without_a_translator(tmp_path):
    write_jsonl(tmp_path / "list.jsonl", [{"text": ["one"]}, {"text": "two"}, {"txt": "three"}])
    with pytest.raises(ComityError) as caught:
        check_augment(
            tmp_path / "list.jsonl",
            ["text"],
            tmp_path / "list.jsonl" / "out.csv",
            batch_size=0,
            drop_similar=2,
        )
    expected = ("--batch-size", "--drop-similar", "not a directory", "list.jsonl:1", "list.jsonl:3")
    assert len(caught.value.messages) == len(expected)
    for word, message in zip(expected, caught.value.messages, strict=True):
        assert word in message
    write_jsonl(tmp_path / "good.jsonl", [{"text": "one"}])
    check_augment(tmp_path / "good.jsonl", ["text"], tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"list.jsonl", "good.jsonl"}


def test_a_cache_that_cannot_be_written_is_found_before_anything_is_translated(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], [(1, "one")])
    cache_path(tmp_path / "out.csv").mkdir()  # a folder cannot be opened, even by root
    with pytest.raises(OSError, match=r"out\.csv\.cache\.jsonl"):
        augment(source, ["text"], tmp_path / "out.csv", never(), never())


def test_no_file_is_written_if_no_new_row_is_left(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], [(1, "one"), (2, ""), (3, "two")])
    with pytest.raises(ComityError) as caught:
        augment(source, ["text"], tmp_path / "out.csv", there(), again())
    (message,) = caught.value.messages
    assert "no new row is left of 3 (2 identical, 1 without text)" in message
    assert not (tmp_path / "out.csv").exists()


def test_a_failure_while_writing_keeps_the_translations_and_no_partial_file(tmp_path, monkeypatch):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(3))
    output = tmp_path / "out.csv"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("comity.tables.writer.DelimitedWriter.write", full)
        with pytest.raises(OSError, match="No space left"):
            augment(source, ["text"], output, there(), Fake(str.upper))
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv.cache.jsonl"}
    augment(source, ["text"], output, never(), never())
    assert len(read_back(output)) == 3


def test_a_translator_that_loses_a_text_is_an_error(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["n", "text"], words(3))
    with pytest.raises(ValueError, match="zip"):
        augment(source, ["text"], tmp_path / "out.csv", lambda texts: texts[1:], never())
    assert cache_path(tmp_path / "out.csv").read_bytes() == b""
