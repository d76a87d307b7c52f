"""Predicts a file: reads rows, predicts them in chunks, writes them with the input's columns."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.evaluation.predictions import cell, probability_names
from comity.inference.model import Model, Prediction
from comity.tables.reader import open_table
from comity.tables.rows import CHUNK, DELIMITED, PARQUET, Row, Table, WholeRow, free_name, row_texts
from comity.tables.writer import Writer, cell_text, check_output, table_writer

# The course's own column names, with its spelling.
LEADERBOARD = {
    ("classification", 1): "Predicted_Sentiment",
    ("classification", 2): "Predicted_Is_Paraphrase",
    ("similarity", 2): "Predicted_Similiary",
}


def predict_file(
    model: Model, task: str, source: Path, destination: Path, format: str = "table"
) -> int:
    """Predict every row of a file; write predictions, probabilities and the input's columns.

    Args:
        source: CSV, TSV, JSON Lines or Parquet with the task's text columns; labels are not needed.
        destination: the output file; its extension sets the format. With `format` "cs224n" it holds
            the course's leaderboard lines (`id, Predicted_...`), from the input's column `id`.

    Returns:
        The number of rows.

    Raises:
        ComityError: every error of the input; no output is left then.
    """
    section = model.section(task)
    leaderboard = _leaderboard_name(model, task) if format == "cs224n" else None
    check_output(source, destination, any_extension=leaderboard is not None)
    table = open_table(source, section.table_format, section.text_columns)
    if leaderboard is not None and "id" not in table.names:
        raise ComityError(f'{source}: the cs224n format needs a column "id"; add one')
    columns = PredictionColumns(model, task, table.names, destination)
    partial = destination.with_name(f".{destination.name}.part")
    try:
        if leaderboard is not None:
            writer: Writer = LeaderboardWriter(partial, leaderboard, columns.label)
        else:
            types = table.arrow_types() | columns.arrow_types()
            names = [*table.names, *columns.names]
            writer = table_writer(partial, destination.suffix.lower(), names, types)
        try:
            total = _predict_rows(model, task, table, columns, writer, leaderboard is not None)
        finally:
            writer.close()
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _predict_rows(
    model: Model,
    task: str,
    table: Table,
    columns: "PredictionColumns",
    writer: Writer,
    needs_id: bool,
) -> int:
    """Write all rows with their predictions and return their number.

    Raises `ComityError` with every error of the table; nothing is predicted after the first.
    """
    errors = ErrorList()
    total = 0
    rows = table.whole_rows(errors)
    while chunk := list(islice(rows, CHUNK)):
        texts = [row_texts(table.path, row, errors) for row, _ in chunk]
        if needs_id:
            _check_ids(table.path, chunk, errors)
        if errors:
            continue  # read on to find the other errors
        predictions = model.predict(task, texts)
        pairs = zip(chunk, predictions, strict=True)
        writer.write([own | columns.values(prediction) for (_, own), prediction in pairs])
        total += len(chunk)
    errors.check()
    return total


def _leaderboard_name(model: Model, task: str) -> str:
    kind, texts = model.target(task).kind, model.text_count(task)
    if (kind, texts) not in LEADERBOARD:
        raise ComityError(
            f"--format cs224n: the course has no leaderboard for {kind} with "
            f"{'one text' if texts == 1 else 'two texts'}; use --format table"
        )
    return LEADERBOARD[kind, texts]


def _check_ids(source: Path, rows: Sequence[tuple[Row, WholeRow]], errors: ErrorList) -> None:
    for row, own in rows:
        if own.get("id") is None:
            errors.add(
                f"{source}:{row.line}: the id is missing, which the cs224n format needs; add it"
            )


class PredictionColumns:
    """The columns that a prediction adds to the input's: `prediction`, and `p_CLASS` by class."""

    def __init__(self, model: Model, task: str, taken: Sequence[str], destination: Path):
        """A name in `taken` gets "_" added. The columns are those of one task's predictions."""
        self._target = model.target(task)
        # A list of labels is one cell of delimited text.
        self._joins_labels = destination.suffix.lower() in DELIMITED
        self._is_parquet = destination.suffix.lower() in PARQUET
        self._separator = model.section(task).separator
        used = list(taken)
        self.label = free_name("prediction", used)
        used.append(self.label)
        self._probabilities: dict[str, str] = {}  # the column of each class or level
        if self._target.outputs > 1 or self._target.kind in ("classification", "multi-label"):
            for name in probability_names(self._target):
                column = free_name(f"p_{name}", used)
                used.append(column)
                self._probabilities[name] = column

    @property
    def names(self) -> list[str]:
        """All column names."""
        return [self.label, *self._probabilities.values()]

    def values(self, prediction: Prediction) -> WholeRow:
        """The values of one row by column name; probabilities are rounded to 6 digits."""
        label = prediction.label
        if isinstance(label, list) and self._joins_labels:
            label = cell(label, self._separator)
        row = {self.label: label}
        for name, probability in prediction.probabilities.items():
            row[self._probabilities[name]] = round(probability, 6)
        return row

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow types of the columns in Parquet; nothing for another format."""
        if not self._is_parquet:
            return {}
        import pyarrow

        types = dict.fromkeys(self.names, pyarrow.float64())
        if self._target.kind == "classification":
            types[self.label] = pyarrow.string()
        elif self._target.kind == "multi-label":
            types[self.label] = pyarrow.list_(pyarrow.string())
        return types


class LeaderboardWriter:
    """Writes the course's leaderboard file: `id, Predicted_...`, one row per line."""

    def __init__(self, path: Path, header: str, label: str):
        """`label` is the column of the predictions."""
        self.label = label
        self.file = path.open("w", encoding="utf-8")
        self.file.write(f"id, {header}\n")

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows."""
        for row in rows:
            self.file.write(f"{cell_text(row['id'])}, {row[self.label]}\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()
