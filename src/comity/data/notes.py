"""Sentences on the data of a task: rows that were left out or cut, and what looks wrong."""

import numpy as np
from numpy.typing import NDArray

from comity.data.label_notes import label_notes
from comity.data.splits import Split, TaskData
from comity.data.token_cache import among, text_key, token_counts, unknown_counts
from comity.format import plural
from comity.tables.findings import finding_notes
from comity.tables.locations import locations, row_list

UNKNOWN_SHARE = 0.1
"""Share of unknown tokens from which the vocabulary probably does not fit the texts."""

FEW = 4
"""Rows below which texts that are all the same mean nothing."""


def task_notes(data: TaskData, unknown: int) -> list[str]:
    """Sentences on a task that the user should see, each with the task's name.

    Args:
        unknown: the id of the token for text that is not in the vocabulary.
    """
    notes = []
    for split, name in ((data.train, "training"), (data.dev, "dev")):
        notes.extend(split_notes(data, split, name))
    for split in data.stage_train.values():
        notes.extend(split_notes(data, split, "training"))
    if data.unlabelled is not None:
        notes.extend(split_notes(data, data.unlabelled, "unlabelled"))
    notes.extend(_encoding_notes(data))
    own = [data.split_note, *_text_notes(data), *_unknown_notes(data, unknown), *label_notes(data)]
    return notes + [f"{data.name}: {note}" for note in own if note]


def split_notes(data: TaskData, split: Split, name: str) -> list[str]:
    """Sentences on the rows of one split that were left out, kept although empty, or cut.

    `name` is "training", "dev" or "unlabelled".
    """
    path, notes = split.table.path, []
    if split.skipped.total:
        verb = "is" if split.skipped.total == 1 else "are"
        notes.append(
            f"{plural(split.skipped.total, 'row')} of {path} cannot be used and {verb} left out: "
            f"{split.skipped.by_reason} (first: {split.skipped.first})"
        )
    if split.unlabelled:
        where = row_list(path, split.unlabelled_lines, split.unlabelled)
        rows = _have(split.unlabelled, "row", f" of {path}")
        notes.append(f"{rows} no label; left out ({where})")
    if split.ignored:
        where = row_list(path, split.ignored_lines, split.ignored)
        rows = _have(split.ignored, "row", f" of {path}")
        notes.append(f"{rows} a label that ignore_labels lists; left out ({where})")
    if split.dropped:
        where = locations(path, split.dropped_lines, split.dropped)
        notes.append(f"{_have(split.dropped, f'{name} row')} an empty text; left out ({where})")
    empty = split.empty_lines
    if empty:
        where = locations(path, empty, len(empty))
        notes.append(f"{_have(len(empty), f'{name} row')} an empty text; kept ({where})")
    zeros = split.zero_byte_lines
    if zeros:
        where = locations(path, zeros, len(zeros))
        notes.append(
            f"{_have(len(zeros), f'{name} row')} a zero byte in a text, which the tokenizer leaves "
            f"out ({where})"
        )
    cut = split.cut(data.task.trained_views, data.max_length)
    if cut:
        verb = "is" if cut == 1 else "are"
        notes.append(
            f"{plural(cut, f'{name} row')} of {path} {verb} longer than {data.max_length} tokens; "
            "truncated"
        )
    if split.leaked:
        verb = "is" if split.leaked == 1 else "are"
        notes.append(f"{plural(split.leaked, f'{name} row')} {verb} also in a dev set; left out")
    return [f"{data.name}: {note}" for note in notes]


def unknown_share(data: TaskData, split: Split, unknown: int) -> float:
    """The share of unknown tokens in the texts of a split that the task reads."""
    columns = list(data.read_columns)
    tokens = int(token_counts(split.table, split.rows)[:, columns].sum())
    return int(unknown_counts(split.table, split.rows, unknown)[:, columns].sum()) / max(tokens, 1)


def _have(count: int, noun: str, of: str = "") -> str:
    return f"{plural(count, noun)}{of} {'has' if count == 1 else 'have'}"


def _unknown_notes(data: TaskData, unknown: int) -> list[str]:
    """A sentence on each split whose texts are not in the encoder's vocabulary."""
    notes = []
    for split in data.splits.values():
        share = unknown_share(data, split, unknown)
        if share >= UNKNOWN_SHARE:
            notes.append(
                f"{share:.0%} of the tokens in {split.table.path} are unknown to the encoder's "
                "vocabulary; use an encoder for this language"
            )
    return list(dict.fromkeys(notes))


def _encoding_notes(data: TaskData) -> list[str]:
    """A sentence on what looks wrongly decoded in each file; zero bytes are counted by split."""
    notes = []
    for split in data.splits.values():
        found = [f for f in split.table.findings if f.kind in ("wrong encoding", "lost characters")]
        notes += [f"{data.name}: {note}" for note in finding_notes(split.table.path, found)]
    return list(dict.fromkeys(notes))


def _text_notes(data: TaskData) -> list[str]:
    """Sentences on text columns that say nothing, or that are the label."""
    split, notes = data.train, []
    if len(split) < FEW:
        return notes
    keys = _keys(split)
    for index in data.read_columns:
        column = data.task.text_columns[index]
        if (keys[:, index] == keys[0, index]).all():
            notes.append(
                f'the text "{column}" is the same in all {len(split):,} training rows; is it the '
                "right column?"
            )
        if _is_label(data, keys[:, index]):
            notes.append(
                f'the label "{data.task.label_columns[0]}" is the same as the text "{column}" in '
                "at least half of the training rows; is it the right column?"
            )
    if len(data.read_columns) == 2 and (keys[:, 0] == keys[:, 1]).all():
        first, second = data.task.text_columns
        notes.append(
            f'the texts "{first}" and "{second}" are the same in all {len(split):,} training rows; '
            "are they the right columns?"
        )
    elif _swapped(data):
        notes.append(
            f'most dev texts of "{data.task.text_columns[0]}" are training texts of '
            f'"{data.task.text_columns[1]}" and the other way round; are the two columns swapped '
            "in one of the two sets?"
        )
    return notes


def _keys(split: Split) -> NDArray[np.uint64]:
    return np.asarray(split.table.keys)[split.rows]


def _is_label(data: TaskData, keys: NDArray[np.uint64]) -> bool:
    """Whether the label is the same as a text of at least half of the training rows."""
    if data.task.kind != "classification":
        return False
    (column,) = data.train.table.labels
    values = [text_key(value) if isinstance(value, str) else 0 for value in column.values]
    labels = np.array(values, dtype=np.uint64)[np.asarray(column.codes)[data.train.rows]]
    return bool((labels == keys).mean() >= 0.5)


def _swapped(data: TaskData) -> bool:
    """Whether dev's two text columns are probably those of training in the other order."""
    if len(data.read_columns) < 2 or len(data.dev) < FEW:
        return False
    train, dev = _keys(data.train), _keys(data.dev)
    found = np.array([[among(dev[:, d], train[:, t]).mean() for t in (0, 1)] for d in (0, 1)])
    return bool(min(found[0, 1], found[1, 0]) > 0.5 and max(found[0, 0], found[1, 1]) < 0.1)
