"""From a task's files to what is trained on and judged by: rows, targets, and all that is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comity.data.labels import check_trainable, find_target, mapped_labels, read_targets
from comity.data.packing import PackedRows, Template, TextColumn, pack, packed_lengths, truncated
from comity.data.token_cache import TextEncoder, TokenTable, token_counts, token_table
from comity.errors import ComityError, ErrorList
from comity.recipe.recipe import Recipe
from comity.recipe.schema import StageFile, TaskSection
from comity.rng import SPLIT, generator
from comity.targets import Target

Rows = NDArray[np.integer]  # int32 where they are kept: a split may have millions
PAIR = ("first", "second")


@dataclass(frozen=True)
class Split:
    """The rows of one table that serve one task, with their targets."""

    table: TokenTable
    rows: Rows  # [n], places in the table
    targets: NDArray  # [n] int32 classes, [n] float64 scores, or [n, L] int8 indicators
    unlabelled: int = 0  # rows left out because they have no label
    dropped: int = 0  # rows left out because a text has no token
    first_dropped_line: int | None = None
    leaked: int = 0  # rows left out because they stand in an evaluation split too

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def empty_lines(self) -> list[int]:
        """Where the kept rows stand that have a text without any token."""
        empty = (token_counts(self.table, self.rows) == 0).any(axis=1)
        return self.table.lines[self.rows[empty]].tolist()

    def take(self, kept: NDArray) -> "Split":
        """The same split with only the rows at the places (or mask) `kept`."""
        return replace(self, rows=self.rows[kept], targets=self.targets[kept])

    def view_texts(self, view: str) -> tuple[TextColumn, ...]:
        """The text columns that a view puts into one sequence."""
        if view == "pair":
            return self.table.texts
        return (self.table.texts[PAIR.index(view)],)

    def pack(
        self, places: Rows, views: tuple[str, ...], template: Template, max_length: int
    ) -> list[PackedRows]:
        """The rows at `places` as packed sequences, one `PackedRows` for each view."""
        rows = self.rows[places]
        return [pack(self.view_texts(view), rows, template, max_length) for view in views]

    def lengths(self, views: tuple[str, ...], max_length: int) -> Rows:
        """Packed tokens `[n]` of each row, over all views."""
        per_view = [packed_lengths(self.view_texts(view), max_length) for view in views]
        return sum(per_view[1:], per_view[0])[self.rows]

    def cut(self, views: tuple[str, ...], max_length: int) -> int:
        """How many rows lose tokens to the limit in some view."""
        marks = [truncated(self.view_texts(view), max_length)[self.rows] for view in views]
        return int(np.any(marks, axis=0).sum())


@dataclass(frozen=True)
class TaskData:
    """One task's splits and what it predicts."""

    name: str
    task: TaskSection
    target: Target
    max_length: int
    train: Split
    dev: Split
    stage_train: Mapping[str, Split] = field(default_factory=dict)  # by the path in the recipe


def load_tasks(
    recipe: Recipe, folder: Path, encoder: TextEncoder, max_length: int, seed: int
) -> dict[str, TaskData]:
    """Read every file of a recipe.

    Args:
        folder: where relative paths start.
        max_length: the encoder's limit in tokens.

    Raises:
        ComityError: with everything that is wrong with any of the files.
    """
    errors = ErrorList()
    loaded: dict[str, TaskData] = {}
    for name, task in recipe.tasks.items():
        data = _load_task(name, task, recipe, folder, encoder, max_length, seed, errors)
        if data is not None:
            loaded[name] = data
    errors.check()
    return loaded


def _load_task(
    name: str,
    task: TaskSection,
    recipe: Recipe,
    folder: Path,
    encoder: TextEncoder,
    longest: int,
    seed: int,
    errors: ErrorList,
) -> TaskData | None:
    max_length = task.max_length or recipe.train.max_length or longest
    if max_length > longest:
        errors.add(
            f"tasks.{name}.max_length: {max_length} is more than the {longest} tokens that the "
            "encoder takes; lower it"
        )
        max_length = longest
    before = errors.total
    train_table = read_file(folder / task.train, task, encoder, errors)
    dev_table = None
    if isinstance(task.dev, str):
        dev_table = read_file(folder / task.dev, task, encoder, errors)
    files = {
        stage.data[name].file: stage.data[name] for stage in recipe.stages if name in stage.data
    }
    stage_tables = {
        path: _read_stage_file(folder, task, file, encoder, errors) for path, file in files.items()
    }
    if train_table is None:
        return None
    target = find_target(name, task, train_table, errors)
    if target is None or errors.total > before:
        return None
    train = make_split(name, task, target, train_table, errors)
    stage_train = {
        path: make_split(name, task, target, table, errors)
        for path, table in stage_tables.items()
        if table is not None
    }
    if isinstance(task.dev, str):
        dev = None if dev_table is None else make_split(name, task, target, dev_table, errors)
        if dev is not None and not len(dev):
            errors.add(f"{dev.table.path}: no row is left to judge the task {name} by; add rows")
    else:
        train, dev = split_off(train, task.dev, seed)
        if not len(dev):
            errors.add(
                f"{train.table.path}: dev = {task.dev} of {len(train)} rows leaves none to judge "
                f"by; raise tasks.{name}.dev or name a file"
            )
    if dev is None or errors.total > before:
        return None
    for split in (train, *stage_train.values()):
        check_trainable(name, target, split.table.path, split.targets, errors)
    if errors.total > before:
        return None
    return TaskData(name, task, target, max_length, train, dev, stage_train)


