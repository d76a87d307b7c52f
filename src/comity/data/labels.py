"""Label columns to targets: classes, indicators or scores, and a sentence for each that is none."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.token_cache import LabelColumn, TokenTable
from comity.errors import ErrorList, nearest
from comity.recipe.schema import TaskSection
from comity.tables.rows import NoValue, Value
from comity.targets import Classes, Target, is_number

GLUE_HINT = "-1 is what the GLUE files have where test labels are withheld; use a labelled file"
_MISSING = object()


class _Wrong(str):
    """Why a value is no target: the sentence between the line and what to do."""


def find_target(
    name: str, task: TaskSection, table: TokenTable, errors: ErrorList
) -> Target | None:
    """What a task predicts, from its training file (and the classes that the recipe lists)."""
    if task.kind == "similarity":
        return Target(task.kind, task.head_name, scale=task.scale, rounding=task.rounding)
    if task.kind == "regression":
        return _find_regression(name, task, table, errors)
    if task.labels is not None:
        classes = Classes.found([str(column) for column in task.labels])
    elif task.classes is not None:
        classes = _listed(name, task.classes, errors)
    else:
        classes = Classes.found(sorted(_labels_in(task, table)))
    target = Target(task.kind, task.head_name, classes=classes.names)
    for weighed in task.class_weights if isinstance(task.class_weights, dict) else ():
        if weighed not in classes.names:
            hint = nearest(weighed, classes.names)
            errors.add(f'tasks.{name}.class_weights: "{weighed}" is no class of the task{hint}')
    if task.objectives and len(classes.names) != 2:
        errors.add(
            f"tasks.{name}.objectives: compare pairs that are alike or not, and {table.path} has "
            f"{len(classes.names)} classes; remove them"
        )
    elif task.objectives and task.classes is None and not _ordered(classes.names):
        first, last = classes.names
        errors.add(
            f'tasks.{name}.classes: objectives take the last class for "alike", and names have no '
            f'order; list them, as in classes = ["{last}", "{first}"] if that is {first}'
        )
    read_targets(name, task, target, table, errors)
    return target


def _ordered(names: Sequence[str]) -> bool:
    """Whether names say by themselves which is the higher: numbers, or true and false."""
    return all(is_number(name) or name.casefold() in ("true", "false") for name in names)


def check_trainable(
    name: str, target: Target, path: Path, targets: NDArray, errors: ErrorList
) -> None:
    """Whether the rows that are left for training can teach anything.

    Held against the final rows, after splitting and dropping: a class may be gone with them.
    """
    rows = len(targets)
    if rows == 0:
        errors.add(f"{path}: no row is left to train the task {name} on; add rows")
    elif target.kind == "classification":
        counts = class_counts(target, targets)
        if (counts > 0).sum() < 2:
            only = target.classes[int(counts.argmax())]
            hint = f" ({GLUE_HINT})" if only == "-1" else ""
            errors.add(
                f'{path}: the task {name} has one class only, "{only}", in its {rows} training '
                f"rows{hint}; add rows of another class"
            )
    elif target.kind == "multi-label" and not targets.any():
        errors.add(f"{path}: no training row of the task {name} has a label; add some")
    elif target.kind == "regression" and targets.min() == targets.max():
        errors.add(
            f"{path}: the task {name} needs training targets that differ, all {rows} are "
            f"{targets[0]:g}; use a labelled file"
        )


def _listed(name: str, names: tuple[str, ...], errors: ErrorList) -> Classes:
    """The classes as the recipe lists them, in its order."""
    if len(Classes.found(names).names) < len(names):
        errors.add(f"tasks.{name}.classes: a class is listed twice; list each once")
    return Classes(names)


def _find_regression(
    name: str, task: TaskSection, table: TokenTable, errors: ErrorList
) -> Target | None:
    plain = Target(task.kind, task.head_name)
    before = errors.total
    values, labelled = read_targets(name, task, plain, table, errors)
    values = values[labelled]
    if errors.total > before:
        return None
    if len(values) == 0 or values.min() == values.max():
        check_trainable(name, plain, table.path, values, errors)
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        errors.add(f"{table.path}: the targets of {name} are too large to average; rescale them")
        return None
    return Target(task.kind, task.head_name, mean=mean, deviation=deviation)


def _labels_in(task: TaskSection, table: TokenTable) -> set[str]:
    """The distinct labels of the training file, faulty values left out."""
    labels: set[str] = set()
    for value in table.labels[0].values:
        parts = _parts(value, task) if task.kind == "multi-label" else value
        if isinstance(parts, list):
            labels.update(parts)
        elif isinstance(parts, str) and not isinstance(parts, _Wrong) and parts.strip():
            labels.add(parts)
    return labels


def class_counts(target: Target, targets: NDArray) -> NDArray[np.int64]:
    """Rows `[C]` of each class, from class indices `[n]` or indicators `[n, C]`."""
    if targets.ndim == 2:
        return targets.sum(axis=0)
    return np.bincount(targets, minlength=len(target.classes))


def read_targets(
    name: str, task: TaskSection, target: Target, table: TokenTable, errors: ErrorList
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Targets of all rows of a table, and which rows have one.

    Rows without a label are errors unless `missing_labels = "skip"`; labels that are wrong
    are errors always. The target of a row without one is 0.
    """
    if task.kind == "multi-label" and task.labels is not None:
        columns = [
            _column(name, task, table, column, label, lambda v: _indicator(v), np.int8, errors)
            for column, label in zip(table.labels, task.labels, strict=True)
        ]
        order = [[str(c) for c in task.labels].index(_as_written(task, n)) for n in target.classes]
        targets = np.stack([columns[place][0] for place in order], axis=1)
        return targets, np.all([labelled for _, labelled in columns], axis=0)
    label = task.label_columns[0]
    read, kind, width = _score_reader(task), np.float64, ()
    if task.kind == "classification":
        read, kind = _class_reader(target), np.int32
    elif task.kind == "multi-label":
        read, kind, width = _tags_reader(task, target), np.int8, (len(target.classes),)
    return _column(name, task, table, table.labels[0], label, read, kind, errors, width)


