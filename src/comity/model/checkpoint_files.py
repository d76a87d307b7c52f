"""Reads the JSON and safetensors files of a checkpoint folder, with checks."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from comity.errors import ComityError, ErrorList

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

Json = TypeVar("Json", dict[str, Any], list[Any])


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises:
        ComityError: the file cannot be read, or contains something else.
    """
    return read_json(path, dict)


def read_json(path: Path, kind: type[Json]) -> Json:
    """Read a JSON file that contains one object (`dict`) or one list.

    Raises:
        ComityError: the file cannot be read, or contains something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ComityError(
            f"{path}: cannot be read ({error.strerror}); a checkpoint folder must have this file"
        ) from None
    except UnicodeDecodeError:
        raise ComityError(f"{path}: not UTF-8 text; copy the file again") from None
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ComityError(f"{path}{line}: not valid JSON; copy the file again") from None
    if not isinstance(value, kind):
        what = "object" if kind is dict else "list"
        raise ComityError(f"{path}: not a JSON {what}; copy the file again")
    return value


@dataclass(frozen=True)
class Stored:
    """What a file's header says about a tensor."""

    file: Path
    dtype: str  # in the spelling of safetensors: F32, BF16, I64, ...
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors in model.safetensors, or in the shards that an index lists.

    A context manager, which keeps the files open.

    Raises:
        ComityError: the folder has no weights, a shard is missing, or a file is damaged.
    """

    def __init__(self, folder: Path):
        self.paths = list(_weight_files(folder))
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        self.stored: dict[str, Stored] = {}

    def __enter__(self) -> "TensorFiles":
        try:
            for path in self.paths:
                file = self._stack.enter_context(_open_safetensors(path))
                self._open[path] = file
                for name in file.keys():  # noqa: SIM118 - the handle is not a mapping
                    part = file.get_slice(name)
                    self.stored[name] = Stored(path, part.get_dtype(), tuple(part.get_shape()))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, name: str) -> "Tensor":
        """Read a tensor. Its memory is that of the file: copy it before the file may change."""
        return self._open[self.stored[name].file].get_tensor(name)


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
    elif (folder / INDEX).is_file():
        yield from _shards(folder / INDEX)
    else:
        pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
        reason = f"{pickled[0]} is a pickle, which can run code when loaded" if pickled else ""
        raise ComityError(
            f"{folder}: no {WEIGHTS} ({reason or 'only safetensors can be loaded'}); convert the "
            "weights on a machine you trust with "
            "transformers.AutoModel.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )


def _shards(index: Path) -> list[Path]:
    """The shards that an index lists, which must be in the same folder."""
    files = read_json_object(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ComityError(f'{index}: "weight_map" must map tensors to files; copy the index again')
    errors = ErrorList()
    shards = []
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            errors.add(f'{index}: "{name}" must be a file name only; copy the index again')
        elif not (index.parent / name).is_file():
            errors.add(f"{index}: shard {name} is missing from the folder; copy it there")
        else:
            shards.append(index.parent / name)
    errors.check()
    return shards


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as file:
            pointer = file.read(23) == b"version https://git-lfs"
        what = "a Git LFS pointer" if pointer else "not a complete safetensors file"
        fix = "run git lfs pull" if pointer else "download or copy the file again"
        raise ComityError(f"{path}: {what} ({error}); {fix}") from None
