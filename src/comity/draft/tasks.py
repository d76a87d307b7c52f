"""Guesses the tasks of a table from what is in its columns, with the evidence for each guess."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from comity.data.label_notes import placeholders
from comity.data.labels import PLACEHOLDERS
from comity.draft.columns import Column, TableColumns, words_of
from comity.format import plural, some
from comity.tables.rows import quoted_list, shortened
from comity.targets import Classes, loose_key

_TEXT_WORDS = """
    abstract answer body comment content context description document excerpt feedback headline
    hypothesis input message passage phrase post premise prompt query question response review
    sentence snippet source statement story summary text texts title tweet utterance
"""
TEXT_WORDS = frozenset(_TEXT_WORDS.split())
"""Words in the names of text columns."""

_LABEL_WORDS = """
    category categories class classes code duplicate emotion emotions entailment genre genres gold
    grade intent label labels mood paraphrase polarity quality rating ratings relatedness relevance
    same score scores sentiment sentiments similarity stance stars subject tag tags target targets
    topic topics toxic toxicity verdict y
"""
LABEL_WORDS = frozenset(_LABEL_WORDS.split())
"""Words in the names of label columns."""

CERTAIN_LABELS = frozenset(("class", "gold", "label", "labels", "target", "y"))
"""Of those: names that leave no doubt where a table has several columns that may be labels."""

CLASS_WORDS = frozenset(("category", "class", "code", "intent", "topic"))
"""Words in the names of columns whose numbers are codes, not scores."""

SIMILARITY_WORDS = frozenset(("relatedness", "score", "similarity", "sim", "sts"))
"""Words in the names of columns that score the similarity of a pair."""

_ID_WORDS = "guid hash id ids idx index key nr number pid pk qid row rowid uid url uuid"
ID_WORDS = frozenset(_ID_WORDS.split())
"""Words in the names of columns that name or number rows."""

PAIRS = (
    ("1", "2"), ("a", "b"), ("first", "second"), ("left", "right"), ("one", "two"),
    ("premise", "hypothesis"), ("query", "passage"), ("query", "document"), ("anchor", "positive"),
    ("question", "answer"), ("question", "sentence"), ("source", "target"),
)  # fmt: skip
"""In what the names of the two text columns of a pair differ."""

SEPARATORS = (";", "|", ",")
"""Characters that may separate labels in a cell; the last only under a telling name."""

SCALES = ((0, 1), (-1, 1), (0, 5), (0, 10), (0, 100))
"""Usual scales of similarity; the first that holds all scores is taken."""

PROSE = 2.5
"""Words of a text on average from which a column is probably a text."""

FEW_VALUES = 20
"""Different numbers up to which they are probably classes."""

MANY_CLASSES = 50
"""Different texts up to which a column without a telling name may be classes."""


@dataclass(frozen=True)
class Guess:
    """The value of a recipe's key, and why it was chosen."""

    value: Any
    evidence: str = ""


@dataclass
class TaskDraft:
    """A task: the keys of its recipe table, and why other columns are not used."""

    name: str
    keys: dict[str, Guess]
    unused: dict[str, str]
    dev: Path | None = None  # the file in `keys`, if there is one


@dataclass(frozen=True)
class _Labels:
    """The label columns of a task, its kind, and what a cell with several labels has between."""

    columns: list[Column]
    kind: str
    separator: str | None = None

    @property
    def names(self) -> list[str | int]:
        return [column.name for column in self.columns]

    @property
    def is_hinted(self) -> bool:
        return bool(_words(self.columns[0]) & LABEL_WORDS)


def guess_tasks(
    name: str, table: TableColumns, devs: Sequence[tuple[TableColumns, str]]
) -> tuple[list[TaskDraft], list[str]]:
    """The tasks of a table, and sentences on what is not clear.

    Args:
        name: of the task; if there are several, the names of their labels are added.
        devs: tables that may be the dev set, each with the reason; the first that fits is taken.
    """
    useless = {c.name: reason for c in table.columns if (reason := _uselessness(c))}
    columns = [column for column in table.columns if column.name not in useless]
    texts = _guess_texts(columns)
    if not texts:
        return [], [f"{table.path}: no column looks like a text; write its task by hand"]
    rest = [column for column in columns if column not in texts]
    found, others = _guess_labels(rest, is_pair=len(texts) == 2)
    if not found:
        return [], [_no_label(table, rest)]
    chosen = {name: "is the label of another task" for labels in found for name in labels.names}
    unused = useless | {column.name: _role(column, others) for column in rest} | chosen
    drafts, notes = [], []
    for labels in found:
        own = name if len(found) == 1 else _joined(name, str(labels.names[0]))
        left = {str(name): why for name, why in unused.items() if name not in labels.names}
        draft = TaskDraft(own, {}, left)
        notes += _fill(draft, table, texts, labels, devs)
        drafts.append(draft)
    for column in others:
        notes.append(f'{table.path}: "{column}" may be a label too; add a task for it if it is one')
    return drafts, notes


