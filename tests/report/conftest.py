"""A run of every kind of task and head, whose data tries to break the page."""

from pathlib import Path

import pytest
from tests.helpers import ADJECTIVES, NOUNS, mood_rows, write_csv

from comity import Recipe, train
from comity.runs.directory import RunDirectory

ATTACKS = [
    "<script>alert('text')</script>",
    "</td></table></main><h1>broken</h1>",
    "\"quoted\" & 'single' <b>bold</b>",
    "{{ 7 * 7 }} {% raw %} ${x} &amp; &lt;",
    "colour \x1b[31mred\x1b[0m bell \x07",
    "right to left \u202e evil \u202c مرحبا بالعالم",
    "<!-- comment --><img src=x onerror=alert(1)>",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 done",
]
"""Texts of dev rows."""

CLASSES = ['<i onload="x">up</i>', "\"down\" & 'out'", "مرحبا \u202eabc"]
STAGE = '<b>first</b> & "last"'
FOLDER = "data <u>&\"'"


def write_data(folder: Path) -> None:
    """Training and dev files; no head can be right about texts that say nothing about the label."""
    folder.mkdir()
    texts = [text for text, _ in mood_rows(0, 48)]
    wrong = [*ATTACKS, *(f"the {noun} is {ADJECTIVES['good']}" for noun in NOUNS)]
    for name, rows in (("train", texts), ("dev", wrong)):
        path = folder / f"{name} <u>&.csv"
        header = ["text", "other", "class", "tags", "number", "score", "whole"]
        write_csv(
            path,
            header,
            [
                (
                    text,
                    rows[(n * 7 + 3) % len(rows)],
                    CLASSES[n % 3],
                    "|".join(["<em>a</em>", "b"][: n % 3]),
                    n * 1.5 - 7,
                    n % 6,
                    n % 6,
                )
                for n, text in enumerate(rows)
            ],
        )


def every_task(encoder: Path) -> Recipe:
    """A recipe with every kind of task and every head."""
    files = {"train": "train <u>&.csv", "dev": "dev <u>&.csv"}
    pair = {**files, "kind": "similarity", "texts": ["text", "other"], "scale": [0, 5]}
    return Recipe.from_dict(
        {
            "encoder": {"name": str(encoder)},
            "train": {
                "precision": "float32",
                "batch_size": 4,
                "lr": 1e-3,
                "conflict_every": 1,
                "balancer": "pcgrad",
                "task_sampling": "round-robin",
                "evaluate_every": 11,
            },
            "stages": [
                {"name": STAGE, "steps": 22},
                {"name": "second", "steps": 2, "tasks": ["classes", "labels"], "balancer": "sum"},
            ],
            "tasks": {
                "classes": {
                    **files, "kind": "classification", "text": "text", "label": "class",
                },
                "labels": {
                    **files, "kind": "multi-label", "text": "text", "label": "tags",
                    "separator": "|",
                },
                "number": {**files, "kind": "regression", "text": "text", "label": "number"},
                "bins": {**pair, "head": "bins", "label": "whole"},
                "score": {**pair, "head": "regression", "label": "score"},
                "cosine": {**pair, "head": "cosine", "label": "score"},
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def every_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> RunDirectory:
    """A finished run of every kind of task."""
    folder = tmp_path_factory.mktemp("report")
    write_data(folder / FOLDER)
    return train(every_task(tiny_checkpoint), folder / FOLDER, folder / "run", quiet=True)
