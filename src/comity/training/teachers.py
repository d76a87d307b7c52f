"""Teachers: trained models, or files of soft labels, that a task also learns from.

A teacher labels the training rows of a task with probabilities by class, or with numbers. Those of
a run are computed once, and kept in the cache of token ids.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from comity.data.soft_labels import SoftLabels, read_soft_labels, soft_values
from comity.data.splits import Split, TaskData
from comity.data.token_cache import TokenTables, cache_folder
from comity.errors import ComityError, ErrorList
from comity.evaluation.evaluate import task_outputs
from comity.files import path_of, sha256_of
from comity.format import plural
from comity.inference.model import load
from comity.model.checkpoint import text_encoder
from comity.runs.directory import RunDirectory, digests_of_weights
from comity.tables.locations import locations
from comity.targets import Classes, Target
from comity.training.events import Listener, RowsLabelled

_VERSION = 1
"""Raise it when what the cache holds changes."""


@dataclass(frozen=True)
class RunTeacher:
    """The kept model of a run, with any encoder."""

    path: str  # as in the recipe
    folder: Path
    task: str
    kind: str
    classes: tuple[str, ...]
    texts: int  # text columns that it reads
    sha256: str  # of everything that its predictions depend on besides the rows
    trained_on: frozenset[str]  # digests of the files that it trained the task on

    def labelled(self, split: Split) -> NDArray[np.bool_]:
        """Which rows `[n]` of a split it labels: all."""
        return np.ones(len(split), dtype=np.bool_)

    def has_seen(self, split: Split) -> bool:
        """Whether it was trained on rows of the same file."""
        return split.table.digest in self.trained_on

    def values(self, split: Split, device: str, on_event: Listener) -> NDArray[np.float64]:
        """Its predictions for a split, see `SoftLabels.values`; from the cache if they are there.

        Raises:
            ComityError: the run is damaged, or predicts numbers that are not finite.
        """
        path = self._cached(split)
        shape = (len(split), len(self.classes)) if self.classes else (len(split),)
        try:
            # Mapped first: its header may claim more than the file holds.
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape == shape and found.dtype == np.float64:
                return np.array(found)
        except (OSError, ValueError, EOFError, AttributeError):
            pass  # not there, or damaged
        on_event(RowsLabelled(self.task, self.path, len(split)))
        values = self._predicted(split, device)
        _keep(path, values)
        return values

    def _predicted(self, split: Split, device: str) -> NDArray[np.float64]:
        model = load(self.folder, device)
        tables = TokenTables(ErrorList())
        own = split.tokenised(tables, text_encoder(model.tokenizer))
        limit = model.facts.tasks[self.task].max_length
        outputs = task_outputs(model.network, self.task, own, model.template, limit)
        values, _ = soft_values(model.target(self.task), outputs)
        if not np.isfinite(values).all():
            raise ComityError(
                f"{self.path}: predicts numbers that are not finite; name another teacher"
            )
        return values

    def _cached(self, split: Split) -> Path:
        """The file of the cache with its predictions for a split."""
        source = split.table.source
        assert source is not None
        about = {
            "version": _VERSION,
            "teacher": self.sha256,
            "task": self.task,
            "file": split.table.digest,
            "texts": source.texts,
            "format": asdict(source.format),
            "rows": hashlib.sha256(split.rows.astype("<i8").tobytes()).hexdigest(),
        }
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        return cache_folder() / "tokens" / key  # where comity clean finds it


@dataclass(frozen=True)
class FileTeacher:
    """A file of soft labels, whose models have not seen the rows that they label."""

    path: str  # as in the recipe
    labels: SoftLabels
    sha256: str  # of the file

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.labels.task

    @property
    def kind(self) -> str:
        """What the task predicts."""
        return self.labels.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the columns of the soft labels."""
        return self.labels.classes

    @property
    def texts(self) -> int:
        """The number of texts in a row."""
        return self.labels.keys.shape[1]

    def labelled(self, split: Split) -> NDArray[np.bool_]:
        """Which rows `[n]` of a split it labels: those whose texts it has."""
        return self._positions(split) >= 0

    def has_seen(self, split: Split) -> bool:
        """Never: each row was left out when the model that labels it was trained."""
        return False

    def values(self, split: Split, device: str, on_event: Listener) -> NDArray[np.float64]:
        """Its values for a split, see `SoftLabels.values`; NaN for a row that it does not have."""
        positions = self._positions(split)
        values = self.labels.values[positions]
        values[positions < 0] = np.nan
        return values

    def _positions(self, split: Split) -> NDArray[np.int64]:
        """The position `[n]` of each row in the soft labels, or -1."""
        if split.table.digest == self.labels.file:
            by_row = {row: n for n, row in enumerate(self.labels.rows.tolist())}
            found = [by_row.get(row, -1) for row in split.rows.tolist()]
        else:
            by_keys = {tuple(keys): n for n, keys in enumerate(self.labels.keys.tolist())}
            keys = np.asarray(split.table.keys)[split.rows]
            found = [by_keys.get(tuple(own), -1) for own in keys.tolist()]
        return np.array(found, dtype=np.int64)


