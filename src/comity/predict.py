"""Label a file: read rows, predict chunk by chunk, write them with the input's own columns."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from comity.data.files import find_encoding, text_lines
from comity.data.rows import NoValue, Position, Row, TableFormat
from comity.data.tables import DELIMITED, JSON_LINES, PARQUET, column_names, read_table
from comity.errors import ComityError, Faults
from comity.evaluate import cell, probability_names
from comity.inference import Model, Prediction
from comity.sections import TaskSection

CHUNK = 2048
"""Rows read, predicted and written at a time."""

# The class's own names, misspelling and all.
LEADERBOARD = {
    ("classification", 1): "Predicted_Sentiment",
    ("classification", 2): "Predicted_Is_Paraphrase",
    ("similarity", 2): "Predicted_Similiary",
}

Own = dict[str, Any]
"""The columns that a row of the input came with."""


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
    leaderboard = _leaderboard_name(model, task) if format == "cs224n" else None
    _check_places(source, destination, leaderboard is not None)
    names = _unique(column_names(source, _table_format(section), section.text_columns))
    if leaderboard is not None and "id" not in names:
        raise ComityError(f'{source}: the cs224n format needs a column "id"; add one')
    ours = _our_names(model, task, names)
    partial = destination.with_name(f".{destination.name}.part")
    faults = Faults()
    total = 0
    try:
        if leaderboard is not None:
            writer: Writer = LeaderboardWriter(partial, leaderboard, ours["prediction"])
        else:
            columns = [*names, *ours.values()]
            writer = _table_writer(model, task, source, partial, destination, columns, ours)
        try:
            rows = _rows(source, section, names, faults)
            while chunk := list(islice(rows, CHUNK)):
                texts = [_texts(row, section, source, faults) for row, _ in chunk]
                if faults:
                    continue  # read on, so that all faults are listed
                found = model.predict(task, texts)
                pairs = zip(chunk, found, strict=True)
                writer.write([own | _found(prediction, ours) for (_, own), prediction in pairs])
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


def _check_places(source: Path, destination: Path, any_ending: bool) -> None:
    if destination.is_dir() or not destination.name:
        raise ComityError(f"{destination}: is a directory; name a file to write")
    if not destination.parent.is_dir():
        raise ComityError(f"{destination}: there is no directory {destination.parent}; make it")
    if source.exists() and destination.exists() and source.samefile(destination):
        raise ComityError(f"{destination}: is the input itself; name another file to write")
    if not any_ending and destination.suffix.lower() not in DELIMITED + JSON_LINES + PARQUET:
        raise ComityError(
            f"{destination}: the ending says the format; use .csv, .tsv, .jsonl or .parquet"
        )


# --- names ----------------------------------------------------------------------------------------


def _unique(names: Sequence[str]) -> list[str]:
    """Column names of which none stands twice and none is empty."""
    found: list[str] = []
    for place, name in enumerate(names):
        found.append(_free(name or f"column {place}", found))
    return found


def _our_names(model: Model, task: str, taken: Sequence[str]) -> dict[str, str]:
    """What our columns are called beside the input's: `prediction` and `p_CLASS` by class."""
    target = model.target(task)
    names = ["prediction"]
    if target.outputs > 1 or target.kind in ("classification", "multi-label"):
        names += [f"p_{name}" for name in probability_names(target)]
    used = list(taken)
    ours = {}
    for name in names:
        ours[name] = _free(name, used)
        used.append(ours[name])
    return ours


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _found(prediction: Prediction, ours: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {ours["prediction"]: prediction.label}
    for name, probability in prediction.probabilities.items():
        values[ours[f"p_{name}"]] = round(probability, 6)
    return values


# --- reading --------------------------------------------------------------------------------------


def _rows(
    source: Path, section: TaskSection, names: list[str], faults: Faults
) -> Iterator[tuple[Row, Own]]:
    """Each row's texts, and the row as it came."""
    format, texts = _table_format(section), list(section.text_columns)
    ending = source.suffix.lower()
    if ending in DELIMITED:
        own_columns = [Position(place) for place in range(len(names))]
        for row in read_table(source, [*texts, *own_columns], format, faults):
            own = row.values[len(texts) :]
            yield row, dict(zip(names, own, strict=True))
        return
    whole = _parquet_rows(source) if ending in PARQUET else _json_rows(source, format)
    for row in read_table(source, texts, format, faults):
        line, own = next(whole)
        while line < row.line:  # lines that were left out as faults
            line, own = next(whole)
        yield row, own


def _json_rows(source: Path, format: TableFormat) -> Iterator[tuple[int, Own]]:
    for number, line in enumerate(text_lines(source, find_encoding(source, format.encoding)), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:  # the reader says so
                continue


def _parquet_rows(source: Path) -> Iterator[tuple[int, Own]]:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(source).iter_batches(CHUNK):
        for own in batch.to_pylist():
            number += 1
            yield number, own


def _texts(row: Row, section: TaskSection, source: Path, faults: Faults) -> tuple[str, ...]:
    texts = []
    for value in row.values[: len(section.text_columns)]:
        if isinstance(value, NoValue | list):
            reason = value.reason if isinstance(value, NoValue) else "the text is a list"
            faults.add(f"{source}:{row.line}: {reason}; give the row a text")
        texts.append(value if isinstance(value, str) else "")
    return tuple(texts)


# --- writing --------------------------------------------------------------------------------------


def _table_writer(
    model: Model,
    task: str,
    source: Path,
    partial: Path,
    destination: Path,
    columns: list[str],
    ours: Mapping[str, str],
) -> Writer:
    ending = destination.suffix.lower()
    if ending in DELIMITED:
        delimiter = "," if ending == ".csv" else "\t"
        separator = model.section(task).separator
        return DelimitedWriter(partial, columns, delimiter, ours["prediction"], separator)
    if ending in JSON_LINES:
        return JsonLinesWriter(partial)
    return ParquetWriter(partial, _parquet_types(model, task, source, columns, ours))


class DelimitedWriter:
    """CSV or TSV with a header, lines ended as RFC 4180 has it (so that a bare CR is quoted)."""

    def __init__(
        self,
        path: Path,
        columns: list[str],
        delimiter: str,
        prediction: str,
        separator: str | None,
    ):
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, columns, delimiter=delimiter)
        self.writer.writeheader()
        self.prediction = prediction
        self.separator = separator

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            label = row[self.prediction]
            label = cell(label, self.separator) if isinstance(label, list) else label
            texts = {name: _as_text(value) for name, value in row.items()}
            self.writer.writerow({**texts, self.prediction: label})

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def _as_text(value: Any) -> Any:
    """A value of JSON or Parquet as text: nested ones as JSON, a null as nothing."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, path: Path):
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            self.file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def _parquet_types(
    model: Model, task: str, source: Path, columns: list[str], ours: Mapping[str, str]
) -> Any:
    """The schema: a Parquet input's own types, else text; labels and probabilities as they are."""
    import pyarrow
    import pyarrow.parquet

    kind = model.target(task).kind
    labels = {"multi-label": pyarrow.list_(pyarrow.string()), "classification": pyarrow.string()}
    types = {name: pyarrow.string() for name in columns}
    if source.suffix.lower() in PARQUET:
        types |= {field.name: field.type for field in pyarrow.parquet.read_schema(source)}
    types |= dict.fromkeys(ours.values(), pyarrow.float64())
    types[ours["prediction"]] = labels.get(kind, pyarrow.float64())
    return pyarrow.schema(list(types.items()))


class ParquetWriter:
    """Parquet with the given schema; what does not fit a text column is written as text."""

    def __init__(self, path: Path, schema: Any):
        import pyarrow.parquet

        self.schema = schema
        self.writer = pyarrow.parquet.ParquetWriter(path, schema)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        import pyarrow

        arrays = []
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            if field.type == pyarrow.string():
                values = [_as_text(value) for value in values]
            arrays.append(pyarrow.array(values, field.type))
        self.writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()


class LeaderboardWriter:
    """The class's leaderboard file: `id, Predicted_...`, one row a line."""

    def __init__(self, path: Path, header: str, prediction: str):
        self.prediction = prediction
        self.file = path.open("w", encoding="utf-8")
        self.file.write(f"id, {header}\n")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            self.file.write(f"{row['id']}, {row[self.prediction]}\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()
