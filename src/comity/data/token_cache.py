"""A table's texts as token ids in flat arrays on disk, made once and kept by what they came from.

A second start reads nothing but arrays: the cache's key covers the file's bytes, the columns, how
the file is read, and the tokenizer. Texts are not kept; what leakage needs is a hash of each.
"""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.packing import TextColumn
from comity.errors import ErrorList
from comity.tables.reader import describe, read_table
from comity.tables.rows import NoValue, Row, TableFormat, Value

_VERSION = "1"  # raise it when what a cache holds changes
_CHUNK = 4096  # rows tokenised at a time


@dataclass(frozen=True)
class TextEncoder:
    """What turns texts into token ids, and what identifies it."""

    encode: Callable[[list[str]], list[list[int]]]
    size: int  # ids are below this
    fingerprint: str


@dataclass(frozen=True)
class LabelColumn:
    """A label column: the distinct values that stand in it, and each row's place among them."""

    values: list[Value]
    codes: NDArray[np.int32]  # [n]


@dataclass(frozen=True)
class TokenTable:
    """The rows of one file, in its order: token ids, lines, hashes of the texts, raw labels."""

    path: Path
    texts: tuple[TextColumn, ...]
    labels: tuple[LabelColumn, ...]
    lines: NDArray[np.int64]  # [n]
    keys: NDArray[np.uint64]  # [n, texts], equal for texts that differ in case and space only
    reading: dict[str, Any]  # how the file was read: delimiter, encoding, quoting
    digest: str  # SHA-256 of the file

    def __len__(self) -> int:
        return len(self.lines)


