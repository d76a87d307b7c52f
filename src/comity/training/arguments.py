"""What `train` accepts as a recipe and its data: paths, dicts, and tables in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.recipe.recipe import Recipe
from comity.tables.frames import frame_columns, memory_name

RecipeLike = str | Path | Mapping[str, Any] | Recipe


@dataclass(frozen=True)
class Job:
    """A recipe, the folder where its relative paths start, and its tables in memory."""

    recipe: Recipe
    folder: Path
    frames: dict[str, Any]  # by what the recipe has in place of a file


def resolve(recipe: RecipeLike, data: str | Path | None) -> Job:
    """The recipe and its data.

    Args:
        recipe: a path, a dict as in TOML, or a `Recipe`. In a dict, a DataFrame may be in place of
            a file.
        data: the folder of the files (default: the recipe's own folder, or the working directory).

    Raises:
        ComityError: with every error of the recipe, or an argument of another type.
    """
    if data is not None and not isinstance(data, (str, Path)):
        raise ComityError(
            f"data: expected the folder of the recipe's files, got {_kind(data)}; put a "
            "DataFrame into the recipe, in place of the file of a task"
        )
    folder = Path(data or ".")
    if isinstance(recipe, Recipe):
        return Job(recipe, folder, {})
    if isinstance(recipe, Mapping):
        values, frames = _without_frames(recipe)
        return Job(Recipe.from_dict(values), folder, frames)
    if isinstance(recipe, str) and "\n" in recipe:
        raise ComityError(
            "recipe: expected a path, got text of several lines; save it to a file, or pass "
            "tomllib.loads(text)"
        )
    if isinstance(recipe, (str, Path)):
        path = Path(recipe)
        return Job(Recipe.load(path), path.parent if data is None else folder, {})
    raise ComityError(
        f"recipe: expected a path, a dict or a Recipe, got {_kind(recipe)}; name a TOML file"
    )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"


def _without_frames(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe with a name in place of each table in memory, and the tables by name."""
    frames: dict[str, Any] = {}

    def name_of(value: Any, role: str) -> Any:
        if isinstance(value, (list, tuple)) and any(frame_columns(v) is not None for v in value):
            raise ComityError(f"{role}: a list names files; join the tables, and pass one table")
        if frame_columns(value) is None:
            return value
        frames[memory_name(role)] = value
        return memory_name(role)

    def table(value: Any, keys: Mapping[str, str]) -> Any:
        """A recipe table with its tables in memory replaced; `keys` gives the role of each key."""
        if not isinstance(value, Mapping):
            return value
        return {k: name_of(v, keys[k]) if k in keys else v for k, v in value.items()}

    def stage_file(value: Any, role: str) -> Any:
        return name_of(table(value, {"file": role}), role)

    values = dict(recipe)
    if isinstance(values.get("tasks"), Mapping):
        values["tasks"] = {
            name: table(task, {key: f"{name} {key}" for key in ("train", "dev", "unlabelled")})
            for name, task in values["tasks"].items()
        }
    stages = values.get("stages")
    if isinstance(stages, (list, tuple)):
        values["stages"] = [
            {
                **stage,
                "data": {
                    name: stage_file(file, f"{name} stage {number}")
                    for name, file in stage["data"].items()
                },
            }
            if isinstance(stage, Mapping) and isinstance(stage.get("data"), Mapping)
            else stage
            for number, stage in enumerate(stages, start=1)
        ]
    return values, frames