def _no_label(table: TableColumns, columns: Sequence[Column]) -> str:
    for column in columns:
        if column.distinct == 1 and _words(column) & LABEL_WORDS:
            only = shortened(next(iter(column.counts)))
            return (
                f'{table.path}: "{column.name}" looks like the label, but all its values are '
                f'"{only}"; add rows with other labels'
            )
    return f"{table.path}: no column looks like a label; write its task by hand"


def _role(column: Column, maybe_labels: Sequence[str | int]) -> str:
    """What a column that is not used may be."""
    if _is_text(column):
        return "may be a text too"
    return "may be a label too" if column.name in maybe_labels else "is neither text nor label"


def _fill(
    draft: TaskDraft,
    table: TableColumns,
    texts: Sequence[Column],
    labels: _Labels,
    devs: Sequence[tuple[TableColumns, str]],
) -> list[str]:
    """Add all keys but `train` to a draft; returns sentences on dev files that do not fit."""
    notes, used = [], None
    keys = draft.keys
    keys["kind"] = _kind(labels, len(texts) == 2)
    needed = [*(column.name for column in texts), *labels.names]
    for dev, reason in devs:
        problem = _misfit(dev, needed, labels)
        if problem:
            notes.append(f"{dev.path}: {problem}, so it is not the dev set of {draft.name}")
        elif draft.dev is None:
            draft.dev, used = dev.path, dev
            keys["dev"] = Guess(None, reason)
        else:
            notes.append(f"{dev.path}: is not used, because {draft.dev} is the dev set")
    if used is None:
        keys["dev"] = Guess(0.1, "no file is named like its dev set, so a tenth of the rows")
    if not table.format.header:
        keys["header"] = Guess(False, "the first line looks like a row")
    keys |= _text_key(texts)
    merged = [_with_dev(column, used) for column in labels.columns]
    keys |= _label_keys(labels, merged)
    return notes


def _words(column: Column) -> set[str]:
    return set(words_of(str(column.name)))


def _joined(name: str, label: str) -> str:
    return "-".join([name, *words_of(label)])[:64]


def _uselessness(column: Column) -> str:
    """Why a column can be neither text nor label, or ""."""
    words = _words(column)
    named, prose = bool(words & LABEL_WORDS), column.words_per_text >= PROSE
    if not column.filled and not column.lists:
        return "is empty"
    if words & ID_WORDS and not prose and not column.lists and not named:
        return "is named like an id"
    if column.in_order and 2 < column.filled == column.rows and not named:
        return "numbers the rows"
    if column.distinct == 1 and column.filled == column.rows and not named:
        return "is the same in all rows"
    return ""


# --- texts ----------------------------------------------------------------------------------------


def _guess_texts(columns: Sequence[Column]) -> list[Column]:
    """The text column, or the two of a pair; none if no column looks like one."""
    found = [column for column in columns if _is_text(column)]
    possible = [column for column in columns if column in found or _may_be_text(column)]
    for first, second in combinations(possible, 2):
        if _are_named_as_pair(first, second) and (first in found or second in found):
            return [first, second]
    if len(found) == 2:
        low, high = sorted(column.words_per_text for column in found)
        if high <= 2 * low:
            return found
    return sorted(found or possible, key=_likeness_to_text)[-1:]


def _is_text(column: Column) -> bool:
    """Whether a column is prose, or named like a text."""
    if column.is_numeric or column.lists or not column.filled or _lacks_rows(column):
        return False
    words, differ = _words(column), 2 * column.distinct > column.filled
    prose = column.words_per_text >= PROSE
    named = bool(words & TEXT_WORDS) and not words & LABEL_WORDS
    return (prose and differ) or (named and (prose or differ))


def _may_be_text(column: Column) -> bool:
    """Whether a column with short texts under a name that says nothing may be a text."""
    if column.is_numeric or column.lists or _lacks_rows(column) or _words(column) & LABEL_WORDS:
        return False
    return 2 * column.distinct > column.filled


def _lacks_rows(column: Column) -> bool:
    """Whether so many rows lack the column that this is no accident."""
    return column.lacking * 5 > column.rows


def _likeness_to_text(column: Column) -> tuple[bool, float]:
    return bool(_words(column) & TEXT_WORDS), column.words_per_text


