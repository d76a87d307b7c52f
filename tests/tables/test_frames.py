"""Tables in memory are read like the same rows in a file."""

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from comity import ComityError
from comity.errors import ErrorList
from comity.tables.frames import FrameTable, frame_columns, frame_path, memory_name, memory_role
from comity.tables.locations import location, locations, row_list
from comity.tables.reader import open_table
from comity.tables.rows import NoValue, TableFormat

pandas = pytest.importorskip("pandas")


def rows_of(frame, columns):
    errors = ErrorList()
    table = open_table(frame_path(frame, "t"), TableFormat(), columns)
    rows = list(table.rows(errors))
    errors.check()
    return rows


def test_values_are_read_as_from_parquet(tmp_path: Path):
    """The same DataFrame, through Arrow and a file."""
    frame = pandas.DataFrame(
        {
            "text": ["a", "", None, "NA", "007", "é"],
            "whole": [1, -2, 3, 4, 5, 6],
            "part": [0.1, 1e-3, np.nan, 2.0, 1e20, -0.0],
            "yes": [True, False, True, True, False, True],
            "tags": [["a", "b"], [], ["c"], ["d"], ["1"], ["x"]],
            "kind": pandas.Categorical(["x", "y", "x", None, "y", "x"]),
        }
    )
    columns = list(frame.columns)
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    errors = ErrorList()
    expected = [row.values for row in open_table(path, TableFormat(), columns).rows(errors)]
    errors.check()
    assert [row.values for row in rows_of(frame, columns)] == expected


def test_rows_are_named_by_the_index_where_it_is_unique_numbers():
    frame = pandas.DataFrame({"text": ["a", "b", "c"]})
    for index, lines in (([30, 10, 20], [30, 10, 20]), (["x", "y", "z"], [0, 1, 2])):
        assert [row.line for row in rows_of(frame.set_axis(index), ["text"])] == lines
    assert [row.line for row in rows_of(frame.set_axis([1, 1, 2]), ["text"])] == [0, 1, 2]
    assert [row.line for row in rows_of(pyarrow.table({"text": ["a", "b"]}), ["text"])] == [0, 1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"x", "'c' is of the type bytes, not text"),
        ({"a": 1}, "'c' is of the type dict, not text"),
        (datetime.date(2020, 1, 1), "'c' is of the type datetime date, not text"),
        ("\ud800", "'c' contains half of a surrogate pair"),
        ([None], "the list 'c' contains other values than texts and numbers"),
    ],
)
def test_other_values_have_a_reason(value, reason):
    frame = pandas.DataFrame({"c": pandas.Series([value], dtype=object)})
    assert rows_of(frame, ["c"])[0].values == (NoValue(reason),)


def test_a_decimal_is_a_number():
    assert rows_of(pandas.DataFrame({"c": [Decimal("1.50")]}), ["c"])[0].values == ("1.50",)


def test_columns_that_are_missing_or_twice_are_errors():
    frame = pandas.DataFrame([["a", "b", "c"]], columns=["text", "text", "x"])
    with pytest.raises(ComityError) as error:
        rows_of(frame, ["text", "y"])
    assert [m.removeprefix("pandas DataFrame of t: ") for m in error.value.messages] == [
        'the column "text" occurs twice; rename one',
        'no column "y" (the columns are "text", "text", "x"); correct the name',
    ]
    with pytest.raises(ComityError, match="pandas DataFrame of t: the table has no rows"):
        rows_of(frame.iloc[:0], ["x"])


def test_the_digest_depends_on_names_values_and_index_alone():
    def digest(frame) -> str:
        return FrameTable(Path("t"), frame).digest

    frame = pandas.DataFrame({"text": ["a", "b"], "label": [1, 2]})
    assert digest(frame) == digest(frame.copy())
    assert digest(frame) == digest(frame.astype({"label": "int8"}))
    others = [
        frame.rename(columns={"text": "t"}),
        frame.assign(text=["a", "c"]),
        frame.assign(label=[1, None]),
        frame.set_axis([1, 0]),
        frame.iloc[:1],
        frame[["label", "text"]],
    ]
    assert len({digest(frame), *map(digest, others)}) == 1 + len(others)


def test_what_is_a_table():
    assert frame_columns(pandas.DataFrame({"a": [1]})) == ["a"]
    assert frame_columns(pyarrow.table({"a": [1]})) == ["a"]
    others = ("a.csv", b"a", ["a"], {"a": [1]}, pandas.Series([1]), np.array([1]), 5, None)
    assert [frame_columns(other) for other in others] == [None] * len(others)
    assert frame_columns(pandas.DataFrame) is None


def test_messages_name_the_library_and_the_rows_of_a_table():
    frame = pandas.DataFrame({"text": ["a", "b", "c"]}, index=[30, 10, 20])
    path = frame_path(frame, "mood train")
    assert location(path, 30) == "pandas DataFrame of mood train, index 30"
    assert row_list(path, [30, 10]) == "indices 30 and 10"
    path = frame_path(frame.set_axis(["x", "y", "z"]), "mood train")
    assert location(path, 0) == "pandas DataFrame of mood train, row 0"
    path = frame_path(pyarrow.table({"text": ["a", "b", "c"]}))
    assert locations(path, [0, 1], 5) == "pyarrow Table, rows 0, 1 and 3 more"


def test_a_role_is_found_in_its_name():
    assert memory_role(memory_name("mood train")) == "mood train"
    assert memory_role("mood.csv") is None


def test_a_table_that_was_not_passed_again_is_named():
    path = Path("data") / memory_name("mood train")
    with pytest.raises(ComityError, match="mood train>: the run was given this table in memory"):
        open_table(path, TableFormat(), ["text"])
