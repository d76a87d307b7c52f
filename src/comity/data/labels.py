"""Turns label columns into targets: classes, indicators or scores; finds what a task predicts."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.data.skipped_rows import BadLabels
from comity.data.token_cache import LabelColumn, TokenTable
from comity.errors import ErrorList, nearest
from comity.format import plural
from comity.recipe.schema import TaskSection
from comity.tables.locations import location, locations, row_list
from comity.tables.rows import JsonNumber, NoValue, Value, shown
from comity.targets import Classes, Target, is_number, loose_key

GLUE_HINT = "GLUE has -1 where test labels are withheld; use a labelled split"

PLACEHOLDERS = frozenset(
    [
        *("", "-1", "-9", "-99", "-999", "-9999", "?", "??", "???", "-", "--", "---", "–", "—"),
        *(".", "..", "n/a", "#n/a", "na", "<na>", "nan", "null", "none", "nil", "unlabelled"),
        *("unlabeled", "unknown", "unspecified", "undefined", "missing", "tbd", "todo"),
        *("nolabel", "notavailable", "(blank)", "#value!", "#ref!", "#div/0!", "#name?"),
    ]
)
"""Labels that often mark a missing label, as `loose_key` writes them."""

MANY = 4
"""Wrong values of one kind from which on one sentence reports all, if they are half of a column."""


class _No(Enum):
    """Why a row has no target, where that is not an error of the value."""

    VALUE = "missing"
    IGNORED = "ignored"


class _Kind(NamedTuple):
    """What all values of a column should be, in the singular and in the plural."""

    one: str
    many: str


_NUMBERS = _Kind("a number", "numbers")
_SINGLE = _Kind("a single class", "single classes")
_LISTS = _Kind("a list", "lists")
_INDICATORS = _Kind("0 or 1", "0 or 1")


@dataclass(frozen=True)
class _Wrong:
    """A value that is not a target. Messages are written when needed, as there may be millions."""

    what: Callable[[], str]  # what is wrong, as in 'the score "high" is not a number'
    advice: Callable[[], str]
    kind: _Kind | None = None
    question: str = ""  # instead of the advice, where most values of the column are wrong
    general: str = ""  # what is wrong in general, if there is no kind

    @property
    def reason(self) -> str:
        """What is wrong, by which bad rows are counted."""
        return f"label is not {self.kind.one}" if self.kind else self.general


class _Unmapped(NoValue):
    """A label that a `label_map` lacks, where bad rows are skipped."""


class Labels(NamedTuple):
    """The targets of all rows of a table; that of a row without a label is 0.

    Where bad rows are skipped, those of wrong and missing labels are in `bad`, not in `labelled`.
    """

    targets: NDArray  # [n] int32 classes, [n] float64 scores, or [n, L] int8 indicators
    labelled: NDArray[np.bool_]  # [n]
    ignored: NDArray[np.bool_]  # [n] rows whose label is one of the task's `ignore_labels`
    bad: tuple[BadLabels, ...] = ()


def find_target(
    name: str, task: TaskSection, table: TokenTable, errors: ErrorList
) -> tuple[Target | None, Labels]:
    """What a task predicts, found in its training file, and the labels of that file.

    Errors of the labels are added to `errors`. The target is None if they leave the classes
    unknown. The mean and deviation of a regression come from its training rows, see `fit_target`.
    """
    before = errors.total
    if task.kind == "similarity":
        target = Target(
            task.kind,
            task.head_name,
            scale=task.scale,
            rounding=task.rounding,
            text_head=task.text_head,
            mix=task.trained_mix,
        )
        return target, read_labels(name, task, target, table, errors)
    if task.kind == "regression":
        target = Target(task.kind, task.head_name, text_head=task.text_head, mix=task.trained_mix)
        return target, read_labels(name, task, target, table, errors)
    classes = _find_classes(name, task, table, errors)
    target = Target(
        task.kind,
        task.head_name,
        classes=classes.names,
        one_vs_all=task.loss == "one-vs-all",
        text_head=task.text_head,
        mix=task.trained_mix,
    )
    _check_class_weights(name, task, target, errors)
    _check_loss(name, target, table.path, errors)
    _check_objectives(name, task, target, table.path, errors)
    labels = read_labels(name, task, target, table, errors)
    return (None if errors.total > before else target), labels


def labels_alone(name: str, task: TaskSection, table: TokenTable, errors: ErrorList) -> Labels:
    """The labels of a file if errors of the training file leave the classes unknown.

    The classes are those of the recipe or of this file.
    """
    classes = Classes(())
    if task.kind in ("classification", "multi-label"):
        classes = _find_classes(name, task, table, errors)
    target = Target(task.kind, task.head_name, classes=classes.names, scale=task.scale)
    return read_labels(name, task, target, table, errors)


def _find_classes(name: str, task: TaskSection, table: TokenTable, errors: ErrorList) -> Classes:
    loose = task.match_labels == "loose"
    if task.labels is not None:
        columns = [str(column) for column in task.labels]
        numbers = all(is_number(column) for column in columns)
        return Classes(tuple(sorted(columns, key=float if numbers else None)))
    if task.classes is None:
        return Classes.found([label for label, _ in label_counts(task, table)], loose)
    classes = Classes(tuple(label.strip() for label in task.classes), loose)
    if len(set(classes.indices(classes.names))) < len(classes.names):
        errors.add(f"tasks.{name}.classes: a class is listed twice; list each once")
    return classes


def label_counts(task: TaskSection, table: TokenTable) -> list[tuple[str, int]]:
    """The labels of a table with classes, as written but for spaces at the ends.

    Each comes with its number of rows, the most frequent first, then by name. Labels that are
    ignored or cannot be read are left out.
    """
    ignored = _ignored(task)
    (column,) = table.labels
    counts: Counter[str] = Counter()
    rows = np.bincount(np.asarray(column.codes), minlength=len(column.values)).tolist()
    for value, count in zip(column.values, rows, strict=True):
        parts = _parts(value, task) if task.kind == "multi-label" else [value]
        parts = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
        if not any(loose_key(part) in ignored for part in parts):
            counts.update(dict.fromkeys(parts, count))
    return sorted(counts.items(), key=lambda found: (-found[1], found[0]))


def _ignored(task: TaskSection) -> frozenset[str]:
    """The labels that mark a missing label, in the form in which they are compared."""
    return frozenset(loose_key(label) for label in task.ignore_labels)


def some_lines(table: TokenTable, rows: NDArray[np.integer], most: int = 10) -> str:
    """Where rows are: `file.csv:3`, or `file.csv, lines 3, 7 and 12 more`."""
    return locations(table.path, table.lines[rows[:most]].tolist(), len(rows), most)


def _where(table: TokenTable, row: int | np.integer) -> str:
    return location(table.path, int(table.lines[row]))


def _check_class_weights(name: str, task: TaskSection, target: Target, errors: ErrorList) -> None:
    for weighted in task.class_weights if isinstance(task.class_weights, dict) else ():
        if weighted not in target.classes:
            known = ", ".join(target.classes)
            hint = nearest(weighted, target.classes) or f"; the classes are {known}"
            errors.add(f'tasks.{name}.class_weights: unknown class "{weighted}"{hint}')


def _check_loss(name: str, target: Target, path: Path, errors: ErrorList) -> None:
    if target.one_vs_all and len(target.classes) == 2:
        errors.add(
            f"tasks.{name}.loss: one-vs-all needs three or more classes, but {path} has two, which "
            "already have one sigmoid; remove it"
        )


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
            f"{targets[0]:g}); use labelled rows"
        )
    elif target.kind == "regression":
        with np.errstate(over="ignore", invalid="ignore"):
            finite = math.isfinite(targets.mean()) and math.isfinite(targets.std())
        if not finite:
            errors.add(f"{path}: the targets of {name} are too large to average; rescale them")


def fit_target(target: Target, targets: NDArray) -> Target:
    """The target with the mean and deviation of the training rows `targets`, for regression."""
    if target.kind != "regression":
        return target
    return replace(target, mean=float(targets.mean()), deviation=float(targets.std()))


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
    read, kind, width = _score_reader(name, task), np.float64, ()
    if task.kind == "classification":
        read, kind = _class_reader(name, task, target), np.int32
    elif task.kind == "multi-label":
        read, kind, width = _tags_reader(name, task, target), np.int8, (len(target.classes),)
    label = task.label_columns[0]
    return _read_column(name, task, table, table.labels[0], label, read, kind, errors, width)


def _read_indicators(
    name: str, task: TaskSection, target: Target, table: TokenTable, errors: ErrorList
) -> Labels:
    """Multi-label targets of a table with a column for each label."""
    columns = [str(column) for column in task.label_columns]
    read = [
        _read_column(name, task, table, values, column, _indicator_reader(name), np.int8, errors)
        for values, column in zip(table.labels, columns, strict=True)
    ]
    # Runs of older versions spell classes that are numbers otherwise than their columns.
    classes = Classes(target.classes)
    column_of: dict[int | None, int] = {}
    for number, column in enumerate(columns):
        column_of.setdefault(classes.index(column), number)
    targets = [read[column_of[index]].targets for index in range(len(target.classes))]
    return Labels(
        np.stack(targets, axis=1),
        np.all([r.labelled for r in read], axis=0),
        np.any([r.ignored for r in read], axis=0),
        tuple(bad for r in read for bad in r.bad),
    )


def mapped_labels(
    table: TokenTable,
    mapping: Mapping[str, str | int | float],
    task: TaskSection,
    errors: ErrorList,
) -> TokenTable:
    """A table with its labels replaced as a stage's `label_map` says.

    Labels match the map's as they match classes. A label that is not in the map is an error, unless
    the task ignores it; rows without a label stay without.
    """
    known = Classes(tuple(mapping), task.match_labels == "loose")
    mark = task.decimal_mark
    wanted = [v if isinstance(v, str) else str(v).replace(".", mark) for v in mapping.values()]
    ignored = _ignored(task)
    (column,) = table.labels
    codes = np.asarray(column.codes)
    values: list[Value] = []
    unknown: list[int] = []
    for code, value in enumerate(column.values):
        index = known.index(value) if isinstance(value, str) else None
        if index is None and isinstance(value, str) and value.strip():
            unknown += [] if loose_key(value) in ignored else [code]
        values.append(value if index is None else wanted[index])
    if task.bad_rows == "skip":
        for code in unknown:
            what = f"the label {_quoted(column.values[code])} is not in the label_map"
            values[code] = _Unmapped(what)
        unknown = []
    for code in unknown[: errors.limit]:
        rows = np.flatnonzero(codes == code)
        errors.add(
            f"{_where(table, rows[0])}: the label {_quoted(column.values[code])}"
            f"{_others(table, rows)} is not in the label_map ({_listed(tuple(mapping))}); add "
            "it there"
        )
    errors.skip(max(len(unknown) - errors.limit, 0))
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
    """Read each distinct value once, then assign the results (`width` each) to the rows.

    With a `width` a result is the indices of the values that are 1.
    """
    ignored_labels = _ignored(task)
    results = [_result(read, task, ignored_labels, value) for value in column.values]
    codes = np.asarray(column.codes)
    wrong = np.array([isinstance(r, _Wrong) for r in results], dtype=bool)[codes]
    missing = np.array([r is _No.VALUE for r in results], dtype=bool)[codes]
    ignored = np.array([r is _No.IGNORED for r in results], dtype=bool)[codes]
    bad: tuple[BadLabels, ...] = ()
    if task.bad_rows == "skip":
        found = wrong | missing if task.missing_labels == "error" else wrong
        rows = np.flatnonzero(found)
        describe = _describer(column, label, results)
        bad = (BadLabels(rows, str(label), codes[rows], describe),) if len(rows) else ()
    elif wrong.any():
        labelled = int((~missing & ~ignored).sum())
        _report_wrong(table, column, label, results, labelled, errors)
    if task.bad_rows != "skip" and task.missing_labels == "error" and missing.any():
        _report_missing(name, table, column, label, np.flatnonzero(missing), errors)
    values = np.zeros((len(results), *width), dtype=kind)
    for code, result in enumerate(results):
        if not isinstance(result, _Wrong | _No):
            values[(code, result) if width else code] = 1 if width else result
    return Labels(values[codes], ~(wrong | missing | ignored), ignored, bad)


def _describer(
    column: LabelColumn, label: str | int, results: Sequence[Any]
) -> Callable[[int], tuple[str, str]]:
    """What is wrong with a value of a column, in general and in particular, given its code."""

    def describe(code: int) -> tuple[str, str]:
        if isinstance(wrong := results[code], _Wrong):
            return wrong.reason, wrong.what()
        return "no label", _why_missing(column.values[code], label)

    return describe


def _why_missing(value: Value, label: str | int) -> str:
    return value.reason if isinstance(value, NoValue) else f'the label "{label}" is empty'


def _result(
    read: Callable[[Value], Any], task: TaskSection, ignored: frozenset[str], value: Value
) -> Any:
    """A value as `read` gives it, or that it is missing or ignored."""
    if isinstance(value, _Unmapped):
        return _Wrong(lambda: value.reason, lambda: "add it there", general="unknown label")
    if value is None or isinstance(value, NoValue):
        return _No.VALUE
    if ignored:
        parts = _parts(value, task) if task.kind == "multi-label" else [value]
        decimal = _decimal_mark(value, task)
        texts = [part.replace(decimal, ".") for part in parts if isinstance(part, str)]
        if any(text.strip() and loose_key(text) in ignored for text in texts):
            return _No.IGNORED
    return read(value)


def _report_wrong(
    table: TokenTable,
    column: LabelColumn,
    label: str | int,
    results: Sequence[Any],
    labelled: int,
    errors: ErrorList,
) -> None:
    """Add an error for each wrong value, or one for all of a kind that half of a column has."""
    codes = np.asarray(column.codes)
    counts = np.bincount(codes, minlength=len(results))
    wrong = [c for c, result in enumerate(results) if isinstance(result, _Wrong) and counts[c]]
    for kind in dict.fromkeys(results[code].kind for code in wrong):
        of_kind = [code for code in wrong if results[code].kind == kind]
        rows = int(counts[of_kind].sum())
        if kind is None or rows < MANY or rows * 2 < labelled:
            continue
        first, advice = _common_advice({code: results[code] for code in of_kind[:1000]}, counts)
        what = f'{rows:,} of {labelled:,} values in "{label}" are not {kind.many}'
        if rows == labelled:
            what = f'none of {labelled:,} values in "{label}" is {kind.one}'
        where = _where(table, int(np.argmax(codes == first)))
        errors.add(f"{where}: {what}, such as {_quoted(column.values[first])}; {advice}")
        wrong = [code for code in wrong if results[code].kind != kind]
    for code in wrong[: errors.limit]:
        rows = np.flatnonzero(codes == code)
        where, others = _where(table, rows[0]), _others(table, rows)
        errors.add(f"{where}: {results[code].what()}{others}; {results[code].advice()}")
    errors.skip(max(len(wrong) - errors.limit, 0))


def _common_advice(wrong: Mapping[int, _Wrong], counts: NDArray[np.integer]) -> tuple[int, str]:
    """The advice for most rows with wrong values, by code, and the first code it is for."""
    advice = {code: result.question or result.advice() for code, result in wrong.items()}
    rows: Counter[str] = Counter()
    for code, sentence in advice.items():
        rows[sentence] += int(counts[code])
    ((most, _),) = rows.most_common(1)
    return next(code for code, sentence in advice.items() if sentence == most), most


def _quoted(value: Value) -> str:
    """A value in a message: quoted, on one line, and not too long."""
    text = shown(value if isinstance(value, str) else str(value))
    return f'"{text if len(text) <= 60 else text[:60] + "..."}"'


def _listed(names: Sequence[str], most: int = 12) -> str:
    """The first names, separated by commas."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _others(table: TokenTable, rows: NDArray[np.integer], most: int = 5) -> str:
    """A parenthesis with the lines of all rows but the first, or ""."""
    if len(rows) < 2:
        return ""
    lines = table.lines[rows[1 : most + 1]].tolist()
    return f" (also {row_list(table.path, lines, len(rows) - 1, most)})"


