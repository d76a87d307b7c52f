"""Text files: whether one can be read, in which encoding, and its lines."""

import codecs
import io
import itertools
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comity.errors import ComityError, nearest
from comity.tables.frames import memory_role, not_in_memory
from comity.tables.rows import DELIMITED, JSON_LINES, PARQUET

HEAD_BYTES = 4096
_ESCAPED = re.compile("[\udc80-\udcff]")
CHUNK_BYTES = 1 << 16
LONGEST_LINE = 1 << 30
"""Characters of a line, which is held in memory; an array of JSON may be one line."""

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

NOT_TEXT = (
    (b"PK\x03\x04", "is a zip archive or a spreadsheet, not text; save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel or Word file, not text; save it as CSV"),
    (b"\x1f\x8b", "is compressed with gzip, not text; unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd, not text; unpack it"),
    (b"BZh", "is compressed with bzip2, not text; unpack it"),
    (b"\xfd7zXZ\x00", "is compressed with xz, not text; unpack it"),
    (b"%PDF-", "is a PDF, not text; save its table as CSV"),
    (b"ARROW1", "is a Feather or Arrow file, not text; save it as Parquet"),
    (b"SQLite format 3\x00", "is an SQLite database, not text; export the table as CSV"),
    (b"\x89HDF", "is an HDF5 file, not text; save the table as CSV or Parquet"),
    (b"\x80\x04\x95", "is a Python pickle, which is not read; save the table as CSV or Parquet"),
    (
        b"version https://git-lfs.github.com/spec/",
        "is a pointer of Git LFS and not the data; run git lfs pull",
    ),
    (b"<!DOCTYPE html", "is a web page, as after a failed download; download the file again"),
    (b"<html", "is a web page, as after a failed download; download the file again"),
)
"""How files begin that are given by mistake, and what to do about them."""


