"""Several files as one table: which files, their order, errors with file and line."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import write_csv, write_jsonl

from comity.errors import ComityError, ErrorList
from comity.tables.locations import PartsPath, location, locations, row_list, row_name
from comity.tables.parts import table_path
from comity.tables.reader import open_table, table_digest
from comity.tables.rows import Row, TableFormat

COLUMNS = ["text", "label"]


def parts_of(folder: Path, file: str | list[str]) -> PartsPath:
    path = table_path(file, folder)
    assert isinstance(path, PartsPath)
    return path


def read(path: Path, format: TableFormat | None = None, columns: Any = None) -> list[Row]:
    """The rows of a table; raises where it has errors."""
    errors = ErrorList()
    rows = list(open_table(path, format or TableFormat(), columns or COLUMNS).rows(errors))
    errors.check()
    return rows


def write_part(path: Path, rows: list[tuple[str, str]]) -> None:
    """A file of the format of its extension, with the columns in another order in JSON."""
    if path.suffix == ".csv":
        write_csv(path, COLUMNS, rows)
    elif path.suffix == ".jsonl":
        write_jsonl(path, [{"label": label, "text": text} for text, label in rows])
    else:
        pd.DataFrame(rows, columns=COLUMNS).to_parquet(path)


def read_part(path: Path) -> list[tuple[str, str]]:
    """The rows of a file as other libraries read them."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)]
    if path.suffix == ".jsonl":
        objects = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [(one["text"], one["label"]) for one in objects]
    return list(pd.read_parquet(path)[COLUMNS].itertuples(index=False, name=None))


LETTERS = st.text("ab, é\"'x", min_size=1, max_size=6).map(lambda text: f"w{text}w")
PART = st.lists(st.tuples(LETTERS, st.sampled_from(["up", "down"])), min_size=1, max_size=5)


