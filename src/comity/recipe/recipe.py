"""The recipe: read from TOML or dictionaries, and checked before anything else is loaded."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from comity.errors import ComityError, ErrorList, nearest
from comity.files import is_file, is_utf8, nesting, path_of, path_text, read_text
from comity.format import plural
from comity.recipe.messages import type_errors
from comity.recipe.rules import check_rules, keys_without_effect
from comity.recipe.schema import RecipeSchema
from comity.recipe.stage_rules import frozen_balancers, frozen_encoders

LARGEST = 4 << 20
"""Bytes of a recipe."""

DEEPEST = 50
"""Tables and lists inside one another; a recipe needs six."""

TOO_DEEP = f"tables and lists are nested more than {DEEPEST} deep"

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_DEEP_KEY = re.compile(
    rf"(?:^|[{{,])[ \t]*+\[{{0,2}}+[ \t]*+(?:{_PART}){{{DEEPEST}}}", re.MULTILINE
)
"""A dotted key of too many parts, such as a.b.c = 1, [a.b.c] or {a.b.c = 1}."""


class Recipe(RecipeSchema):
    """Encoder, tasks and stages. Make one with `Recipe.load(path)` or `Recipe.from_dict(values)`.

    >>> recipe = Recipe.from_dict({"tasks": {"mood": {"kind": "classification", "train": "a.csv",
    ...     "dev": 0.1, "text": "text", "label": "mood"}}})
    >>> recipe.tasks["mood"].views, recipe.stages[0].epochs
    (('first',), 3.0)
    """

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML recipe; `overrides` are `key=value` strings such as `train.lr=3e-5`.

        Raises:
            ComityError: all errors of the recipe, each with the file and the key or line.
        """
        path = Path(path)
        values = _with_overrides(_read_toml(path), overrides, path)
        _resolve_encoder(values, path)
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], source: str = "recipe", drop_unused: bool = False
    ) -> Self:
        """Validate a recipe given as nested dictionaries; `source` names it in error messages.

        With `drop_unused`, keys without effect are left out; otherwise they are errors.

        Raises:
            ComityError: all errors of the recipe, each with `source` and the key.
        """
        errors = ErrorList()
        for key, text in _texts(values):
            if not is_utf8(text):
                errors.add(
                    f'{source}: {key}: "{text}" is not UTF-8, which a recipe has to be; rename the '
                    "file, or correct the text"
                )
        errors.check()
        try:
            recipe = cls.model_validate(values)
            while drop_unused and (keys := keys_without_effect(recipe)):
                values = copy.deepcopy(dict(values))
                for key in keys:
                    _remove(values, key)
                recipe = cls.model_validate(values)
        except ValidationError as error:
            raise ComityError(*type_errors(error, source)) from None
        check_rules(recipe, source, errors)
        errors.check()
        return recipe

    def only(self, tasks: Sequence[str]) -> Self:
        """The recipe with only some of its tasks.

        Other tasks leave the stages too, a stage without a task is left out, and so is every key
        that loses its effect (such as a balancer where one task remains). `train.select_by` becomes
        "mean" if its task is left out.

        Raises:
            ComityError: unknown task, or none that is trained.
        """
        errors = ErrorList()
        for name in tasks:
            if name not in self.tasks:
                hint = nearest(name, self.tasks) or f"; the recipe has {', '.join(self.tasks)}"
                errors.add(f'--only: unknown task "{name}"{hint}')
        errors.check()
        values = self.to_dict()
        values["tasks"] = {name: v for name, v in values["tasks"].items() if name in tasks}
        if self.train.select_by not in ("mean", *tasks):
            values["train"].pop("select_by")
        if self.stages_declared:
            stages = [_with_tasks(stage, tasks) for stage in values["stages"]]
            values["stages"] = [stage for stage in stages if stage.get("tasks") != []]
        return self.from_dict(values, "--only", drop_unused=True)

    def without_teachers(self) -> Self:
        """The recipe with tasks that learn from their labels alone."""
        values = self.to_dict()
        for task in values["tasks"].values():
            for key in [key for key in task if key.startswith("teacher") or key == "unlabelled"]:
                task.pop(key)
        return self.from_dict(values)

    def tracked_by(self, names: Sequence[str]) -> Self:
        """The recipe with other trackers; `track.project` is kept where one of them has projects.

        Raises:
            ComityError: unknown tracker, or one that is named twice.
        """
        track = {**self.to_dict().get("track", {}), "to": list(names)}
        if set(names) == {"tensorboard"}:
            track.pop("project", None)
        return self.from_dict({**self.to_dict(), "track": track}, "--track")

    def notes(self) -> list[str]:
        """Sentences on frozen encoders, and on keys of [train] that a stage replaces."""
        return [*frozen_encoders(self), *frozen_balancers(self)]

    def __repr__(self) -> str:
        """Encoder, tasks with their kinds, and stages; `to_dict` has everything."""
        tasks = ", ".join(f"{name} ({task.kind})" for name, task in self.tasks.items())
        stages = plural(len(self.stages), "stage")
        return f"<Recipe of {self.encoder.name}: {tasks}; {stages}>"

    __str__ = __repr__

    def to_dict(self) -> dict[str, Any]:
        """The keys that the user set, as nested dictionaries that `from_dict` reads."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a recipe's values, each with its key in full."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            own = f"{key}.{name}".removeprefix(".")
            yield own, str(name)
            yield from _texts(value, own)
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _texts(value, f"{key}.{index}")


def _with_tasks(stage: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """A declared stage with only some of its tasks."""
    kept = dict(stage)
    if "tasks" in stage:
        kept["tasks"] = [name for name in stage["tasks"] if name in tasks]
    if "data" in stage:
        kept["data"] = {name: file for name, file in stage["data"].items() if name in tasks}
    return kept


def _remove(values: dict[str, Any], key: str) -> None:
    """Remove a key, given in full. The name of a task may contain dots."""
    table, _, rest = key.partition(".")
    owner, _, last = rest.rpartition(".")
    where: Any = values[table]
    if table == "stages":
        where = where[int(owner)]
    elif table == "tasks":
        where = where[owner]
    where.pop(last)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parsed_toml(read_text(path, LARGEST, "utf-8-sig"))
    except FileNotFoundError:
        raise ComityError(f"{path}: there is no such recipe; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ComityError(
            f"{path}: cannot be read as a recipe ({_reason(error)}); name a TOML file in UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ComityError(_toml_error(path, str(error))) from None
    except ValueError as error:
        raise ComityError(f"{path}: cannot be opened ({error}); correct the path") from None


def parsed_toml(text: str) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        TOMLDecodeError: it is not TOML, a number in it is too long, or it is nested too deeply.
    """
    deep = _DEEP_KEY.search(text)
    if deep:  # tomllib would take quadratic time
        line = text.count("\n", 0, deep.start()) + 1
        raise tomllib.TOMLDecodeError(f"{TOO_DEEP} (at line {line}, column 1)")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError(TOO_DEEP) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise tomllib.TOMLDecodeError("a number has thousands of digits") from None
    if nesting(values) > DEEPEST:
        raise tomllib.TOMLDecodeError(TOO_DEEP)
    return values


