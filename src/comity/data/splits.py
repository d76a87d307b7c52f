"""Reads the files of tasks, divides them into training and dev rows with targets, tokenises them.

Reading needs no encoder, so that every error of a file is reported before one is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.labels import (
    Labels,
    check_trainable,
    find_target,
    fit_target,
    labels_alone,
    mapped_labels,
    read_labels,
)
from comity.data.packing import PackedRows, Template, TextColumn, pack, packed_lengths, truncated
from comity.data.skipped_rows import BadLabels, SkippedRows, skip_rows, too_many
from comity.data.token_cache import (
    TableSource,
    TextEncoder,
    TokenTable,
    TokenTables,
    among,
    token_counts,
)
from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.recipe.recipe import Recipe
from comity.recipe.schema import File, TaskSection
from comity.rng import SPLIT, generator
from comity.tables.frames import frame_path, memory_role
from comity.tables.locations import file_text, location
from comity.tables.parts import table_path
from comity.tables.reader import open_table
from comity.tables.rows import shown
from comity.targets import Target

Rows = NDArray[np.integer]  # int32 where they are kept: a split may have millions
PAIR = ("first", "second")

MOST_LINES = 100
"""Lines that a split keeps of the rows that were left out."""


@dataclass(frozen=True)
class Split:
    """The rows of one table that one task uses, with their targets."""

    table: TokenTable
    rows: Rows  # [n], indices in the table
    targets: NDArray  # [n] int32 classes, [n] float64 scores, or [n, L] int8 indicators
    unlabelled: int = 0  # rows left out because they have no label
    unlabelled_lines: tuple[int, ...] = ()  # the first of them
    ignored: int = 0  # rows left out because their label is one of `ignore_labels`
    ignored_lines: tuple[int, ...] = ()
    dropped: int = 0  # rows left out because a text is empty
    dropped_lines: tuple[int, ...] = ()
    leaked: int = 0  # rows left out because they are also in a dev set
    skipped: SkippedRows = field(default_factory=SkippedRows)  # rows that cannot be used
    soft: NDArray[np.float32] | None = None
    """Soft labels `[n, K]` of teachers, as `distillation_loss` takes them; NaN for a row without
    any. None for a task without a teacher, and until a trainer asks for them."""
    labelled: NDArray[np.bool_] | None = None
    """Which rows `[n]` have a label. None if all have one; see `with_unlabelled`."""
    unlabelled_path: Path | None = None  # the file of the rows that have none

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def empty_lines(self) -> list[int]:
        """The lines of the kept rows that have a text without visible characters or tokens."""
        empty = self.table.blank[self.rows] | (token_counts(self.table, self.rows) == 0)
        return self.table.lines[self.rows[empty.any(axis=1)]].tolist()

    @property
    def zero_byte_lines(self) -> list[int]:
        """The lines of the rows that have a zero byte in a text."""
        found = self.rows[among(self.rows, self.table.zero_bytes)]
        return self.table.lines[found].tolist()

    def tokenised(self, tables: TokenTables, encoder: TextEncoder) -> "Split":
        """The split with the token ids of its texts."""
        return replace(self, table=tables.tokenised(self.table, encoder))

    def take(self, kept: NDArray) -> "Split":
        """The split with only the rows at the indices (or in the mask) `kept`."""
        soft, labelled = (None if a is None else a[kept] for a in (self.soft, self.labelled))
        rows, targets = self.rows[kept], self.targets[kept]
        return replace(self, rows=rows, targets=targets, soft=soft, labelled=labelled)

    def has_label(self, indices: Rows) -> NDArray[np.bool_]:
        """Which of the rows at `indices` have a label."""
        if self.labelled is None:
            return np.ones(len(indices), dtype=np.bool_)
        return self.labelled[indices]

    def lines_by_file(self, indices: Rows) -> dict[Path, list[int]]:
        """The lines of the rows at `indices`, in each file that has any of them."""
        lines, labelled = self.table.lines[self.rows[indices]], self.has_label(indices)
        found: dict[Path, list[int]] = {}
        for path, own in ((self.table.path, labelled), (self.unlabelled_path, ~labelled)):
            if path is not None and own.any():
                found.setdefault(path, []).extend(sorted(lines[own].tolist()))
        return found

    def view_texts(self, view: str) -> tuple[TextColumn, ...]:
        """The text columns that a view encodes in one sequence."""
        if view == "pair":
            return self.table.texts
        return (self.table.texts[PAIR.index(view)],)

    def pack(
        self, indices: Rows, views: tuple[str, ...], template: Template, max_length: int
    ) -> list[PackedRows]:
        """The rows at `indices` as packed sequences, one `PackedRows` for each view."""
        rows = self.rows[indices]
        return [pack(self.view_texts(view), rows, template, max_length) for view in views]

    def lengths(self, views: tuple[str, ...], max_length: int) -> Rows:
        """Packed tokens `[n]` of each row, summed over the views."""
        per_view = [packed_lengths(self.view_texts(view), max_length) for view in views]
        return sum(per_view[1:], per_view[0])[self.rows]

    def cut(self, views: tuple[str, ...], max_length: int) -> int:
        """The number of rows that lose tokens to the limit in any view."""
        cut = [truncated(self.view_texts(view), max_length)[self.rows] for view in views]
        return int(np.any(cut, axis=0).sum())


@dataclass(frozen=True)
class TaskData:
    """The splits of a task and what it predicts."""

    name: str
    task: TaskSection
    target: Target
    train: Split
    dev: Split
    stage_train: Mapping[str, Split] = field(default_factory=dict)  # by the path in the recipe
    unlabelled: Split | None = None  # more training rows, with targets that are never read
    split_note: str = ""  # a sentence on a dev share that is not a plain draw of rows
    max_length: int = 0  # in tokens; set by `TaskTables.tokenised`

    @property
    def splits(self) -> dict[str, Split]:
        """Its splits: "train", "dev", "unlabelled", and the files of stages by their path."""
        more = {} if self.unlabelled is None else {"unlabelled": self.unlabelled}
        return {"train": self.train, "dev": self.dev, **more, **self.stage_train}

    @property
    def read_columns(self) -> tuple[int, ...]:
        """The indices of the text columns that the task's views read."""
        columns = {"first": (0,), "second": (1,), "pair": (0, 1)}
        views = self.task.trained_views
        return tuple(sorted({column for view in views for column in columns[view]}))


