"""Label a file: read rows, predict chunk by chunk, write them with the input's own columns."""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from comity.data.rows import NoValue, Row, TableFormat, Value
from comity.data.tables import column_names, read_table
from comity.errors import ComityError, Faults
from comity.inference import Model, Prediction
from comity.sections import TaskSection
from comity.targets import Target

CHUNK = 2048
"""Rows read, predicted and written at a time."""

# The class's own names, misspelling and all.
LEADERBOARD = {
    ("classification", 1): "Predicted_Sentiment",
    ("classification", 2): "Predicted_Is_Paraphrase",
    ("similarity", 2): "Predicted_Similiary",
}


class Writer(Protocol):
    """Writes rows as mappings from column to value."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Finish the file."""


def predict_file(
    model: Model, task: str, source: Path, destination: Path, format: str = "table"
) -> int:
    """Predict every row of a file and write label, probabilities and the input's own columns.

    Args:
        source: CSV, TSV, JSON lines or Parquet with the task's text columns; a label is not needed.
        destination: written in the format of its ending; `format` "cs224n" writes the class's
            leaderboard lines (`id, Predicted_...`) from the input's column `id`.

    Returns the number of rows.

    Raises:
        ComityError: with everything that is wrong with the input; nothing is then left behind.
    """
    section = model.section(task)
    columns = column_names(source, _table_format(section)) if source.is_file() else []
    names = [str(column) for column in columns]
    asked: list[str | int] = list(range(len(columns))) if not section.header else [*names]
    for column in section.text_columns:
        if column not in asked:  # a nested key, or a column that is not there
            asked.append(column)
    header = _leaderboard_name(model, task) if format == "cs224n" else None
    if header is not None and "id" not in asked:
        raise ComityError(f'{source}: the cs224n format needs a column "id"; add one')
    faults = Faults()
    rows = read_table(source, asked, _table_format(section), faults)
    places = [asked.index(column) for column in section.text_columns]
    partial = destination.with_name(f".{destination.name}.part")
    total = 0
    try:
        if header is not None:
            writer: Writer = LeaderboardWriter(partial, header)
        else:
            writer = _table_writer(partial, destination, model.target(task), names)
        try:
            while chunk := list(islice(rows, CHUNK)):
                texts = [_texts(row, places, source, faults) for row in chunk]
                if faults:
                    continue  # read on, so that all faults are listed
                found = model.predict(task, texts)
                own = [dict(zip(names, row.values, strict=False)) for row in chunk]
                writer.write([_joined(o, p, names) for o, p in zip(own, found, strict=True)])
                total += len(chunk)
        finally:
            writer.close()
        faults.check()
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _table_format(section: TaskSection) -> TableFormat:
    return TableFormat(section.delimiter, section.header, section.quoting, section.encoding)


def _leaderboard_name(model: Model, task: str) -> str:
    kind, texts = model.target(task).kind, model.text_count(task)
    if (kind, texts) not in LEADERBOARD:
        raise ComityError(
            f"--format cs224n: the class has no leaderboard for {kind} of {texts} text(s); "
            "use --format table"
        )
    return LEADERBOARD[kind, texts]


def _texts(row: Row, places: Sequence[int], source: Path, faults: Faults) -> tuple[str, ...]:
    texts = []
    for place in places:
        value = row.values[place]
        if isinstance(value, NoValue | list):
            reason = value.reason if isinstance(value, NoValue) else "the text is a list"
            faults.add(f"{source}:{row.line}: {reason}; give the row a text")
        texts.append(value if isinstance(value, str) else "")
    return tuple(texts)


def _joined(own: dict[str, Value], found: Prediction, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: None if isinstance(value, NoValue) else value for name, value in own.items()
    }
    row[_free("prediction", names)] = found.label
    for name, probability in found.probabilities.items():
        row[_free(f"p_{name}", names)] = round(probability, 6)
    return row


def _free(name: str, taken: Sequence[str]) -> str:
    """A column name that the input does not use."""
    while name in taken:
        name += "_"
    return name


def _table_writer(partial: Path, destination: Path, target: Target, names: list[str]) -> Writer:
    from comity.evaluate import probability_names

    has_probabilities = target.outputs > 1 or target.kind in ("classification", "multi-label")
    ours = ["prediction"]
    if has_probabilities:
        ours += [f"p_{name}" for name in probability_names(target)]
    columns = [*names, *(_free(name, names) for name in ours)]
    ending = destination.suffix.lower()
    if ending in (".csv", ".tsv", ".txt"):
        return DelimitedWriter(partial, columns, "," if ending == ".csv" else "\t")
    if ending in (".jsonl", ".ndjson"):
        return JsonLinesWriter(partial)
    if ending == ".parquet":
        return ParquetWriter(partial, columns)
    raise ComityError(
        f"{destination}: the ending says the format; use .csv, .tsv, .jsonl or .parquet"
    )


class DelimitedWriter:
    """CSV or TSV with a header."""

    def __init__(self, path: Path, columns: list[str], delimiter: str):
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns, delimiter=delimiter, lineterminator="\n")
        self.writer.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a list is written as its parts with | between them."""
        for row in rows:
            self.writer.writerow(
                {k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()}
            )

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, path: Path):
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        self.file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class ParquetWriter:
    """Parquet: the input's columns as text (or lists of it), predictions in their own types."""

    def __init__(self, path: Path, columns: list[str]):
        self.path = path
        self.columns = columns
        self.writer: Any = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; the first ones fix the types."""
        import pyarrow
        import pyarrow.parquet

        columns = {name: [row.get(name) for row in rows] for name in self.columns}
        schema = self.writer.schema if self.writer else None
        table = pyarrow.table(columns, schema=schema)
        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        """Finish the file; without any row it has columns only."""
        import pyarrow
        import pyarrow.parquet

        if self.writer is not None:
            self.writer.close()
        else:
            empty = pyarrow.table({name: pyarrow.array([], "string") for name in self.columns})
            pyarrow.parquet.write_table(empty, self.path)


class LeaderboardWriter:
    """The class's leaderboard file: `id, Predicted_...`, one row a line."""

    def __init__(self, path: Path, header: str):
        self.file = path.open("w", encoding="utf-8")
        self.file.write(f"id, {header}\n")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            prediction = next(v for k, v in row.items() if k.startswith("prediction"))
            self.file.write(f"{row['id']}, {prediction}\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()