Teacher: TypeAlias = RunTeacher | FileTeacher


# --- before training ------------------------------------------------------------------------------


def find_teachers(tasks: Mapping[str, TaskData], folder: Path) -> dict[str, list[Teacher]]:
    """The teachers of each task that has any.

    Args:
        tasks: the tasks of a recipe.
        folder: where relative paths start; if there is nothing, they start here.

    Raises:
        ComityError: with every teacher that is missing or damaged, predicts something else than
            its task, or labels no training row.
    """
    errors = ErrorList()
    found: dict[str, list[Teacher]] = {}
    for name, data in tasks.items():
        for path in data.task.teachers:
            try:
                teacher = _find(path, folder, name)
                _check(teacher, data)
            except ComityError as error:
                for message in error.messages:
                    errors.add(f"tasks.{name}.teacher: {message}")
            else:
                found.setdefault(name, []).append(teacher)
    errors.check()
    for name, own in found.items():
        _check_unlabelled(tasks[name], own, errors)
    errors.check()
    return found


def _find(path: str, folder: Path, task: str) -> Teacher:
    where = folder / path_of(path)
    if not where.exists():
        where = path_of(path)
    if not where.exists():
        raise ComityError(
            f"{path}: there is no such run or file; name a run directory, or soft labels of comity "
            "baseline --folds"
        )
    return _run_teacher(path, where, task) if where.is_dir() else _file_teacher(path, where, task)


def _file_teacher(path: str, where: Path, task: str) -> FileTeacher:
    labels = read_soft_labels(where)
    if labels.task != task:
        raise ComityError(
            f"{path}: holds soft labels of the task {labels.task}; name those of {task}"
        )
    return FileTeacher(path, labels, sha256_of(where))


def _run_teacher(path: str, where: Path, task: str) -> RunTeacher:
    run = RunDirectory.open(where)
    weights = digests_of_weights(run.kept_model())
    facts, recipe = run.kept_facts(), run.recipe()
    if task not in facts.tasks:
        raise ComityError(
            f"{path}: has no task {task}, only {', '.join(facts.tasks)}; name a run of {task}"
        )
    own = facts.tasks[task]
    target = own.head.target
    about = [weights, facts.inputs.tokenizer, asdict(own), facts.precision]
    files = facts.inputs.files.items()
    return RunTeacher(
        path=path,
        folder=where,
        task=task,
        kind=target.kind,
        classes=target.classes,
        texts=len(recipe.tasks[task].text_columns),
        sha256=hashlib.sha256(json.dumps(about).encode()).hexdigest(),
        trained_on=frozenset(
            digest
            for role, digest in files
            if role.startswith(f"{task} ") and role not in (f"{task} dev", f"{task} unlabelled")
        ),
    )


def _check(teacher: Teacher, data: TaskData) -> None:
    """Raise a ComityError if a teacher cannot label the training rows of a task."""
    target, texts = data.target, len(data.task.text_columns)
    if teacher.kind != target.kind:
        raise ComityError(
            f"{teacher.path}: predicts {teacher.kind}, but {data.name} is {target.kind}; name a "
            "teacher of the same kind"
        )
    if teacher.texts != texts:
        raise ComityError(
            f"{teacher.path}: reads {plural(teacher.texts, 'text')} in each row, but {data.name} "
            f"has {plural(texts, 'text')}; name a teacher that reads as many"
        )
    if sorted(_order(teacher, data)) != list(range(len(teacher.classes))):
        raise ComityError(
            f"{teacher.path}: has the classes {', '.join(teacher.classes)}, but {data.name} has "
            f"{', '.join(target.classes)}; name a teacher with the same classes"
        )
    if not any(teacher.labelled(split).any() for _, split in _training_splits(data)):
        raise ComityError(
            f"{teacher.path}: has none of the training rows of {data.name}; make soft labels for "
            "these rows"
        )


def _check_unlabelled(data: TaskData, teachers: Sequence[Teacher], errors: ErrorList) -> None:
    """Add an error if no teacher labels some row of a task's unlabelled file."""
    split = data.unlabelled
    if split is None:
        return
    labelled = np.any([teacher.labelled(split) for teacher in teachers], axis=0)
    lines = split.table.lines[split.rows[~labelled]].tolist()
    if lines:
        where = locations(split.table.path, lines, len(lines))
        rows = plural(len(lines), "row")
        errors.add(
            f"{where}: no teacher labels {rows} of {len(split):,}; name a run in "
            f"tasks.{data.name}.teacher, which labels any row, or remove these rows"
        )


