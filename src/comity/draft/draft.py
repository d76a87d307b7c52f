"""Drafts a recipe from files: groups them, guesses their tasks, and checks the result."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from comity.data.splits import read_tasks
from comity.draft.columns import TableColumns, read_columns
from comity.draft.files import Group, group_files
from comity.draft.recipe_text import recipe_text, train_keys
from comity.draft.tasks import Guess, TaskDraft, guess_tasks
from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.recipe.recipe import Recipe
from comity.tables.text_files import check_file

DEV_SHARES = (
    {},
    {"split": Guess("rows", "rows that share texts would leave no dev rows")},
    {"dev": Guess(0.2, "a tenth of the rows would be too few")},
    {"dev": Guess(0.5, "a fifth of the rows would be too few")},
)
"""What is tried, one after another, until the training and dev rows of a task can be used."""


@dataclass(frozen=True)
class Draft:
    """A recipe with the evidence for it."""

    tasks: dict[str, TaskDraft]
    notes: list[str]  # sentences on what could not be guessed
    text: str  # the recipe as TOML

    def to_dict(self) -> dict[str, Any]:
        """The guesses as plain values."""
        tasks = {
            name: {
                "keys": {key: guess.value for key, guess in task.keys.items()},
                "evidence": {key: guess.evidence for key, guess in task.keys.items()},
                "unused_columns": task.unused,
            }
            for name, task in self.tasks.items()
        }
        return {"tasks": tasks, "notes": self.notes}


def draft_recipe(files: Sequence[Path], recipe: Path) -> Draft:
    """Draft a recipe over some files.

    Args:
        files: training files, and dev and test files that are named like them.
        recipe: where the recipe will be; its paths start there.

    Raises:
        ComityError: every error of the files, or what is missing for any task.
    """
    _check_files(files)
    groups, left = group_files(list(dict.fromkeys(files)))
    notes = [
        f"{path}: is named like a dev or test set, but no training file has that name, so it is "
        "left out; name its training file too"
        for path in left
    ]
    tasks: dict[str, TaskDraft] = {}
    about: dict[str, str] = {}
    for table, devs, group in _read(groups):
        found, doubts = guess_tasks(group.name, table, devs)
        notes += doubts
        for task in found:
            name = _free(task.name, tasks)
            tasks[name] = _with_files(replace(task, name=name), group.train, recipe.parent)
            about[name] = _described(table)
    if not tasks:
        raise ComityError(*notes)
    tasks = {name: _checked(task, recipe.parent) for name, task in tasks.items()}
    _recipe(tasks)
    return Draft(tasks, notes, recipe_text(tasks, about, str(recipe)))


def _check_files(files: Sequence[Path]) -> None:
    """Raise a ComityError for each file that is not there."""
    errors = ErrorList()
    for path in files:
        try:
            check_file(path)
        except ComityError as error:
            errors.extend(error)
    errors.check()


def _read(
    groups: Sequence[Group],
) -> list[tuple[TableColumns, list[tuple[TableColumns, str]], Group]]:
    """The table of each group, and those that may be its dev set.

    Raises:
        ComityError: every error of every file.
    """
    errors = ErrorList()
    tables = []
    for group in groups:
        try:
            table = read_columns(group.train)
            tables.append((table, _dev_tables(group, table), group))
        except ComityError as error:
            errors.extend(error)
    errors.check()
    return tables


def _dev_tables(group: Group, table: TableColumns) -> list[tuple[TableColumns, str]]:
    """The tables that may be the dev set of a group, the best first."""
    named = f"named like {group.train.name}"
    files = [(path, named) for path in group.dev]
    files += [(path, f"{named}; there is no file named dev or valid") for path in group.test]
    return [(read_columns(path, table.format), why) for path, why in files]


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that no task has; "mean" is not allowed."""
    number, free = 1, name
    while free in taken or free == "mean":
        number += 1
        free = f"{name}-{number}"
    return free


def _with_files(task: TaskDraft, train: Path, folder: Path) -> TaskDraft:
    """A draft with the paths of its files, as they are written in a recipe in `folder`."""
    keys = {"train": Guess(_relative(train, folder))}
    if task.dev is not None:
        keys["dev"] = Guess(_relative(task.dev, folder), task.keys["dev"].evidence)
    return _with(task, keys)


def _relative(path: Path, folder: Path) -> str:
    try:
        return PurePath(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return path.absolute().as_posix()


def _described(table: TableColumns) -> str:
    reading = [str(value) for key, value in table.reading.items() if key in ("format", "encoding")]
    return ", ".join([f"{table.path.name}: {plural(table.rows, 'row')}", *reading])


def _checked(task: TaskDraft, folder: Path) -> TaskDraft:
    """A draft that `check` accepts, if necessary with another share of dev rows.

    Raises:
        ComityError: every error of the files.
    """
    train = task.keys["train"].value
    if task.dev is not None:
        read_tasks(_recipe({task.name: task}), folder)
        return task
    read_tasks(_recipe({task.name: _with(task, {"dev": Guess(train)})}), folder)
    for change in DEV_SHARES:
        task = _with(task, change)
        try:
            read_tasks(_recipe({task.name: task}), folder)
            return task
        except ComityError:
            continue
    raise ComityError(
        f"{folder / train}: its rows cannot be divided into training and dev rows with all "
        "classes; add rows, or a dev file"
    )


def _with(task: TaskDraft, keys: Mapping[str, Guess]) -> TaskDraft:
    return replace(task, keys={**task.keys, **keys})


def _recipe(tasks: Mapping[str, TaskDraft]) -> Recipe:
    values = {name: {k: g.value for k, g in task.keys.items()} for name, task in tasks.items()}
    return Recipe.from_dict({"train": train_keys(len(tasks)), "tasks": values})
