"""Predictions of dev rows: written to and read from the run directory."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.splits import Split
from comity.errors import ComityError, nearest
from comity.runs import RunDirectory
from comity.targets import Target


@dataclass(frozen=True)
class TaskPredictions:
    """What a run's kept model says of one task's dev rows."""

    metric: str
    target: Target
    file: str | None  # SHA-256 of the file that the rows stand in
    lines: list[int]  # [n], in that file
    gold: NDArray  # [n] class names, [n] scores, or [n, L] indicators
    predicted: NDArray  # as gold
    probabilities: NDArray[np.float64] | None  # [n, C]; None where the head gives a number


def kept_predictions(directory: RunDirectory, task: str) -> TaskPredictions:
    """The kept model's predictions for the dev rows of a task, as `write_predictions` left them.

    Raises:
        ComityError: an unknown task, a run that has kept no model, or a damaged file.
    """
    facts = directory.facts()
    if task not in facts.tasks:
        known = ", ".join(facts.tasks)
        hint = nearest(task, facts.tasks)
        raise ComityError(f'{directory.path}: has no task "{task}"{hint}; it has {known}')
    target = facts.tasks[task].head.target
    step = directory.best().step
    path = directory.path / "predictions" / f"{step:06d}" / f"{task}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        separator = directory.recipe().tasks[task].separator or "|"
        columns = [f"p_{name}" for name in probability_names(target)]
        return TaskPredictions(
            facts.tasks[task].metric,
            target,
            facts.inputs.files.get(f"{task} dev"),
            [int(row["line"]) for row in rows],
            _values([row["gold"] for row in rows], target, separator),
            _values([row["prediction"] for row in rows], target, separator),
            np.array([[float(row[name]) for name in columns] for row in rows]) if columns else None,
        )
    except (OSError, KeyError, ValueError, TypeError):
        raise ComityError(
            f"{path}: cannot be read as predictions; the run is damaged, train it anew"
        ) from None


def _values(cells: Sequence[str], target: Target, separator: str) -> NDArray:
    """A column of labels as `evaluate.cell` writes them, back as metrics take them."""
    if target.kind == "classification":
        return np.array(cells)
    if target.kind != "multi-label":
        return np.array(cells, dtype=np.float64)
    named = [_names(cell, target.classes, separator) for cell in cells]
    return np.array([[name in names for name in target.classes] for names in named], dtype=np.int64)


def _names(cell: str, classes: Sequence[str], separator: str) -> list[str]:
    names = cell.split(separator) if cell else []
    return names if all(name in classes for name in names) else json.loads(cell)


def write_predictions(
    path: Path, target: Target, split: Split, outputs: NDArray, separator: str | None = None
) -> None:
    """Dev predictions as CSV: the row's line in its file, gold, prediction, probabilities."""
    predictions = target.predictions(outputs)
    probabilities = target.probabilities(outputs)
    names = [f"p_{name}" for name in probability_names(target)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "gold", "prediction", *names])
        for place in range(len(split)):
            gold = cell(target.label(split.targets[place]), separator)
            line = split.table.lines[split.rows[place]]
            row = [line, gold, cell(target.label(predictions[place]), separator)]
            if probabilities is not None:
                row.extend(f"{p:.6f}" for p in probabilities[place])
            writer.writerow(row)


def probability_names(target: Target) -> list[str]:
    """What the columns of `Target.probabilities` are called: the classes, or the levels."""
    if target.head == "bins":
        return [str(level) for level in target.levels]
    return list(target.classes)


def cell(label: Any, separator: str | None = None) -> Any:
    """A label as one cell: several joined by the separator, or as JSON where a name holds it.

    A number has all its digits: a label's unit may be of any size.
    """
    if isinstance(label, list):
        mark = separator or "|"
        unclear = any(mark in name for name in label)
        return json.dumps(label, ensure_ascii=False) if unclear else mark.join(label)
    return repr(float(label)) if isinstance(label, float) else label
