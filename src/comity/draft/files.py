"""Finds out by name which files belong together: training, dev and test files of one table."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

ROLES = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "devel", "development", "val", "valid", "validation", "eval"),
    "test": ("test", "testing", "tst"),
}
"""The words in the names of files, by role."""

_SHARD = re.compile(r"\d{5}|of")
"""Words of names such as train-00000-of-00001.parquet."""

MOST_BESIDE = 1000
"""Files of a folder that are looked at for a dev file."""


@dataclass
class Group:
    """The files of one table."""

    name: str  # a name for tasks on it
    train: Path
    dev: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)


def role_of(path: Path) -> tuple[str | None, str]:
    """The role of a file, and its name without the word for it.

    >>> role_of(Path("sst-train.csv")), role_of(Path("reviews.csv")), role_of(Path("dev.csv"))
    (('train', 'sst'), (None, 'reviews'), ('dev', ''))
    """
    roles = {word: role for role, words in ROLES.items() for word in words}
    words = [word for word in re.split(r"[^\w]|_", path.stem) if word]
    found = [role for word in words if (role := roles.get(word.lower()))]
    rest = [word for word in words if word.lower() not in roles and not _SHARD.fullmatch(word)]
    return (found[0] if found else None), "-".join(rest)


def group_files(files: Sequence[Path]) -> tuple[list[Group], list[Path]]:
    """The groups of some files, and those for which there is no training file.

    A group without a dev or test file gets those that are beside its training file.
    """
    groups: list[Group] = []
    others: list[Path] = []
    for path in files:
        role, key = role_of(path)
        if role in ("dev", "test"):
            others.append(path)
        else:
            groups.append(Group(_task_name(path, key), path))
    left = []
    for path in others:
        role, key = role_of(path)
        alike = [g for g in groups if (g.train.parent, role_of(g.train)[1]) == (path.parent, key)]
        same_kind = [g for g in alike if g.train.suffix == path.suffix]
        for group in (same_kind or alike)[:1]:
            (group.dev if role == "dev" else group.test).append(path)
        left += [] if alike else [path]
    for group in groups:
        key = role_of(group.train)[1]
        beside = _beside(group.train)
        if not group.dev:
            group.dev = [path for path in beside if role_of(path) == ("dev", key)]
        if not group.dev and not group.test:
            group.test = [path for path in beside if role_of(path) == ("test", key)]
    return groups, left


def _beside(path: Path) -> list[Path]:
    """Other files of the same kind in the folder of a file, by name."""
    entries: Iterable[Path] = islice(path.parent.iterdir(), MOST_BESIDE)
    same = (entry for entry in entries if entry.suffix.lower() == path.suffix.lower())
    return sorted(entry for entry in same if entry != path and entry.is_file())


def _task_name(path: Path, key: str) -> str:
    """A name for tasks on a file: its own, or else that of its folder."""
    for name in (key, path.absolute().parent.name):
        plain = "-".join(re.findall(r"[A-Za-z0-9]+", name)).lower()[:40]
        if plain:
            return plain
    return "task"