def _are_named_as_pair(first: Column, second: Column) -> bool:
    """Whether two names are like "text1" and "text2", "text" and "text2", "left" and "right"."""
    one, two = (words_of(str(column.name)) for column in (first, second))
    if len(two) == len(one) + 1:
        return two[:-1] == one and two[-1] in ("2", "b", "pair")
    differing = [pair for pair in zip(one, two, strict=False) if pair[0] != pair[1]]
    return len(one) == len(two) and len(differing) == 1 and differing[0] in PAIRS


def _text_key(texts: Sequence[Column]) -> dict[str, Guess]:
    lengths = [max(round(column.words_per_text), 1) for column in texts]
    if len(texts) == 1:
        return {"text": Guess(texts[0].name, f"{plural(lengths[0], 'word')} on average")}
    evidence = f"pairs of texts, {lengths[0]} and {plural(lengths[1], 'word')} on average"
    return {"texts": Guess([column.name for column in texts], evidence)}


# --- labels ---------------------------------------------------------------------------------------


def _guess_labels(
    columns: Sequence[Column], is_pair: bool
) -> tuple[list[_Labels], list[str | int]]:
    """The labels of each task, and the columns that may be labels too."""
    found = [labels for column in columns if (labels := _label(column, is_pair))]
    certain = [labels for labels in found if _words(labels.columns[0]) & CERTAIN_LABELS]
    indicators = [column for column in columns if _is_indicator(column)]
    hinted = [labels for labels in found if labels.is_hinted]
    chosen = certain or hinted or sorted(found, key=_likeness_to_label)[-1:]
    if not certain and len(indicators) > 2:
        chosen = [_Labels(indicators, "multi-label")]
    chosen = [labels for labels in chosen if not _repeats(labels, chosen)]
    names = {name for labels in chosen for name in labels.names}
    return chosen, [labels.names[0] for labels in found if not names & set(labels.names)]


def _repeats(labels: _Labels, others: Sequence[_Labels]) -> bool:
    """Whether a column has the names of another's classes, as "label_text" does of "label"."""
    own = words_of(str(labels.names[0]))
    return any(
        own[: len(words)] == words and len(own) > len(words)
        for other in others
        if (words := words_of(str(other.names[0])))
        and other.columns[0].distinct == labels.columns[0].distinct
    )


def _label(column: Column, is_pair: bool) -> _Labels | None:
    """What a column predicts if it has labels, or None."""
    words = _words(column)
    hinted = bool(words & LABEL_WORDS)
    if column.lists:
        usable = column.items and not column.filled
        return _Labels([column], "multi-label") if usable else None
    if column.distinct < 2 or _is_text(column):
        return None
    if column.is_numeric:
        scored = "similarity" if is_pair else "regression"
        codes = bool(words & CLASS_WORDS)
        named_score = is_pair and bool(words & SIMILARITY_WORDS)
        if column.values > 2 and (column.fractions or named_score) and not codes:
            return _Labels([column], scored)
        if column.values <= FEW_VALUES and (hinted or 2 * column.values <= column.filled):
            return _Labels([column], "classification")
        return None if column.is_unique and not hinted else _Labels([column], scored)
    separator = _separator(column, hinted)
    if separator:
        return _Labels([column], "multi-label", separator)
    repeated = 2 * column.distinct <= column.filled
    few = column.distinct <= MANY_CLASSES and column.words_per_text < PROSE
    if (repeated and few) or _is_indicator(column):
        return _Labels([column], "classification")
    if hinted and (repeated or column.distinct <= FEW_VALUES):
        return _Labels([column], "classification")
    return None


def _likeness_to_label(labels: _Labels) -> int:
    """Of columns without a telling name; equal ones are in the order of the table."""
    return {"similarity": 2, "regression": 0}.get(labels.kind, 1)


def _is_indicator(column: Column) -> bool:
    values = {loose_key(text) for text in column.counts}
    return bool(values) and not column.lists and values <= {"0", "1", "true", "false"}


def _separator(column: Column, hinted: bool) -> str | None:
    """What separates labels in a column's cells, or None if each cell is one label."""
    for separator in SEPARATORS if hinted else SEPARATORS[:-1]:
        cells = {text: rows for text, rows in column.counts.items() if separator in text}
        parts = _parts(column, separator)
        recur = sum(len(_parted(cell, separator)) for cell in column.counts) > len(parts)
        short = all(len(part.split()) <= 4 for part in parts)
        often = sum(cells.values()) * (20 if hinted else 4) >= column.filled
        if cells and recur and short and often and not column.uncounted:
            return separator
    return None


def _parts(column: Column, separator: str) -> Counter[str]:
    """The rows of each label in cells with several."""
    parts: Counter[str] = Counter()
    for text, rows in column.counts.items():
        parts.update(dict.fromkeys(_parted(text, separator), rows))
    return parts


