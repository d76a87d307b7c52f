"""A recipe with two tasks, changed key by key, and the errors it gives."""

import copy

import pytest

from comity import ComityError, Recipe

MOOD = {"kind": "classification", "train": "a.csv", "dev": 0.1, "text": "text", "label": "mood"}
ALIKE = {
    "kind": "similarity",
    "train": "b.csv",
    "dev": "c.csv",
    "texts": ["left", "right"],
    "label": "score",
}
BASE = {"train": {"lr": 1e-4}, "tasks": {"mood": MOOD, "alike": ALIKE}}


def changed(**changes):
    """The base recipe with keys set (`train__lr=...`) or removed (a value of ...)."""
    recipe = copy.deepcopy(BASE)
    for path, value in changes.items():
        table = recipe
        *parents, last = path.split("__")
        for parent in parents:
            table = table.setdefault(parent, {})
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return recipe


def errors_of(recipe):
    """The messages of the error that the recipe gives; its file is called r.toml."""
    with pytest.raises(ComityError) as caught:
        Recipe.from_dict(recipe, "r.toml")
    return caught.value.messages