def mapped_labels(
    table: TokenTable,
    mapping: Mapping[str, str | int | float],
    decimal: str,
    errors: ErrorList,
) -> TokenTable:
    """A table whose labels are what a recipe's `map` makes of them, numbers in any spelling.

    A label that the map does not name is a fault; a row without one stays without. `decimal` is the
    mark that the task's own files have in numbers.
    """
    places = Classes(tuple(mapping))
    wanted = [v if isinstance(v, str) else str(v).replace(".", decimal) for v in mapping.values()]
    (column,) = table.labels
    values: list[Value] = []
    for code, value in enumerate(column.values):
        place = places.index(value) if isinstance(value, str) and value.strip() else None
        if place is None and isinstance(value, str) and value.strip():
            line = table.lines[int(np.flatnonzero(np.asarray(column.codes) == code)[0])]
            errors.add(
                f'{table.path}:{line}: the label "{value.strip()}" is not in the map of the stage '
                f"({', '.join(mapping)}); add it there"
            )
        values.append(value if place is None else wanted[place])
    return replace(table, labels=(replace(column, values=values),))


def _as_written(task: TaskSection, name: str) -> str:
    """The label column whose class is `name` (numbers lose leading zeros in a class name)."""
    assert task.labels is not None
    written = [str(column) for column in task.labels]
    place = Classes.found(written).indices(written).index(Classes.found(written).index(name))
    return written[place]


