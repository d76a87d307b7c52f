"""JSON Lines: keys and dotted keys, spellings, whole rows, and lines that are not objects."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.jsonl_reader import JsonTable
from comity.tables.rows import JsonNumber, NoValue, Row, TableFormat, Value, WholeRow

Read = tuple[list[Row], list[str]]


def read(path: Path, content: str, columns: list[str]) -> Read:
    """Rows of a file with `content`, and the messages of all errors."""
    path.write_bytes(content.encode())
    errors = ErrorList(limit=100)
    rows: list[Row] = []
    try:
        rows.extend(JsonTable(path, TableFormat(), columns).rows(errors))
        errors.check()
    except ComityError as error:
        return rows, error.messages
    return rows, []


def value_of(path: Path, text: str) -> Value:
    """The value that the reader gives for the JSON `text`."""
    rows, messages = read(path, f'{{"it": {text}}}\n', ["it"])
    assert messages == []
    return rows[0][1][0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.jsonl"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('"NA"', "NA"),
        ('""', ""),
        ("null", None),
        ('"null"', "null"),
        ("true", "true"),
        ("false", "false"),
        ("7", "7"),
        ("1.0", "1.0"),
        ("0.50", "0.50"),
        ("1e5", "1e5"),
        ("-12345678901234567890123456789", "-12345678901234567890123456789"),
        ("9" * 5000, "9" * 5000),
        ('"NaN"', "NaN"),
        ('"\\u00e9\\ud83d\\ude00"', "é😀"),
        ("[]", []),
        ('["a", 1.50, true]', ["a", "1.50", "true"]),
    ],
)
def test_values_keep_their_spelling(path: Path, text: str, want: Value):
    assert value_of(path, text) == want


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "{}", "[null]", '[["a"]]', '["a", {}]', "NaN", "-Infinity", "[NaN]"]
)
def test_values_that_are_not_texts(path: Path, text: str):
    assert isinstance(value_of(path, text), NoValue)


@pytest.mark.parametrize("text", ['"\\ud83d"', '["\\ude00 x"]'])
def test_half_a_surrogate_pair_is_not_a_text(path: Path, text: str):
    assert isinstance(value_of(path, text), NoValue)


def test_dotted_keys(path: Path):
    lines = [
        '{"a.b": "literal", "a": {"b": "nested"}}',
        '{"a": {"b": "nested"}}',
        '{"a": {"b": null}}',
        '{"a": {"b": {"c": 1}}}',
        '{"a": null}',
        '{"a": "text"}',
        '{"a": [1]}',
        '{"a": {}}',
        "{}",
    ]
    rows, messages = read(path, "\n".join(lines), ["a.b"])
    assert messages == []
    values = [row[0] for _, row in rows]
    assert values[:3] == ["literal", "nested", None]
    reasons = [value.reason for value in values if isinstance(value, NoValue)]
    assert reasons == [
        "'a.b' is an object",
        "'a' is null, so it has no key 'b'",
        "'a' is a text or a number, so it has no key 'b'",
        "'a' is a list, so it has no key 'b'",
        "no key 'a.b'",
        "no key 'a.b'",
    ]


def test_dots_inside_keys_along_the_path(path: Path):
    rows, _ = read(path, '{"a.b": {"c.d": "x"}, "a": {"b": 1}}\n', ["a.b.c.d"])
    assert rows == [(1, ("x",))]


def test_a_column_that_no_line_has(path: Path):
    content = '{"text": "a"}\n{"data": {"label": 1}}\n{"data": {"label": 2, "extra": {}}}\n'
    rows, messages = read(path, content, ["txt", "data.lable", "text"])
    assert rows == [] and len(messages) == 2
    assert 'no column "txt" (' in messages[0] and 'did you mean "text"?' in messages[0]
    assert 'no column "data.lable" (' in messages[1] and 'did you mean "data.label"?' in messages[1]
    assert all('"data.extra"' in message for message in messages)


def test_a_column_that_only_a_late_line_has(path: Path):
    rows, messages = read(path, '{"a": 1}\n' * 500 + '{"b": "x"}\n', ["b"])
    assert messages == [] and len(rows) == 501
    assert rows[0] == (1, (NoValue("no key 'b'"),)) and rows[500] == (501, ("x",))


def test_a_repeated_key_has_no_value(path: Path):
    rows, messages = read(path, '{"a": 1, "b": 2, "a": 3}\n{"a": 4, "b": 5}\n', ["b", "a"])
    assert messages == []
    assert rows == [(1, ("2", NoValue("the key 'a' occurs twice"))), (2, ("5", "4"))]


def test_lines_that_are_not_objects(path: Path):
    content = '{"a": 1}\n{"a": 2\n[1]\n"a"\nnull\n{"a": 3} {"a": 4}\n{\'a\': 5}\n{"a": 6}\n'
    rows, messages = read(path, content, ["a"])
    assert [line for line, _ in rows] == [1, 8]
    assert [message.split(": ")[0] for message in messages] == [
        f"{path}:{line}" for line in range(2, 8)
    ]
    assert "column 8" in messages[0] and "column 10" in messages[4]


def test_missing_columns_do_not_hide_bad_lines(path: Path):
    rows, messages = read(path, '{"a": 1}\n{"a": 2\n', ["b"])
    assert rows == [] and len(messages) == 2
    assert f"{path}:2: " in messages[0] and 'no column "b"' in messages[1]


def test_delimited_text_is_one_error(path: Path):
    rows, messages = read(path, "text,label\na,b\n" * 100, ["text"])
    assert rows == [] and len(messages) == 1
    assert messages[0].startswith(f"{path}:1: ") and ".csv" in messages[0]


def test_one_object_over_several_lines_is_not_json_lines(path: Path):
    rows, messages = read(path, '\n{\n"a": 1\n}\n', ["a"])
    assert rows == [] and len(messages) == 1 and "one object on each line" in messages[0]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ('[{"a": 1}, {"a": 2}]', [1, 1]),
        ('[\n{"a": 1},\n{"a": 2}\n]\n', [2, 3]),
        ('\ufeff\r\n[\r\n  {\r\n    "a":\r\n 1\r\n  }\r\n  ,\r\n  {"a": 2}]', [3, 8]),
        ('[\r{"a":\r1},\r{"a": 2}]', [2, 4]),
    ],
)
def test_one_array_is_read_too(path: Path, content: str, lines: list[int]):
    for name in ("table.json", "table.jsonl"):
        rows, messages = read(path.with_name(name), content, ["a"])
        assert messages == [] and rows == list(zip(lines, [("1",), ("2",)], strict=True))
    assert JsonTable(path, TableFormat(), []).describe()["format"] == "json array"


@pytest.mark.parametrize(
    ("content", "count", "where"),
    [
        ('[{"a": 1},\n{"a": }]', 1, ":2: column 7: not valid JSON (expecting value)"),
        ('[{"a": 1}\n {"a": 2}]', 1, ":2: column 2: not valid JSON (expected"),
        ('[{"a": 1},\n]', 1, ":2: column 1: not valid JSON"),
        ('[{"a": 1}]\n{"a": 2}', 1, ":2: column 1: not valid JSON (text after the array)"),
        ('[{"a": 1}', 1, ":1: column 10: not valid JSON"),
        ('[{"a": 1},\n7,\n{"a": 3}]', 2, ":2: a text or a number, not an object"),
    ],
)
def test_errors_of_an_array(path: Path, content: str, count: int, where: str):
    rows, messages = read(path, content, ["a"])
    assert len(rows) == count and len(messages) == 1
    assert messages[0].startswith(f"{path}{where}")


def test_an_empty_array_has_no_rows(path: Path):
    assert read(path, "[\n]\n", ["a"]) == ([], [f"{path}: the file has no rows; add rows"])


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_keys_are_compared_in_one_unicode_form(path: Path, forms: tuple[Any, Any]):
    written, asked = (unicodedata.normalize(form, "r\u00e9sum\u00e9") for form in forms)
    line = json.dumps({"data": {written: "x"}, written: "y"}, ensure_ascii=False)
    assert read(path, line, [asked, f"data.{asked}"]) == ([(1, ("y", "x"))], [])
    table = JsonTable(path, TableFormat(), [f"data.{asked}"])
    assert table.chosen_names == [f"data.{written}"]


def test_byte_order_marks_of_joined_files(path: Path):
    rows, messages = read(path, '\ufeff{"a": 1}\n\ufeff{"a": "\ufeff"}\n', ["a"])
    assert messages == [] and rows == [(1, ("1",)), (2, ("\ufeff",))]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "null", "-7"], pyarrow.int64()),
        (["9223372036854775807", "0"], pyarrow.int64()),
        (["9223372036854775808", "0"], pyarrow.uint64()),
        (["9223372036854775808", "-1"], None),
        (["18446744073709551616"], None),
        (["1", "2.50", "1e3"], pyarrow.float64()),
        (["9007199254740993", "0.5"], None),  # not a double
        (["0.12345678901234567890"], None),
        (["1e400"], None),
        (["NaN", "1.5"], pyarrow.float64()),
        (["Infinity", "1.5"], None),
        (["true", "false", "null"], pyarrow.bool_()),
        (["true", "1"], None),
        (['"7"'], None),
        (["7", '"7"'], None),
        (["null"], None),
        (["[1]"], None),
    ],
)
def test_types_that_hold_all_values_of_a_key(path: Path, values: list[str], kind: Any):
    path.write_text("".join(f'{{"it": {value}}}\n' for value in values) + "{}\n")
    assert JsonTable(path, TableFormat(), []).arrow_types().get("it") == kind


@pytest.mark.parametrize("opening", ['{"a":', '{"a": ['])
def test_nesting_that_is_too_deep(path: Path, opening: str):
    rows, messages = read(path, '{"a": 1}\n' + opening * 100_000 + "\n", ["a"])
    assert len(rows) == 1 and len(messages) == 1 and "nested too deeply" in messages[0]


def test_names_are_the_keys_of_all_lines(path: Path):
    path.write_text('{"b": 1, "a": {"c": 2}}\n\n{"d": 3, "b": 4}\n')
    assert JsonTable(path, TableFormat(), []).names == ["b", "a", "d"]


def whole(path: Path, content: str, columns: list[str]) -> list[tuple[Row, WholeRow]]:
    """The whole rows of a table without errors."""
    path.write_text(content)
    errors = ErrorList()
    rows = list(JsonTable(path, TableFormat(), columns).whole_rows(errors))
    errors.check()
    return rows


def test_whole_rows_keep_types_and_the_chosen_values_their_spelling(path: Path):
    content = '{"n": 1.50, "b": true, "deep": {"x": [1, null]}}\n\n{"n": 7}\n'
    rows = whole(path, content, ["n"])
    assert rows == [
        ((1, ("1.50",)), {"n": "1.50", "b": True, "deep": {"x": ["1", None]}}),
        ((3, ("7",)), {"n": "7"}),
    ]
    assert isinstance(rows[0][1]["n"], JsonNumber)


def test_whole_rows_belong_to_their_lines_if_others_are_left_out(path: Path):
    # Python's int refuses to convert a number of 5,000 digits.
    content = f'{{"a": "x", "n": {"9" * 5000}}}\n{{"a": \n{{"a": "y", "n": 2}}\n'
    path.write_text(content)
    errors = ErrorList()
    rows = list(JsonTable(path, TableFormat(), ["a"]).whole_rows(errors))
    assert [(row.line, row.values[0]) for row, _ in rows] == [(1, "x"), (3, "y")]
    assert [own for _, own in rows] == [{"a": "x", "n": "9" * 5000}, {"a": "y", "n": "2"}]
    assert errors.total == 1


def test_chosen_names_are_those_asked_for(path: Path):
    path.write_text('{"data": {"text": "a"}}\n')
    assert JsonTable(path, TableFormat(), ["data.text"]).chosen_names == ["data.text"]


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@settings(max_examples=150)
@given(
    items=st.lists(st.tuples(SCALARS, st.lists(SCALARS.filter(lambda v: v is not None)))),
    ascii_only=st.booleans(),
)
def test_what_python_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[Any, list[Any]]], ascii_only: bool
):
    def spelled(value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    lines = [{"a": "first", "b": {"c": []}}, *({"a": a, "b": {"c": c}} for a, c in items)]
    content = "".join(json.dumps(line, ensure_ascii=ascii_only) + "\n" for line in lines)
    path = tmp_path_factory.mktemp("written") / "table.jsonl"
    rows, messages = read(path, content, ["a", "b.c"])
    assert messages == []
    want = [(spelled(a), [spelled(item) for item in c]) for a, c in items]
    assert [row for _, row in rows[1:]] == want
