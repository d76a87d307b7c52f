"""The documentation names every key of a recipe, and every recipe in the project is a valid one."""

from pathlib import Path

import pytest

from comity import Recipe
from comity.sections import (
    EncoderSection,
    ObjectiveSection,
    StageFile,
    StageSection,
    TaskSection,
    TrainSection,
)

SECTIONS = [EncoderSection, TrainSection, TaskSection, ObjectiveSection, StageSection, StageFile]

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented(section):
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    missing = [key for key in section.model_fields if f"`{key}`" not in text]
    assert not missing


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *ROOT.glob("recipes/*.toml"),
            *ROOT.glob("src/comity/demo/*.toml"),
            *(
                ROOT / "src" / "comity" / "paper" / name
                for name in ("minilm.toml", "bert-base.toml")
            ),
        ]
    ),
    ids=str,
)
def test_the_projects_recipes_are_valid(path):
    assert Recipe.load(path).tasks


def test_the_papers_heads_to_the_letter():
    recipe = Recipe.load(ROOT / "recipes" / "cs224n-paper.toml")
    heads = {
        name: (task.head_name, task.views, task.dropout) for name, task in recipe.tasks.items()
    }
    assert heads == {
        "sentiment": ("linear", ("first",), 0.3),
        "paraphrase": ("linear", ("pair",), 0.3),
        "similarity": ("bins", ("pair",), 0.3),
    }
    assert recipe.stages[0].schedule == "sequential"