def _report_missing(
    name: str,
    table: TokenTable,
    column: LabelColumn,
    label: str | int,
    rows: NDArray[np.integer],
    errors: ErrorList,
) -> None:
    """Add an error for each row without a label, or one for all if there are many."""
    skip = f'set missing_labels = "skip" in [tasks.{name}] to leave such rows out'
    if len(rows) > errors.limit:
        found = f'{len(rows):,} of {len(table):,} rows have no label in "{label}"'
        where = some_lines(table, rows)
        errors.add(f"{where}: {found}; fill them in, or {skip}")
        return
    for row in rows:
        what = _why_missing(column.values[column.codes[row]], label)
        errors.add(f"{_where(table, row)}: {what}; fill it in, or {skip}")


def _class_reader(name: str, task: TaskSection, target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes, task.match_labels == "loose")

    def read(value: Value) -> Any:
        if not isinstance(value, str):
            return _Wrong(
                lambda: "the label is a list",
                lambda: 'write one class, or set kind = "multi-label"',
                _SINGLE,
                'is it multi-label (kind = "multi-label")?',
            )
        if not value.strip():
            return _No.VALUE
        index = classes.index(value)
        return _unknown(name, value, target) if index is None else index

    return read


def _unknown(name: str, label: str, target: Target) -> _Wrong:
    """A label that is not a class."""

    def what() -> str:
        known = _listed(target.classes)
        return f"the label {_quoted(label.strip())} is not a class of the training rows ({known})"

    def advice() -> str:
        alike = [known for known in target.classes if loose_key(known) == loose_key(label)]
        if alike:
            return (
                f'did you mean "{alike[0]}"? (match_labels = "loose" in [tasks.{name}] makes them '
                "one class)"
            )
        if loose_key(label) in PLACEHOLDERS:
            hint = f" ({GLUE_HINT})" if loose_key(label) == "-1" else ""
            return f"{_ignore(name, label)}, or correct it{hint}"
        hint = nearest(label, target.classes).removeprefix("; ")
        return hint or "correct it, or add training rows of that class"

    return _Wrong(what, advice, general="unknown label")


