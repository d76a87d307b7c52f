"""Files and folders written so that a crash leaves the old ones, and their digests."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from comity.errors import ComityError

if TYPE_CHECKING:
    pass


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside its place, then give it its name: a crash leaves the old one."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_folder(folder: Path, save: Any) -> None:
    """Fill a folder beside its place, sync it, add the manifest last, then give it its name."""
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
            f"{folder}: cannot be written ({reason}); what stood there before is kept, make room "
            "and go on with --resume"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether every file of the manifest stands there with its size and content."""
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