@settings(max_examples=25)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from([".csv", ".jsonl", ".parquet"]), PART), min_size=1, max_size=4
    )
)
def test_the_rows_of_all_parts_follow_in_the_order_of_their_names(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("parts")
    for number, (extension, rows) in enumerate(parts):
        write_part(folder / f"part-{number}{extension}", rows)
    found = read(parts_of(folder, "part-*"), TableFormat(delimiter=",", quoting=True))
    expected = [row for path in sorted(folder.glob("part-*")) for row in read_part(path)]
    assert [row.values for row in found] == expected


def test_files_are_those_of_the_list_and_of_its_patterns_in_order(tmp_path):
    for name in ("b-10.csv", "b-2.csv", "a.csv", ".b-0.csv", "deep/b-1.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_csv(tmp_path / name, COLUMNS, [(name, "up")])
    path = parts_of(tmp_path, ["b-*.csv", "a.csv"])
    assert [row.values[0] for row in read(path)] == ["b-10.csv", "b-2.csv", "a.csv"]
    assert path.names == ("b-10.csv", "b-2.csv", "a.csv")
    assert str(path) == f"{tmp_path}/b-*.csv, a.csv"
    everywhere = [row.values[0] for row in read(parts_of(tmp_path, "**/b-*.csv"))]
    assert everywhere == ["b-10.csv", "b-2.csv", "deep/b-1.csv"]


def test_a_file_whose_name_looks_like_a_pattern_is_read_as_a_file(tmp_path):
    write_csv(tmp_path / "part-[1].csv", COLUMNS, [("bracket", "up")])
    write_csv(tmp_path / "part-1.csv", COLUMNS, [("match", "up")])
    assert [row.values[0] for row in read(table_path("part-[1].csv", tmp_path))] == ["bracket"]
    assert table_path("part-[1].csv", tmp_path) == tmp_path / "part-[1].csv"


@pytest.fixture
def three(tmp_path) -> PartsPath:
    for number in (1, 2, 3):
        write_csv(
            tmp_path / f"p{number}.csv", COLUMNS, [(f"{number} a", "x"), (f"{number} b", "x")]
        )
    return parts_of(tmp_path, "p*.csv")


def test_rows_are_named_by_file_and_line(three):
    folder, lines = three.files[0].parent, [row.line for row in read(three)]
    assert [row_name(three, line) for line in lines] == [
        "p1.csv:2", "p1.csv:3", "p2.csv:2", "p2.csv:3", "p3.csv:2", "p3.csv:3"
    ]  # fmt: skip
    assert lines == sorted(lines)
    assert location(three, lines[4]) == f"{folder}/p3.csv:2"
    assert locations(three, lines[1:3], 5) == f"{folder}/p1.csv:3, {folder}/p2.csv:2 and 3 more"
    assert row_list(three, [lines[0]]) == f"{folder}/p1.csv:2"


def test_errors_have_the_line_of_their_part(three):
    three.files[1].write_text("text,label\na,x\nb\n")
    three.files[2].write_text('text,label\n"a,x\n')
    with pytest.raises(ComityError) as caught:
        read(three)
    first, second = caught.value.messages
    assert first.startswith(f"{three.files[1]}:3: 1 field, but the header has 2")
    assert second.startswith(f"{three.files[2]}:2: a quoted field starts here and is not closed")


def test_findings_are_counted_over_all_parts(three):
    three.files[1].write_text("text,label\nfine,x\ncafÃ© ,x\n", encoding="utf-8")
    three.files[2].write_text("text,label\ncafÃ© ,x\n", encoding="utf-8")
    table = open_table(three, TableFormat(), COLUMNS)
    list(table.rows(ErrorList()))
    (found,) = table.findings()
    assert (found.kind, found.count) == ("wrong encoding", 2)
    assert row_name(three, found.line) == "p2.csv:3"


def test_a_part_with_other_columns_is_one_sentence(three):
    three.files[1].write_text("text,mark\na,x\n")
    with pytest.raises(ComityError) as caught:
        read(three)
    assert caught.value.messages == [
        f'{three.files[1]}: has the columns "text", "mark", but {three.files[0]} has "text", '
        '"label"; give it the columns that the task reads'
    ]


def test_a_column_that_no_part_has_is_reported_once(three):
    with pytest.raises(ComityError) as caught:
        read(three, columns=["text", "labels"])
    (message,) = caught.value.messages
    assert message.startswith(f'{three.files[0]}:1: no column "labels"')


def test_parts_without_a_header_need_as_many_columns(three):
    three.files[2].write_text("a,x,more\n")
    with pytest.raises(ComityError) as caught:
        read(three, TableFormat(header=False, delimiter=","), [0, 1])
    assert caught.value.messages == [
        f"{three.files[2]}: has 3 columns, but {three.files[0]} has 2; without a header all parts "
        "need the same columns"
    ]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("q*.csv", "q*.csv: no file matches; check the pattern"),
        (["p1.csv", "p*.csv"], "p1.csv: is named twice as a part of one table; name it once"),
        (["p1.csv", "./p1.csv"], "p1.csv: is named twice as a part of one table; name it once"),
    ],
)
def test_a_wrong_choice_of_files_is_one_sentence(three, file, message):
    folder = three.files[0].parent
    with pytest.raises(ComityError) as caught:
        table_path(file, folder)
    assert caught.value.messages == [f"{folder}/{message}"]


@pytest.mark.parametrize("again", [["linked.csv", "p1.csv"], ["p1.csv", "linked.csv"]])
def test_a_link_to_a_part_is_that_part(three, again):
    folder = three.files[0].parent
    (folder / "linked.csv").symlink_to(folder / "p1.csv")
    with pytest.raises(ComityError, match="is named twice as a part of one table"):
        table_path(again, folder)


def test_the_digest_depends_on_content_and_order_but_not_on_names(three):
    folder, before = three.files[0].parent, table_digest(three)
    assert table_digest(parts_of(folder, ["p2.csv", "p1.csv", "p3.csv"])) != before
    three.files[2].rename(folder / "p9.csv")
    assert table_digest(parts_of(folder, "p*.csv")) == before
    (folder / "p9.csv").write_text("text,label\n3 a,x\n")
    assert table_digest(parts_of(folder, "p*.csv")) != before


def test_how_parts_are_read_is_said_once_for_each_kind(three):
    assert open_table(three, TableFormat(), COLUMNS).describe() == {
        "format": "delimited text", "encoding": "utf-8", "delimiter": ",", "quoting": False,
        "header": True, "parts": 3,
    }  # fmt: skip
    write_jsonl(three.files[0].parent / "p4.jsonl", [{"text": "a", "label": "x"}])
    mixed = open_table(parts_of(three.files[0].parent, "p*"), TableFormat(), COLUMNS).describe()
    assert [kind["format"] for kind in mixed["kinds"]] == ["delimited text", "json lines"]