@dataclass(frozen=True)
class TaskTables:
    """The tasks of a recipe as they were read, without token ids."""

    recipe: Recipe
    tasks: dict[str, TaskData]
    tables: TokenTables

    def tokenised(self, encoder: TextEncoder, max_length: int) -> dict[str, TaskData]:
        """The tasks with token ids.

        Args:
            max_length: the encoder's limit in tokens.

        Raises:
            ComityError: a task's `max_length` is more than that of the encoder.
        """
        errors = ErrorList()
        lengths = {n: _max_length(n, self.recipe, max_length, errors) for n in self.tasks}
        errors.check()
        return {name: self._tokenised(name, encoder, lengths[name]) for name in self.tasks}

    def _tokenised(self, name: str, encoder: TextEncoder, max_length: int) -> TaskData:
        data = self.tasks[name]
        return replace(
            data,
            max_length=max_length,
            train=data.train.tokenised(self.tables, encoder),
            dev=data.dev.tokenised(self.tables, encoder),
            stage_train={
                path: split.tokenised(self.tables, encoder)
                for path, split in data.stage_train.items()
            },
            unlabelled=None
            if data.unlabelled is None
            else data.unlabelled.tokenised(self.tables, encoder),
        )


def _max_length(name: str, recipe: Recipe, limit: int, errors: ErrorList) -> int:
    """The limit of a task in tokens; an error if it is more than that of the encoder."""
    max_length = recipe.tasks[name].max_length or recipe.train.max_length or limit
    if max_length > limit:
        errors.add(
            f"tasks.{name}.max_length: {max_length} is more than the encoder's limit of {limit} "
            "tokens; lower it"
        )
    return min(max_length, limit)


