"""Sentences on labels and scores that are read without an error, but look wrong."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from comity.data.labels import PLACEHOLDERS, class_counts, label_counts, some_lines
from comity.data.splits import Split, TaskData
from comity.data.token_cache import LabelColumn, TokenTable
from comity.format import plural, some
from comity.tables.rows import quoted_list, shown
from comity.targets import Classes, is_number, is_whole, loose_key

_ODD = 0x9E3779B97F4A7C15

MOST = 5
"""Sentences of one sort about one task."""

MANY_CLASSES = 20
"""Number of classes up to which labels are not suspected to be texts or measurements."""

ROWS_PER_CLASS = 4
"""Rows per class below which many classes are suspected."""


def label_notes(data: TaskData) -> list[str]:
    """Sentences on the labels of a task, without the task's name."""
    if not data.target.classes:
        return [*_score_notes(data), *_metric_notes(data)]
    notes = [*_class_row_notes(data), *_single_row_notes(data)]
    if data.task.labels is None:
        notes += _spelling_notes(data)
        if data.task.classes is None:
            notes += [*_placeholder_notes(data), *_kind_notes(data)]
    if data.target.kind == "classification":
        notes += [*_contradictions(data), *_one_dev_class(data)]
    return notes


# --- classes --------------------------------------------------------------------------------------


def _placeholder_notes(data: TaskData) -> list[str]:
    """Sentences on classes that look like a missing label, for each file that has them."""
    found = placeholders(data.target.classes)
    if not found or len(data.target.classes) - len(found) < 2:
        return []
    listed = ", ".join(f'"{shown(name)}"' for name in found)
    notes = []
    for table in _tables(data):
        for name in found[:MOST]:
            rows = _rows_with(data, table, name)
            if len(rows):
                notes.append(
                    f'{_have(len(rows))} the label "{shown(name)}", which looks like a missing '
                    f"label ({some_lines(table, rows)}); set ignore_labels = [{listed}] in "
                    f"[tasks.{data.name}] to leave such rows out, or list the classes in `classes` "
                    "to keep it"
                )
    return _first(notes)


def placeholders(classes: Sequence[str]) -> list[str]:
    """The classes that look like a missing label.

    A negative number does only if no other class is one, and a hyphen only if no class is a plus.
    """
    keys = [loose_key(name) for name in classes]
    negative = sum(key.startswith("-") and is_number(key) for key in keys)
    ordinary = {key for key in keys if negative > 1 and is_number(key)}
    ordinary |= {"-"} if "+" in keys else set()
    found = PLACEHOLDERS - ordinary
    return [name for name, key in zip(classes, keys, strict=True) if key in found]


def _spelling_notes(data: TaskData) -> list[str]:
    """Sentences on labels that count as one class, and on classes that hardly differ."""
    task, target = data.task, data.target
    counts = dict(label_counts(task, data.train.table))
    classes = Classes(target.classes, task.match_labels == "loose")
    one: dict[int | None, list[str]] = defaultdict(list)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        one[classes.index(label)].append(label)
        alike[loose_key(label)].append(label)

    def spelled(labels: list[str]) -> str:
        return some((f'"{shown(n)}" ({plural(counts[n], "row")})' for n in labels), len(labels), 6)

    notes = [
        f'the class "{shown(target.classes[index])}" is written {spelled(labels)}; they count as '
        "one class"
        for index, labels in one.items()
        if index is not None and len(labels) > 1
    ]
    if task.match_labels == "auto" and task.classes is None:
        for labels in alike.values():
            if len({classes.index(label) for label in labels}) > 1:
                same = "differ only in case, spaces or Unicode form"
                if is_number(labels[0]):
                    same = "are equal as numbers"
                notes.append(
                    f'the classes {spelled(labels)} {same}; set match_labels = "loose" in '
                    f"[tasks.{data.name}] to make them one class, or list the classes in `classes` "
                    "to keep them apart"
                )
    return _first(notes)


def _kind_notes(data: TaskData) -> list[str]:
    """A sentence if so many labels differ that they are probably not classes."""
    names, rows = data.target.classes, len(data.train) + len(data.dev)
    numbers = all(is_number(name) for name in names)
    fractions = numbers and any("." in name and not is_whole(name) for name in names)
    few_rows = len(names) * ROWS_PER_CLASS > rows
    if len(names) <= MANY_CLASSES or not (few_rows or fractions):
        return []
    question = "is it a regression?" if numbers else "is it the right column?"
    column = data.task.label_columns[0]
    return [
        f'"{column}" has {len(names):,} different labels in {plural(rows, "row")}; {question} (if '
        "they are classes, list them in `classes`)"
    ]


