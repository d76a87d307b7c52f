"""What the footer of a Parquet file says about the sizes of its columns.

pyarrow knows this too, but a damaged column ends the whole process there: `RowGroupMetaData.column`
does not catch the exception of the C++ library. The footer is a struct in the compact protocol of
Thrift, which is small enough to read here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE = range(8)
_BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(8, 14)

# Numbers of fields in parquet.thrift.
_ROW_GROUPS = 4  # of FileMetaData
_COLUMNS, _NUM_ROWS = 1, 3  # of RowGroup
_META_DATA = 3  # of ColumnChunk
_NUM_VALUES, _UNCOMPRESSED_SIZE = 5, 6  # of ColumnMetaData


@dataclass(frozen=True)
class ColumnChunk:
    """One column in a row group."""

    values: int  # items of lists count one by one
    size: int  # bytes, uncompressed


@dataclass(frozen=True)
class RowGroup:
    """A row group."""

    rows: int
    chunks: list[ColumnChunk]


def row_groups(path: Path) -> list[RowGroup]:
    """The row groups of a file that pyarrow has opened.

    Raises:
        ValueError: the footer is damaged.
    """
    with path.open("rb") as file:
        end = file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - size))
        footer = file.read(min(size, end))
    try:
        return [_row_group(group) for group in _Thrift(footer).struct()[_ROW_GROUPS]]
    except (IndexError, KeyError, TypeError, RecursionError):
        raise ValueError("the footer is damaged") from None


def _row_group(fields: dict[int, Any]) -> RowGroup:
    columns = [chunk[_META_DATA] for chunk in fields[_COLUMNS]]
    chunks = [ColumnChunk(_count(c[_NUM_VALUES]), _count(c[_UNCOMPRESSED_SIZE])) for c in columns]
    return RowGroup(_count(fields[_NUM_ROWS]), chunks)


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(value)
    return value


class _Thrift:
    """Reads values of the compact protocol one after another; a struct is a dict by field number.

    Specification: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """

    def __init__(self, content: bytes):
        self._content = content
        self._at = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (header := self._byte()) & 15 != _STOP:
            delta = header >> 4
            number = number + delta if delta else self._signed()
            kind = header & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _MAP:
            return self._map()
        if kind in (_TRUE, _FALSE, _BYTE):  # a boolean in a list is a byte
            return self._byte()
        return self._bytes({_DOUBLE: 8, _UUID: 16}[kind])

    def _list(self) -> list[Any]:
        header = self._byte()
        size = header >> 4
        if size == 15:
            size = self._unsigned()
        return [self._value(header & 15) for _ in range(size)]

    def _map(self) -> list[tuple[Any, Any]]:
        size = self._unsigned()
        kinds = self._byte() if size else 0
        return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._content):
            raise IndexError(count)
        return self._content[start : self._at]

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise IndexError("a number has at most 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
