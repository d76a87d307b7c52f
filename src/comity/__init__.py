"""Fine-tune one BERT encoder on several text tasks at once.

    from comity import load, train

    run = train("recipe.toml", data="data", out="runs/first")
    model = load(run)
    model.predict("sentiment", ["A quiet, generous film."])

Public names:

    Recipe        what to train: encoder, tasks and stages, read from TOML
    train         trains a recipe and keeps the run in a directory
    load          loads the best model of a run
    Model         predicts, embeds and evaluates
    ComityError   an error that the user can fix

docs/python.md has an example of each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comity.api import train
    from comity.errors import ComityError
    from comity.inference.model import Model, load
    from comity.recipe.recipe import Recipe

    __version__: str

__all__ = ["ComityError", "Model", "Recipe", "load", "train"]

_MODULES = {
    "ComityError": "comity.errors",
    "Model": "comity.inference.model",
    "Recipe": "comity.recipe.recipe",
    "load": "comity.inference.model",
    "train": "comity.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import comity` loads no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("comity")
    if name not in _MODULES:
        raise AttributeError(f"module 'comity' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