def _column(
    name: str,
    task: TaskSection,
    table: TokenTable,
    column: LabelColumn,
    label: str | int,
    read: Callable[[Value], Any],
    kind: type,
    errors: ErrorList,
    width: tuple[int, ...] = (),
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Read each distinct value once, then spread the results (`width` each) over the rows."""
    results = [_missing_or(read, value) for value in column.values]
    codes = np.asarray(column.codes)
    wrong = np.array([isinstance(r, _Wrong) for r in results], dtype=bool)[codes]
    missing = np.array([r is _MISSING for r in results], dtype=bool)[codes]
    for row in np.flatnonzero(wrong):
        errors.add(f"{table.path}:{table.lines[row]}: {results[codes[row]]}")
    if task.missing_labels == "error":
        for row in np.flatnonzero(missing):
            errors.add(_missing_sentence(name, table, int(row), column.values[codes[row]], label))
    labelled = ~(wrong | missing)
    values = np.zeros((len(results), *width), dtype=kind)
    for place, result in enumerate(results):
        if not (isinstance(result, _Wrong) or result is _MISSING):
            values[place] = result
    return values[codes], labelled


def _missing_or(read: Callable[[Value], Any], value: Value) -> Any:
    if value is None or isinstance(value, NoValue):
        return _MISSING
    return read(value)


def _missing_sentence(
    name: str, table: TokenTable, row: int, value: Value, label: str | int
) -> str:
    what = value.reason if isinstance(value, NoValue) else f"the label ({label}) is empty"
    return (
        f"{table.path}:{table.lines[row]}: {what}; fill it in, or set "
        f'missing_labels = "skip" in [tasks.{name}] to leave such rows out'
    )


def _class_reader(target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes)

    def read(value: Value) -> Any:
        if not isinstance(value, str):
            return _Wrong("the label is a list; write one class, or take the kind multi-label")
        if not value.strip():
            return _MISSING
        place = classes.index(value)
        return _unknown(value, target) if place is None else place

    return read


def _unknown(value: str, target: Target) -> _Wrong:
    known = ", ".join(target.classes[:12]) + (", ..." if len(target.classes) > 12 else "")
    hint = f" ({GLUE_HINT})" if value.strip() in ("-1", "-1.0") else nearest(value, target.classes)
    return _Wrong(
        f'the label "{value}" is not among the classes of training ({known}){hint}; '
        "correct it or add training rows of that class"
    )


def _parts(value: Value, task: TaskSection) -> list[str] | Any:
    """The labels of one multi-label cell: a list as it is, a text split by the separator."""
    if isinstance(value, list):
        return [part.strip() for part in value if part.strip()]
    if not isinstance(value, str):
        return _MISSING
    if task.separator is None:
        if not value.strip():
            return []
        return _Wrong(
            f'the labels "{value}" are one text; set "separator" in the task to say what stands '
            "between them"
        )
    return [part.strip() for part in value.split(task.separator) if part.strip()]


def _tags_reader(task: TaskSection, target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes)

    def read(value: Value) -> Any:
        parts = _parts(value, task)
        if not isinstance(parts, list):
            return parts
        places = classes.indices(parts)
        for part, place in zip(parts, places, strict=True):
            if place is None:
                return _unknown(part, target)
        return [int(place in places) for place in range(len(target.classes))]

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
    return _Wrong(f"an indicator column holds 0 and 1, not {value!r}; correct it")


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
                hint = f'set decimal_mark = "{other}" in the task if that is its decimal mark'
            return _Wrong(f'the score "{value.strip()}" is not a number; {hint}')
        if task.kind == "similarity" and not low <= number <= high:
            hint = f" ({GLUE_HINT})" if number == -1 else ""
            return _Wrong(
                f"the score {value.strip()} lies outside the scale {low:g} to {high:g}{hint}; "
                "correct it or set the task's scale"
            )
        return number

    return read


def _number(text: str, decimal: str) -> float | None:
    """A finite number, or None; `decimal` is the only mark that may stand in it."""
    text = text.strip()
    other = "." if decimal == "," else ","
    if other in text or "_" in text:
        return None
    try:
        number = float(text.replace(decimal, "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
