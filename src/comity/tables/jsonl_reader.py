"""JSON lines: one object a line, its keys reached by dotted names, its spelling kept."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.tables.rows import NoValue, TableFormat, Value, no_column
from comity.tables.text_files import find_encoding, text_lines

DEEPEST_KEY = 4
MOST_KEYS = 1000


def json_rows(
    path: Path, columns: Sequence[str | int], format: TableFormat, errors: ErrorList
) -> Iterator[tuple[int, tuple[Value, ...]]]:
    """Line and values of each line that holds an object; blank lines are passed over.

    Raises `ComityError` where the file cannot be read, or where a column is on no line at all.
    """
    names = [str(column) for column in columns]
    encoding = find_encoding(path, format.encoding)
    unseen = _check_columns(path, names, encoding)
    for line, record in _objects(path, encoding, errors):
        if not unseen:
            yield line, tuple([_value(*_find(record, name), name) for name in names])
    if unseen:
        raise ComityError(*unseen)


def json_names(path: Path, format: TableFormat, errors: ErrorList) -> list[str]:
    """The keys of all lines, in the order in which they first appear."""
    encoding = find_encoding(path, format.encoding)
    return list(dict.fromkeys(key for _, item in _objects(path, encoding, errors) for key in item))


def _objects(path: Path, encoding: str, errors: ErrorList) -> Iterator[tuple[int, dict[str, Any]]]:
    # Numbers stay as they are spelled: 0012 is no JSON, but 1.0 and 1 are two texts.
    decode = json.JSONDecoder(
        object_pairs_hook=_distinct, parse_int=str, parse_float=str, parse_constant=_no_number
    ).decode
    first = True
    for number, line in enumerate(text_lines(path, encoding), 1):
        if not line.strip():
            continue
        if first and (line.lstrip().startswith("[") or line.strip() == "{"):
            raise ComityError(
                f"{path}:{number}: the file is one JSON document, not JSON lines; write one object "
                f"on each line"
            )
        first = False
        try:
            item = decode(line.rstrip("\r\n"))
        except JSONDecodeError as error:
            reason = error.msg[:1].lower() + error.msg[1:]
            errors.add(
                f"{path}:{number}: column {error.colno}: not valid JSON ({reason}); write one "
                f"object on each line"
            )
        except RecursionError:
            errors.add(f"{path}:{number}: the JSON is nested too deeply; flatten it")
        else:
            if isinstance(item, dict):
                yield number, item
            else:
                errors.add(f"{path}:{number}: {_what(item)}, not an object; write {{...}}")
    if first:
        raise ComityError(f"{path}: the file is empty; give a file with rows")


def _no_number(name: str) -> NoValue:
    """NaN and Infinity are no JSON; other programs write them where they lack a value."""
    return NoValue(f"{name} is no value")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`; a key that stands twice has no value, since either could be meant."""
    item = dict(pairs)
    if len(item) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                item[key] = NoValue(f"the key '{key}' stands twice")
            seen.add(key)
    return item


def _find(item: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Whether `name` is a key, and its value, else why there is none.

    Dots lead into objects; a key that itself holds the dot goes first.
    """
    if name in item:
        return True, item[name]
    missing = NoValue(f"no key '{name}'")
    for dot in (i for i, character in enumerate(name) if character == "."):
        outer, rest = name[:dot], name[dot + 1 :]
        if outer not in item:
            continue
        inner = item[outer]
        if isinstance(inner, dict):
            found, value = _find(inner, rest)
            if found:
                return True, value
        else:
            missing = NoValue(f"'{outer}' is {_what(inner)}, so it has no key '{rest}'")
    return False, missing


def _value(found: bool, value: Any, name: str) -> Value:
    if value is None or (isinstance(value, NoValue)):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _is_text(value) else NoValue(f"'{name}' holds half of a surrogate pair")
    if isinstance(value, list):
        items = [_value(True, item, name) for item in value]
        if all(isinstance(item, str) for item in items):
            return [item for item in items if isinstance(item, str)]
        return NoValue(f"the list '{name}' holds more than texts and numbers")
    return NoValue(f"'{name}' is an object")


def _is_text(value: str) -> bool:
    """JSON can spell halves of surrogate pairs, which no tokenizer and no file can take."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _what(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list"
    return "a text or a number"


def _check_columns(path: Path, names: Sequence[str], encoding: str) -> list[str]:
    """A sentence for each column that is on no line; usually the first lines settle it."""
    unseen = list(names)
    keys: dict[str, None] = {}
    for _, item in _objects(path, encoding, ErrorList()):
        unseen = [name for name in unseen if not _find(item, name)[0]]
        if not unseen:
            return []
        if len(keys) < MOST_KEYS:
            keys.update(dict.fromkeys(_dotted(item)))
    if not keys:
        return []  # not one object: the errors of the lines say what is wrong
    return [f"{path}: {no_column(name, keys)}" for name in dict.fromkeys(unseen)]


def _dotted(item: dict[str, Any], depth: int = 0) -> Iterator[str]:
    for key, value in islice(item.items(), MOST_KEYS):
        if isinstance(value, dict) and value and depth < DEEPEST_KEY:
            yield from (f"{key}.{inner}" for inner in _dotted(value, depth + 1))
        else:
            yield key
