"""A run with a head of every kind, and what is exported from it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import ADJECTIVES, NOUNS, write_csv

from comity import Model, load, train
from comity.export.export import Export, export
from comity.runs.directory import RunDirectory

LABELS = ("not: good", 'so-so, "perhaps"', "<b>*very*|good</b>\u202f# {x}")
"""Names of classes with characters that YAML, JSON, Markdown and HTML interpret."""

SINGLE = {"train": "texts.csv", "dev": "texts-dev.csv", "text": "text"}
PAIR = {"train": "pairs.csv", "dev": "pairs-dev.csv", "texts": ["a", "b"]}
POOLER = {"pooling": "pooler"}

TASKS: dict[str, dict[str, Any]] = {
    # one text
    "two": {**SINGLE, **POOLER, "kind": "classification", "label": "mood"},
    "odd": {**SINGLE, **POOLER, "kind": "classification", "label": "verdict"},
    "tags": {**SINGLE, **POOLER, "kind": "multi-label", "label": "tags", "separator": ";"},
    "length": {**SINGLE, **POOLER, "kind": "regression", "label": "length", "max_length": 9},
    "by-mean": {**SINGLE, "pooling": "mean", "kind": "classification", "label": "mood"},
    # both texts in one sequence
    "same": {**PAIR, **POOLER, "kind": "classification", "label": "same"},
    "score": {
        **PAIR, **POOLER, "kind": "similarity", "head": "regression", "label": "score",
        "scale": [0, 5], "max_length": 17,
    },
    "levels": {**PAIR, **POOLER, "kind": "similarity", "label": "score"},
    "second": {**PAIR, **POOLER, "kind": "classification", "label": "same", "view": "second"},
    "three-mean": {**PAIR, "pooling": "mean", "kind": "classification", "label": "three"},
    "tags-cls": {
        **PAIR, "pooling": "cls", "kind": "multi-label", "label": "tags", "separator": ";"
    },
    "same-both": {**PAIR, "pooling": "cls+mean", "kind": "classification", "label": "same"},
    "deep": {
        **PAIR, **POOLER, "kind": "similarity", "head": "regression", "label": "score",
        "head_layers": 2,
    },
    "deep-norm": {
        **PAIR, **POOLER, "kind": "classification", "label": "same", "head_layers": 1,
        "add_norm": True,
    },
    "ranked": {
        **PAIR, **POOLER, "kind": "classification", "label": "same", "classes": ["no", "yes"],
        "objectives": [{"loss": "ranking"}],
    },
    # two texts encoded separately
    "cosine": {
        **PAIR, "kind": "similarity", "head": "cosine", "label": "score", "pooling": "mean",
        "max_length": 12,
    },
    "cosine-both": {
        **PAIR, "kind": "similarity", "head": "cosine", "label": "score", "pooling": "cls+mean"
    },
    "cosine-pooler": {
        **PAIR, **POOLER, "kind": "similarity", "head": "cosine", "label": "score",
        "scale": [0, 5],
    },
    "interaction": {
        **PAIR, "kind": "classification", "label": "same", "pooling": "cls", "interaction": True
    },
    "never": {**PAIR, **POOLER, "kind": "classification", "label": "same", "eval_only": True},
}  # fmt: skip


def text_rows(start: int, count: int) -> list[tuple[Any, ...]]:
    rows = []
    for number in range(start, start + count):
        adjective = list(ADJECTIVES)[number % 6]
        text = f"the {NOUNS[number % 10]} {number} is {adjective}" + " again" * (number % 4)
        tags = ";".join(name for name, on in (("red", number % 2), ("blue", number % 3)) if on)
        rows.append((text, ADJECTIVES[adjective], LABELS[number % 3], tags, 100 * len(text)))
    return rows


def pair_rows(start: int, count: int) -> list[tuple[Any, ...]]:
    rows = []
    for number in range(start, start + count):
        first, second = NOUNS[number % 10], NOUNS[(number + number % 2) % 10]
        same = "yes" if first == second else "no"
        score = 4.0 if same == "yes" else 1.5
        tags = ";".join(name for name, on in (("red", number % 2), ("blue", number % 3)) if on)
        texts = (f"a {first} {number}", f"the old {second} {number}")
        rows.append((*texts, same, score, LABELS[number % 3], tags))
    return rows


def write_data(folder: Path) -> None:
    """The files of all tasks."""
    for name, start, count in (("", 0, 24), ("-dev", 1000, 12)):
        header = ["text", "mood", "verdict", "tags", "length"]
        write_csv(folder / f"texts{name}.csv", header, text_rows(start, count))
        header = ["a", "b", "same", "score", "three", "tags"]
        write_csv(folder / f"pairs{name}.csv", header, pair_rows(start, count))


def recipe(encoder: Path, *tasks: str, **settings: Any) -> dict[str, Any]:
    """A recipe of some tasks (default: all)."""
    return {
        "encoder": {"name": str(encoder), "dropout": 0.1},
        "train": {"precision": "float32", "batch_size": 8, "epochs": 1, "lr": 3e-3} | settings,
        "tasks": {name: TASKS[name] for name in tasks or TASKS},
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("private-data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def run(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    """A run in bf16 of every task."""
    out = tmp_path_factory.mktemp("private-runs") / "run"
    return train(recipe(tiny_checkpoint, precision="bf16"), data, out, quiet=True)


@pytest.fixture(scope="session")
def model(run) -> Model:
    """The model of the run in float32: what exports are compared with."""
    return load(run, "cpu", "float32")


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory) -> Callable[[str], Export]:
    """The function that exports the run to a target, once."""
    out = tmp_path_factory.mktemp("exports")
    return cache(lambda to: export(run.path, to, out / to))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [row[0] for row in text_rows(500, 20)] + ["", "Fin.", "tea " * 300]


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    short = [(str(row[0]), str(row[1])) for row in pair_rows(500, 20)]
    return [*short, ("", ""), ("tea " * 300, "one"), ("tea " * 300, "bread " * 200)]
