"""Caches a table's rows and token ids on disk, in flat memory-mapped arrays.

A file is read before there is a tokenizer, so that its errors need no encoder. An entry of the
cache holds its rows: labels, lines and a hash of each text, to find leaks. Its key covers the
file's content, the columns and how the file is read. A second entry, whose key also covers the
tokenizer, holds the token ids. Texts are kept only from the reading of a file until they are
tokenised, in a temporary folder.
"""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import unicodedata
import weakref
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from comity.data.packing import TextColumn
from comity.errors import ComityError, ErrorList
from comity.tables.bad_rows import BadRow, BadRows, taken
from comity.tables.findings import Finding
from comity.tables.locations import FramePath, PartsPath
from comity.tables.reader import joined_digest, open_table, table_digest
from comity.tables.rows import JsonNumber, NoValue, Row, Table, TableFormat, Value, as_text

_VERSION = "4"  # raise it when what a cache holds changes
_CHUNK = 4096  # rows read and tokenised at a time
_TEXTS = "texts.jsonl"
_UNREAD = "unread.jsonl"
_NO_TEXTS = "no-texts.jsonl"

_INVISIBLE = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Mn"))
"""Unicode's spaces, control, format and private characters, and accents without a letter."""


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer: its function, the number of its tokens, and what identifies it."""

    encode: Callable[[list[str]], list[list[int]]]
    size: int  # all ids are lower
    fingerprint: str


@dataclass(frozen=True)
class LabelColumn:
    """A label column: its distinct values, and the index of each row's value."""

    values: list[Value]
    codes: NDArray[np.int32]  # [n]


