"""Caches a table's token ids and labels on disk, in flat memory-mapped arrays.

The cache key covers the file's content, the columns, how the file is read, and the tokenizer, so a
second start reads arrays only. Texts are not kept, only a hash of each, to find leaks.
"""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.data.packing import TextColumn
from comity.errors import ComityError, ErrorList
from comity.tables.findings import Finding
from comity.tables.frames import FramePath, FrameTable
from comity.tables.reader import open_table
from comity.tables.rows import JsonNumber, NoValue, Row, TableFormat, Value, as_text
from comity.tables.text_files import cannot_read, open_bytes

_VERSION = "3"  # raise it when what a cache holds changes
_CHUNK = 4096  # rows tokenised at a time


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer: its function, the number of its tokens, and what identifies it."""

    encode: Callable[[list[str]], list[list[int]]]
    size: int  # all ids are lower
    fingerprint: str | None  # None: nothing is cached


@dataclass(frozen=True)
class LabelColumn:
    """A label column: its distinct values, and the index of each row's value."""

    values: list[Value]
    codes: NDArray[np.int32]  # [n]


@dataclass(frozen=True)
class TokenTable:
    """The rows of one file, in its order: token ids, lines, hashes of the texts, labels."""

    path: Path
    texts: tuple[TextColumn, ...]
    labels: tuple[LabelColumn, ...]
    lines: NDArray[np.int64]  # [n]
    keys: NDArray[np.uint64]  # [n, texts], equal for texts that differ in case and space only
    reading: dict[str, Any]  # how the file was read, see `Table.describe`
    digest: str  # SHA-256 of the file
    zero_bytes: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Rows that have a zero byte in a text."""
    findings: tuple[Finding, ...] = ()  # what looks wrong in the chosen columns

    def __len__(self) -> int:
        return len(self.lines)


def cache_folder() -> Path:
    """The folder of cached token ids: `COMITY_CACHE`, else the user's cache folder."""
    if os.environ.get("COMITY_CACHE"):
        return Path(os.environ["COMITY_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "comity"
    try:
        return Path.home() / ".cache" / "comity"
    except RuntimeError:  # no HOME, and the user is not in the password file
        return Path(os.devnull) / "comity"  # cannot exist, so nothing is kept


@dataclass(frozen=True)
class TableSource:
    """A file, the columns to read from it, and how to read it."""

    path: Path
    texts: tuple[str | int, ...]
    labels: tuple[str | int, ...]
    format: TableFormat

    @property
    def columns(self) -> list[str | int]:
        """All columns, texts first."""
        return [*self.texts, *self.labels]


class TokenTables:
    """Reads tables as token ids, and each file's digest and each source only once."""

    def __init__(self, encoder: TextEncoder, errors: ErrorList):
        self._encoder = encoder
        self._errors = errors
        self._digests: dict[Path, str] = {}
        self._tables: dict[TableSource, TokenTable | None] = {}

    def read(self, source: TableSource) -> TokenTable | None:
        """The table, from the cache, or read, tokenised and cached now.

        Errors of the file are added to the error list, and such a file is never cached. None if
        rows could not be read; if only texts are wrong the table is returned, so that the caller
        can check its labels too.
        """
        if source not in self._tables:
            try:
                self._tables[source] = self._load(source)
            except ComityError as error:
                self._errors.extend(error)
                self._tables[source] = None
        return self._tables[source]

    def _load(self, source: TableSource) -> TokenTable | None:
        if source.path not in self._digests:
            self._digests[source.path] = _digest(source.path)
        digest = self._digests[source.path]
        folder = cache_folder() / "tokens" / _cache_key(source, digest, self._encoder)
        if not _complete(folder):
            built = self._build(source, digest, folder)
            if built is None:
                return None
            folder = built
        return _open(folder, source)

    def _build(self, source: TableSource, digest: str, folder: Path) -> Path | None:
        """The folder of a new cache entry, or None if rows could not be read."""
        table = open_table(source.path, source.format, source.columns)
        building = _new_folder(folder)
        unread, no_texts = ErrorList(self._errors.limit), ErrorList(self._errors.limit)
        writer = _Writer(building, source, self._encoder, no_texts)
        writer.write(table.rows(unread))
        self._errors.merge(unread)
        self._errors.merge(no_texts)
        if unread:
            shutil.rmtree(building, ignore_errors=True)
            return None
        findings = [asdict(finding) for finding in table.findings()]
        writer.finish({"reading": table.describe(), "digest": digest, "findings": findings})
        if no_texts or self._encoder.fingerprint is None:  # not cached
            atexit.register(shutil.rmtree, building, ignore_errors=True)
            return building
        return _publish(building, folder)


def _digest(path: Path) -> str:
    """The SHA-256 of a file or table. Raises `ComityError` where it cannot be read."""
    if isinstance(path, FramePath):
        return FrameTable(path, path.frame).digest
    with open_bytes(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ComityError(cannot_read(path, error)) from None


def _cache_key(source: TableSource, digest: str, encoder: TextEncoder) -> str:
    about = {
        "version": _VERSION,
        "file": digest,
        "ending": source.path.suffix.lower(),
        "texts": source.texts,
        "labels": source.labels,
        "format": asdict(source.format),
        "tokenizer": encoder.fingerprint,
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _new_folder(folder: Path) -> Path:
    """A folder to build an entry in: in the cache, or a temporary one if that is not writable."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError:
        building = tempfile.mkdtemp(prefix="comity-")
        atexit.register(shutil.rmtree, building, ignore_errors=True)
        return Path(building)


def _publish(building: Path, folder: Path) -> Path:
    """Rename a complete entry to `folder`, and return where it is if that fails."""
    if _complete(folder):  # another process was faster
        shutil.rmtree(building, ignore_errors=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # it is damaged
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
    """Tokenises rows in chunks and writes the files of a cache entry."""

    def __init__(self, folder: Path, source: TableSource, encoder: TextEncoder, errors: ErrorList):
        self.folder = folder
        self.encoder = encoder
        self.path = source.path
        self.errors = errors
        self.type = np.uint16 if encoder.size <= 1 << 16 else np.int32
        self.offsets = [array("q", [0]) for _ in source.texts]
        self.values: list[dict[str, int]] = [{} for _ in source.labels]
        self.codes = [array("i") for _ in source.labels]
        self.lines = array("q")
        self.keys = array("Q")
        self.zero_bytes = array("i")

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
        texts = [
            [as_text(self.path, row.line, row.values[column], self.errors) for row in chunk]
            for column in range(columns)
        ]
        for offsets, file, column in zip(self.offsets, files, texts, strict=True):
            for ids in self.encoder.encode(column):
                offsets.append(offsets[-1] + len(ids))
                file.write(np.asarray(ids, dtype=self.type).tobytes())
        for number, row in enumerate(chunk):
            if any("\0" in column[number] for column in texts):
                self.zero_bytes.append(len(self.lines))
            self.lines.append(row.line)
            self.keys.extend(text_key(column[number]) for column in texts)
            for known, codes, value in zip(
                self.values, self.codes, row.values[columns:], strict=True
            ):
                codes.append(known.setdefault(json.dumps(_plain(value)), len(known)))

    def finish(self, about: dict[str, Any]) -> None:
        for number, offsets in enumerate(self.offsets):
            np.save(self.folder / f"offsets-{number}.npy", np.frombuffer(offsets, np.int64))
        for number, codes in enumerate(self.codes):
            np.save(self.folder / f"codes-{number}.npy", np.frombuffer(codes, np.int32))
            values = [json.loads(value) for value in self.values[number]]
            (self.folder / f"values-{number}.json").write_text(json.dumps(values))
        np.save(self.folder / "lines.npy", np.frombuffer(self.lines, np.int64))
        np.save(self.folder / "zero-bytes.npy", np.frombuffer(self.zero_bytes, np.int32))
        keys = np.frombuffer(self.keys, np.uint64).reshape(-1, len(self.offsets))
        np.save(self.folder / "keys.npy", keys)
        sizes = {file.name: file.stat().st_size for file in self.folder.iterdir()}
        about = {**about, "type": np.dtype(self.type).name, "sizes": sizes}
        (self.folder / "about.json").write_text(json.dumps(about))


def _open(folder: Path, source: TableSource) -> TokenTable:
    about = json.loads((folder / "about.json").read_text())

    def load(name: str) -> NDArray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return TokenTable(
        path=source.path,
        texts=tuple(
            TextColumn(_ids(folder / f"ids-{n}", about["type"]), load(f"offsets-{n}"))
            for n in range(len(source.texts))
        ),
        labels=tuple(
            LabelColumn(_values(folder / f"values-{n}.json"), load(f"codes-{n}"))
            for n in range(len(source.labels))
        ),
        lines=load("lines"),
        keys=load("keys"),
        zero_bytes=load("zero-bytes"),
        reading=about["reading"],
        digest=about["digest"],
        findings=tuple(Finding(**finding) for finding in about["findings"]),
    )


def _ids(path: Path, type: str) -> NDArray:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=type)
    return np.memmap(path, dtype=type, mode="r")


def _plain(value: Value) -> Any:
    """A value as JSON, from which `_values` makes the same value again."""
    if isinstance(value, NoValue):
        return {"reason": value.reason}
    if isinstance(value, JsonNumber) and "." in value:  # only there a decimal mark matters
        return {"number": value}
    return value


def _values(path: Path) -> list[Value]:
    def value(plain: Any) -> Value:
        if not isinstance(plain, dict):
            return plain
        return JsonNumber(plain["number"]) if "number" in plain else NoValue(plain["reason"])

    return [value(plain) for plain in json.loads(path.read_text())]


def text_key(text: str) -> int:
    """A hash of 64 bits that ignores case and white space.

    >>> text_key("A  cat") == text_key(" a cat "), text_key("a cat") == text_key("a cap")
    (True, False)
    """
    normal = " ".join(text.casefold().split())
    digest = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def among(keys: NDArray, others: NDArray) -> NDArray[np.bool_]:
    """Which of `keys`, of any shape, occur in `others`; `numpy.isin` takes 3 times the memory."""
    if not others.size:
        return np.zeros(keys.shape, dtype=bool)
    ordered = np.sort(others, axis=None)
    positions = np.searchsorted(ordered, keys)
    return ordered[np.minimum(positions, len(ordered) - 1)] == keys


def unknown_counts(table: TokenTable, rows: NDArray[np.integer], unknown: int) -> NDArray[np.int64]:
    """Tokens `[n, texts]` with the id `unknown` in each text of the given rows."""
    counts = []
    for text in table.texts:
        found = np.flatnonzero(np.asarray(text.ids) == unknown)
        of_row = np.searchsorted(text.offsets, found, side="right") - 1
        counts.append(np.bincount(of_row, minlength=len(table))[rows])
    return np.stack(counts, axis=1)


def token_counts(table: TokenTable, rows: NDArray[np.integer]) -> NDArray[np.int32]:
    """Tokens `[n, texts]` of each text of the given rows, without special tokens."""
    whole = [np.diff(text.offsets).astype(np.int32) for text in table.texts]
    return np.stack([lengths[rows] for lengths in whole], axis=1)
