"""The sizes in the footer of a Parquet file, against those that pyarrow reads."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.sandbox import ENDED, outcome

from comity.errors import ComityError, ErrorList
from comity.tables.parquet_footer import ColumnChunk, RowGroup, row_groups
from comity.tables.parquet_reader import ParquetTable

COLUMNS: dict[str, Any] = {
    "text": ["a", "\u00e9" * 40, None] * 40,
    "tags": [["x", "y"], [], None] * 40,
    "inner": [{"n": 1, "of": {"b": True}}, None, {"n": 2, "of": None}] * 40,
    "number": [1.5, None, -2.0] * 40,
}


@settings(max_examples=30)
@given(
    names=st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, unique=True),
    size=st.integers(1, 200),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    version=st.sampled_from(["1.0", "2.6"]),
    page_index=st.booleans(),
)
def test_sizes_are_those_of_pyarrow(
    tmp_path_factory, names, size, compression, version, page_index
):
    path = tmp_path_factory.mktemp("footer") / "table.parquet"
    table = pa.table({name: COLUMNS[name] for name in names})
    table = table.replace_schema_metadata({"key": "value" * 100})
    options: Any = {"compression": compression, "version": version}
    pq.write_table(table, path, row_group_size=size, write_page_index=page_index, **options)
    known = pq.read_metadata(path)
    groups = [known.row_group(number) for number in range(known.num_row_groups)]
    found = row_groups(path)
    assert [group.rows for group in found] == [group.num_rows for group in groups]
    assert [[(c.values, c.size) for c in group.chunks] for group in found] == [
        [
            (chunk.num_values, chunk.total_uncompressed_size)
            for chunk in map(group.column, range(group.num_columns))
        ]
        for group in groups
    ]


def _write(path: Path) -> bytes:
    columns = {name: values[:3] for name, values in COLUMNS.items()}
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def test_each_byte_of_the_footer_may_be_wrong(tmp_path):
    """pyarrow itself would end the process for some of them, where its metadata are asked for."""
    path = tmp_path / "table.parquet"
    content = _write(path)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")

    def read_all() -> None:
        for position in range(start, len(content)):
            broken = bytearray(content)
            broken[position] = (broken[position] + 1) % 256
            path.write_bytes(broken)
            try:
                list(ParquetTable(path, ["text"]).rows(ErrorList()))
            except ComityError as error:
                assert str(path) in str(error)

    assert outcome(read_all) == ENDED


@pytest.mark.parametrize("length", [0, 4, 8, 10])
def test_a_file_that_is_too_short(tmp_path, length):
    path = tmp_path / "table.parquet"
    path.write_bytes(_write(path)[-length:] if length else b"")
    with pytest.raises(ComityError, match="is not Parquet or is damaged"):
        ParquetTable(path, ["text"])


def test_a_number_that_never_ends(tmp_path):
    """It would take time that grows with the square of its length."""
    path = tmp_path / "table.parquet"
    footer = b"\x16" + b"\xff" * 3_000_000
    path.write_bytes(footer + len(footer).to_bytes(4, "little") + b"PAR1")

    def read() -> None:
        with pytest.raises(ValueError, match="the footer is damaged"):
            row_groups(path)

    assert outcome(read, seconds=10) == ENDED


@pytest.mark.parametrize("negative", [None, "values", "size", "rows"])
def test_a_footer_written_by_hand(tmp_path, negative):
    """Field 4 is a list of one row group; integers are in zigzag code: 1 is -1, 2n is n."""
    values, size, rows = (
        1 if negative == name else 2 * n for name, n in (("values", 3), ("size", 5), ("rows", 2))
    )
    meta_data = bytes([0x56, values, 0x16, size, 0])
    columns = bytes([0x19, 0x1C, 0x3C]) + meta_data + b"\0"
    footer = bytes([0x49, 0x1C]) + columns + bytes([0x26, rows, 0, 0])
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    if negative:
        with pytest.raises(ValueError, match="the footer is damaged"):
            row_groups(path)
    else:
        assert row_groups(path) == [RowGroup(2, [ColumnChunk(3, 5)])]
