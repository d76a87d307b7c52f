"""Breaks files at random: any byte, and values, keys and sizes where they can be told."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, -(2**63), 10**12, 10**400, 0.5, 1e308,
    -1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "\n", "../../etc/passwd",
    "/dev/zero", "..", "a" * 5000, "9" * 5000, "mood", "[CLS]", [], {}, [[]], [None], {"a": {}},
    ["a"] * 300,
]  # fmt: skip

NUMBERS = [b"-1", b"0", b"9" * 20, b"1e999", b"9" * 5000, b"NaN", b'"a"', b"[[", b"{}"]
INSERTED = [b"\0", b"\xff\xfe", b'"', b"\n", b"[" * 2000]


def broken(content: bytes, suffix: str, random: Random) -> bytes:
    """The content of a file with one to three changes."""
    for _ in range(random.randint(1, 3)):
        ways = [_bytes]
        if suffix in _WAYS:
            ways += [_WAYS[suffix]] * 4
        try:
            content = random.choice(ways)(content, random)
        except (ValueError, KeyError, RecursionError, struct.error):
            content = _bytes(content, random)  # it is too broken for anything else
    return content


def _bytes(content: bytes, random: Random) -> bytes:
    """Cut, flip, splice, repeat or insert bytes, or replace a number."""
    at = random.randint(0, len(content))
    other = random.randint(0, len(content))
    start, end = min(at, other), max(at, other)
    near = content[at : at + 8]
    ways: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[:at] + bytes([random.randint(0, 255)]) + content[at + 1 :],
        lambda: content[:start] + content[end:],
        lambda: content[:end] + content[start:],
        lambda: content[:at] + near * random.choice([2, 100]) + content[at:],
        lambda: content[:at] + random.choice(INSERTED) + content[at:],
        lambda: _number(content, random),
    ]
    return random.choice(ways)()


def _number(content: bytes, random: Random) -> bytes:
    found = list(re.finditer(rb"\d+", content[:100_000]))
    if not found:
        return content
    number = random.choice(found)
    return content[: number.start()] + random.choice(NUMBERS) + content[number.end() :]


def _json(content: bytes, random: Random) -> bytes:
    """Replace, remove, rename, repeat or exchange a value of JSON."""
    values = [json.loads(content)]
    places = list(_places(values))
    owner, key = random.choice(places)
    kind = random.randint(0, 5)
    if kind == 0 and owner is not values:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[random.choice(["", "\ud800", "../x", "a" * 300, "__class__"])] = owner.pop(key)
    elif kind == 2 and isinstance(owner, list):
        owner += [owner[key]] * random.choice([1, 500])
    elif kind == 3:
        other, place = random.choice(places)
        if other is not values and owner is not values:
            owner[key] = json.loads(json.dumps(other[place]))
    else:
        owner[key] = random.choice(VALUES)
    return json.dumps(values[0]).encode()


def _places(values: Any) -> Any:
    """The owner and key of each value."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], (list, dict)):
            yield from _places(values[key])


def _json_line(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    lines[number] = _json(lines[number], random)
    return b"\n".join(lines)


def _tensors(content: bytes, random: Random) -> bytes:
    """Change the header of a safetensors file, and its size with it or not."""
    size = int.from_bytes(content[:8], "little")
    header = _json(content[8 : 8 + size], random)
    claimed = random.choice([len(header)] * 5 + [0, 2**40, 2**63])
    return struct.pack("<Q", claimed) + header + content[8 + size :]


_WAYS: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _json,
    ".jsonl": _json_line,
    ".toml": _number,
    ".safetensors": _tensors,
}


def suffix_of(file: str) -> str:
    """What decides how a file is broken."""
    return Path(file).suffix