def read_tasks(
    recipe: Recipe, folder: Path, frames: Mapping[str, Any] = MappingProxyType({})
) -> TaskTables:
    """Read every file of a recipe, without an encoder.

    Args:
        folder: the folder that relative paths start from.
        frames: tables in memory, by what the recipe has in place of a file.

    Raises:
        ComityError: every error of every file.
    """
    errors = ErrorList()
    reader = _Reader(recipe, folder, errors, frames)
    tasks: dict[str, TaskData] = {}
    for name in recipe.tasks:
        data = reader.read(name, recipe.task_as_read(name))
        if data is not None:
            tasks[name] = data
    errors.check()
    return TaskTables(recipe, tasks, reader.tables)


class _Reader:
    """Reads the tasks of a recipe; arguments as in `read_tasks`."""

    def __init__(self, recipe: Recipe, folder: Path, errors: ErrorList, frames: Mapping[str, Any]):
        self.recipe = recipe
        self.frames = frames
        self.folder = folder
        self.errors = errors
        self.tables = TokenTables(errors)
        self._paths: dict[File, Path | None] = {}

    def read(self, name: str, task: TaskSection) -> TaskData | None:
        """The splits of one task, or None if there are errors."""
        errors = self.errors
        before = errors.total
        train_table = self._read(task.train, task)
        dev_table = self._read(task.dev, task) if isinstance(task.dev, str | tuple) else None
        stage_tables = self._stage_tables(name, task)
        unlabelled = self._unlabelled_split(name, task)
        target = train = None
        if train_table is not None:
            target, labels = find_target(name, task, train_table, errors)
            train = _make_split(name, task, train_table, labels, errors)
        if target is None or train is None:
            for table in (dev_table, *stage_tables.values()):
                if table is not None:
                    labels = labels_alone(name, task, table, errors)
                    _make_split(name, task, table, labels, errors)
            return None
        stage_train = {
            path: self._labelled_split(name, task, target, table)
            for path, table in stage_tables.items()
        }
        dev, note = None, ""
        if dev_table is not None:
            dev = self._labelled_split(name, task, target, dev_table)
            if not len(dev) and errors.total == before:
                errors.add(_no_rows(dev_table.path, name))
        elif isinstance(task.dev, float) and errors.total == before:
            # Rows with errors are not in the split, so it is not divided if there are any.
            train, dev, note = self._split_off_dev(name, task, train, task.dev)
        if dev is None or errors.total > before:
            return None
        for split in (train, *stage_train.values()):
            check_trainable(name, target, split.table.path, split.targets, errors)
        if errors.total > before:
            return None
        target = fit_target(target, train.targets)
        return TaskData(name, task, target, train, dev, stage_train, unlabelled, note)

    def _read(self, file: File, task: TaskSection) -> TokenTable | None:
        path = self._known_path(file)
        return None if path is None else self.tables.read(_source(path, task))

    def _known_path(self, file: File) -> Path | None:
        """The path of a file, found once."""
        if file not in self._paths:
            self._paths[file] = self._path(file)
        return self._paths[file]

    def _path(self, file: File) -> Path | None:
        """The path of a file, or None if a data set cannot be loaded or no file is found."""
        if isinstance(file, str) and file in self.frames:
            return frame_path(self.frames[file], memory_role(file) or "")
        try:
            return table_path(file, self.folder)
        except ComityError as error:
            self.errors.extend(error)
            return None

    def _stage_tables(self, name: str, task: TaskSection) -> dict[str, TokenTable]:
        """The tables of stages that train the task on a file of their own, by the file's path."""
        stages = [stage for stage in self.recipe.stages if name in stage.data]
        files = {stage.data[name].file: stage.data[name] for stage in stages}
        tables: dict[str, TokenTable] = {}
        for named, file in files.items():
            table = self._read(named, file.read_as(task))
            before = self.errors.total
            if table is not None and file.label_map:
                table = mapped_labels(table, file.label_map, task, self.errors)
            if table is not None and self.errors.total == before:
                tables[file_text(named)] = table
        return tables

    def _unlabelled_split(self, name: str, task: TaskSection) -> Split | None:
        """The rows of the task's unlabelled file, whose label columns are not read."""
        path = None if task.unlabelled is None else self._known_path(task.unlabelled)
        if path is None:
            return None
        source = TableSource(path, task.text_columns, (), task.table_format)
        table = self.tables.read(source)
        if table is None:
            return None
        no_targets = np.zeros(len(table), dtype=np.float64)
        labels = Labels(no_targets, no_targets == 0, no_targets != 0)
        split = _make_split(name, task, table, labels, self.errors)
        if not len(split):
            self.errors.add(
                f"{path}: has no row for the task {name}; add rows, or remove "
                f"tasks.{name}.unlabelled"
            )
        return split

    def _labelled_split(
        self, name: str, task: TaskSection, target: Target, table: TokenTable
    ) -> Split:
        labels = read_labels(name, task, target, table, self.errors)
        return _make_split(name, task, table, labels, self.errors)

    def _split_off_dev(
        self, name: str, task: TaskSection, whole: Split, share: float
    ) -> tuple[Split, Split, str]:
        """Training and dev rows of one table, and a note on them; an error if dev is empty."""
        groups = row_groups(whole.table, task.split)
        drawn = _draw(whole.table, groups, share, self.recipe.train.split_seed)
        train, dev = _divided(whole, drawn)
        linked = _linked(name, task, whole.table, groups, drawn, share)
        if not len(dev):
            reason = linked or (
                f"{whole.table.path}: dev = {share} of {plural(len(whole), 'row')} leaves no dev "
                f"rows; raise tasks.{name}.dev, or name a dev set there"
            )
            self.errors.add(reason)
        return train, dev, linked or _shared_texts(name, task, train, dev)