@dataclass(frozen=True)
class TokenTable:
    """The rows of one file, in its order: token ids, lines, hashes of the texts, labels."""

    path: Path
    texts: tuple[TextColumn, ...]  # empty until `TokenTables.tokenised`
    labels: tuple[LabelColumn, ...]
    lines: NDArray[np.int64]  # [n]
    keys: NDArray[np.uint64]  # [n, texts], equal for texts that differ in case and space only
    reading: dict[str, Any]  # how the file was read, see `Table.describe`
    digest: str  # SHA-256 of the file, see `table_digest`
    blank: NDArray[np.bool_] = field(default_factory=lambda: np.empty((0, 0), np.bool_))
    """Which texts `[n, texts]` have no visible character, see `is_blank`."""
    zero_bytes: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Rows that have a zero byte in a text."""
    findings: tuple[Finding, ...] = ()  # what looks wrong in the chosen columns
    source: "TableSource | None" = None  # what the table was read from
    part_digests: tuple[str, ...] = ()  # of a table in several files: the SHA-256 of each
    without_texts: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    """Rows that have something else than a text in a text column, where bad rows are skipped."""
    folder: Path | None = None  # of the entry, which lists bad rows

    def __len__(self) -> int:
        return len(self.lines)

    def unread_rows(self) -> Iterator[BadRow]:
        """What is wrong with each row of the file that could not be read and is not in the table.

        In the order of the file; none unless bad rows are skipped.
        """
        return _bad_rows(self.folder, _UNREAD)

    def rows_without_texts(self) -> Iterator[BadRow]:
        """What is wrong with each of the rows `without_texts`."""
        return _bad_rows(self.folder, _NO_TEXTS)


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
    skip_bad: bool = False  # leave out rows that cannot be used, and list them

    @property
    def columns(self) -> list[str | int]:
        """All columns, texts first."""
        return [*self.texts, *self.labels]

    def texts_of(self, row: Row, errors: ErrorList) -> tuple[str, ...]:
        """The texts of a row of all columns, see `as_text`."""
        values = zip(self.texts, row.values, strict=False)  # labels follow
        return tuple([as_text(self.path, row.line, v, errors, str(c)) for c, v in values])


class TokenTables:
    """Reads tables and tokenises them; each digest, source and text column only once."""

    def __init__(self, errors: ErrorList):
        self._errors = errors
        self._digests: dict[Path, str] = {}
        self._states: dict[Path, tuple[int, int] | None] = {}  # of files, before their digest
        self._tables: dict[TableSource, TokenTable | None] = {}
        self._texts: dict[TableSource, Path] = {}  # of tables that were read, not cached
        self._tokens: dict[TableSource, tuple[TextColumn, ...]] = {}

    def read(self, source: TableSource) -> TokenTable | None:
        """The table without token ids, from the cache, or read and cached now.

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

    def tokenised(self, table: TokenTable, encoder: TextEncoder) -> TokenTable:
        """The table with token ids, from the cache, or tokenised and cached now.

        Raises:
            ComityError: the file has to be read again for its texts, but has changed.
        """
        assert table.source is not None
        if table.source not in self._tokens:
            self._tokens[table.source] = self._tokenise(table, table.source, encoder)
        return replace(table, texts=self._tokens[table.source])

    def _load(self, source: TableSource) -> TokenTable | None:
        parts = ()
        if isinstance(source.path, PartsPath):
            parts = self._part_digests(source.path)
        digest = joined_digest(parts) if parts else self._digest(source.path)
        folder = _entry(_rows_key(source, digest))
        if not _complete(folder):
            built = self._build(source, digest, folder)
            if built is None:
                return None
            folder = built
        return replace(_open_rows(folder, source), part_digests=parts)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._states[path] = _state(path)
            self._digests[path] = table_digest(path)
        return self._digests[path]

    def _check_unchanged(self, path: Path) -> None:
        """Raise `ComityError` if a file has changed since its digest was taken."""
        for file in path.files if isinstance(path, PartsPath) else [path]:
            if _state(file) != self._states[file]:
                raise ComityError(_changed(file))

    def _part_digests(self, path: PartsPath) -> tuple[str, ...]:
        """The digest of each part. Raises `ComityError` with every part that cannot be read."""
        errors, digests = ErrorList(), []
        for file in path.files:
            try:
                digests.append(self._digest(file))
            except ComityError as error:
                errors.extend(error)
        errors.check()
        return tuple(digests)

    def _build(self, source: TableSource, digest: str, folder: Path) -> Path | None:
        """The folder of a new entry with rows, or None if rows could not be read."""
        table = _opened(source)
        building, texts = _new_folder(folder), _new_folder(folder)
        weakref.finalize(self, shutil.rmtree, texts, ignore_errors=True)
        unread, no_texts = ErrorList(self._errors.limit), ErrorList(self._errors.limit)
        with ExitStack() as stack:
            file = stack.enter_context((texts / _TEXTS).open("w", encoding="utf-8"))
            if source.skip_bad:
                lists = [
                    stack.enter_context((building / name).open("w", encoding="utf-8"))
                    for name in (_UNREAD, _NO_TEXTS)
                ]
                unread, no_texts = (BadRows(_lister(own), self._errors.limit) for own in lists)
            writer = _RowWriter(building, source, no_texts)
            writer.write(table.rows(unread), file)
        self._check_unchanged(source.path)
        self._errors.merge(unread)
        self._errors.merge(no_texts)
        if unread:
            shutil.rmtree(building, ignore_errors=True)
            return None
        self._texts[source] = texts
        findings = [asdict(finding) for finding in table.findings()]
        writer.finish({"reading": table.describe(), "digest": digest, "findings": findings})
        return _temporary(building) if no_texts else _publish(building, folder)

    def _tokenise(
        self, table: TokenTable, source: TableSource, encoder: TextEncoder
    ) -> tuple[TextColumn, ...]:
        rows = _rows_key(source, table.digest)
        folder = _entry(_key({"rows": rows, "tokenizer": encoder.fingerprint}))
        if not _complete(folder):
            building = _new_folder(folder)
            chunks = self._chunks(source, table.digest)
            _write_tokens(building, len(source.texts), chunks, encoder)
            folder = _publish(building, folder)
        if source in self._texts:
            shutil.rmtree(self._texts.pop(source), ignore_errors=True)
        return _open_tokens(folder, len(source.texts))

    def _chunks(self, source: TableSource, digest: str) -> Iterator[list[list[str]]]:
        """The texts of some rows at a time, column by column."""
        if source in self._texts:
            with (self._texts[source] / _TEXTS).open(encoding="utf-8") as file:
                yield from map(json.loads, file)
            return
        errors = BadRows(lambda _: None) if source.skip_bad else ErrorList()
        rows = _opened(source).rows(errors)
        while chunk := list(islice(rows, _CHUNK)):
            yield _columns([source.texts_of(row, errors) for row in chunk])
        if errors or table_digest(source.path) != digest:
            raise ComityError(_changed(source.path))


