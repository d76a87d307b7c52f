"""What a user declares: the recipe, read from TOML, checked before anything is loaded or spent."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError

from comity.errors import ComityError, ErrorList
from comity.recipe.messages import type_errors
from comity.recipe.rules import check_rules
from comity.recipe.schema import (
    EncoderSection,
    Section,
    Stage,
    StageKeys,
    StageSection,
    TaskSection,
    TrainSection,
)


class Recipe(Section):
    """Encoder, tasks and stages. Make one with `Recipe.load(path)` or `Recipe.from_dict(values)`.

    Raises:
        ComityError: one sentence per fault, with the file and the key.

    >>> recipe = Recipe.from_dict({"tasks": {"mood": {"kind": "classification", "train": "a.csv",
    ...     "dev": 0.1, "text": "text", "label": "mood"}}})
    >>> recipe.tasks["mood"].views, recipe.stages[0].epochs
    (('first',), 3.0)
    """

    encoder: EncoderSection = EncoderSection()
    train: TrainSection = TrainSection()
    tasks: Annotated[dict[str, TaskSection], Field(min_length=1)]
    stages_declared: tuple[StageSection, ...] = Field(default=(), alias="stages", strict=False)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML recipe; `overrides` are `key=value` strings such as `train.lr=3e-5`."""
        path = Path(path)
        values = _with_overrides(_read_toml(path), overrides, path)
        _settle_encoder(values, path)
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "recipe") -> Self:
        """Validate a recipe given as nested dictionaries; `source` names it in error messages."""
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            raise ComityError(*type_errors(error, source)) from None
        errors = ErrorList()
        check_rules(recipe, source, errors)
        errors.check()
        return recipe

    @property
    def stages(self) -> list[Stage]:
        """The stages of the run; a recipe that declares none has one over all tasks."""
        shared = {k: getattr(self.train, k) for k in StageKeys.model_fields if self.train.sets(k)}
        resolved = []
        for number, stage in enumerate(self.stages_declared or (StageSection(),), start=1):
            own = {key: getattr(stage, key) for key in stage.model_fields_set}
            if own.keys() & {"epochs", "steps"}:
                shared_here = {k: v for k, v in shared.items() if k not in ("epochs", "steps")}
            else:
                shared_here = shared
            masked = stage.train_on != "labels"  # reads texts alone, also of tasks that are judged
            tasks = tuple(n for n, task in self.tasks.items() if masked or not task.eval_only)
            values = {"name": f"stage {number}", "tasks": tasks, **shared_here, **own}
            if masked and not stage.sets("balancer"):
                values["balancer"] = "sum"  # one objective has nothing to balance
            if values.get("epochs") is None and values.get("steps") is None:
                values["epochs"] = 3.0
            resolved.append(Stage(**values))
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """What the user declared, as nested dictionaries that `from_dict` reads."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ComityError(f"{path}: no such recipe; name a TOML file that exists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ComityError(
            f"{path}: cannot be read as a recipe ({_reason(error)}); name a TOML file in UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ComityError(_toml_fault(path, str(error))) from None


def _settle_encoder(values: dict[str, Any], path: Path) -> None:
    """An encoder's folder beside the recipe (or here) by its full path, so that a run finds it."""
    encoder = values.get("encoder")
    if not isinstance(encoder, dict):
        return
    name = encoder.get("name")
    if not isinstance(name, str) or name == "minilm":
        return
    for folder in (path.parent / name, Path(name)):
        if (folder / "config.json").is_file():
            encoder["name"] = str(folder.resolve())
            return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)


def _toml_fault(path: Path, message: str) -> str:
    """The TOML reader's message with the line in front, and double tasks called by their name."""
    place = re.search(r"\(at line (\d+), column \d+\)", message)
    line = f":{place[1]}" if place else ""
    twice = re.search(r"Cannot declare \('tasks', '([^']+)'\) twice", message)
    if twice:
        return f"{path}{line}: two tasks are named {twice[1]}; give each its own name"
    what = re.sub(r"\s*\(at [^)]*\)", "", message)
    return f"{path}{line}: not valid TOML ({what}); mend that line"


# Keys of which a recipe has one or the other; setting one from outside takes the other's place.
_PAIRS = (("steps", "epochs"), ("batch_size", "batch_tokens"), ("text", "texts"))
_INSTEAD = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


def _with_overrides(values: dict[str, Any], overrides: Sequence[str], path: Path) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ComityError(f'--set "{override}": write it as key=value, such as train.lr=3e-5')
        place: Any = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            place = _descend(place, parent, override, path)
        if not isinstance(place, dict):
            raise ComityError(f'--set "{override}": {path} has no table there to set a key in')
        place[last] = _toml_value(text.strip())
        place.pop(_INSTEAD.get(last), None)
    return values


def _descend(place: Any, parent: str, override: str, path: Path) -> Any:
    if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
        return place[int(parent)]
    if isinstance(place, dict):
        return place.setdefault(parent, {})
    raise ComityError(f'--set "{override}": {path} has no "{parent}" there')


def _toml_value(text: str) -> Any:
    """A value as TOML writes it; a bare word is a string, so that quotes need no quoting."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
