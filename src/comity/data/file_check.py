"""Checks the files of a recipe before its encoder is loaded, which may mean a download."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comity.data.splits import load_tasks
from comity.data.token_cache import TableSource, TextEncoder
from comity.errors import ComityError, ErrorList
from comity.files import path_of
from comity.recipe.recipe import Recipe
from comity.recipe.schema import TaskSection
from comity.tables.frames import FramePath
from comity.tables.reader import open_table
from comity.tables.rows import NoValue


def check_files(recipe: Recipe, folder: Path, frames: Mapping[str, Any]) -> None:
    """Raise every error of every file if a file or a column is missing.

    Reads only the beginning of each file, unless something is missing. `frames` are the tables in
    memory, by what the recipe has in place of a file.
    """
    if not all(_is_sound(source) for source in _sources(recipe, folder, frames)):
        check_rows(recipe, folder, frames)


def check_rows(recipe: Recipe, folder: Path, frames: Mapping[str, Any]) -> None:
    """Read every file without an encoder and raise every error of every file."""
    load_tasks(recipe, folder, _WORDS, sys.maxsize, frames)


def _count_words(texts: list[str]) -> list[list[int]]:
    return [[0] * len(text.split()) for text in texts]


_WORDS = TextEncoder(_count_words, 1, None)
"""Used instead of a tokenizer: a text without a word has no token."""


def _sources(recipe: Recipe, folder: Path, frames: Mapping[str, Any]) -> Iterator[TableSource]:
    """The files of all tasks and stages with the columns that are read from them."""

    def source(file: str, task: TaskSection) -> TableSource:
        path = FramePath.of(file, frames[file]) if file in frames else folder / path_of(file)
        return TableSource(path, task.text_columns, task.label_columns, task.table_format)

    for task in recipe.tasks.values():
        yield source(task.train, task)
        if isinstance(task.dev, str):
            yield source(task.dev, task)
    for stage in recipe.stages:
        for name, file in stage.data.items():
            yield source(file.file, file.read_as(recipe.tasks[name]))


def _is_sound(source: TableSource) -> bool:
    """Whether a file opens and starts without errors, up to a row that has every column."""
    errors = ErrorList()
    try:
        rows = open_table(source.path, source.format, source.columns).rows(errors)
        complete = any(not any(isinstance(v, NoValue) for v in row.values) for row in rows)
    except ComityError:
        return False
    return complete and not errors