def _state(path: Path) -> tuple[int, int] | None:
    """The size and time of change of a file; None for a table that is not a file."""
    if isinstance(path, FramePath):
        return None
    try:
        status = path.stat()
    except (OSError, ValueError):  # what is wrong is said where the file is opened
        return None
    return status.st_size, status.st_mtime_ns


def _changed(path: Path) -> str:
    return f"{path}: has changed while it was read; start again"


def _rows_key(source: TableSource, digest: str) -> str:
    ending: str | list[str] = source.path.suffix.lower()
    if isinstance(source.path, PartsPath):
        ending = [file.suffix.lower() for file in source.path.files]
    return _key(
        {
            "version": _VERSION,
            "file": digest,
            "ending": ending,
            "texts": source.texts,
            "labels": source.labels,
            "format": asdict(source.format),
            **({"bad rows": "skip"} if source.skip_bad else {}),
        }
    )


def _opened(source: TableSource) -> Table:
    return open_table(source.path, source.format, source.columns, lenient=source.skip_bad)


def _lister(file: TextIO) -> Callable[[BadRow], None]:
    """A function that writes each bad row to a file; of one line only the first entry."""
    last: list[int] = []

    def write(row: BadRow) -> None:
        if last != [row.line]:
            json.dump(row, file)
            file.write("\n")
            last[:] = [row.line]

    return write


def _bad_rows(folder: Path | None, name: str) -> Iterator[BadRow]:
    """The rows that `_lister` wrote."""
    if folder is None or not (folder / name).is_file():
        return
    with (folder / name).open(encoding="utf-8") as file:
        for line in file:
            yield BadRow(*json.loads(line))


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _entry(key: str) -> Path:
    """The folder of an entry of the cache."""
    return cache_folder() / "tokens" / key