def _ignore(name: str, label: str) -> str:
    """The advice to leave out rows with a label that means that there is none."""
    return (
        f'set ignore_labels = ["{label.strip()}"] in [tasks.{name}] to leave out rows with this '
        "label"
    )


def _parts(value: Value, task: TaskSection) -> Sequence[Any]:
    """The labels of one multi-label cell: those of a list, or of a text with separators."""
    if isinstance(value, str):
        value = value.split(task.separator) if task.separator else [value]
    parts = value if isinstance(value, list) else []
    return [part.strip() for part in parts if part.strip()]


def _tags_reader(name: str, task: TaskSection, target: Target) -> Callable[[Value], Any]:
    classes = Classes(target.classes, task.match_labels == "loose")

    def read(value: Value) -> Any:
        if isinstance(value, str) and value.strip() and task.separator is None:
            return _Wrong(
                lambda: f"the labels {_quoted(value)} are one text",
                lambda: "set separator to the text between two labels",
                _LISTS,
            )
        parts = _parts(value, task)
        indices = classes.indices(parts)
        for part, index in zip(parts, indices, strict=True):
            if index is None:
                return _unknown(name, part, target)
        return indices

    return read


def _indicator_reader(name: str) -> Callable[[Value], Any]:
    def read(value: Value) -> Any:
        word = value.strip().casefold() if isinstance(value, str) else None
        if word == "":
            return _No.VALUE
        if word in ("true", "false"):
            return int(word == "true")
        number = _number(word, ".") if word else None
        if number in (0.0, 1.0):
            return int(number)
        placeholder = word is not None and loose_key(word) in PLACEHOLDERS
        return _Wrong(
            lambda: f"an indicator must be 0 or 1, got {_quoted(value)}",
            lambda: _ignore(name, str(value)) if placeholder else "correct it",
            _INDICATORS,
        )

    return read


