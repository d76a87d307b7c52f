"""Comity: one text encoder, many tasks, no quarrel between them.

from comity import Recipe, train, load

run = train(Recipe.load("recipe.toml"), data="data", out="runs/first")
model = load("runs/first")
model.predict("sentiment", ["A quiet, generous film."])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comity.errors import ComityError
    from comity.inference.model import load
    from comity.recipe.recipe import Recipe
    from comity.training.trainer import train

__version__ = "0.1.0"
__all__ = ["ComityError", "Recipe", "load", "train"]

_HOMES = {
    "ComityError": "comity.errors",
    "Recipe": "comity.recipe.recipe",
    "load": "comity.inference.model",
    "train": "comity.training.trainer",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `comity --help` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'comity' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
