"""Parquet: each Arrow type as text, nested columns, whole rows, row groups, damaged files."""

import datetime
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.parquet_reader import ParquetTable
from comity.tables.rows import NoValue, Row, Value


def written(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, columns: Sequence[str | int]) -> list[Row]:
    """The rows of a table; raises where it has errors."""
    errors = ErrorList()
    rows = list(ParquetTable(path, columns).rows(errors))
    errors.check()
    return rows


def column(path: Path, name: str) -> list[Value]:
    return [row.values[0] for row in read(path, [name])]


DAY = datetime.date(2024, 2, 29)

TYPES: list[tuple[Any, list[Any], list[Value]]] = [
    (pa.string(), ["NA", None, "", "é😀\x00"], ["NA", None, "", "é😀\x00"]),
    (pa.large_string(), ["x", None], ["x", None]),
    (
        pa.string_view(),
        ["x", None, "longer than twelve bytes"],
        ["x", None, "longer than twelve bytes"],
    ),
    (pa.dictionary(pa.int8(), pa.string()), ["u", None, "v", "u"], ["u", None, "v", "u"]),
    (pa.dictionary(pa.int32(), pa.int64()), [7, None], ["7", None]),
    (pa.binary(), [b"plain", None], ["plain", None]),
    (pa.bool_(), [True, False, None], ["true", "false", None]),
    (pa.int8(), [-5, 0, None], ["-5", "0", None]),
    (pa.uint64(), [2**64 - 1], ["18446744073709551615"]),
    (pa.float64(), [1.0, 0.1, None, 1e15], ["1.0", "0.1", None, "1" + 15 * "0" + ".0"]),
    (pa.float64(), [float("nan"), 1e-7], [None, "0.0000001"]),
    (pa.float32(), [1.0, 0.1, None], ["1.0", "0.1", None]),
    (pa.float16(), [np.float16(0.1), None], ["0.1", None]),
    (pa.decimal128(5, 2), [Decimal("0.50"), None, Decimal("-12.00")], ["0.50", None, "-12.00"]),
    (pa.date32(), [DAY, None], ["2024-02-29", None]),
    (pa.null(), [None, None], [None, None]),
    (pa.list_(pa.string()), [["a", "b"], [], None], [["a", "b"], [], None]),
    (pa.large_list(pa.int16()), [[1, 2], None, [3]], [["1", "2"], None, ["3"]]),
    (pa.list_(pa.float32(), 2), [[1.0, 0.1], None], [["1.0", "0.1"], None]),
]


@pytest.mark.parametrize(("kind", "values", "want"), TYPES, ids=[str(t[0]) for t in TYPES])
def test_types(tmp_path: Path, kind: Any, values: list[Any], want: list[Value]):
    path = written(tmp_path, {"before": ["x"] * len(values), "it": pa.array(values, kind)})
    assert column(path, "it") == want


def test_numbers_can_be_read_as_numbers(tmp_path: Path):
    values = [0.0, -0.0, 1e-7, 123456789.123, 1e22, 3.4e38]
    for kind in (pa.float64(), pa.float32()):
        path = written(tmp_path, {"it": pa.array(values, kind)})
        stored = pq.read_table(path).column("it").to_pylist()
        texts = column(path, "it")
        dtype = np.float32 if kind == pa.float32() else np.float64
        assert [dtype(str(text)) for text in texts] == [dtype(value) for value in stored]


def test_values_that_are_not_texts(tmp_path: Path):
    columns = {
        "object": pa.array([{"a": 1}, None], pa.struct([("a", pa.int8())])),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "deep": pa.array([[["a"]], [[]]], pa.list_(pa.list_(pa.string()))),
        "holes": pa.array([["a", None], ["b"]], pa.list_(pa.string())),
        "bytes": pa.array([b"\xff\xfe", None], pa.binary()),
    }
    path = written(tmp_path, columns)
    rows = read(path, list(columns))
    assert all(isinstance(value, NoValue) for value in rows[0][1])
    assert rows[1][1][0] is None and rows[1][1][1] is None and rows[1][1][4] is None
    assert rows[1][1][3] == ["b"]


def test_text_columns_whose_bytes_are_not_utf_8(tmp_path: Path):
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"ok\xff\xfe")],
    )
    path = written(tmp_path, {"it": broken})
    values = column(path, "it")
    assert values[0] == "ok" and isinstance(values[1], NoValue)