def _decimal_mark(value: Value, task: TaskSection) -> str:
    """The decimal mark of a value: that of the task, but a point in what is stored as a number."""
    return "." if isinstance(value, JsonNumber) else task.decimal_mark


def _score_reader(name: str, task: TaskSection) -> Callable[[Value], Any]:
    low, high = task.scale

    def read(value: Value) -> Any:
        if not isinstance(value, str):
            return _Wrong(lambda: "the score is a list", lambda: "write one number", _NUMBERS)
        text = value.strip()
        if not text:
            return _No.VALUE
        number = _number(text, _decimal_mark(value, task))
        if number is None:
            advice = _number_advice(name, text, task.decimal_mark)
            return _Wrong(
                lambda: f"the score {_quoted(text)} is not a number",
                lambda: advice or "correct it",
                _NUMBERS,
                "" if advice else "is it a classification?",
            )
        if task.kind == "similarity" and not low <= number <= high:
            return _Wrong(
                lambda: f"the score {text} is outside the scale from {low:g} to {high:g}",
                lambda: _scale_advice(name, text),
                general="score outside the scale",
            )
        return number

    return read


_THOUSANDS = {
    ".": re.compile(r"[+-]?\d{1,3}([, '\u00a0\u202f]\d{3})+(\.\d+)?"),
    ",": re.compile(r"[+-]?\d{1,3}([. '\u00a0\u202f]\d{3})+(,\d+)?"),
}
"""Numbers with thousands separators, by decimal mark."""


def _number_advice(name: str, text: str, decimal: str) -> str:
    """What to do about a score that is not a number; "" if nothing is known about it."""
    other = "," if decimal == "." else "."
    mark = f'set decimal_mark = "{other}" if numbers are written like this'
    readable = _number(text, other) is not None
    if _THOUSANDS[decimal].fullmatch(text):
        return "remove the thousands separators" + (f", or {mark}" if readable else "")
    if readable:
        return mark
    if text.endswith("%"):
        return "remove the percent sign"
    return f"{_ignore(name, text)}, or correct it" if loose_key(text) in PLACEHOLDERS else ""


def _scale_advice(name: str, text: str) -> str:
    advice = "correct it, or set scale in the task"
    if loose_key(text) not in PLACEHOLDERS:
        return advice
    hint = f" ({GLUE_HINT})" if loose_key(text) == "-1" else ""
    return f"{advice}, or {_ignore(name, text)}{hint}"


def _number(text: str, decimal: str) -> float | None:
    """A finite number, or None. `decimal` is its decimal mark; other marks are not accepted."""
    other = "." if decimal == "," else ","
    if other in text or "_" in text:
        return None
    try:
        number = float(text.replace(decimal, "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
