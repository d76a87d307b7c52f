"""Atomic writes of files and folders, SHA-256 digests, and checks of what is read."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors

from comity.errors import ComityError

MANIFEST = "manifest.json"
_DIGEST = "sha256"  # the key of a record's digest of its other keys

LARGEST_JSON = 128 << 20
"""Bytes of a JSON file, whose values may take many times the memory of the file. The largest real
ones are those of tokenizers."""

LARGEST_TEXT = 1 << 30
"""Bytes of other files that are read as a whole."""


class WriteError(ComityError):
    """A folder cannot be written, for example because the disk is full."""

    def __init__(self, where: Path, reason: str, fix: str):
        super().__init__(f"{where}: cannot be written ({reason}); {fix}")
        self.where = where
        self.reason = reason


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it: a crash leaves the old file.

    Raises:
        OSError: the file cannot be written; it names the file, and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Add text to the end of a file. If not all of it can be written, none of it stays.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    try:
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            data = text.encode()
            written = 0
            try:
                while written < len(data):
                    written += file.write(data[written:])
            except OSError:
                if written:
                    file.truncate(before)
                raise
    except OSError as error:
        error.filename = str(path)
        raise


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a file that may come from someone else.

    A pipe or a device has no end or blocks, so it is not opened.

    Args:
        path: the file.
        largest: the most bytes that it may have.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))
        return file.read()


def read_text(path: Path, largest: int = LARGEST_TEXT, encoding: str = "utf-8") -> str:
    """The text of a file that may come from someone else, see `read_bytes`; line ends become LF.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it is not in the encoding.
    """
    text = read_bytes(path, largest).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file in UTF-8 that may come from someone else.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is not UTF-8 or not JSON, a number in it has thousands of digits, or it is
            nested too deeply.
    """
    try:
        return json.loads(read_bytes(path, LARGEST_JSON).decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def nesting(value: Any) -> int:
    """How many lists and dicts of a value are inside one another; it does not recurse.

    >>> nesting(1), nesting([1, {"a": []}])
    (0, 3)
    """
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none whose name is too long or not a name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_inside(name: str) -> bool:
    """Whether a relative path in a file from someone else stays in the folder that it is for.

    >>> is_inside("encoder/config.json"), is_inside("../config.json"), is_inside("/etc/hosts")
    (True, False, False)
    """
    path = PurePosixPath(name.replace("\\", "/"))
    drive = PureWindowsPath(name).drive
    return not (path.is_absolute() or drive or ".." in path.parts or "\0" in name or not path.name)


def path_text(path: str | Path) -> str:
    """A path as text for a file in UTF-8, whatever encoding the locale has.

    Python decodes the names of files with the encoding of the locale. With LC_ALL=C and without
    UTF-8 mode, each byte of a name outside ASCII becomes half of a surrogate pair, which no file in
    UTF-8 can hold.
    """
    try:
        return os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeError:  # no file can have this name
        return str(path)


def path_of(text: str) -> Path:
    """The path whose text is `text`; the opposite of `path_text`."""
    try:
        return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))
    except UnicodeError:
        return Path(text)


def is_utf8(text: str) -> bool:
    """Whether a file in UTF-8 can hold the text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


# --- records --------------------------------------------------------------------------------------


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its own digest, so that `read_record` notices a change."""
    sealed = {**values, _DIGEST: _digest_of(values)}
    write_atomically(path, json.dumps(sealed, indent=2) + "\n")


def read_record(path: Path) -> Any:
    """Read what `write_record` wrote, without the digest.

    A file without a digest (written by an earlier version) is read as it is.

    Raises:
        ComityError: the file cannot be read, is not JSON, or has changed since it was written.
    """
    digest = own = None
    try:
        values = read_json(path)
        if isinstance(values, dict) and _DIGEST in values:
            digest = values.pop(_DIGEST)
            own = _digest_of(values)
    except (OSError, ValueError, RecursionError):
        raise ComityError(f"{path}: cannot be read; the run is damaged, train it again") from None
    if digest != own:
        raise ComityError(
            f"{path}: has changed since it was written; restore the file, or train the run again"
        )
    return values


