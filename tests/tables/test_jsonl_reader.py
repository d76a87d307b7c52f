"""JSON lines: keys and dotted keys, spelling kept, and lines that are no objects."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.jsonl_reader import json_names, json_rows
from comity.tables.rows import NoValue, TableFormat, Value

Read = tuple[list[tuple[int, tuple[Value, ...]]], list[str]]


def read(path: Path, content: str, columns: list[str]) -> Read:
    """Rows of a file with `content`, and the sentences of all errors."""
    path.write_bytes(content.encode())
    errors = ErrorList(limit=100)
    rows: list[tuple[int, tuple[Value, ...]]] = []
    try:
        rows.extend(json_rows(path, columns, TableFormat(), errors))
    except ComityError as error:
        errors.extend(error)
    try:
        errors.check()
    except ComityError as error:
        return rows, error.messages
    return rows, []


def value_of(path: Path, text: str) -> Value:
    """What the JSON `text` is as a value."""
    rows, sentences = read(path, f'{{"it": {text}}}\n', ["it"])
    assert sentences == []
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
def test_what_is_no_text_has_no_value(path: Path, text: str):
    assert isinstance(value_of(path, text), NoValue)


@pytest.mark.parametrize("text", ['"\\ud83d"', '["\\ude00 x"]'])
def test_half_a_surrogate_pair_is_no_text(path: Path, text: str):
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
    rows, sentences = read(path, "\n".join(lines), ["a.b"])
    assert sentences == []
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


def test_dots_inside_keys_on_the_way(path: Path):
    rows, _ = read(path, '{"a.b": {"c.d": "x"}, "a": {"b": 1}}\n', ["a.b.c.d"])
    assert rows == [(1, ("x",))]


def test_a_column_on_no_line(path: Path):
    content = '{"text": "a"}\n{"data": {"label": 1}}\n{"data": {"label": 2, "extra": {}}}\n'
    rows, sentences = read(path, content, ["txt", "data.lable", "text"])
    assert rows == [] and len(sentences) == 2
    assert 'no column "txt", did you mean "text"?' in sentences[0]
    assert 'no column "data.lable", did you mean "data.label"?' in sentences[1]
    assert all('"data.extra"' in sentence for sentence in sentences)


def test_a_column_that_stands_far_down_only(path: Path):
    rows, sentences = read(path, '{"a": 1}\n' * 500 + '{"b": "x"}\n', ["b"])
    assert sentences == [] and len(rows) == 501
    assert rows[0] == (1, (NoValue("no key 'b'"),)) and rows[500] == (501, ("x",))


def test_a_key_that_stands_twice_has_no_value(path: Path):
    rows, sentences = read(path, '{"a": 1, "b": 2, "a": 3}\n{"a": 4, "b": 5}\n', ["b", "a"])
    assert sentences == []
    assert rows == [(1, ("2", NoValue("the key 'a' stands twice"))), (2, ("5", "4"))]


def test_lines_that_are_no_objects(path: Path):
    content = '{"a": 1}\n{"a": 2\n[1]\n"a"\nnull\n{"a": 3} {"a": 4}\n{\'a\': 5}\n{"a": 6}\n'
    rows, sentences = read(path, content, ["a"])
    assert [line for line, _ in rows] == [1, 8]
    assert [sentence.split(": ")[0] for sentence in sentences] == [
        f"{path}:{line}" for line in range(2, 8)
    ]
    assert "column 8" in sentences[0] and "column 10" in sentences[4]


def test_missing_columns_do_not_hide_bad_lines(path: Path):
    rows, sentences = read(path, '{"a": 1}\n{"a": 2\n', ["b"])
    assert rows == [] and len(sentences) == 2
    assert f"{path}:2: " in sentences[0] and 'no column "b"' in sentences[1]
    rows, sentences = read(path, "text,label\na,b\n", ["text"])
    assert rows == [] and len(sentences) == 2 and all("not valid JSON" in s for s in sentences)


@pytest.mark.parametrize("content", ['[{"a": 1}]', '[\n{"a": 1}\n]', '\n{\n"a": 1\n}\n'])
def test_one_document_is_not_json_lines(path: Path, content: str):
    rows, sentences = read(path, content, ["a"])
    assert rows == [] and len(sentences) == 1 and "one object on each line" in sentences[0]


@pytest.mark.parametrize("opening", ['{"a":', '{"a": ['])
def test_nesting_without_end(path: Path, opening: str):
    rows, sentences = read(path, '{"a": 1}\n' + opening * 100_000 + "\n", ["a"])
    assert len(rows) == 1 and len(sentences) == 1 and "nested too deeply" in sentences[0]


def test_names_are_the_keys_of_all_lines(path: Path):
    path.write_text('{"b": 1, "a": {"c": 2}}\n\n{"d": 3, "b": 4}\n')
    assert json_names(path, TableFormat(), ErrorList()) == ["b", "a", "d"]


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@settings(max_examples=150, deadline=None)
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
    rows, sentences = read(path, content, ["a", "b.c"])
    assert sentences == []
    want = [(spelled(a), [spelled(item) for item in c]) for a, c in items]
    assert [row for _, row in rows[1:]] == want
