"""Reads JSON Lines: one object per line; dotted names lead into objects."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.tables.rows import NoValue, Row, Table, TableFormat, Value, WholeRow, no_column
from comity.tables.text_files import TextFile, open_text

DEEPEST_KEY = 4
MOST_KEYS = 1000


class JsonTable(Table):
    """A table of JSON Lines. See `open_table` for arguments and errors."""

    def __init__(self, path: Path, format: TableFormat, columns: Sequence[str | int]):
        super().__init__(path)
        self._columns = [str(column) for column in columns]
        with open_text(path, format.encoding) as file:
            self._encoding = file.encoding
            self._missing = _missing_columns(file, self._columns)
        self._names: list[str] | None = None

    @property
    def names(self) -> list[str]:
        """The keys of all lines, in the order in which they first appear; read once.

        Raises `ComityError` with every line that is not an object.
        """
        if self._names is None:
            errors = ErrorList()
            with open_text(self.path, self._encoding) as file:
                keys = dict.fromkeys(key for _, _, item in _objects(file, errors) for key in item)
            errors.check()
            self._names = list(keys)
        return self._names

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns; a key with dots may lead into objects."""
        return self._columns

    def describe(self) -> dict[str, Any]:
        """The format and its encoding."""
        return {"format": "json lines", "encoding": self._encoding}

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        with open_text(self.path, self._encoding) as file:
            for number, line, item in _objects(file, errors):
                if not self._missing:
                    values = [_value(_find(item, name)[1], name) for name in self._columns]
                    # Decoded once more because numbers have their types here.
                    own = json.loads(line, parse_int=_integer) if whole else {}
                    yield Row(number, tuple(values)), own
        if self._missing:
            raise ComityError(*self._missing)


def _objects(file: TextFile, errors: ErrorList) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number and text of each line that holds an object, and the object.

    Numbers stay as they are spelled, because 1.0 and 1 are two texts.
    """
    decode = json.JSONDecoder(
        object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=_not_a_number
    ).decode
    path = file.path
    first = True
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        if first and (line.lstrip().startswith("[") or line.strip() == "{"):
            raise ComityError(
                f"{path}:{number}: the file is one JSON document, not JSON Lines; write one object "
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
                yield number, line, item
            else:
                errors.add(f"{path}:{number}: {_kind(item)}, not an object; write {{...}}")
    if first:
        raise ComityError(f"{path}: the file is empty; add rows, or name another file")


def _not_a_number(name: str) -> NoValue:
    """NaN and Infinity are not JSON; some programs write them where they lack a value."""
    return NoValue(f"{name} is not a value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`; a repeated key has no value, since either could be meant."""
    item = dict(pairs)
    if len(item) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                item[key] = NoValue(f"the key '{key}' occurs twice")
            seen.add(key)
    return item


def _integer(digits: str) -> int | str:
    """The number, or its digits where Python refuses to convert so many."""
    try:
        return int(digits)
    except ValueError:
        return digits


def _find(item: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Whether `name` is a key and its value, or why there is none.

    Dots lead into objects; a key that itself contains the dot is preferred.
    """
    if name in item:
        return True, item[name]
    missing = NoValue(f"no key '{name}'")
    for dot in (i for i, character in enumerate(name) if character == "."):
        first, rest = name[:dot], name[dot + 1 :]
        if first not in item:
            continue
        nested = item[first]
        if isinstance(nested, dict):
            found, value = _find(nested, rest)
            if found:
                return True, value
        else:
            missing = NoValue(f"'{first}' is {_kind(nested)}, so it has no key '{rest}'")
    return False, missing


def _value(value: Any, name: str) -> Value:
    if value is None or isinstance(value, NoValue):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if _is_text(value):
            return value
        return NoValue(f"'{name}' contains half of a surrogate pair")
    if isinstance(value, list):
        items = [_value(item, name) for item in value]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            return texts
        return NoValue(f"the list '{name}' contains other values than texts and numbers")
    return NoValue(f"'{name}' is an object")


def _is_text(value: str) -> bool:
    """JSON can spell half of a surrogate pair, which no tokenizer and no file accepts."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list"
    return "a text or a number"


def _missing_columns(file: TextFile, names: Sequence[str]) -> list[str]:
    """A message for each column that no line has; usually the first lines have them all."""
    missing = list(names)
    keys: dict[str, None] = {}
    for _, _, item in _objects(file, ErrorList()):
        missing = [name for name in missing if not _find(item, name)[0]]
        if not missing:
            return []
        if len(keys) < MOST_KEYS:
            keys.update(dict.fromkeys(_dotted_keys(item)))
    if not keys:
        return []  # no objects at all: the errors of the lines say what is wrong
    return [f"{file.path}: {no_column(name, keys)}" for name in dict.fromkeys(missing)]


def _dotted_keys(item: dict[str, Any], depth: int = 0) -> Iterator[str]:
    for key, value in islice(item.items(), MOST_KEYS):
        if isinstance(value, dict) and value and depth < DEEPEST_KEY:
            yield from (f"{key}.{inner}" for inner in _dotted_keys(value, depth + 1))
        else:
            yield key
