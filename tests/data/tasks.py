"""Loads one task from rows, without an encoder, for tests of what is said about its data."""

from pathlib import Path
from typing import Any

from tests.helpers import write_csv

from comity.data.notes import task_notes
from comity.data.splits import TaskData, read_tasks
from comity.data.token_cache import TextEncoder
from comity.recipe.recipe import Recipe

UNKNOWN = 99
"""The id of a word that starts with "x"; the id of any other word is its length."""


def _ids(text: str) -> list[int]:
    words = text.replace("\0", "").split()
    return [UNKNOWN if word.startswith("x") else len(word) for word in words]


WORDS = TextEncoder(lambda texts: [_ids(text) for text in texts], 100, "words and unknown words")


def load_task(folder: Path, settings: dict[str, Any] | None = None, /, **task: Any) -> TaskData:
    """The task "t"; `settings` are the recipe's [train]."""
    recipe: dict[str, Any] = {"tasks": {"t": task}}
    if settings:
        recipe["train"] = settings
    return read_tasks(Recipe.from_dict(recipe), folder).tokenised(WORDS, 128)["t"]


def task_of(
    folder: Path, labels: list[Any], kind: str = "classification", dev: Any = None, **keys: Any
) -> TaskData:
    """The task of a file with a label in each row, and of a dev file with the labels `dev`.

    Without `dev`, dev has each training label once.
    """
    columns = ["a", "b"] if kind == "similarity" else ["text"]
    for name, values in {"t": labels, "d": dev or list(dict.fromkeys(labels))}.items():
        rows = [[*(f"{name} {c} {n}" for c in columns), v] for n, v in enumerate(values)]
        write_csv(folder / f"{name}.csv", [*columns, "label"], rows)
    texts = {"texts": columns} if kind == "similarity" else {"text": "text"}
    task = {"kind": kind, "train": "t.csv", "dev": "d.csv", "label": "label", **texts, **keys}
    return load_task(folder, **task)


def notes_of(folder: Path, labels: list[Any], *args: Any, **keys: Any) -> str:
    """What is said about such a task, a line each."""
    return "\n".join(task_notes(task_of(folder, labels, *args, **keys), UNKNOWN))
