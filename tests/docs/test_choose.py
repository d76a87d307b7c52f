"""docs/choose.md: its tables agree with the schema, and what they allow is a valid recipe."""

import itertools
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from comity import ComityError, Recipe
from comity.recipe.schema import HEADS_OF, METRICS_OF, HeadName, Kind, LossName, ObjectiveSection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "choose.md"

COLUMNS: dict[str, Any] = {
    "text": {"text": "a"},
    "texts": {"texts": ["a", "b"]},
    "label": {"label": "c"},
    "labels": {"labels": ["c", "d"]},
    "separator": {"separator": ";"},
    "scale": {"scale": [0, 5]},
}
"""A value for each key that the first table names."""


def table(title: str) -> list[list[str]]:
    """The cells of the table in a section of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def task(kind: str, **keys: Any) -> Recipe:
    columns = {"texts": ["a", "b"], "label": "c", "train": "x.csv", "dev": 0.1}
    return Recipe.from_dict({"tasks": {"one": {"kind": kind, **columns, **keys}}})


def test_the_kinds_are_those_of_the_schema():
    rows = table("Kind")
    assert {codes(row[1])[0] for row in rows} == set(get_args(Kind))
    for row in rows:
        (kind,) = codes(row[1])
        assert codes(row[3]) == list(METRICS_OF[kind])


@pytest.mark.parametrize("row", table("Kind"), ids=lambda row: row[0])
def test_the_columns_of_a_kind_are_valid(row):
    (kind,), keys = codes(row[1]), codes(row[2])
    texts = [key for key in ("text", "texts") if key in keys]
    described = {"text": "one", "texts": "two"}
    assert all(described[key] in row[0] for key in texts)
    for choice in texts:
        chosen = [key for key in keys if key not in texts or key == choice]
        values = {"kind": kind, "train": "x.csv", "dev": 0.1}
        for key in chosen:
            values |= COLUMNS[key]
        assert Recipe.from_dict({"tasks": {"one": values}})
    for key in {"text", "texts"} - set(texts):  # the table must not leave out what works
        values = {"kind": kind, "train": "x.csv", "dev": 0.1, **COLUMNS[key]}
        for other in set(keys) - set(texts):
            values |= COLUMNS[other]
        if kind == "similarity":
            with pytest.raises(ComityError):
                Recipe.from_dict({"tasks": {"one": values}})
        else:
            assert any(key in codes(r[2]) for r in table("Kind") if codes(r[1]) == [kind])


def test_the_heads_are_those_of_the_schema():
    rows = [(codes(row[0])[0], codes(row[1])[0]) for row in table("Head")]
    assert rows == [(kind, head) for kind, heads in HEADS_OF.items() for head in heads]
    for kind, head in itertools.product(get_args(Kind), get_args(HeadName)):
        if (kind, head) in rows:
            assert task(kind, head=head)
        else:
            with pytest.raises(ComityError, match="needs the head"):
                task(kind, head=head)


def test_the_objectives_are_those_of_the_schema():
    rows = {codes(row[0])[0]: row for row in table("Objective")}
    assert set(rows) == set(get_args(LossName))
    own = {"cosine_scale": 10.0, "symmetric": True, "positive_from": 0.5, "denominator": "printed"}
    assert set(own) | {"loss", "weight"} == set(ObjectiveSection.model_fields)
    for loss, row in rows.items():
        always, _, for_similarity = row[3].partition("; for similarity also")
        for kind in get_args(Kind):
            if kind not in codes(row[1]):
                with pytest.raises(ComityError, match="objectives need"):
                    task(kind, objectives=[{"loss": loss}])
                continue
            extra = codes(for_similarity) if kind == "similarity" else []
            for key, value in own.items():
                if key in [*codes(always), *extra]:
                    assert task(kind, objectives=[{"loss": loss, key: value}])
                else:
                    with pytest.raises(ComityError, match="has no effect"):
                        task(kind, objectives=[{"loss": loss, key: value}])
