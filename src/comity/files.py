"""Atomic writes of files and folders, and SHA-256 digests."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors

from comity.errors import ComityError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it: a crash leaves the old file."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_folder(folder: Path, save: Callable[[Path], None]) -> None:
    """Let `save` fill a temporary folder, add a manifest, then rename it to `folder`.

    A crash leaves the old folder. The manifest holds the size and SHA-256 of every file.

    Raises:
        ComityError: the folder cannot be written, for example because the disk is full.
    """
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save(building)
        files = sorted(file for file in building.rglob("*") if file.is_file())
        manifest = {}
        for file in files:
            manifest[str(file.relative_to(building))] = [file.stat().st_size, sha256_of(file)]
            _sync(file)
        (building / "manifest.json").write_text(json.dumps(manifest))
        _sync(building / "manifest.json")
        building.chmod(0o755)
        old = building.with_name(building.name + "-old")
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        _sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ComityError(
            f"{folder}: cannot be written ({reason}); the previous version is kept; free some "
            "space and continue with --resume"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether every file in the folder's manifest exists with its recorded size and digest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return all(
            (folder / name).stat().st_size == size and sha256_of(folder / name) == digest
            for name, (size, digest) in manifest.items()
        )
    except (OSError, ValueError):
        return False


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