def _resolve_encoder(values: dict[str, Any], path: Path) -> None:
    """Replace an encoder's folder, relative to the recipe or here, by its absolute path.

    The run then finds it from any working directory.
    """
    encoder = values.get("encoder")
    if not isinstance(encoder, dict):
        return
    name = encoder.get("name")
    if not isinstance(name, str) or name == "minilm":
        return
    for folder in (path.parent / path_of(name), path_of(name)):
        if is_file(folder / "config.json"):
            encoder["name"] = path_text(folder.resolve())
            return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)


def _toml_error(path: Path, message: str) -> str:
    """The TOML parser's message as file, line and problem; a duplicate task is named."""
    position = re.search(r"\(at line (\d+), column \d+\)", message)
    line = f":{position[1]}" if position else ""
    twice = re.search(r"Cannot declare \('tasks', '([^']+)'\) twice", message)
    if twice:
        return f"{path}{line}: two tasks are named {twice[1]}; rename one of them"
    problem = re.sub(r"\s*\(at [^)]*\)", "", message)
    fix = "fix that line" if line else "correct the file"
    return f"{path}{line}: not valid TOML ({problem}); {fix}"


# Pairs of keys that exclude each other: an override of one removes the other.
_PAIRS = (("steps", "epochs"), ("batch_size", "batch_tokens"), ("text", "texts"))
_EXCLUDES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


def _with_overrides(values: dict[str, Any], overrides: Sequence[str], path: Path) -> dict[str, Any]:
    for override in map(path_text, overrides):  # arguments are decoded like the names of files
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ComityError(f'--set "{override}": write it as key=value, such as train.lr=3e-5')
        table: Any = values
        *parents, last = key.strip().split(".")
        _check_task_name(parents, values, override)
        for parent in parents:
            table = _descend(table, parent, override, path)
        if not isinstance(table, dict):
            raise ComityError(
                f'--set "{override}": "{".".join(parents)}" is not a table in {path}; check the key'
            )
        table[last] = _toml_value(text.strip())
        table.pop(_EXCLUDES.get(last), None)
    return values


def _check_task_name(parents: Sequence[str], values: dict[str, Any], override: str) -> None:
    """Raise if an override names a task that is probably a misspelled one of the recipe."""
    tasks = values.get("tasks")
    if parents[:1] != ["tasks"] or len(parents) < 2 or not isinstance(tasks, dict):
        return
    hint = "" if parents[1] in tasks else nearest(parents[1], tasks)
    if hint:
        raise ComityError(f'--set "{override}": unknown task "{parents[1]}"{hint}')


def _descend(table: Any, parent: str, override: str, path: Path) -> Any:
    if isinstance(table, list) and parent.isdigit() and int(parent) < len(table):
        return table[int(parent)]
    if isinstance(table, dict):
        return table.setdefault(parent, {})
    raise ComityError(f'--set "{override}": {path} has no "{parent}" there; check the key')


def _toml_value(text: str) -> Any:
    """The value as TOML reads it. A bare word is a string, so the shell needs no nested quotes."""
    try:
        return parsed_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
