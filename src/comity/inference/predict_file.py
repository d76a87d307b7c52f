"""Label a file: read rows, predict chunk by chunk, write them with the input's own columns."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.evaluation.predictions import cell, probability_names
from comity.inference.model import Model, Prediction
from comity.recipe.schema import TaskSection
from comity.tables.reader import Own, free_name, own_names, row_texts, whole_rows
from comity.tables.rows import CHUNK, DELIMITED, PARQUET, Row
from comity.tables.writer import Writer, check_output, table_writer

# The class's own names, misspelling and all.
LEADERBOARD = {
    ("classification", 1): "Predicted_Sentiment",
    ("classification", 2): "Predicted_Is_Paraphrase",
    ("similarity", 2): "Predicted_Similiary",
}


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
    read_as = section.table_format
    leaderboard = _leaderboard_name(model, task) if format == "cs224n" else None
    check_output(source, destination, any_ending=leaderboard is not None)
    names = own_names(source, read_as, section.text_columns)
    if leaderboard is not None and "id" not in names:
        raise ComityError(f'{source}: the cs224n format needs a column "id"; add one')
    ours = _our_names(model, task, names)
    partial = destination.with_name(f".{destination.name}.part")
    ending = destination.suffix.lower()
    errors = ErrorList()
    total = 0
    try:
        if leaderboard is not None:
            writer: Writer = LeaderboardWriter(partial, leaderboard, ours["prediction"])
        else:
            types = _arrow_types(model, task, ours) if ending in PARQUET else {}
            writer = table_writer(partial, ending, source, [*names, *ours.values()], types)
        try:
            rows = whole_rows(source, section.text_columns, names, read_as, errors)
            while chunk := list(islice(rows, CHUNK)):
                texts = [row_texts(source, row, errors) for row, _ in chunk]
                if leaderboard is not None:
                    _check_ids(source, chunk, errors)
                if errors:
                    continue  # read on, so that all errors are listed
                pairs = zip(chunk, model.predict(task, texts), strict=True)
                found = [own | _found(prediction, ours) for (_, own), prediction in pairs]
                if ending in DELIMITED:
                    label = ours["prediction"]
                    found = [row | {label: _one_cell(row[label], section)} for row in found]
                writer.write(found)
                total += len(chunk)
        finally:
            writer.close()
        errors.check()
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _leaderboard_name(model: Model, task: str) -> str:
    kind, texts = model.target(task).kind, model.text_count(task)
    if (kind, texts) not in LEADERBOARD:
        raise ComityError(
            f"--format cs224n: the class has no leaderboard for {kind} of {texts} text(s); "
            "use --format table"
        )
    return LEADERBOARD[kind, texts]


def _check_ids(source: Path, rows: Sequence[tuple[Row, Own]], errors: ErrorList) -> None:
    for row, own in rows:
        if own.get("id") is None:
            errors.add(f"{source}:{row.line}: has no id for the cs224n format; give the row one")


# --- names ----------------------------------------------------------------------------------------


def _our_names(model: Model, task: str, taken: Sequence[str]) -> dict[str, str]:
    """What our columns are called beside the input's: `prediction` and `p_CLASS` by class."""
    target = model.target(task)
    names = ["prediction"]
    if target.outputs > 1 or target.kind in ("classification", "multi-label"):
        names += [f"p_{name}" for name in probability_names(target)]
    used = list(taken)
    ours = {}
    for name in names:
        ours[name] = free_name(name, used)
        used.append(ours[name])
    return ours


def _found(prediction: Prediction, ours: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {ours["prediction"]: prediction.label}
    for name, probability in prediction.probabilities.items():
        values[ours[f"p_{name}"]] = round(probability, 6)
    return values


# --- writing --------------------------------------------------------------------------------------


def _one_cell(label: Any, section: TaskSection) -> Any:
    """A label for delimited text, several of them joined."""
    return cell(label, section.separator) if isinstance(label, list) else label


def _arrow_types(model: Model, task: str, ours: Mapping[str, str]) -> dict[str, Any]:
    """What Parquet holds our columns as: labels and probabilities as they are."""
    import pyarrow

    kind = model.target(task).kind
    labels = {"multi-label": pyarrow.list_(pyarrow.string()), "classification": pyarrow.string()}
    types = dict.fromkeys(ours.values(), pyarrow.float64())
    types[ours["prediction"]] = labels.get(kind, pyarrow.float64())
    return types


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
