"""Reads the JSON and safetensors files of a checkpoint folder, with checks."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from comity import files
from comity.errors import ComityError, ErrorList
from comity.files import is_file, is_inside

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LARGEST_WEIGHTS = 128 << 30
"""Bytes of all weight files of a checkpoint, several times those of the largest BERT. A file with
holes can claim more than the disk has, and each file is read once for its digest."""

_PICKLE = "a pickle, which can run code when loaded"
_NOT_LOADED = dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl"), _PICKLE) | {
    ".onnx": "an ONNX graph",
    ".h5": "TensorFlow's format",
    ".msgpack": "Flax's format",
    ".gguf": "a quantised format",
}

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
        value = files.read_json(path)
    except OSError as error:
        raise ComityError(
            f"{path}: cannot be read ({error.strerror}); a checkpoint folder must have this file"
        ) from None
    except UnicodeDecodeError:
        raise ComityError(f"{path}: not UTF-8 text; copy the file again") from None
    except ValueError as error:
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
        self.paths, self._index = _weight_files(folder)
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        self.stored: dict[str, Stored] = {}

    def __enter__(self) -> "TensorFiles":
        try:
            _check_size(self.paths)
            for path in self.paths:
                file = self._stack.enter_context(_open_safetensors(path))
                self._open[path] = file
                for name in file.keys():  # noqa: SIM118 - the handle is not a mapping
                    if self._index.get(name, path) != path and name in self.stored:
                        continue  # a second copy; the index names the first
                    part = file.get_slice(name)
                    self.stored[name] = Stored(path, part.get_dtype(), tuple(part.get_shape()))
            self._check_index()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _check_index(self) -> None:
        """Raise a ComityError if a tensor is not in the shard that the index names."""
        wrong = {
            name: path
            for name, path in self._index.items()
            if name not in self.stored or self.stored[name].file != path
        }
        if not wrong:
            return
        name, path = min(wrong.items())
        where = (
            f"it is in {self.stored[name].file.name}" if name in self.stored else "no shard has it"
        )
        others = f" (and {len(wrong) - 1} other tensors are misplaced)" if len(wrong) > 1 else ""
        raise ComityError(
            f"{path.parent / INDEX}: the tensor {name} should be in {path.name}, but {where}"
            f"{others}; copy the index and all shards of one checkpoint again"
        )

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, name: str) -> "Tensor":
        """Read a tensor. Its memory is that of the file: copy it before the file may change."""
        return self._open[self.stored[name].file].get_tensor(name)


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    """The files with weights, and for shards the file of each tensor by the index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS], {}
    if (folder / INDEX).is_file():
        index = _shards(folder / INDEX)
        return sorted(set(index.values())), index
    for path in (folder / WEIGHTS, folder / INDEX):
        if path.is_symlink():
            raise ComityError(
                f"{path}: is a link to {path.readlink()}, which does not exist; download or copy "
                "the checkpoint again"
            )
    others = [path for path in folder.rglob("*") if path.suffix in _NOT_LOADED]
    if not others:
        raise ComityError(f"{folder}: no {WEIGHTS}; copy the weights there as safetensors")
    other = min(others)
    fix = "use a checkpoint with safetensors"
    if _NOT_LOADED[other.suffix] == _PICKLE:
        fix = (
            "convert the weights on a machine you trust with "
            "transformers.AutoModel.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )
    raise ComityError(
        f"{folder}: no {WEIGHTS}, and {other.relative_to(folder)} is {_NOT_LOADED[other.suffix]}; "
        f"{fix}"
    )


def _check_size(paths: list[Path]) -> None:
    size = sum(path.stat().st_size for path in paths)
    if size > LARGEST_WEIGHTS:
        raise ComityError(
            f"{paths[0].parent}: the weights have {size:,} bytes, and at most {LARGEST_WEIGHTS:,} "
            "are read; use the checkpoint of a BERT"
        )


def _shards(index: Path) -> dict[str, Path]:
    """The shard of each tensor by an index; shards must be in the same folder."""
    shards = read_json_object(index).get("weight_map")
    valid = isinstance(shards, dict) and all(isinstance(name, str) for name in shards.values())
    if not isinstance(shards, dict) or not shards or not valid:
        raise ComityError(f'{index}: "weight_map" must map tensors to files; copy the index again')
    errors = ErrorList()
    for name in sorted(set(shards.values())):
        if Path(name).name != name or not is_inside(name):
            errors.add(f'{index}: "{name}" must be a file name only; copy the index again')
        elif not is_file(index.parent / name):
            errors.add(f"{index}: shard {name} is missing from the folder; copy it there")
    errors.check()
    return {tensor: index.parent / name for tensor, name in shards.items()}


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        with path.open("rb") as file:
            pointer = file.read(23) == b"version https://git-lfs"
        what = "a Git LFS pointer" if pointer else "not a complete safetensors file"
        fix = "run git lfs pull" if pointer else "download or copy the file again"
        raise ComityError(f"{path}: {what} ({error}); {fix}") from None