def read_file(
    path: Path, task: TaskSection, encoder: TextEncoder, errors: ErrorList
) -> TokenTable | None:
    """One file of a task as token ids; None where it has errors."""
    columns = task.text_columns, task.label_columns
    return token_table(path, *columns, task.table_format, encoder, errors)


def _read_stage_file(
    folder: Path, task: TaskSection, file: StageFile, encoder: TextEncoder, errors: ErrorList
) -> TokenTable | None:
    """A stage's own file, read as the task's but for what the stage says of it."""
    table = read_file(folder / file.file, file.read_as(task), encoder, errors)
    if table is None or not file.label_map:
        return table
    return mapped_labels(table, file.label_map, task.decimal_mark, errors)


def make_split(
    name: str, task: TaskSection, target: Target, table: TokenTable, errors: ErrorList
) -> Split:
    """The rows of a table that serve the task: labelled, and not empty where the recipe drops."""
    targets, labelled = read_targets(name, task, target, table, errors)
    rows = np.flatnonzero(labelled).astype(np.int32)
    empty = (token_counts(table, rows) == 0).any(axis=1)
    lines = table.lines[rows[empty]].tolist()
    if task.empty_texts == "error":
        for line in lines:
            errors.add(
                f"{table.path}:{line}: the text is empty; fill it in, or set empty_texts = "
                f'"keep" or "drop" in [tasks.{name}]'
            )
    unlabelled = len(table) - len(rows)
    if task.empty_texts != "drop" or not lines:
        return Split(table, rows, targets[rows], unlabelled)
    kept = rows[~empty]
    return Split(table, kept, targets[kept], unlabelled, len(lines), lines[0])


def split_off(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide a split into training and dev rows by the seed; tasks of one table divide it alike.

    Rows that share a text (in any column, whatever its case and spacing) stay on one side: groups
    of such rows are drawn in random order until dev has its share, and a group that is larger
    than what dev still lacks stays in training.
    """
    table = split.table
    groups = _groups(np.asarray(table.keys))
    sizes = np.bincount(groups)
    wanted = max(round(share * len(table)), 1)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in generator(SPLIT, seed, int(table.digest[:12], 16)).permutation(len(sizes)):
        if sizes[group] <= wanted:
            chosen[group] = True
            wanted -= sizes[group]
    dev = chosen[groups][split.rows]
    # What was left out while reading is counted once, beside the training rows.
    return split.take(~dev), replace(split.take(dev), unlabelled=0, dropped=0)


def _groups(keys: NDArray[np.uint64]) -> Rows:
    """A group number `[n]` for each row of text hashes `[n, texts]`; rows that share one agree."""
    texts = _numbered(keys)
    # Of the texts reached so far, for each text.
    smallest = np.arange(texts.max(initial=-1) + 1, dtype=np.int32)
    while True:
        of_rows = smallest[texts].min(axis=1)
        reached = smallest.copy()
        for column in texts.T:
            np.minimum.at(reached, column, of_rows)
        reached = reached[reached]
        if (reached == smallest).all():
            return _numbered(of_rows)
        smallest = reached


def _numbered(values: NDArray) -> NDArray[np.int32]:
    """Each value's place among the distinct ones, as `np.unique` gives it in twice the memory."""
    order = np.argsort(values, axis=None)
    ordered = values.ravel()[order]
    new = np.zeros(len(order), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.cumsum(new, dtype=np.int32)
    return numbers.reshape(values.shape)


def file_split(
    name: str, task: TaskSection, target: Target, path: Path, encoder: TextEncoder
) -> Split:
    """A labelled file that the run never saw, read as the task's files are.

    Raises:
        ComityError: with everything that is wrong with it.
    """
    errors = ErrorList()
    table = read_file(path, task, encoder, errors)
    errors.check()
    assert table is not None
    split = make_split(name, task, target, table, errors)
    errors.check()
    if not len(split):
        raise ComityError(f"{path}: no row is left to judge the task {name} by; add rows")
    return split
