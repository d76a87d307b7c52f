"""Writes a draft as a commented recipe."""

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from comity.draft.tasks import Guess, TaskDraft
from comity.tables.rows import shown

KEYS = (
    "kind", "head", "train", "dev", "split", "header", "text", "texts", "label", "labels",
    "separator", "decimal_mark", "scale", "classes", "missing_labels", "ignore_labels",
)  # fmt: skip
"""The keys of a task in the order in which they are written."""

WIDTH = 60
"""Characters of a key and its value up to which a comment follows on the same line."""

START = """\
# A draft by `comity init`. Each comment says why a value was chosen; correct what is wrong, then
#   comity check {recipe}
# `comity recipe KEY` describes a key, and `comity recipe` lists them all.

[encoder]
name = "minilm"  # or "bert-base-uncased", any other BERT on the Hugging Face hub, or a folder

[train]
epochs = 3
lr = 5e-5
head_lr = 5e-4
"""

BALANCER = """\
balancer = "pcgrad"  # removes the conflicting parts of the task gradients; "sum" adds them up
"""


def train_keys(tasks: int) -> dict[str, Any]:
    """The keys of [train] in a draft with some tasks."""
    values: dict[str, Any] = {"epochs": 3, "lr": 5e-5, "head_lr": 5e-4}
    return values | ({"balancer": "pcgrad"} if tasks > 1 else {})


def recipe_text(tasks: Mapping[str, TaskDraft], about: Mapping[str, str], recipe: str) -> str:
    """The recipe as TOML.

    Args:
        tasks: by name.
        about: a comment for each task, on its file.
        recipe: the path of the recipe, for a comment.
    """
    parts = [START.format(recipe=shown(recipe)) + (BALANCER if len(tasks) > 1 else "")]
    for name, task in tasks.items():
        lines = [f"# {shown(about[name])}", f"[tasks.{_scalar(name) if '.' in name else name}]"]
        lines += _key_lines(task.keys)
        lines += [f"# not used: {_scalar(shown(c))} {why}" for c, why in task.unused.items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _key_lines(keys: Mapping[str, Guess]) -> Iterator[str]:
    for key in KEYS:
        if key not in keys:
            continue
        line, comment = f"{key} = {_value(keys[key].value)}", shown(keys[key].evidence)
        if comment and len(line) > WIDTH:
            yield f"# {comment}"
        yield f"{line}  # {comment}" if comment and len(line) <= WIDTH else line


def _value(value: Any) -> str:
    """A value on one line; tomli_w writes a list on several."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
