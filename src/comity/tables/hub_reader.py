"""Reads a split of a data set that the library `datasets` has loaded."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from comity.tables.hub import HubPath
from comity.tables.parquet_reader import BATCH_ROWS, ArrowTable
from comity.tables.rows import NoValue, Value


class HubTable(ArrowTable):
    """A split of a data set; `line` is a row's index. Arguments and errors as in `open_table`.

    Labels with names, of the type `ClassLabel`, are read as their names; -1 marks a missing label.
    """

    first_row = 0

    def __init__(self, path: HubPath, columns: Sequence[str | int] = ()):
        self._dataset = path.loaded.dataset
        super().__init__(path, self._dataset.features.arrow_schema, columns)

    def describe(self) -> dict[str, Any]:
        """The format; everything else is in the data set."""
        return {"format": "data set"}

    @property
    def digest(self) -> str:
        """SHA-256 of the types and values of all columns but those of bytes, such as images."""
        kinds = {field.name: str(field.type) for field in self._schema}
        names = [name for name, kind in kinds.items() if "binary" not in kind]
        hashed = hashlib.sha256(repr([(n, self._dataset.features[n]) for n in names]).encode())
        for batch in self.batches(names):
            values = [column.to_pylist() for column in batch.columns]
            hashed.update(json.dumps(values, default=str).encode())
        return hashed.hexdigest()

    def batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """All rows, with some of the outer columns or all."""
        chosen = self._dataset if columns is None else self._dataset.select_columns(columns)
        for table in chosen.with_format("arrow").iter(BATCH_ROWS):
            yield from table.combine_chunks().to_batches()

    def _column(self, batch: pa.RecordBatch, path: list[str]) -> list[Value]:
        values = super()._column(batch, path)
        feature = self._dataset.features
        for name in path:
            feature = feature[name]
        names = _class_names(feature)
        return values if names is None else [_named(value, names) for value in values]


def _class_names(feature: Any) -> list[str] | None:
    """The names of a feature `ClassLabel`, or of a list of them; None for any other feature."""
    if isinstance(feature, list):
        feature = feature[0]
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if type(feature).__name__ == "ClassLabel" else None


def _named(value: Value, names: Sequence[str]) -> Value:
    """A number or list of numbers by its name; -1 is no value."""
    if value is None or isinstance(value, NoValue):
        return value
    if value == "-1":
        return None
    numbers = [int(number) for number in (value if isinstance(value, list) else [value])]
    if not all(0 <= number < len(names) for number in numbers):
        return NoValue(f"the label {value} has no name in the data set")
    named = [names[number] for number in numbers]
    return named if isinstance(value, list) else named[0]