def teacher_notes(
    tasks: Mapping[str, TaskData], teachers: Mapping[str, Sequence[Teacher]]
) -> list[str]:
    """How many rows the teachers of each task label, and whether they have seen them."""
    notes, sure = [], []
    for name, own in teachers.items():
        splits = list(_training_splits(tasks[name]))
        for teacher in own:
            counts = [
                f"{int(teacher.labelled(split).sum()):,} of {plural(len(split), 'row')} of {file}"
                for file, split in splits
            ]
            notes.append(f"{name}: learns from {teacher.path}, which labels {', '.join(counts)}")
        unlabelled = tasks[name].unlabelled
        if unlabelled is not None:
            path = unlabelled.table.path
            notes.append(
                f"{name}: labels in {path} are not read, the teacher alone labels its rows"
            )
        if any(teacher.has_seen(split) for teacher in own for _, split in splits):
            sure.append(name)
    if sure:
        notes.append(
            f"{', '.join(sure)}: a teacher labels rows that it was trained on, and is too sure of "
            "them; the soft labels of comity baseline --folds are for unseen rows"
        )
    return notes


def _training_splits(data: TaskData) -> Iterator[tuple[str, Split]]:
    """The splits that a task may be trained on, each with the name of its file."""
    for name, split in data.splits.items():
        if name != "dev":
            yield str(split.table.path), split


# --- soft labels ----------------------------------------------------------------------------------


def with_soft_labels(
    tasks: Mapping[str, TaskData],
    teachers: Mapping[str, Sequence[Teacher]],
    device: str,
    on_event: Listener,
) -> dict[str, TaskData]:
    """The tasks with the soft labels of their teachers in the training splits.

    Raises:
        ComityError: a teacher is damaged, or predicts numbers that are not finite.
    """

    def taught(data: TaskData, split: Split) -> Split:
        given = [
            exchanged(teacher, data, teacher.values(split, device, on_event))
            for teacher in teachers[data.name]
        ]
        return replace(split, soft=soft_targets(data.target, averaged(given)))

    changed = {}
    for name in teachers:
        data = tasks[name]
        stage_train = {path: taught(data, split) for path, split in data.stage_train.items()}
        train, unlabelled = taught(data, data.train), data.unlabelled
        if unlabelled is not None:
            unlabelled = taught(data, unlabelled)
        changed[name] = replace(data, train=train, stage_train=stage_train, unlabelled=unlabelled)
    return {**tasks, **changed}


def exchanged(teacher: Teacher, data: TaskData, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A teacher's values `[n, C]` in the order of the task's classes, at its temperature; or `[n]`.

    Dividing logits by T gives probabilities in proportion to p^(1/T).
    """
    if not teacher.classes:
        return values
    values = values[:, _order(teacher, data)]
    power = 1 / data.task.teacher_temperature
    if power == 1:
        return values
    raised = values**power
    if data.target.kind == "multi-label":
        return raised / (raised + (1 - values) ** power)
    return raised / raised.sum(axis=1, keepdims=True)


def _order(teacher: Teacher, data: TaskData) -> list[int]:
    """The index of each class of the task among the teacher's; -1 where it has none."""
    classes = Classes(teacher.classes, data.task.match_labels == "loose")
    found = classes.indices(data.target.classes)
    return [-1 if index is None else index for index in found]


def averaged(given: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean over the teachers that label a row; NaN where none does."""
    stacked = np.stack(given)
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def soft_targets(target: Target, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the head is trained on `[n, K]`, as `distillation_loss` takes it.

    Probabilities stay as they are. A score from 0 to 1 is split between the two neighbouring levels
    of a `bins` head, so that their mean is the score. A number in the unit of the label is
    standardised like the task's own labels.
    """
    if target.classes:
        return values.astype(np.float32)
    if target.kind == "regression":
        return target.normalise(values)[:, None].astype(np.float32)
    if target.head != "bins":
        return values[:, None].astype(np.float32)
    last = len(target.levels) - 1
    distance = np.abs(values[:, None] * last - np.arange(last + 1))
    return np.maximum(1 - distance, 0.0).astype(np.float32)


def _keep(path: Path, values: NDArray[np.float64]) -> None:
    """Write values to a file of the cache, if it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".building-")
        with os.fdopen(handle, "wb") as file:
            np.save(file, values)
        Path(temporary).replace(path)
    except OSError:
        pass