def check_file(path: Path) -> None:
    """Raise `ComityError` unless `path` is a regular file that is not empty."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ComityError(_not_found(path)) from None
    except (OSError, ValueError) as error:
        raise ComityError(cannot_read(path, error)) from None
    if stat.S_ISDIR(status.st_mode):
        raise ComityError(f"{path}: is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ComityError(f"{path}: is not a regular file; save its content to a file first")
    if status.st_size == 0:
        raise ComityError(f"{path}: the file is empty; add rows, or name another file")


def _not_found(path: Path) -> str:
    if memory_role(path.name) is not None:
        return not_in_memory(path.name)
    if not path.parent.is_dir():
        return f"{path}: there is no folder {path.parent}; check the path"
    try:
        beside = [p for p in itertools.islice(path.parent.iterdir(), 1000) if _is_like(path, p)]
    except OSError:
        beside = []
    close = nearest(path.name, [entry.name for entry in beside])
    return f"{path}: there is no such file{close or '; check the path'}"


def _is_like(path: Path, other: Path) -> bool:
    """Whether `other` may be meant by `path`: a file of the same kind with a similar name.

    The extension alone makes no name similar.
    """
    if path.suffix.lower() == other.suffix.lower():
        similar = bool(nearest(path.stem, [other.stem]))
    else:
        similar = (
            path.stem == other.stem and other.suffix.lower() in DELIMITED + JSON_LINES + PARQUET
        )
    return similar and other.is_file()


def cannot_read(path: Path, error: Exception) -> str:
    """The message for an error of the operating system."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"{path}: the file cannot be read ({reason}); check its path and its permissions"


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes. Raises `ComityError` where that is not possible."""
    check_file(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ComityError(cannot_read(path, error)) from None
    with file:
        yield file


@contextmanager
def open_text(path: Path, encoding: str | None, lenient: bool = False) -> Iterator["TextFile"]:
    """Open a text file once, to read its lines as often as needed.

    The encoding is the given one, else that of the byte order mark, else UTF-8. Raises
    `ComityError` where the file cannot be opened, for an unknown encoding, for a file that looks
    like UTF-16 without a mark, and for one that is not text. See `TextFile` for `lenient`.
    """
    with open_bytes(path) as file:
        yield TextFile(path, file, _find_encoding(path, file, encoding), lenient)


class TextFile:
    """An open text file.

    If it is `lenient`, a byte that does not fit an encoding such as UTF-8 is no error of the file:
    lines hold it as half of a surrogate pair, and `undecoded` finds it.
    """

    def __init__(self, path: Path, file: io.BufferedReader, encoding: str, lenient: bool = False):
        self.path = path
        self.encoding = encoding
        self.lenient = lenient
        self._file = file

    def lines(self) -> Iterator[str]:
        """All lines with their ends as written; LF, CRLF and CR each end a line.

        A byte order mark is dropped whatever the encoding. Only one iterator may be in use at a
        time. Raises `ComityError` with line and offset of bytes that do not fit the encoding.
        """
        self._file.seek(0)
        handler = "surrogateescape" if self.lenient else "strict"
        text = io.TextIOWrapper(self._file, self.encoding, handler, newline="")
        try:
            first = True
            while line := text.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise ComityError(
                        f"{self.path}: a line has {LONGEST_LINE:,} characters or more; write one "
                        "row on each line"
                    )
                yield line.removeprefix("\ufeff") if first else line
                first = False
        except UnicodeError:
            raise ComityError(self._undecodable()) from None
        except OSError as error:
            raise ComityError(cannot_read(self.path, error)) from None
        finally:
            if not self._file.closed:
                text.detach()  # else the wrapper would close the file

    def undecoded(self, text: str) -> str:
        """What is wrong with a text of a lenient file that has bytes of another encoding, or ""."""
        if text.isascii() or not (found := _ESCAPED.search(text)):
            return ""
        return f"the byte 0x{ord(found[0]) - 0xDC00:02X} is not {self._encoding_name}"

    @property
    def _encoding_name(self) -> str:
        return "UTF-8" if self.encoding in ("utf-8", "utf-8-sig") else self.encoding

    def contains(self, byte: bytes) -> bool:
        """Whether a byte occurs in the file."""
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            if byte in chunk:
                return True
        return False

    def _undecodable(self) -> str:
        """The message for bytes that do not fit; reads again to find their line and offset."""
        name = self._encoding_name
        often = 'often "cp1252" or "latin-1"'
        advice = f'save it as UTF-8, or set encoding ({often}; now "{self.encoding}")'
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        decoder = codecs.getincrementaldecoder(self.encoding)()
        line, offset = 1, 0
        step = CHUNK_BYTES
        while True:
            self._file.seek(offset)
            chunk = self._file.read(step)
            before = decoder.getstate()
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                if len(chunk) > 1:
                    # The text before the bad byte is lost with the chunk: decode byte by byte.
                    decoder.setstate(before)
                    step = 1
                    continue
                line += newlines.decode("", final=True).count("\n")
                # The bytes that failed are this one and those that the decoder still held.
                start = offset + len(chunk) - len(error.object)
                where = f"{self.path}:{line}: the byte 0x{error.object[0]:02X} at offset {start:,}"
                return f"{where} is not {name}; {advice}"
            except UnicodeError:
                break
            line += newlines.decode(text).count("\n")
            offset += len(chunk)
            if not chunk:
                break
        return f"{self.path}: the file is not {name}; {advice}"


def _find_encoding(path: Path, file: io.BufferedReader, declared: str | None) -> str:
    if declared is not None:
        try:
            "a".encode(declared)
        except (LookupError, ValueError):
            close = nearest(declared, ["utf-8", "utf-16", "utf-16-le", "latin-1", "cp1252"])
            raise ComityError(
                f'{path}: encoding = "{declared}" is not the name of a text encoding'
                f"{close or '; use a name such as utf-8, utf-16-le or cp1252'}"
            ) from None
        return declared
    try:
        head = file.read(HEAD_BYTES)
        file.seek(-min(4, path.stat().st_size), io.SEEK_END)
        tail = file.read(4)
    except OSError as error:
        raise ComityError(cannot_read(path, error)) from None
    for mark, codec in MARKS:
        if head.startswith(mark):
            return codec
    refuse_foreign(path, head)
    if head.startswith(b"PAR1") and tail == b"PAR1":
        raise ComityError(f"{path}: is a Parquet file; rename it to end in .parquet")
    _refuse_unmarked_utf16(path, head)
    return "utf-8"


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise `ComityError` if a file begins like one of another kind that is given by mistake."""
    for mark, reason in NOT_TEXT:
        if head[: len(mark)].lower() == mark.lower():
            raise ComityError(f"{path}: {reason}")


def _refuse_unmarked_utf16(path: Path, head: bytes) -> None:
    """Raise where one byte of most pairs is zero, as in UTF-16 text with Latin letters.

    A single zero byte in UTF-8 is only a character, so a few are accepted.
    """
    even, odd = head[0::2].count(0), head[1::2].count(0)
    few, many = sorted((even, odd))
    ends = [b"\n", b"\r"]
    wide_ends = [end + b"\0" if odd > even else b"\0" + end for end in ends]
    mostly_wide = 2 * sum(map(head.count, wide_ends)) > sum(map(head.count, ends))
    if many < 2 or many < 4 * few or not (mostly_wide or many > len(head) / 5):
        return
    codec = "utf-16-le" if odd > even else "utf-16-be"
    raise ComityError(
        f"{path}: looks like UTF-16 without a byte order mark (a zero byte at offset "
        f'{head.index(0)}); set encoding = "{codec}" or save the file as UTF-8'
    )
