"""The files of a checkpoint folder: its JSON and its safetensors, each fault one sentence."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from comity.errors import ComityError, ErrorList

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; anything else is a ComityError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ComityError(
            f"{path}: the file cannot be read ({error.strerror}); a checkpoint folder needs it"
        ) from None
    except UnicodeDecodeError:
        raise ComityError(f"{path}: the file is not UTF-8 text; copy it again") from None
    except (json.JSONDecodeError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ComityError(f"{path}{line}: the file is not valid JSON; copy it again") from None
    if not isinstance(value, dict):
        raise ComityError(f"{path}: the file does not hold one JSON object; copy it again")
    return value


@dataclass(frozen=True)
class Stored:
    """A tensor as its file declares it, before it is read."""

    file: Path
    dtype: str  # as safetensors spells it: F32, BF16, I64, ...
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a folder, from one model.safetensors or from the shards of an index.

    Used as a context manager, as the files stay open in between. Raises ComityError where there
    are none, where a shard is missing or does not hold what the index says, and where a file is
    not a whole safetensors file.
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
                for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                    part = file.get_slice(name)
                    self.stored[name] = Stored(path, part.get_dtype(), tuple(part.get_shape()))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, name: str) -> "Tensor":
        """One tensor, in memory of the file's own: copy it before the file may change."""
        return self._open[self.stored[name].file].get_tensor(name)


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
    elif (folder / INDEX).is_file():
        yield from _shards(folder / INDEX)
    else:
        pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
        reason = f"{pickled[0]} is a pickle, which can run code when it is read" if pickled else ""
        raise ComityError(
            f"{folder}: there is no {WEIGHTS} ({reason or 'only safetensors are read'}); convert "
            "the weights in a place you trust with "
            "transformers.AutoModel.from_pretrained(folder)"
            ".save_pretrained(folder, safe_serialization=True)"
        )


def _shards(index: Path) -> list[Path]:
    """The shards that an index names, each of which must stand beside it."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ComityError(f'{index}: "weight_map" does not map tensors to files; copy it again')
    errors = ErrorList()
    shards = []
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            errors.add(f"{index}: shard {name} is not a plain file name; copy the index again")
        elif not (index.parent / name).is_file():
            errors.add(f"{index}: shard {name} is missing from its folder; copy it there")
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
        what = "a Git LFS pointer" if pointer else "not a whole safetensors file"
        cure = "fetch it with git lfs pull" if pointer else "download or copy it again"
        raise ComityError(f"{path}: the file is {what} ({error}); {cure}") from None
