"""Finds what differs between two recipes."""

import json
from collections.abc import Mapping
from typing import Any


def first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], where: tuple[str, str] = ("there", "here")
) -> str | None:
    """The first key whose value differs between two nested tables, as part of a sentence.

    `where` says what the tables are. `[track]` does not count: it changes nothing that a run
    computes.

    >>> first_difference({"train": {"lr": 1e-5}}, {"train": {"lr": 2e-5}})
    'train.lr is 1e-05 there and 2e-05 here'
    """
    first, second = (
        {key: value for key, value in flat(table).items() if not key.startswith("track.")}
        for table in (one, other)
    )
    for key in {**second, **first}:
        if first.get(key) != second.get(key):
            values = (_shown(table.get(key)) for table in (first, second))
            return f"{key} is " + " and ".join(map(" ".join, zip(values, where, strict=True)))
    return None


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables and lists of tables as one table with dotted keys."""
    if isinstance(values, Mapping):
        items: Any = values.items()
    elif isinstance(values, list) and any(isinstance(entry, Mapping) for entry in values):
        items = ((n, entry or "empty") for n, entry in enumerate(values))  # a stage without keys
    else:
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
