"""Reads JSON Lines, one object per line, and arrays of objects; dotted names lead into objects."""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from itertools import chain, islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.files import nesting
from comity.tables.bad_rows import ENCODING, JSON, BadRow, report_row, taken
from comity.tables.rows import (
    JsonNumber,
    NoValue,
    Row,
    Table,
    TableFormat,
    Value,
    WholeRow,
    name_key,
    no_column,
)
from comity.tables.text_files import TextFile, open_text

BYTE_ORDER_MARK = "\ufeff"
DEEPEST_KEY = 4
DEEPEST_VALUE = 100
MOST_KEYS = 1000
ONE_OBJECT = "write one object on each line"
TOO_DEEP = "the JSON is nested too deeply"
LONGEST_OBJECT = 64 << 20
"""Characters of an object on a line, whose values may take many times the memory of the line."""


class JsonTable(Table):
    """A table of JSON Lines, or of one JSON array. See `open_table` for arguments and errors."""

    def __init__(
        self,
        path: Path,
        format: TableFormat,
        columns: Sequence[str | int],
        lenient: bool = False,
    ):
        super().__init__(path)
        self._lenient = lenient
        with open_text(path, format.encoding, lenient) as file:
            self._encoding = file.encoding
            first = next((line for line in file.lines() if line.strip()), "")
            self._is_array = first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith("[")
            self._columns = _spellings(file, [str(column) for column in columns], self.missing)
        self._names: list[str] | None = None
        self._types: dict[str, frozenset[str]] = {}

    @property
    def names(self) -> list[str]:
        """The keys of all objects, in the order in which they first appear; read once.

        Raises `ComityError` with every line that is not an object.
        """
        if self._names is None:
            errors = ErrorList()
            types = self._types
            with open_text(self.path, self._encoding) as file:
                for _, item in _objects(file, errors):
                    for key, value in item.items():
                        types[key] = types.get(key, ALL_TYPES) & _types_of(value)
            errors.check()
            self._names = list(types)
        return self._names

    @property
    def columns(self) -> list[str | int]:
        """The keys of all objects; those of objects inside are written with dots."""
        keys: dict[str | int, None] = {}
        with open_text(self.path, self._encoding) as file:
            for _, item in _objects(file, ErrorList()):
                if len(keys) < MOST_KEYS:
                    keys.update(dict.fromkeys(_dotted_keys(item)))
        return list(keys)

    @property
    def chosen_names(self) -> list[str]:
        """The chosen columns as the file spells them; a key with dots may lead into objects."""
        return self._columns

    def describe(self) -> dict[str, Any]:
        """The format and its encoding."""
        format = "json array" if self._is_array else "json lines"
        return {"format": format, "encoding": self._encoding}

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow types of the keys whose values are all numbers, or all true or false.

        A number must fit its type exactly; otherwise the values are written as texts.
        """
        import pyarrow

        types = {"int64": pyarrow.int64(), "uint64": pyarrow.uint64()}
        types |= {"double": pyarrow.float64(), "bool": pyarrow.bool_()}
        found = {}
        for name in self.names:
            fitting = self._types[name]
            if fitting and fitting != ALL_TYPES:
                found[name] = next(kind for key, kind in types.items() if key in fitting)
        return found

    def _read(self, errors: ErrorList, whole: bool) -> Iterator[tuple[Row, WholeRow]]:
        is_empty = True
        with open_text(self.path, self._encoding, self._lenient) as file:
            for number, item in _objects(file, errors):
                is_empty = False
                if not self.missing:
                    values = [_value(_find(item, name)[1], name) for name in self._columns]
                    yield Row(number, tuple(values)), item if whole else {}
        if is_empty and not errors and not taken(errors):
            raise ComityError(f"{self.path}: the file has no rows; add rows")


ALL_TYPES = frozenset(("int64", "uint64", "double", "bool"))


def _types_of(value: Any) -> frozenset[str]:
    """The types of Parquet that hold a value exactly; a null fits all."""
    if isinstance(value, NoValue):
        value = value.copied
    if value is None:
        return ALL_TYPES
    if isinstance(value, bool):
        return frozenset(("bool",))
    if not isinstance(value, JsonNumber) or len(value) > 40:
        return frozenset()
    try:
        number = Decimal(value)
    except InvalidOperation:
        return frozenset()
    found = set()
    double = float(value)
    if math.isfinite(double) and Decimal(repr(double)) == number:
        found.add("double")
    if value.lstrip("-").isdecimal():
        if -(1 << 63) <= number < 1 << 63:
            found.add("int64")
        if 0 <= number < 1 << 64:
            found.add("uint64")
    return frozenset(found)


def _objects(file: TextFile, errors: ErrorList) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object of the file with its line.

    Numbers stay as they are spelled, because 1.0 and 1 are two texts.
    """
    path = file.path
    lines = ((n, line.removeprefix(BYTE_ORDER_MARK)) for n, line in enumerate(file.lines(), 1))
    filled = ((number, line) for number, line in lines if line.strip())
    start, first = next(filled, (0, ""))
    if not first:
        raise ComityError(f"{path}: the file is empty; add rows, or name another file")
    if first.lstrip().startswith("["):
        yield from _array_objects(file, start, first, filled, errors)
        return
    if first.strip() == "{":
        raise ComityError(
            f"{path}:{start}: the file is one JSON object over several lines; write one object on "
            "each line, or an array of objects"
        )
    if not file.lenient and not re.match(r'\s*[{"\d-]|\s*(?:null|true|false)\b', first):
        raise ComityError(
            f"{path}:{start}: the file does not begin like JSON; if it is CSV or TSV, rename it "
            "to end in .csv or .tsv"
        )
    for number, line in chain([(start, first)], filled):
        if file.lenient and (detail := file.undecoded(line)):
            report_row(errors, path, BadRow(number, ENCODING, detail), "set encoding")
            continue
        if len(line) > LONGEST_OBJECT:
            detail = f"the object has more than {LONGEST_OBJECT:,} characters"
            report_row(errors, path, BadRow(number, JSON, detail), ONE_OBJECT)
            continue
        try:
            item = _DECODER.decode(line.rstrip("\r\n"))
        except JSONDecodeError as error:
            detail = f"column {error.colno}: {_invalid(error)}"
            report_row(errors, path, BadRow(number, JSON, detail), ONE_OBJECT, "json")
        except RecursionError:
            _report_too_deep(path, number, errors)
        else:
            yield from _checked(path, number, item, line, errors)


