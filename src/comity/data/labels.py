"""Turns label columns into targets: classes, indicators or scores; finds what a task predicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.data.token_cache import LabelColumn, TokenTable
from comity.errors import ErrorList, nearest
from comity.format import plural
from comity.recipe.schema import TaskSection
from comity.tables.rows import NoValue, Value
from comity.targets import Classes, Target, is_number

GLUE_HINT = "the GLUE files have -1 where test labels are withheld; use a labelled file"
_MISSING = object()


class _Wrong(str):
    """Why a value is not a target, and what to do: an error message without file and line."""


class Labels(NamedTuple):
    """The targets of all rows of a table; that of a row without a label is 0."""

    targets: NDArray  # [n] int32 classes, [n] float64 scores, or [n, L] int8 indicators
    labelled: NDArray[np.bool_]  # [n]


def find_target(
    name: str, task: TaskSection, table: TokenTable, errors: ErrorList
) -> tuple[Target, Labels] | None:
    """What a task predicts, found in its training file, and the labels of that file.

    Errors of the labels are added to `errors`. None if they leave unknown what to predict.
    """
    before = errors.total
    if task.kind == "similarity":
        target = Target(task.kind, task.head_name, scale=task.scale, rounding=task.rounding)
        return target, read_labels(name, task, target, table, errors)
    if task.kind == "regression":
        return _find_regression(name, task, table, errors)
    classes = _find_classes(name, task, table, errors)
    target = Target(task.kind, task.head_name, classes=classes.names)
    _check_class_weights(name, task, target, errors)
    _check_objectives(name, task, target, table.path, errors)
    labels = read_labels(name, task, target, table, errors)
    return None if errors.total > before else (target, labels)


def _find_classes(name: str, task: TaskSection, table: TokenTable, errors: ErrorList) -> Classes:
    if task.labels is not None:
        return Classes.found([str(column) for column in task.labels])
    if task.classes is None:
        return Classes.found(sorted(_distinct_labels(task, table)))
    if len(Classes.found(task.classes).names) < len(task.classes):
        errors.add(f"tasks.{name}.classes: a class is listed twice; list each once")
    return Classes(task.classes)


def _check_class_weights(name: str, task: TaskSection, target: Target, errors: ErrorList) -> None:
    for weighted in task.class_weights if isinstance(task.class_weights, dict) else ():
        if weighted not in target.classes:
            known = ", ".join(target.classes)
            hint = nearest(weighted, target.classes) or f"; the classes are {known}"
            errors.add(f'tasks.{name}.class_weights: unknown class "{weighted}"{hint}')


def _check_objectives(
    name: str, task: TaskSection, target: Target, path: Path, errors: ErrorList
) -> None:
    """Objectives need to know which of two classes means that the texts are similar."""
    if not task.objectives:
        return
    if len(target.classes) != 2:
        errors.add(
            f"tasks.{name}.objectives: objectives need two classes (similar and not similar), but "
            f"{path} has {plural(len(target.classes), 'class', 'classes')}; remove the objectives"
        )
    elif task.classes is None and not _ordered(target.classes):
        first, last = target.classes
        errors.add(
            f"tasks.{name}.classes: objectives need to know which class means similar; list it "
            f'last: classes = ["{last}", "{first}"] if {first} means similar, else '
            f'["{first}", "{last}"]'
        )


def _ordered(names: Sequence[str]) -> bool:
    """Whether the names have an order: they are numbers, or true and false."""
    return all(is_number(name) or name.casefold() in ("true", "false") for name in names)


def check_trainable(
    name: str, target: Target, path: Path, targets: NDArray, errors: ErrorList
) -> None:
    """Add an error if the training rows cannot teach anything.

    To be called with the final rows, because splitting and dropping may remove a class.
    """
    rows = len(targets)
    if rows == 0:
        errors.add(f"{path}: no training row is left for the task {name}; add rows")
    elif target.kind == "classification":
        counts = class_counts(target, targets)
        if (counts > 0).sum() < 2:
            only = target.classes[int(counts.argmax())]
            hint = f" ({GLUE_HINT})" if only == "-1" else ""
            errors.add(
                f'{path}: the task {name} has only one class, "{only}", in its '
                f"{plural(rows, 'training row')}{hint}; add rows of another class"
            )
    elif target.kind == "multi-label" and not targets.any():
        errors.add(f"{path}: no training row of the task {name} has a label; add labels")
    elif target.kind == "regression" and targets.min() == targets.max():
        errors.add(
            f"{path}: the training targets of the task {name} do not differ (all {rows} are "
            f"{targets[0]:g}); use a labelled file"
        )


def _find_regression(
    name: str, task: TaskSection, table: TokenTable, errors: ErrorList
) -> tuple[Target, Labels] | None:
    before = errors.total
    target = Target(task.kind, task.head_name)
    labels = read_labels(name, task, target, table, errors)
    values = labels.targets[labels.labelled]
    if errors.total > before:
        return None
    if len(values) == 0 or values.min() == values.max():
        check_trainable(name, target, table.path, values, errors)
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        errors.add(f"{table.path}: the targets of {name} are too large to average; rescale them")
        return None
    return replace(target, mean=mean, deviation=deviation), labels


def _distinct_labels(task: TaskSection, table: TokenTable) -> set[str]:
    """The distinct labels of the training file, without wrong values."""
    labels: set[str] = set()
    for value in table.labels[0].values:
        parts = _parts(value, task) if task.kind == "multi-label" else value
        if isinstance(parts, list):
            labels.update(parts)
        elif isinstance(parts, str) and not isinstance(parts, _Wrong) and parts.strip():
            labels.add(parts)
    return labels


def class_counts(target: Target, targets: NDArray) -> NDArray[np.int64]:
    """Number of rows `[C]` of each class, from class indices `[n]` or indicators `[n, C]`."""
    if targets.ndim == 2:
        return targets.sum(axis=0)
    return np.bincount(targets, minlength=len(target.classes))


def read_labels(
    name: str, task: TaskSection, target: Target, table: TokenTable, errors: ErrorList
) -> Labels:
    """The targets of all rows of a table.

    Wrong labels are errors; missing ones are too, unless `missing_labels = "skip"`.
    """
    if task.kind == "multi-label" and task.labels is not None:
        return _read_indicators(name, task, target, table, errors)
    label = task.label_columns[0]
    read, kind, width = _score_reader(task), np.float64, ()
    if task.kind == "classification":
        read, kind = _class_reader(target), np.int32
    elif task.kind == "multi-label":
        read, kind, width = _tags_reader(task, target), np.int8, (len(target.classes),)
    return _read_column(name, task, table, table.labels[0], label, read, kind, errors, width)


def _read_indicators(
    name: str, task: TaskSection, target: Target, table: TokenTable, errors: ErrorList
) -> Labels:
    """Multi-label targets of a table with a column for each label."""
    columns = [str(column) for column in task.label_columns]
    read = [
        _read_column(name, task, table, values, column, _indicator, np.int8, errors)
        for values, column in zip(table.labels, columns, strict=True)
    ]
    # A class may be spelled otherwise than its column: numbers lose leading zeros.
    classes = Classes(target.classes)
    column_of: dict[int | None, int] = {}
    for number, column in enumerate(columns):
        column_of.setdefault(classes.index(column), number)
    targets = [read[column_of[index]].targets for index in range(len(target.classes))]
    return Labels(np.stack(targets, axis=1), np.all([r.labelled for r in read], axis=0))


def mapped_labels(
    table: TokenTable,
    mapping: Mapping[str, str | int | float],
    decimal: str,
    errors: ErrorList,
) -> TokenTable:
    """A table with its labels replaced as a stage's `label_map` says.

    Numbers match in any spelling. A label that is not in the map is an error; rows without a label
    stay without. `decimal` is the decimal mark of the task's own files.
    """
    known = Classes(tuple(mapping))
    wanted = [v if isinstance(v, str) else str(v).replace(".", decimal) for v in mapping.values()]
    (column,) = table.labels
    values: list[Value] = []
    for code, value in enumerate(column.values):
        index = known.index(value) if isinstance(value, str) and value.strip() else None
        if index is None and isinstance(value, str) and value.strip():
            line = table.lines[int(np.flatnonzero(np.asarray(column.codes) == code)[0])]
            errors.add(
                f'{table.path}:{line}: the label "{value.strip()}" is not in the label_map '
                f"({', '.join(mapping)}); add it there"
            )
        values.append(value if index is None else wanted[index])
    return replace(table, labels=(replace(column, values=values),))


def _read_column(
    name: str,
    task: TaskSection,
    table: TokenTable,
    column: LabelColumn,
    label: str | int,
    read: Callable[[Value], Any],
    kind: type,
    errors: ErrorList,
    width: tuple[int, ...] = (),
) -> Labels:
    """Read each distinct value once, then assign the results (`width` each) to the rows."""
    results = [_missing_or(read, value) for value in column.values]
    codes = np.asarray(column.codes)
    wrong = np.array([isinstance(r, _Wrong) for r in results], dtype=bool)[codes]
    missing = np.array([r is _MISSING for r in results], dtype=bool)[codes]
    for row in np.flatnonzero(wrong):
        errors.add(f"{table.path}:{table.lines[row]}: {results[codes[row]]}")
    if task.missing_labels == "error":
        for row in np.flatnonzero(missing):
            errors.add(_missing_message(name, table, int(row), column.values[codes[row]], label))
    labelled = ~(wrong | missing)
    values = np.zeros((len(results), *width), dtype=kind)
    for code, result in enumerate(results):
        if not (isinstance(result, _Wrong) or result is _MISSING):
            values[code] = result
    return Labels(values[codes], labelled)


def _missing_or(read: Callable[[Value], Any], value: Value) -> Any:
    if value is None or isinstance(value, NoValue):
        return _MISSING
    return read(value)


def _missing_message(name: str, table: TokenTable, row: int, value: Value, label: str | int) -> str:
    what = value.reason if isinstance(value, NoValue) else f'the label "{label}" is empty'
    return (
        f"{table.path}:{table.lines[row]}: {what}; fill it in, or set "
        f'missing_labels = "skip" in [tasks.{name}] to leave such rows out'
    )


def _class_reader(target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes)

    def read(value: Value) -> Any:
        if not isinstance(value, str):
            return _Wrong('the label is a list; write one class, or set kind = "multi-label"')
        if not value.strip():
            return _MISSING
        index = classes.index(value)
        return _unknown(value, target) if index is None else index

    return read


def _unknown(value: str, target: Target) -> _Wrong:
    known = ", ".join(target.classes[:12]) + (", ..." if len(target.classes) > 12 else "")
    hint = "; correct it, or add training rows of that class"
    if value.strip() in ("-1", "-1.0"):
        hint = f" ({GLUE_HINT}){hint}"
    return _Wrong(
        f'the label "{value}" is not a class of the training rows ({known})'
        f"{nearest(value, target.classes) or hint}"
    )


def _parts(value: Value, task: TaskSection) -> list[str] | Any:
    """The labels of one multi-label cell: those of a list, or of a text with separators."""
    if isinstance(value, list):
        return [part.strip() for part in value if part.strip()]
    if not isinstance(value, str):
        return _MISSING
    if task.separator is None:
        if not value.strip():
            return []
        return _Wrong(
            f'the labels "{value}" are one text; set separator to the text between two labels'
        )
    return [part.strip() for part in value.split(task.separator) if part.strip()]


def _tags_reader(task: TaskSection, target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes)

    def read(value: Value) -> Any:
        parts = _parts(value, task)
        if not isinstance(parts, list):
            return parts
        indices = classes.indices(parts)
        for part, index in zip(parts, indices, strict=True):
            if index is None:
                return _unknown(part, target)
        return [int(index in indices) for index in range(len(target.classes))]

    return read


def _indicator(value: Value) -> Any:
    word = value.strip().casefold() if isinstance(value, str) else value
    if word == "":
        return _MISSING
    if word in ("true", "false"):
        return int(word == "true")
    number = _number(value, ".") if isinstance(value, str) else None
    if number in (0.0, 1.0):
        return int(number)
    return _Wrong(f"an indicator must be 0 or 1, got {value!r}; correct it")


def _score_reader(task: TaskSection) -> Callable[[Value], Any]:
    low, high = task.scale

    def read(value: Value) -> Any:
        if not isinstance(value, str):
            return _Wrong("the score is a list; write one number")
        if not value.strip():
            return _MISSING
        number = _number(value, task.decimal_mark)
        if number is None:
            hint = "correct it"
            other = "," if task.decimal_mark == "." else "."
            if _number(value, other) is not None:
                hint = f'set decimal_mark = "{other}" if the file writes numbers like this'
            return _Wrong(f'the score "{value.strip()}" is not a number; {hint}')
        if task.kind == "similarity" and not low <= number <= high:
            hint = f" ({GLUE_HINT})" if number == -1 else ""
            return _Wrong(
                f"the score {value.strip()} is outside the scale from {low:g} to {high:g}{hint}; "
                "correct it, or set scale in the task"
            )
        return number

    return read


def _number(text: str, decimal: str) -> float | None:
    """A finite number, or None. `decimal` is its decimal mark; other marks are not accepted."""
    text = text.strip()
    other = "." if decimal == "," else ","
    if other in text or "_" in text:
        return None
    try:
        number = float(text.replace(decimal, "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