def _parted(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


# --- keys of labels -------------------------------------------------------------------------------


def _kind(labels: _Labels, is_pair: bool) -> Guess:
    column = labels.columns[0]
    name = shortened(str(column.name))
    if len(labels.columns) > 1:
        evidence = f"{len(labels.columns)} columns have only 0 and 1"
    elif labels.kind == "multi-label":
        items = column.items if column.lists else _parts(column, labels.separator or "")
        evidence = f'"{name}" has several of {_listed(items)} in a row'
    elif labels.kind == "classification":
        evidence = f'"{name}" has {_listed(Classes.found(list(column.counts)).names)}'
    else:
        evidence = f'"{name}" has {column.values:,} numbers from {column.low:g} to {column.high:g}'
        evidence += ", one for each pair" if is_pair else ""
    return Guess(labels.kind, evidence)


def _listed(names: Iterable[str]) -> str:
    names = [shortened(name, 20) for name in names]
    return f"{plural(len(names), 'value')}: {some(names, len(names), 8)}"


def _misfit(dev: TableColumns, needed: Sequence[str | int], labels: _Labels) -> str:
    """Why a table cannot be the dev set of a task, or ""."""
    lacking = [str(name) for name in needed if dev.column(name) is None]
    if lacking:
        return f"has no column {quoted_list(lacking)}"
    columns = [column for name in labels.names if (column := dev.column(name))]
    for column in columns:
        texts = {loose_key(text) for text in column.counts}
        if not column.lists and texts <= PLACEHOLDERS:
            return f'has no labels in "{column.name}"'
    return ""


def _with_dev(column: Column, dev: TableColumns | None) -> Column:
    """A label column with the values of the dev set counted too."""
    own = dev.column(column.name) if dev else None
    return column if own is None else column.joined(own)


def _label_keys(labels: _Labels, merged: Sequence[Column]) -> dict[str, Guess]:
    """The keys on the labels of a task; `merged` has the values of training and dev rows."""
    column, own = merged[0], labels.columns[0]
    why = "named like a label" if labels.is_hinted else "the column that looks most like a label"
    keys = {"label": Guess(labels.names[0], why)}
    if len(labels.columns) > 1:
        keys = {"labels": Guess(labels.names, "a column for each class")}
    if labels.separator:
        keys["separator"] = Guess(labels.separator, "it stands between the labels of a row")
    if labels.kind in ("similarity", "regression") and column.decimal_mark == ",":
        keys["decimal_mark"] = Guess(",", f'numbers such as "{next(iter(column.counts))}"')
    if labels.kind == "similarity":
        keys |= _scale_keys(column)
    absent = sum(c.absent for c in merged)
    if labels.kind != "multi-label" or len(labels.columns) > 1:
        absent += sum(c.empty for c in merged)
    if absent:
        keys["missing_labels"] = Guess("skip", f"{plural(absent, 'row')} without a label")
    if labels.kind == "classification":
        names = Classes.found(list(column.counts)).names
        found = placeholders(names)
        keys |= _ignored_key(found if len(names) - len(found) > 1 else [])
    elif labels.kind != "multi-label":
        keys |= _ignored_key(sorted(column.placeholders))
    if len(labels.columns) == 1 and labels.kind in ("classification", "multi-label"):
        keys |= _classes_key(labels, own, column, keys.get("ignore_labels", Guess([])).value)
    return keys


def _scale_keys(column: Column) -> dict[str, Guess]:
    low, high = column.low, column.high
    usual = [scale for scale in SCALES if scale[0] <= low and high <= scale[1]]
    scale = usual[0] if usual else (math.floor(low), math.ceil(high))
    keys = {"scale": Guess(list(scale), f"scores from {low:g} to {high:g}")}
    levels = scale[1] - scale[0] + 1
    if not 3 < levels < 12:
        why = f"the default head predicts one of the scale's {levels:,} whole numbers"
        keys["head"] = Guess("regression", why)
    return keys


def _ignored_key(names: Sequence[str]) -> dict[str, Guess]:
    return {"ignore_labels": Guess(list(names), "look like missing labels")} if names else {}


def _classes_key(
    labels: _Labels, own: Column, merged: Column, ignored: Sequence[str]
) -> dict[str, Guess]:
    """The classes, if the dev set has some that the training rows do not have."""
    left_out = {loose_key(name) for name in ignored}

    def names(column: Column) -> list[str]:
        found: Iterable[str] = column.counts
        if labels.kind == "multi-label":
            found = column.items if column.lists else _parts(column, labels.separator or "")
        return [text for text in found if loose_key(text) not in left_out]

    known = Classes.found(names(own))
    new = [text for text in names(merged) if known.index(text) is None]
    if not new:
        return {}
    classes = list(Classes.found(names(merged)).names)
    return {"classes": Guess(classes, f"only the dev set has {_listed(new)}")}