def _source(path: Path, task: TaskSection) -> TableSource:
    """A file of a task and its columns."""
    return TableSource(
        path, task.text_columns, task.label_columns, task.table_format, task.bad_rows == "skip"
    )


def _no_rows(path: Path, name: str) -> str:
    return f"{path}: no row is left to evaluate the task {name} on; add rows"


def _make_split(
    name: str, task: TaskSection, table: TokenTable, labels: Labels, errors: ErrorList
) -> Split:
    """The rows of a table that the task uses: with a label, and with texts if those are needed."""
    bad, skipped = np.zeros(len(table), dtype=bool), SkippedRows()
    if task.bad_rows == "skip":
        bad, skipped = _skip(name, task, table, labels, errors)
    rows = np.flatnonzero(labels.labelled & ~bad).astype(np.int32)
    targets = labels.targets[rows]
    empty = table.blank[rows].any(axis=1)
    lines = table.lines[rows[empty]].tolist()
    if task.empty_texts == "error":
        for line in lines:
            errors.add(
                f"{location(table.path, line)}: the text is empty; fill it in, or set "
                f'empty_texts = "keep" or "drop" in [tasks.{name}]'
            )
    ignored = np.flatnonzero(labels.ignored & ~bad)
    unlabelled = np.flatnonzero(~labels.labelled & ~labels.ignored & ~bad)
    drop = task.empty_texts == "drop" and bool(lines)
    return Split(
        table,
        rows[~empty] if drop else rows,
        targets[~empty] if drop else targets,
        len(unlabelled),
        tuple(table.lines[unlabelled[:MOST_LINES]].tolist()),
        len(ignored),
        tuple(table.lines[ignored[:MOST_LINES]].tolist()),
        len(lines) if drop else 0,
        tuple(lines[:MOST_LINES]) if drop else (),
        skipped=skipped,
    )