def _temporary(folder: Path) -> Path:
    """A folder that is deleted when Python ends."""
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _new_folder(folder: Path) -> Path:
    """A folder to build an entry in: in the cache, or a temporary one if that is not writable."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError:
        return _temporary(Path(tempfile.mkdtemp(prefix="comity-")))


def _publish(building: Path, folder: Path) -> Path:
    """Rename a complete entry to `folder`, and return where it is if that fails."""
    # Renamed before anything is deleted: that could be what another process has just published.
    if _renamed(building, folder):
        return folder
    if _complete(folder):  # another process was faster
        shutil.rmtree(building, ignore_errors=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # it is damaged
    return folder if _renamed(building, folder) or _complete(folder) else building


def _renamed(building: Path, folder: Path) -> bool:
    """Rename a folder, and return whether that worked; it fails if the other one has files."""
    try:
        building.rename(folder)
    except OSError:
        return False
    return True


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "about.json").read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


class _RowWriter:
    """Writes the files of an entry with rows, and their texts to a file of their own."""

    def __init__(self, folder: Path, source: TableSource, errors: ErrorList):
        self.folder = folder
        self.source = source
        self.errors = errors
        self.values: list[dict[str, int]] = [{} for _ in source.labels]
        self.codes = [array("i") for _ in source.labels]
        self.lines = array("q")
        self.keys = array("Q")
        self.blank = array("b")
        self.zero_bytes = array("i")
        self.without_texts = array("i")

    def write(self, rows: Iterator[Row], texts: TextIO) -> None:
        """Add rows; `texts` gets a line for each chunk, a JSON list of the text columns."""
        while chunk := list(islice(rows, _CHUNK)):
            of_rows = []
            for row in chunk:
                before = taken(self.errors)
                of_rows.append(self.source.texts_of(row, self.errors))
                if taken(self.errors) > before:
                    self.without_texts.append(len(self.lines))
                self._add(row, of_rows[-1])
            json.dump(_columns(of_rows), texts, ensure_ascii=False)
            texts.write("\n")

    def _add(self, row: Row, texts: tuple[str, ...]) -> None:
        if any("\0" in text for text in texts):
            self.zero_bytes.append(len(self.lines))
        self.lines.append(row.line)
        self.keys.extend(map(text_key, texts))
        self.blank.extend(map(is_blank, texts))
        labels = row.values[len(texts) :]
        for known, codes, value in zip(self.values, self.codes, labels, strict=True):
            codes.append(known.setdefault(json.dumps(_plain(value)), len(known)))

    def finish(self, about: dict[str, Any]) -> None:
        for number, codes in enumerate(self.codes):
            np.save(self.folder / f"codes-{number}.npy", np.frombuffer(codes, np.int32))
            values = [json.loads(value) for value in self.values[number]]
            (self.folder / f"values-{number}.json").write_text(json.dumps(values))
        np.save(self.folder / "lines.npy", np.frombuffer(self.lines, np.int64))
        np.save(self.folder / "zero-bytes.npy", np.frombuffer(self.zero_bytes, np.int32))
        if self.source.skip_bad:
            without = np.frombuffer(self.without_texts, np.int32)
            np.save(self.folder / "without-texts.npy", without)
        for name, values, kind in (("keys", self.keys, np.uint64), ("blank", self.blank, np.bool_)):
            columns = np.frombuffer(values, kind).reshape(-1, len(self.source.texts))
            np.save(self.folder / f"{name}.npy", columns)
        _write_about(self.folder, about)


def _columns(rows: list[tuple[str, ...]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _write_tokens(
    folder: Path, columns: int, chunks: Iterator[list[list[str]]], encoder: TextEncoder
) -> None:
    """Write the files of an entry with token ids."""
    kind = np.uint16 if encoder.size <= 1 << 16 else np.int32
    offsets = [array("q", [0]) for _ in range(columns)]
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"ids-{n}").open("wb")) for n in range(columns)]
        for chunk in chunks:
            for own, file, texts in zip(offsets, files, chunk, strict=True):
                for ids in encoder.encode(texts):
                    own.append(own[-1] + len(ids))
                    file.write(np.asarray(ids, dtype=kind).tobytes())
    for number, own in enumerate(offsets):
        np.save(folder / f"offsets-{number}.npy", np.frombuffer(own, np.int64))
    _write_about(folder, {"type": np.dtype(kind).name})


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    """Write the last file of an entry, which has the sizes of the others."""
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / "about.json").write_text(json.dumps({**about, "sizes": sizes}))


def _array(folder: Path, name: str) -> NDArray:
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def _open_rows(folder: Path, source: TableSource) -> TokenTable:
    about = json.loads((folder / "about.json").read_text())
    labels = [
        LabelColumn(_values(folder / f"values-{n}.json"), _array(folder, f"codes-{n}"))
        for n in range(len(source.labels))
    ]
    without_texts = np.empty(0, np.int32)
    if source.skip_bad:
        without_texts = _array(folder, "without-texts")
    return TokenTable(
        path=source.path,
        texts=(),
        labels=tuple(labels),
        lines=_array(folder, "lines"),
        keys=_array(folder, "keys"),
        blank=_array(folder, "blank"),
        zero_bytes=_array(folder, "zero-bytes"),
        reading=about["reading"],
        digest=about["digest"],
        findings=tuple(Finding(**finding) for finding in about["findings"]),
        source=source,
        without_texts=without_texts,
        folder=folder,
    )


def _open_tokens(folder: Path, columns: int) -> tuple[TextColumn, ...]:
    kind = json.loads((folder / "about.json").read_text())["type"]
    return tuple(
        TextColumn(_ids(folder / f"ids-{n}", kind), _array(folder, f"offsets-{n}"))
        for n in range(columns)
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


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: BERT's tokenizer then has no token for it.

    >>> is_blank(" \\t"), is_blank("\\u200b\\ufffd"), is_blank("."), is_blank("\\u00e9")
    (True, True, False, False)
    """
    return all(c == "\ufffd" or unicodedata.category(c) in _INVISIBLE for c in text)


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
