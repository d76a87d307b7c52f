"""Validation errors of a recipe as sentences: the key, what is wrong, and what to write."""

import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from comity.errors import nearest
from comity.recipe.schema import (
    EncoderSection,
    ObjectiveSection,
    StageFile,
    StageSection,
    TaskSection,
    TrainSection,
)

if TYPE_CHECKING:
    pass

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
}


def type_errors(error: ValidationError, source: str) -> list[str]:
    """One sentence per faulty key. Where a key may have several types, pydantic reports each."""
    by_key: dict[str, list[Any]] = {}
    for fault in error.errors(include_url=False):
        keys = _key_path(fault["loc"])
        by_key.setdefault(keys, []).append(fault)
    return [f"{source}: {_sentence(key, errors)}" for key, errors in by_key.items()]


def _key_path(location: tuple[int | str, ...]) -> str:
    """The key as a user writes it, without the branch names of types that may be one of several.

    A task may bear such a name: what stands right below `tasks` (or `data`) is a key always.
    """
    branches = re.compile(r"^(literal\[|constrained-|float$|int$|str$|bool$|dict\[|function-)")
    return ".".join(
        str(part)
        for place, part in enumerate(location)
        if not branches.match(str(part)) or location[place - 1 : place] in (("tasks",), ("data",))
    )


def _sentence(key: str, errors: list[Any]) -> str:
    kinds = {fault["type"] for fault in errors}
    fault = errors[0]
    parent, _, last = key.rpartition(".")
    if "extra_forbidden" in kinds:
        known = sorted(_known_keys(parent))
        where = f"in [{parent}]" if parent else "at the top"
        hint = nearest(last, known) or f"; known there: {', '.join(known)}"
        return f'{key}: unknown key "{last}" {where}{hint}'
    if "missing" in kinds and last.isdigit():
        return f"{parent}: an entry is missing; this list has {int(last) + 1}"
    if "missing" in kinds:
        where = (
            f'add "{last}" to [{parent}]' if parent else f"add [{last}.NAME] with a kind and files"
        )
        return f"{key}: this key is missing; {where}"
    given = _shown(fault["input"])
    expected = " or ".join(dict.fromkeys(_expectation(fault) for fault in errors))
    return f"{key}: expected {expected}, got {given}"


def _expectation(fault: Any) -> str:
    if fault["type"] in _EXPECTED:
        return _EXPECTED[fault["type"]]
    context = fault.get("ctx", {})
    if fault["type"] == "literal_error":
        return f"one of {context['expected']}{nearest(fault['input'], _words(context['expected']))}"
    if fault["type"] in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        return f"at least {least} entries" if least else f"at most {most} entries"
    text = fault["msg"].removeprefix("Input should be ")
    return text.replace("greater than or equal to", "at least").replace("less than", "below")


def _words(expected: str) -> list[str]:
    return re.findall(r"'([^']+)'", expected)


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(parent: str) -> set[str]:
    if parent == "":
        return {"encoder", "train", "tasks", "stages"}
    first, *rest = parent.split(".")
    if "data" in rest[1:2] or "objectives" in rest[1:2]:
        return set((StageFile if first == "stages" else ObjectiveSection).model_fields)
    section = {"encoder": EncoderSection, "train": TrainSection, "stages": StageSection}
    return set(section.get(first, TaskSection).model_fields)