def _skip(
    name: str, task: TaskSection, table: TokenTable, labels: Labels, errors: ErrorList
) -> tuple[NDArray[np.bool_], SkippedRows]:
    """The rows `[n]` of a table that cannot be used, and the list of those of its file.

    It is an error if they are too many.
    """
    bad = np.zeros(len(table), dtype=bool)
    bad[table.without_texts] = True
    wrong = list(labels.bad)
    if task.empty_texts == "error":
        rows = np.flatnonzero(labels.labelled & table.blank.any(axis=1))
        column = table.blank[rows].argmax(axis=1)  # the first blank text
        for number, text in enumerate(task.text_columns):
            own = rows[column == number]
            codes = np.zeros(len(own), dtype=np.int32)
            wrong.append(BadLabels(own, str(text), codes, _empty_text))
    for one in wrong:
        bad[one.rows] = True
    skipped = skip_rows(name, table, wrong)
    if message := too_many(name, table, skipped):
        errors.add(message)
    return bad, skipped


def _empty_text(code: int) -> tuple[str, str]:
    return "empty text", "the text is empty"


def split_off(split: Split, share: float, seed: int, by: str = "groups") -> tuple[Split, Split]:
    """Divide a split into training and dev rows, drawn from the seed.

    Tasks that use one table divide it in the same way, whatever rows they use. With `by` =
    "groups", rows that share a text (in any column, without regard to case and white space) are
    never separated: groups of such rows are drawn in random order until dev has its share, and a
    group larger than what dev still needs stays in training. A blank text links no rows.
    With "rows", every row is a group.
    """
    drawn = _draw(split.table, row_groups(split.table, by), share, seed)
    return _divided(split, drawn)


def _divided(split: Split, drawn: NDArray[np.bool_]) -> tuple[Split, Split]:
    """Training and dev rows, where the rows `drawn [n]` of the table are for dev."""
    dev = drawn[split.rows]
    # Rows that were left out while reading are counted once, with the training rows.
    return split.take(~dev), replace(
        split.take(dev), unlabelled=0, ignored=0, dropped=0, skipped=SkippedRows()
    )


def _draw(table: TokenTable, groups: Rows, share: float, seed: int) -> NDArray[np.bool_]:
    """The rows `[n]` of a table that are drawn for dev, given each row's group."""
    sizes = np.bincount(groups)
    wanted = _wanted(table, share)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in generator(SPLIT, seed, int(table.digest[:12], 16)).permutation(len(sizes)):
        if sizes[group] <= wanted:
            chosen[group] = True
            wanted -= sizes[group]
    return chosen[groups]


def _wanted(table: TokenTable, share: float) -> int:
    """The number of dev rows that a share asks for."""
    return max(round(share * len(table)), 1)


def _linked(
    name: str,
    task: TaskSection,
    table: TokenTable,
    groups: Rows,
    drawn: NDArray[np.bool_],
    share: float,
) -> str:
    """A sentence if many rows cannot be in dev because too many others share a text with them."""
    if task.split == "rows" or not len(table):
        return ""
    sizes, wanted, found = np.bincount(groups), _wanted(table, share), int(drawn.sum())
    linked = int(sizes[sizes > wanted].sum())
    if linked * 10 < len(table) and found * 10 >= wanted * 9:
        return ""
    in_largest = np.flatnonzero(groups == sizes.argmax())
    keys = np.asarray(table.keys)[in_largest]
    counted = np.where(table.blank[in_largest], np.uint64(0), keys)
    texts, counts = np.unique(counted[counted != 0], return_counts=True)
    rows, columns = np.nonzero(keys == texts[counts.argmax()])
    text = _text_at(table, task, int(in_largest[rows[0]]), int(columns[0]))
    largest = plural(int(sizes.max()), "row")
    in_rows = plural(len(set(rows.tolist())), "row")
    return (
        f"{table.path}: dev has {found:,} of the {plural(wanted, 'row')} that dev = {share} asks "
        f"for, and {linked:,} of {plural(len(table), 'row')} can only be training rows, because "
        f'texts in common link up to {largest} (such as "{text}", in {in_rows}); set split = '
        f'"rows" in [tasks.{name}] to draw single rows, or name a dev set'
    )