def _class_row_notes(data: TaskData) -> list[str]:
    """A sentence on classes without a training row."""
    splits = [data.train, *data.stage_train.values()]
    train = np.sum([class_counts(data.target, split.targets) for split in splits], axis=0)
    dev = class_counts(data.target, data.dev.targets)
    absent = np.flatnonzero(train == 0)
    if not len(absent) or data.task.eval_only:
        return []
    names = quoted_list([data.target.classes[index] for index in absent], 8)
    dev_rows = plural(int(dev[absent].sum()), "dev row")
    if len(absent) == 1:
        sentence = f"the class {names} has no training row, but {dev_rows}"
    else:
        sentence = f"{len(absent):,} classes have no training row, but {dev_rows}: {names}"
    if isinstance(data.task.dev, str):
        return [f"{sentence}; add training rows, or remove such classes from `classes`"]
    return [f"{sentence}; set another train.split_seed, name a dev set, or add rows"]


def _single_row_notes(data: TaskData) -> list[str]:
    """A sentence on classes with a single row in training and dev together."""
    splits = [data.train, data.dev, *data.stage_train.values()]
    rows = np.sum([class_counts(data.target, split.targets) for split in splits], axis=0)
    single = np.flatnonzero(rows == 1)
    if not len(single) or len(data.train) < len(rows) * ROWS_PER_CLASS:  # as in `_kind_notes`
        return []
    names = quoted_list([data.target.classes[index] for index in single], 8)
    verb = "class has" if len(single) == 1 else "classes have"
    return [
        f"{len(single):,} {verb} only one row, too few to learn from: {names}; add rows, or merge "
        "such classes with others"
    ]


def _one_dev_class(data: TaskData) -> list[str]:
    """A sentence if all dev rows have the same class."""
    found = np.flatnonzero(class_counts(data.target, data.dev.targets))
    if len(found) != 1:
        return []
    name = shown(data.target.classes[found[0]])
    rows = plural(len(data.dev), "dev row")
    verb = "has" if len(data.dev) == 1 else "have"
    return [f'{rows} {verb} only one class, "{name}"; add dev rows of other classes']


def _contradictions(data: TaskData) -> list[str]:
    """A sentence on training rows that have the same texts and different classes."""
    split = data.train
    keys = np.asarray(split.table.keys)[split.rows][:, list(data.read_columns)]
    if len(split) < 2:
        return []
    # One hash for each input; products wrap around.
    inputs = keys[:, 0] if keys.shape[1] == 1 else keys[:, 0] * np.uint64(_ODD) ^ keys[:, 1]
    order = np.lexsort((split.targets, inputs))
    same = inputs[order][1:] == inputs[order][:-1]
    differ = same & (split.targets[order][1:] != split.targets[order][:-1])
    if not differ.any():
        return []
    # The group of each row in the order, and the groups with two classes.
    groups = np.concatenate([[0], np.cumsum(~same)])
    rows = np.sort(order[np.isin(groups, groups[1:][differ])])
    return [
        f"{plural(len(rows), 'training row')} have the same texts as another row with a different "
        f"class ({some_lines(split.table, split.rows[rows])}); correct the labels"
    ]


# --- scores ---------------------------------------------------------------------------------------


def _score_notes(data: TaskData) -> list[str]:
    values = data.train.targets
    if not len(values):
        return []
    distinct = np.unique(values)
    if data.target.kind == "regression":
        return [*_sentinel_notes(data, distinct), *_two_value_notes(data, distinct)]
    return [*_scale_notes(data, distinct), *_level_notes(data, distinct), *_positive_notes(data)]


def _scale_notes(data: TaskData, distinct: NDArray) -> list[str]:
    """A sentence on scores that use a fifth of the scale or less."""
    low, high = data.target.scale
    least, most = float(distinct[0]), float(distinct[-1])
    if most - least > (high - low) / 5:
        return []
    scale = f"the scale from {low:g} to {high:g}"
    if least == most:
        return [f"all {len(data.train):,} training scores are {least:g}; add other scores"]
    own = [int(np.floor(least)), int(np.ceil(most))]
    return [
        f"the training scores are all from {least:g} to {most:g}, a fifth of {scale} or less; if "
        f"that is the scale of this task, set scale = {own} in [tasks.{data.name}]"
    ]