def _array_objects(
    file: TextFile, number: int, first: str, rest: Iterator[tuple[int, str]], errors: ErrorList
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of an array that begins on line `number`; the file is held in memory.

    Text that is not JSON is one error and ends the reading.
    """
    path = file.path
    starts, numbers, parts = [0], [number], [first]
    for number, line in rest:
        starts.append(starts[-1] + len(parts[-1]))
        numbers.append(number)
        parts.append(line)
    text = "".join(parts)
    at = 0  # the index of the line of `position`

    def where(position: int) -> str:
        line = bisect_right(starts, position) - 1
        return f"{path}:{numbers[line]}: column {position - starts[line] + 1}"

    position = _after_space(text, text.index("[") + 1)
    ended = text.startswith("]", position)
    while not ended:
        try:
            item, end = _DECODER.raw_decode(text, position)
        except JSONDecodeError as error:
            errors.add(f"{where(error.pos)}: {_invalid(error)}; {ONE_OBJECT}")
            return
        except RecursionError:
            line = numbers[bisect_right(starts, position) - 1]
            errors.add(f"{path}:{line}: {TOO_DEEP}; flatten it")
            return
        while at + 1 < len(starts) and starts[at + 1] <= position:
            at += 1
        own = text[position:end]
        if file.lenient and (detail := file.undecoded(own)):
            report_row(errors, path, BadRow(numbers[at], ENCODING, detail), "set encoding")
        else:
            yield from _checked(path, numbers[at], item, own, errors)
        position = _after_space(text, end)
        ended = text.startswith("]", position)
        if not ended and not text.startswith(",", position):
            errors.add(f'{where(position)}: not valid JSON (expected "," or "]"); correct it')
            return
        if not ended:
            position = _after_space(text, position + 1)
    position = _after_space(text, position + 1)
    if position < len(text):
        errors.add(f"{where(position)}: not valid JSON (text after the array); remove it")


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _checked(
    path: Path, number: int, item: Any, text: str, errors: ErrorList
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The item with its line if it is an object that can be written again."""
    if not isinstance(item, dict):
        bad = BadRow(number, JSON, f"{_kind(item)}, not an object")
        report_row(errors, path, bad, "write {...}", "object")
    elif text.count("[") + text.count("{") > DEEPEST_VALUE and nesting(item) > DEEPEST_VALUE:
        _report_too_deep(path, number, errors)
    else:
        yield number, item


def _invalid(error: JSONDecodeError) -> str:
    reason = error.msg[:1].lower() + error.msg[1:]
    return f"not valid JSON ({reason})"


def _report_too_deep(path: Path, number: int, errors: ErrorList) -> None:
    report_row(errors, path, BadRow(number, JSON, TOO_DEEP), "flatten it")


def _not_a_number(name: str) -> NoValue:
    """NaN and Infinity are not JSON; some programs write them where they lack a value."""
    return NoValue(f"{name} is not a value", copied=None if name == "NaN" else name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`; a repeated key has no value, since either could be meant."""
    item = dict(pairs)
    if len(item) < len(pairs):
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen:
                last = value.copied if isinstance(value, NoValue) else value
                item[key] = NoValue(f"the key '{key}' occurs twice", copied=last)
            seen.add(key)
    return item


_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=JsonNumber,
    parse_float=JsonNumber,
    parse_constant=_not_a_number,
)


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


def _spellings(file: TextFile, names: Sequence[str], missing: list[str]) -> list[str]:
    """The names as the first object that has them spells them; usually the first ones have all.

    A message for each name that no object has is added to `missing`.
    """
    found: dict[str, str] = {}
    keys: dict[str, None] = {}
    for _, item in _objects(file, ErrorList()):
        for name in names:
            if name not in found and (spelling := _spelling(item, name)) is not None:
                found[name] = spelling
        if all(name in found for name in names):
            return [found[name] for name in names]
        if len(keys) < MOST_KEYS:
            keys.update(dict.fromkeys(_dotted_keys(item)))
    if keys:  # without any object the errors of the lines say what is wrong
        lacking = [name for name in dict.fromkeys(names) if name not in found]
        missing += [f"{file.path}: {no_column(name, keys)}" for name in lacking]
    return [found.get(name, name) for name in names]


def _spelling(item: dict[str, Any], name: str) -> str | None:
    """The name of a column as an object spells it, which may be in another Unicode form."""
    if _find(item, name)[0]:
        return name
    if name.isascii():
        return None
    return next((key for key in _dotted_keys(item) if name_key(key) == name_key(name)), None)


def _dotted_keys(item: dict[str, Any], depth: int = 0) -> Iterator[str]:
    for key, value in islice(item.items(), MOST_KEYS):
        if isinstance(value, dict) and value and depth < DEEPEST_KEY:
            yield from (f"{key}.{inner}" for inner in _dotted_keys(value, depth + 1))
        else:
            yield key