def cache_folder() -> Path:
    """Where token ids are kept: `COMITY_CACHE`, else the user's cache folder."""
    if os.environ.get("COMITY_CACHE"):
        return Path(os.environ["COMITY_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "comity"


def token_table(
    path: Path,
    texts: Sequence[str | int],
    labels: Sequence[str | int],
    format: TableFormat,
    encoder: TextEncoder,
    errors: ErrorList,
) -> TokenTable | None:
    """The table at `path`, from the cache or read, tokenised and cached now.

    A file with errors (they are in `errors`) is never cached. None where rows could not be read;
    where only texts were wrong the table is there, so that its labels can be looked at too.
    """
    digest = _digest(path)
    if digest is None:
        for _ in read_table(path, [*texts, *labels], format, errors):
            break  # the reader finds the words for what is wrong with the path
        return None
    about = {
        "version": _VERSION,
        "file": digest,
        "ending": path.suffix.lower(),
        "texts": list(texts),
        "labels": list(labels),
        "format": asdict(format),
        "tokenizer": encoder.fingerprint,
    }
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    folder = cache_folder() / "tokens" / key
    if not _complete(folder):
        building = _new_folder(folder)
        unread, no_texts = ErrorList(errors.limit), ErrorList(errors.limit)
        writer = _Writer(building, len(texts), len(labels), encoder, path, no_texts)
        writer.write(read_table(path, [*texts, *labels], format, unread))
        errors.merge(unread)
        errors.merge(no_texts)
        if unread:
            shutil.rmtree(building, ignore_errors=True)
            return None
        reading = describe(path, format, [*texts, *labels])
        writer.finish({"reading": reading, "digest": digest})
        if no_texts:
            atexit.register(shutil.rmtree, building, ignore_errors=True)
            folder = building
        else:
            folder = _publish(building, folder)
    return _open(folder, path, len(texts), len(labels))


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def _new_folder(folder: Path) -> Path:
    """A folder to build an entry in; a cache that cannot be written costs time, not the run."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError:
        building = tempfile.mkdtemp(prefix="comity-")
        atexit.register(shutil.rmtree, building, ignore_errors=True)
        return Path(building)


def _publish(building: Path, folder: Path) -> Path:
    """Give a complete entry its name; it is used where it stands if that cannot be done."""
    if _complete(folder):  # another process was quicker
        shutil.rmtree(building, ignore_errors=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # what stands there is damaged
    try:
        building.rename(folder)
        return folder
    except OSError:
        return folder if _complete(folder) else building


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "about.json").read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


class _Writer:
    """Tokenises rows chunk by chunk into the files of a cache entry."""

    def __init__(
        self,
        folder: Path,
        texts: int,
        labels: int,
        encoder: TextEncoder,
        path: Path,
        errors: ErrorList,
    ):
        self.folder = folder
        self.encoder = encoder
        self.path = path
        self.errors = errors
        self.type = np.uint16 if encoder.size <= 1 << 16 else np.int32
        self.offsets = [array("q", [0]) for _ in range(texts)]
        self.values: list[dict[str, int]] = [{} for _ in range(labels)]
        self.codes = [array("i") for _ in range(labels)]
        self.lines = array("q")
        self.keys = array("Q")

    def write(self, rows: Iterator[Row]) -> None:
        files = [(self.folder / f"ids-{n}").open("wb") for n in range(len(self.offsets))]
        try:
            while chunk := list(islice(rows, _CHUNK)):
                self._write_chunk(chunk, files)
        finally:
            for file in files:
                file.close()

    def _write_chunk(self, chunk: list[Row], files: list[Any]) -> None:
        columns = len(self.offsets)
        texts = [[self._text(row, column) for row in chunk] for column in range(columns)]
        for offsets, file, column in zip(self.offsets, files, texts, strict=True):
            for ids in self.encoder.encode(column):
                offsets.append(offsets[-1] + len(ids))
                file.write(np.asarray(ids, dtype=self.type).tobytes())
        for number, row in enumerate(chunk):
            self.lines.append(row.line)
            self.keys.extend(text_key(column[number]) for column in texts)
            for place, value in enumerate(row.values[columns:]):
                plain = {"reason": value.reason} if isinstance(value, NoValue) else value
                written = json.dumps(plain)
                known = self.values[place]
                self.codes[place].append(known.setdefault(written, len(known)))

    def _text(self, row: Row, column: int) -> str:
        value = row.values[column]
        if isinstance(value, str):
            return value
        if isinstance(value, NoValue):
            self.errors.add(f"{self.path}:{row.line}: {value.reason}; give the row a text")
        elif isinstance(value, list):
            self.errors.add(f"{self.path}:{row.line}: the text is a list; write it as one text")
        return ""  # a null is an empty text

    def finish(self, about: dict[str, Any]) -> None:
        for number, offsets in enumerate(self.offsets):
            np.save(self.folder / f"offsets-{number}.npy", np.frombuffer(offsets, np.int64))
        for number, codes in enumerate(self.codes):
            np.save(self.folder / f"codes-{number}.npy", np.frombuffer(codes, np.int32))
            values = [json.loads(value) for value in self.values[number]]
            (self.folder / f"values-{number}.json").write_text(json.dumps(values))
        np.save(self.folder / "lines.npy", np.frombuffer(self.lines, np.int64))
        keys = np.frombuffer(self.keys, np.uint64).reshape(-1, len(self.offsets))
        np.save(self.folder / "keys.npy", keys)
        sizes = {file.name: file.stat().st_size for file in self.folder.iterdir()}
        about = {**about, "type": np.dtype(self.type).name, "sizes": sizes}
        (self.folder / "about.json").write_text(json.dumps(about))


def _open(folder: Path, path: Path, texts: int, labels: int) -> TokenTable:
    about = json.loads((folder / "about.json").read_text())

    def load(name: str) -> NDArray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return TokenTable(
        path=path,
        texts=tuple(
            TextColumn(_ids(folder / f"ids-{n}", about["type"]), load(f"offsets-{n}"))
            for n in range(texts)
        ),
        labels=tuple(
            LabelColumn(_values(folder / f"values-{n}.json"), load(f"codes-{n}"))
            for n in range(labels)
        ),
        lines=load("lines"),
        keys=load("keys"),
        reading=about["reading"],
        digest=about["digest"],
    )


def _ids(path: Path, type: str) -> NDArray:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.empty(0, dtype=type)
    return np.memmap(path, dtype=type, mode="r")


def _values(path: Path) -> list[Value]:
    raw = json.loads(path.read_text())
    return [NoValue(value["reason"]) if isinstance(value, dict) else value for value in raw]


def text_key(text: str) -> int:
    """64 bits that are equal for texts that differ in case and white space only.

    >>> text_key("A  cat") == text_key(" a cat "), text_key("a cat") == text_key("a cap")
    (True, False)
    """
    normal = " ".join(text.casefold().split())
    digest = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def token_counts(table: TokenTable, rows: NDArray[np.integer]) -> NDArray[np.int32]:
    """Tokens `[n, texts]` of each text of the given rows, special tokens not counted."""
    whole = [np.diff(text.offsets).astype(np.int32) for text in table.texts]
    return np.stack([lengths[rows] for lengths in whole], axis=1)