def test_nested_columns(tmp_path: Path):
    kind = pa.struct([("text", pa.string()), ("in", pa.struct([("n", pa.int8())]))])
    items = [
        {"text": "a", "in": {"n": 1}},
        None,
        {"text": None, "in": None},
        {"text": "d", "in": {"n": None}},
    ]
    path = written(tmp_path, {"item": pa.array(items, kind), "item.text": ["1", "2", "3", "4"]})
    assert column(path, "item.text") == ["1", "2", "3", "4"]  # the literal name is preferred
    path = written(tmp_path, {"item": pa.array(items, kind)})
    no_text = NoValue("'item' is null, so it has no key 'text'")
    assert column(path, "item.text") == ["a", no_text, None, "d"]
    rows = [row for _, row in read(path, ["item.in.n", "item.text"])]
    assert [row[1] for row in rows] == ["a", no_text, None, "d"]
    assert rows[0][0] == "1" and rows[3][0] is None
    assert rows[2][0] == NoValue("'in' is null, so it has no key 'n'")
    assert rows[1][0] == NoValue("'item' is null, so it has no key 'in'")
    assert ParquetTable(path, []).names == ["item"]


def test_every_row_group_in_order(tmp_path: Path):
    texts = [f"text {number}" for number in range(10_001)]
    path = written(tmp_path, {"text": texts, "n": range(10_001)}, row_group_size=999)
    want = [(n + 1, (str(n), text)) for n, text in enumerate(texts)]
    assert read(path, ["n", "text"]) == want


def test_whole_rows_have_every_column_with_its_type(tmp_path: Path):
    columns = {
        "id": pa.array([1, None], pa.int16()),
        "item": [{"text": "a"}, {"text": None}],
        "day": pa.array([DAY, None]),
        "tags": [["x"], []],
    }
    path = written(tmp_path, columns, row_group_size=1)
    table = ParquetTable(path, ["item.text"])
    errors = ErrorList()
    found = list(table.whole_rows(errors))
    objects = [
        (row, {k: v.column.array[v.position].as_py() for k, v in own.items()}) for row, own in found
    ]
    assert objects == [
        ((1, ("a",)), {"id": 1, "item": {"text": "a"}, "day": DAY, "tags": ["x"]}),
        ((2, (None,)), {"id": None, "item": {"text": None}, "day": None, "tags": []}),
    ]
    assert errors.total == 0
    assert table.names == list(columns) and table.chosen_names == ["item.text"]
    assert table.arrow_types() == {name: pq.read_schema(path).field(name) for name in columns}


def errors_of(path: Path, columns: Sequence[str | int]) -> list[str]:
    with pytest.raises(ComityError) as error:
        read(path, columns)
    return error.value.messages


def test_missing_columns(tmp_path: Path):
    item = pa.array([{"label": "a"}], pa.struct([("label", pa.string())]))
    path = written(tmp_path, {"text": ["x"], "item": item})
    messages = errors_of(path, ["txt", "item.lable", "text", 0, "text.more"])
    assert len(messages) == 4 and all(str(path) in message for message in messages)
    assert 'no column "txt" (' in messages[0] and 'did you mean "text"?' in messages[0]
    assert 'no column "item.lable" (' in messages[1] and 'did you mean "item.label"?' in messages[1]


def test_a_repeated_name(tmp_path: Path):
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["x", "x", "y"]
    )
    path = tmp_path / "twice.parquet"
    pq.write_table(table, path)
    assert errors_of(path, ["y", "x"]) == [f'{path}: the column "x" occurs twice; rename one']
    assert column(path, "y") == ["c"]


def test_a_file_without_rows(tmp_path: Path):
    path = written(tmp_path, {"text": pa.array([], pa.string())})
    assert "no rows" in errors_of(path, ["text"])[0]


@pytest.mark.parametrize(
    "content", [b"text,label\na,b\n", b"PAR1", b"PAR1" + b"\x00" * 50 + b"PAR1"]
)
def test_files_that_are_not_parquet(tmp_path: Path, content: bytes):
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    messages = errors_of(path, ["text"])
    assert len(messages) == 1 and "\n" not in messages[0]
    assert messages[0].startswith(f"{path}: the file is not Parquet or is damaged")


@settings(max_examples=60)
@given(
    cut=st.one_of(st.none(), st.integers(0, 1500)),
    flips=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=3),
)
def test_damaged_files_give_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int | None, flips: list[tuple[int, int]]
):
    folder = tmp_path_factory.mktemp("damaged")
    columns = {
        "text": ["a", "é", None] * 4,
        "tags": [["x"], [], None] * 4,
        "n": [1.5, 2.0, 3.0] * 4,
    }
    path = written(folder, columns, row_group_size=5)
    content = bytearray(path.read_bytes()[:cut])
    for offset, byte in flips:
        if offset < len(content):
            content[offset] = byte
    path.write_bytes(content)
    try:
        read(path, ["text", "tags", "n"])
    except ComityError as error:
        assert all(str(path) in message for message in error.messages)


@settings(max_examples=60)
@given(
    texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    kind=st.sampled_from(
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    ),
    group=st.integers(1, 5),
)
def test_what_pyarrow_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], kind: Any, group: int
):
    folder = tmp_path_factory.mktemp("written")
    path = written(folder, {"it": pa.array(texts, kind)}, row_group_size=group)
    assert column(path, "it") == texts