def _digest_of(values: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(values))  # as a reader gets it: lists for tuples, text keys
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


# --- folders --------------------------------------------------------------------------------------


def write_folder(
    folder: Path, save: Callable[[Path], None], run: str | None = None, fix: str = "free some space"
) -> None:
    """Write a folder as `replace_folder` does, with a manifest.

    The manifest holds the id of the run and, for every file, its size and SHA-256; `damage` checks
    it.

    Args:
        folder: the folder to write.
        save: writes the files into the folder that it is given.
        run: the id of the run that the folder belongs to.
        fix: what an error tells the user to do.

    Raises:
        WriteError: the folder cannot be written, for example because the disk is full.
    """

    def save_with_manifest(building: Path) -> None:
        save(building)
        files = {}
        for file in files_in(building):
            name = file.relative_to(building).as_posix()
            files[name] = [file.stat().st_size, sha256_of(file)]
        write_record(building / MANIFEST, {"run": run, "files": files})

    replace_folder(folder, save_with_manifest, fix)


def replace_folder(
    folder: Path, save: Callable[[Path], None], fix: str = "free some space"
) -> None:
    """Let `save` fill a temporary folder, then rename it to `folder`. A crash leaves the old one.

    Args:
        folder: the folder to write.
        save: writes the files into the folder that it is given.
        fix: what an error tells the user to do.

    Raises:
        WriteError: the folder cannot be written, for example because the disk is full.
    """
    building = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        save(building)
        for file in files_in(building):
            _sync(file)
        building.chmod(0o755)
        old = building.with_name(building.name + "-old")
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        _sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WriteError(folder, str(reason), fix) from None
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def give_same_permissions(folder: Path, name: str) -> None:
    """Give every file of a folder the permissions of the file `name`.

    The library safetensors writes files that only their owner can read.
    """
    mode = (folder / name).stat().st_mode
    for file in files_in(folder):
        file.chmod(mode)


def check_free(folder: Path) -> None:
    """Raise a ComityError if a folder to write is not empty, or its name cannot be used."""
    try:
        os.fsencode(folder).decode("utf-8")
    except UnicodeError:  # safetensors takes UTF-8 only
        raise ComityError(
            f"{folder}: the name of the folder is not UTF-8; choose another one"
        ) from None
    if folder.exists() and not folder.is_dir():
        raise ComityError(f"{folder}: is a file; choose a folder")
    if folder.is_dir() and (found := sorted(folder.iterdir())):
        raise ComityError(
            f"{folder}: is not empty (it has {found[0].name}); choose a new or empty folder"
        )


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder. Unlike `shutil.copytree`, the first error ends it and is raised as it is."""
    target.mkdir(parents=True, exist_ok=True)
    for file in files_in(source):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, sorted by path."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def damage(folder: Path, run: str | None = None, only: str | None = None) -> str | None:
    """What is wrong with a folder that `write_folder` wrote, or None.

    Reads every file once: about a second for each gigabyte.

    Args:
        folder: the folder.
        run: the id of the run that the folder must belong to.
        only: the one file to check.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return f"it has no {MANIFEST}"
    try:
        manifest = read_record(path)
        files = manifest.get("files", manifest)  # earlier versions wrote the files alone
        owner = manifest.get("run")
        for name, (size, digest) in files.items():
            if not is_inside(name):
                return f"its {MANIFEST} names {name}, which is not in the folder"
            if only in (None, name) and (wrong := _damage_of(folder / name, name, size, digest)):
                return wrong
    except (ComityError, AttributeError, TypeError, ValueError):
        return f"its {MANIFEST} is damaged"
    if owner != run:
        return "it belongs to another run"
    return None if only is None or only in files else f"its {MANIFEST} does not list {only}"


def _damage_of(path: Path, name: str, size: int, digest: str) -> str | None:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{name} is not a regular file"
        if found.st_size != size:
            return f"{name} has {found.st_size:,} bytes instead of {size:,}"
        if sha256_of(path) != digest:
            return f"{name} has changed since it was written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems cannot sync a folder
        pass
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