def _shared_texts(name: str, task: TaskSection, train: Split, dev: Split) -> str:
    """A sentence on dev rows that share a text with training rows, because rows were drawn."""
    if task.split == "groups" or not len(dev):
        return ""
    known, keys = (np.asarray(split.table.keys)[split.rows] for split in (train, dev))
    shared = among(keys, known) & ~dev.table.blank[dev.rows]
    sharing = int(shared.any(axis=1).sum())
    if not sharing:
        return ""
    return (
        f"{sharing:,} of {plural(len(dev), 'dev row')} {'shares' if sharing == 1 else 'share'} a "
        f'text with training rows, because split = "rows"; the score on dev may be too high for '
        "new texts"
    )


def _text_at(table: TokenTable, task: TaskSection, row: int, column: int) -> str:
    """The beginning of a text, read from the file again, since texts are not kept."""
    rows = open_table(table.path, task.table_format, task.text_columns).rows(ErrorList())
    text = " ".join(str(next(islice(rows, row, None)).values[column]).split())
    return shown(text if len(text) <= 60 else text[:60] + "...")


def row_groups(table: TokenTable, by: str) -> Rows:
    """A group number `[n]` for each row.

    By "groups", rows that share a text agree, unless it is blank; by "rows", every row is its own
    group.
    """
    if by == "rows":
        return np.arange(len(table))
    keys = np.array(table.keys)
    empty = np.asarray(table.blank)
    # The row's other text in the place of an empty one adds no link.
    keys = np.where(empty, keys[:, ::-1], keys)
    without = empty.all(axis=1)
    keys[without] = np.arange(without.sum(), dtype=np.uint64)[:, None]
    return _groups(keys)


def _groups(keys: NDArray[np.uint64]) -> Rows:
    """A group number `[n]` for each row of text hashes `[n, texts]`; rows that share a text agree.

    Groups are numbered by their smallest hash, so a split does not depend on the order of the rows.
    """
    texts = _numbered(keys)
    if texts.shape[1] == 1:
        return texts[:, 0]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # A graph of the different texts, in which each row connects its two texts.
    size = int(texts.max(initial=-1)) + 1
    first, second = texts.T
    edges = coo_array((np.ones(len(texts), dtype=np.int8), (first, second)), shape=(size, size))
    count, group_of_text = connected_components(edges, directed=False)
    smallest_text = np.empty(count, dtype=np.int32)
    # Of several values for one index numpy keeps the last.
    smallest_text[group_of_text[::-1]] = np.arange(size - 1, -1, -1, dtype=np.int32)
    number = np.empty(count, dtype=np.int32)
    number[np.argsort(smallest_text)] = np.arange(count, dtype=np.int32)
    return number[group_of_text[first]]


def _numbered(values: NDArray) -> NDArray[np.int32]:
    """Each value's index among the sorted distinct values; `np.unique` takes twice the memory."""
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
    """A labelled file, read like the task's own files; `task` as `RecipeSchema.task_as_read`.

    Raises:
        ComityError: every error of the file.
    """
    errors = ErrorList()
    tables = TokenTables(errors)
    table = tables.read(_source(path, task))
    errors.check()
    assert table is not None
    split = _make_split(name, task, table, read_labels(name, task, target, table, errors), errors)
    errors.check()
    if not len(split):
        raise ComityError(_no_rows(path, name))
    return split.tokenised(tables, encoder)
