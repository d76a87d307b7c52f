"""The CSV files of dev predictions in a run directory: their one writer and their one reader.

A line holds the row's line in its file ("part-2.csv:3" if the task has several files), the gold
label, the predicted label and, where the head has them, the probabilities of the classes or levels.
Labels that a spreadsheet would run are protected.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.splits import Split
from comity.errors import ComityError, nearest
from comity.files import read_bytes
from comity.runs.directory import RunDirectory
from comity.tables.locations import row_name
from comity.tables.spreadsheets import protected, unprotected
from comity.targets import Target

DEFAULT_SEPARATOR = "|"
PREDICTION_COLUMNS = ("line", "gold", "prediction")
"""The columns of every file of dev predictions; those of probabilities follow."""


@dataclass(frozen=True)
class Predictions:
    """The content of one file of predictions."""

    lines: list[int | str]  # [n], in the labelled file, see `row_name`
    gold: NDArray  # [n] class names, [n] scores, or [n, L] indicators
    predicted: NDArray  # as gold
    probabilities: NDArray[np.float64] | None  # [n, C]; None where the head gives a number


@dataclass(frozen=True)
class TaskPredictions(Predictions):
    """The predictions of a run's best model for the dev rows of one task."""

    metric: str
    target: Target
    file: str | None  # SHA-256 of the labelled file


def kept_predictions(directory: RunDirectory, task: str) -> TaskPredictions:
    """The predictions of the run's best model for the dev rows of a task.

    Raises:
        ComityError: an unknown task, a run that has kept no model, or a damaged file.
    """
    facts = directory.facts()
    if task not in facts.tasks:
        hint = nearest(task, facts.tasks) or f"; this run has {', '.join(facts.tasks)}"
        raise ComityError(f'{directory.path}: unknown task "{task}"{hint}')
    target = facts.tasks[task].head.target
    path = directory.predictions(directory.best().step, task)
    found = read_predictions(path, target, directory.recipe().tasks[task].separator)
    return TaskPredictions(
        **vars(found),
        metric=facts.tasks[task].metric,
        target=target,
        file=facts.inputs.files.get(f"{task} dev"),
    )


def write_predictions(
    path: Path, target: Target, split: Split, outputs: NDArray, separator: str | None = None
) -> None:
    """Write the predictions that a head's `outputs: [n, outputs]` mean for the rows of a split.

    Where an output is not finite, the probabilities or the predicted number are written as NaN: an
    infinite output can have a finite probability, but the metrics refuse it.
    `separator` joins the labels of a multi-label task ("|" unless given).
    """
    outputs = np.where(np.isfinite(outputs).all(axis=1, keepdims=True), outputs, np.nan)
    predictions = target.predictions(outputs)
    probabilities = target.probabilities(outputs)
    lost = ~np.isfinite(outputs).all(axis=1)
    if probabilities is not None:
        probabilities[lost] = np.nan
    if target.kind not in ("classification", "multi-label"):
        predictions[lost] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_header(target))
        for index, row in enumerate(split.rows):
            labels = (target.label(split.targets[index]), target.label(predictions[index]))
            cells: list[Any] = [_line_cell(split.table.path, int(split.table.lines[row]))]
            cells += [protected(str(cell(label, separator))) for label in labels]
            if probabilities is not None:
                cells.extend(f"{p:.6f}" for p in probabilities[index])
            writer.writerow(cells)


def read_predictions(path: Path, target: Target, separator: str | None = None) -> Predictions:
    """Read what `write_predictions` wrote with the same target and separator.

    Raises:
        ComityError: the file is missing or damaged.
    """
    columns = len(PREDICTION_COLUMNS)
    try:
        text = read_bytes(path).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        known = (_header(target), _header(target)[:columns])  # slim runs have no probabilities
        if header not in known or any(len(row) != len(header) for row in rows):
            raise ValueError("the columns are not those of the target")
        lines, gold, predicted = ([row[column] for row in rows] for column in range(columns))
        probabilities = np.array([row[columns:] for row in rows], dtype=np.float64)
        probabilities = probabilities.reshape(len(rows), len(header) - columns)
        return Predictions(
            lines=[_line_of(text) for text in lines],
            gold=_column([unprotected(text) for text in gold], target, separator),
            predicted=_column([unprotected(text) for text in predicted], target, separator),
            probabilities=probabilities if header[columns:] else None,
        )
    except (OSError, ValueError, csv.Error, RecursionError):
        raise ComityError(
            f"{path}: cannot be read as predictions; the run is damaged, train it again"
        ) from None


def _line_cell(path: Path, line: int) -> int | str:
    name = row_name(path, line)
    return protected(name) if isinstance(name, str) else name


def _line_of(cell: str) -> int | str:
    """What `_line_cell` wrote. Raises `ValueError` if it is something else."""
    file, colon, line = unprotected(cell).rpartition(":")
    return f"{file}:{int(line)}" if colon else int(line)


def _header(target: Target) -> list[str]:
    return [*PREDICTION_COLUMNS, *(f"p_{name}" for name in probability_names(target))]


def probability_names(target: Target) -> list[str]:
    """The names of the columns of `Target.probabilities`: the classes, or the levels."""
    if target.has_levels:
        return [str(level) for level in target.levels]
    return list(target.classes)


# --- labels as cells ------------------------------------------------------------------------------


def cell(label: Any, separator: str | None = None) -> Any:
    """A label as one cell: a name, a number with all its digits, or several names joined.

    Names are written as a JSON list where splitting the joined text would not give them back.

    >>> cell(["a", "b"]), cell(["a|b"])
    ('a|b', '["a|b"]')
    """
    if isinstance(label, list):
        text = (separator or DEFAULT_SEPARATOR).join(label)
        clear = not text.startswith("[") and names_in(text, separator) == label
        return text if clear else json.dumps(label, ensure_ascii=False)
    return repr(float(label)) if isinstance(label, float) else label


def names_in(text: str, separator: str | None = None) -> list[str]:
    """The names in a cell of several labels, as `cell` wrote them.

    Raises:
        ValueError: a list that is not JSON.
    """
    if text.startswith("["):
        return json.loads(text)
    return text.split(separator or DEFAULT_SEPARATOR) if text else []


def _column(cells: list[str], target: Target, separator: str | None) -> NDArray:
    """A column of cells as metrics take it."""
    if target.kind not in ("classification", "multi-label"):
        return np.array(cells, dtype=np.float64)
    if target.kind == "classification":
        _check_known(cells, target)
        return np.array(cells, dtype=np.str_)
    rows = [set(names_in(text, separator)) for text in cells]
    _check_known(set().union(*rows), target)
    indicators = [[name in names for name in target.classes] for names in rows]
    return np.array(indicators, dtype=np.int64).reshape(len(cells), len(target.classes))


def _check_known(names: Iterable[str], target: Target) -> None:
    if unknown := set(names) - set(target.classes):
        raise ValueError(f"not among the classes: {unknown}")