def _level_notes(data: TaskData, distinct: NDArray) -> list[str]:
    """A sentence if the bins head is trained on two different levels of more scores."""
    if data.target.head != "bins":
        return []
    levels = np.unique(data.target.trained_on(distinct)) + int(data.target.scale[0])
    if len(levels) > 2 or len(levels) >= len(distinct):
        return []
    seen = " and ".join(f"{level:g}" for level in levels)
    others = '"regression"' if data.task.both else '"regression" or "cosine"'
    return [
        f"the bins head rounds {len(distinct):,} different training scores to {seen}; set head = "
        f"{others} in [tasks.{data.name}]"
    ]


def _positive_notes(data: TaskData) -> list[str]:
    """A sentence if no pair is positive for a ranking objective."""
    closest = float(data.target.closeness(data.train.targets).max())
    return [
        f"no training pair reaches positive_from = {objective.positive_from:g} of the scale, so "
        "the ranking objective has no positive pair; lower it, or set scale"
        for objective in data.task.objectives
        if objective.loss == "ranking" and closest < objective.positive_from
    ]


def _sentinel_notes(data: TaskData, distinct: NDArray) -> list[str]:
    """Sentences on numbers that probably mean a missing value, such as -1 or -999."""
    notes = []
    for value in (distinct[0], distinct[-1]):
        others = distinct[distinct != value]
        count = int((data.train.targets == value).sum())
        if len(others) < 2 or not _is_sentinel(float(value), others, count):
            continue
        rows = data.train.rows[data.train.targets == value]
        notes.append(
            f"{plural(count, 'training row')} {'has' if count == 1 else 'have'} the number "
            f"{value:g}, which looks like a missing value ({some_lines(data.train.table, rows)}); "
            f'set ignore_labels = ["{value:g}"] in [tasks.{data.name}] to leave such rows out'
        )
    return notes


def _is_sentinel(value: float, others: NDArray, count: int) -> bool:
    """Whether a number is -1 among numbers from 0, or one like -99 or 9999 far from all others."""
    if value == -1:
        return count > 1 and others.min() >= 0
    nines = {"9"} == set(f"{abs(value):g}") and abs(value) >= 9
    gap = np.abs(others - value).min()
    return nines and bool(gap > others.max() - others.min())


def _two_value_notes(data: TaskData, distinct: NDArray) -> list[str]:
    if len(distinct) > 2 or len(data.train) < MANY_CLASSES:
        return []
    both = " and ".join(f"{value:g}" for value in distinct)
    column = data.task.label_columns[0]
    return [f'"{column}" has only two different numbers ({both}); is it a classification?']


def _metric_notes(data: TaskData) -> list[str]:
    """A sentence if a correlation has no value on dev, or says nothing."""
    value = data.dev.targets
    if data.task.metric_name not in ("pearson", "spearman"):
        return []
    metric = data.task.metric_name.capitalize()
    if len(value) == 1:
        return [f"{metric} has no value on dev (only one row); add dev rows"]
    if len(value) and value.min() == value.max():
        return [
            f"{metric} has no value on dev (all {len(value)} gold scores are {value[0]}); add dev "
            "rows with other scores"
        ]
    if len(value) == 2:
        return [f"{metric} is always 1 or -1 on 2 dev rows; add dev rows"]
    return []


# --- shared ---------------------------------------------------------------------------------------


def _tables(data: TaskData) -> list[TokenTable]:
    """The files that a task reads its own labels from, each once."""
    splits: list[Split] = [data.train, data.dev]
    return list({str(split.table.path): split.table for split in splits}.values())


def _rows_with(data: TaskData, table: TokenTable, name: str) -> NDArray[np.integer]:
    """The rows of a table that have a label of the class `name`."""
    column: LabelColumn = table.labels[0]
    wanted = loose_key(name)
    separator = data.task.separator
    codes = []
    for code, value in enumerate(column.values):
        parts = value.split(separator) if isinstance(value, str) and separator else value
        parts = parts if isinstance(parts, list) else [parts]
        if any(
            isinstance(part, str) and part.strip() and loose_key(part) == wanted for part in parts
        ):
            codes.append(code)
    return np.flatnonzero(np.isin(np.asarray(column.codes), codes))


def _have(count: int) -> str:
    return f"{plural(count, 'row')} {'has' if count == 1 else 'have'}"


def _first(notes: list[str]) -> list[str]:
    """The first few sentences, and how many more there are."""
    more = len(notes) - MOST
    return notes[:MOST] + ([f"and {more:,} more sentences like these"] if more > 0 else [])
