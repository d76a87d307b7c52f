"""Rows that cannot be used are handed over with their line, and all others are read."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.bad_rows import BadRow, BadRows
from comity.tables.locations import row_name
from comity.tables.parts import table_path
from comity.tables.reader import open_table
from comity.tables.rows import Row, TableFormat, row_texts

COLUMNS = ["text", "label"]
COMMAS = TableFormat(delimiter=",", quoting=True)


def read(path: Path, format: TableFormat = COMMAS) -> tuple[list[Row], list[BadRow]]:
    """The rows that can be read, and the others; raises where there are other errors."""
    bad: list[BadRow] = []
    errors = BadRows(bad.append)
    rows = list(open_table(path, format, COLUMNS, lenient=True).rows(errors))
    errors.check()
    assert errors.taken == len(bad)
    return rows, bad


def csv_line(text: str, label: str) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([text, label])
    return buffer.getvalue().encode()


# A quote that is not closed ends at the next one, so the text after that must not be a comma.
TEXTS = st.text('ab ,"\né', max_size=8).map(lambda text: f"w{text}w")
BROKEN_CSV = {
    b"only one field\n": "wrong number of fields",
    b"three,small,fields\n": "wrong number of fields",
    b'"never closed,up\n': "broken quotes",
    b'"closed" too early,up\n': "broken quotes",
    b"text,label\n": "repeated header",
    b"caf\xe9,up\n": "undecodable bytes",
    b"fine,\xff\n": "undecodable bytes",
}


@settings(max_examples=60)
@given(
    rows=st.lists(
        TEXTS.map(lambda text: csv_line(text, "up")) | st.sampled_from(list(BROKEN_CSV)),
        min_size=1,
        max_size=12,
    )
)
def test_csv_keeps_the_whole_rows_and_hands_over_the_broken_ones(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("bad") / "rows.csv"
    path.write_bytes(b"text,label\n" + b"".join(rows))
    line, expected = 2, {}
    for row in rows:
        if row in BROKEN_CSV:
            expected[line] = BROKEN_CSV[row]
        line += row.count(b"\n")
    whole = b"".join(row for row in rows if row not in BROKEN_CSV).decode()
    found, bad = read(path)
    assert [list(row.values) for row in found] == list(csv.reader(io.StringIO(whole, newline="")))
    assert {one.line: one.reason for one in bad} == expected


BROKEN_JSON = {
    b'{"text": "a", "label"\n': "invalid JSON",
    b"oops\n": "invalid JSON",
    b"[1]\n": "invalid JSON",
    b"3\n": "invalid JSON",
    b'{"text": "caf\xe9", "label": "up"}\n': "undecodable bytes",
}
OBJECTS = st.text('ab ,"\né', max_size=8).map(
    lambda text: json.dumps({"text": text, "label": "up"}).encode() + b"\n"
)


@settings(max_examples=60)
@given(
    rows=st.lists(OBJECTS | st.sampled_from(list(BROKEN_JSON)), max_size=10),
    first=OBJECTS | st.sampled_from([row for row in BROKEN_JSON if not row.startswith(b"[")]),
)
def test_json_keeps_the_whole_rows_and_hands_over_the_broken_ones(tmp_path_factory, rows, first):
    rows = [first, *rows, b'{"text": "last", "label": "up"}\n']
    path = tmp_path_factory.mktemp("bad") / "rows.jsonl"
    path.write_bytes(b"".join(rows))
    found, bad = read(path)
    whole = [json.loads(row) for row in rows if row not in BROKEN_JSON]
    assert [row.values for row in found] == [(one["text"], one["label"]) for one in whole]
    lines = {n: BROKEN_JSON[row] for n, row in enumerate(rows, start=1) if row in BROKEN_JSON}
    assert {one.line: one.reason for one in bad} == lines


NEXT = "next,down\n"


@pytest.mark.parametrize(
    ("text", "rows", "bad"),
    [
        # A quote inside a quoted text of several lines: its other lines are no rows.
        ('"He said "hi"\nsecond, line\nand left",up\nnext,down\n', {5: "next"}, [2, 3, 4]),
        ('"He said "hi"\nand left","up"\nnext,down\n', {4: "next"}, [2, 3]),
        # A text that begins with a quote: the next rows are rows.
        ('"Alien" is great,up\nnext,down\n', {3: "next"}, [2]),
        ('"Alien,up\nnext,down\n"third, row",up\n', {3: "next", 4: "third, row"}, [2]),
        ('"Alien,up\nnext,down\nlast,up\n', {3: "next", 4: "last"}, [2]),
        # Too many lines for one text.
        (
            f'"Alien,up\n{150 * NEXT}5" 6" 7",up\n',
            dict.fromkeys(range(3, 153), "next") | {153: '5" 6" 7"'},
            [2],
        ),
    ],
)  # fmt: skip
def test_the_lines_after_a_broken_quoted_field(tmp_path, text, rows, bad):
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{text}")
    found, left_out = read(path)
    assert {row.line: row.values[0] for row in found} == rows
    assert [one.line for one in left_out] == bad


def test_a_quoted_field_of_many_lines_is_not_held_in_memory(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"Alien,up\n' + 10_001 * "next,down\n" + '"a, b",up\n')
    found, bad = read(path)
    assert len(found) == 10_002
    assert [(one.line, one.reason) for one in bad] == [(2, "broken quotes")]


def test_values_that_are_no_texts_are_handed_over_with_their_column(tmp_path):
    path = tmp_path / "rows.parquet"
    texts = pa.array([b"fine", b"caf\xe9", None], pa.binary())
    pq.write_table(pa.table({"text": texts, "label": ["up", "up", "up"]}), path)
    bad: list[BadRow] = []
    errors = BadRows(bad.append)
    rows = list(open_table(path, COMMAS, ["text"], lenient=True).rows(errors))
    assert [row_texts(path, row, errors) for row in rows] == [("fine",), ("",), ("",)]
    assert bad == [BadRow(2, "no text", "the bytes are not UTF-8")]
    strict = ErrorList()
    for row in rows:
        row_texts(path, row, strict)
    with pytest.raises(
        ComityError, match=r"rows\.parquet:2: the bytes are not UTF-8; give the row"
    ):
        strict.check()


def test_lines_are_those_of_the_part(tmp_path):
    for number, rows in enumerate(["a,up\nb\n", "c\n", "d,up\n"]):
        (tmp_path / f"p{number}.csv").write_text(f"text,label\n{rows}")
    path = table_path("p*.csv", tmp_path)
    found, bad = read(path)
    assert [row_name(path, row.line) for row in found] == ["p0.csv:2", "p2.csv:2"]
    assert [row_name(path, one.line) for one in bad] == ["p0.csv:3", "p1.csv:2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"caf\xe9,label\na,up\n", r"rows\.csv:1: the byte 0xE9 at offset 3 is not"),
        ("rows.csv", b"text,mark\na,up\n", r'rows\.csv:1: no column "label"'),
        ("rows.csv", b"text,label\n", "the file has a header but no rows"),
        ("rows.csv", "text,label\na,up\n".encode("utf-16-le")[:-1], "looks like UTF-16"),
        ("rows.jsonl", b'{\n"text": "a"}\n', "one JSON object over several lines"),
        ("rows.json", b'[{"text": "a", "label": "up"}, {"text"]', "not valid JSON"),
    ],
)  # fmt: skip
def test_errors_of_a_whole_file_stay_errors(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ComityError, match=message):
        read(path, TableFormat())


def test_a_byte_of_another_encoding_ends_the_reading_unless_the_table_is_lenient(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\na,up\ncaf\xe9,up\n")
    with pytest.raises(ComityError, match=r"rows\.csv:3: the byte 0xE9 at offset 19 is not UTF-8"):
        open_table(path, COMMAS, COLUMNS)
