"""Files on disk: whether one can be read, in which encoding, and its text line by line."""

import codecs
import io
import itertools
import stat
from collections.abc import Iterator
from pathlib import Path

from comity.errors import ComityError, nearest

HEAD_BYTES = 4096
CHUNK_BYTES = 1 << 16

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
    (b"\x1f\x8b", "is compressed with gzip, not text; unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd, not text; unpack it"),
)


def check_file(path: Path) -> None:
    """Raise `ComityError` unless `path` is a file that can be opened and is not empty."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ComityError(f"{path}: is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ComityError(f"{path}: is not a regular file; save its content to a file first")
        if status.st_size == 0:
            raise ComityError(f"{path}: the file is empty; give a file with rows")
        path.open("rb").close()
    except FileNotFoundError:
        raise ComityError(_not_found(path)) from None
    except (OSError, ValueError) as error:
        raise ComityError(cannot_read(path, error)) from None


def _not_found(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: there is no folder {path.parent}; check the path"
    try:
        beside = [entry.name for entry in itertools.islice(path.parent.iterdir(), 1000)]
    except OSError:
        beside = []
    close = nearest(path.name, beside)
    return f"{path}: there is no such file{close or '; check the path'}"


def cannot_read(path: Path, error: Exception) -> str:
    """The sentence for an error of the operating system."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"{path}: the file cannot be read ({reason}); check its path and its permissions"


def find_encoding(path: Path, declared: str | None) -> str:
    """The codec to read `path` with: the declared one, else by the byte order mark, else UTF-8.

    Raises `ComityError` for an unknown codec, for a file that looks like UTF-16 without a mark, and
    for one that is no text.
    """
    if declared is not None:
        try:
            "a".encode(declared)
        except (LookupError, ValueError):
            close = nearest(declared, ["utf-8", "utf-16", "utf-16-le", "latin-1", "cp1252"])
            raise ComityError(
                f'{path}: encoding = "{declared}" is not the name of a text encoding'
                f"{close or '; utf-8, utf-16-le and cp1252 are such names'}"
            ) from None
        return declared
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(-min(4, path.stat().st_size), io.SEEK_END)
        tail = file.read(4)
    for mark, codec in MARKS:
        if head.startswith(mark):
            return codec
    for mark, reason in NOT_TEXT:
        if head.startswith(mark):
            raise ComityError(f"{path}: {reason}")
    if head.startswith(b"PAR1") and tail == b"PAR1":
        raise ComityError(f"{path}: is a Parquet file; let its name end in .parquet")
    _refuse_unmarked_utf16(path, head)
    return "utf-8"


def _refuse_unmarked_utf16(path: Path, head: bytes) -> None:
    """Zero bytes on one side of the byte pairs: the other side holds Latin letters or line ends.

    A stray zero byte in UTF-8 is only a character, so a few are let through.
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


def text_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of `path` with their ends as written; LF, CRLF and CR each end a line.

    A byte order mark is dropped whatever the encoding. Raises `ComityError` that names line and
    offset of bytes that do not fit the encoding.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield file.readline().removeprefix("\ufeff")
            yield from file
    except UnicodeError:
        raise ComityError(_undecodable(path, encoding)) from None
    except OSError as error:
        raise ComityError(cannot_read(path, error)) from None


def _undecodable(path: Path, encoding: str) -> str:
    """The sentence for bytes that do not fit: only a second look can tell line and offset."""
    name = "UTF-8" if encoding in ("utf-8", "utf-8-sig") else encoding
    advice = f'save it as UTF-8 or set encoding (now "{encoding}", often "cp1252" or "latin-1")'
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset = 1, 0
    with path.open("rb") as file:
        step = CHUNK_BYTES
        while True:
            file.seek(offset)
            chunk = file.read(step)
            before = decoder.getstate()
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                if len(chunk) > 1:
                    # The text before the bad byte is lost with the chunk: go on byte by byte.
                    decoder.setstate(before)
                    step = 1
                    continue
                line += newlines.decode("", final=True).count("\n")
                # What failed is this byte and those before it that were still waiting for it.
                place = offset + len(chunk) - len(error.object)
                return f"{path}:{line}: the byte at offset {place:,} is not {name}; {advice}"
            except UnicodeError:
                break
            line += newlines.decode(text).count("\n")
            offset += len(chunk)
            if not chunk:
                break
    return f"{path}: the file is not {name}; {advice}"
