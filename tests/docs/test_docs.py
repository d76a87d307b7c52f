"""The documentation names every key of a recipe, and every recipe in the project is a valid one."""

import re
import shlex
from pathlib import Path

import pytest

from comity import Recipe
from comity.cli.main import make_parser
from comity.experiments.sweep import grid
from comity.recipe.schema import (
    EncoderSection,
    ObjectiveSection,
    StageFile,
    StageSection,
    TaskSection,
    TrainSection,
)

SECTIONS = [EncoderSection, TrainSection, TaskSection, ObjectiveSection, StageSection, StageFile]

ROOT = Path(__file__).resolve().parents[2]


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


def printed_commands() -> list[list[str]]:
    """The commands of README and docs/paper.md that train a recipe of the project."""
    text = "".join((ROOT / p).read_text(encoding="utf-8") for p in ("README.md", "docs/paper.md"))
    whole = text.replace("\\\n", " ")
    lines = re.findall(r"^comity (?:train|sweep) (?:recipes|src)/.*$", whole, flags=re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("command", printed_commands(), ids=" ".join)
def test_a_printed_command_names_a_valid_recipe(command):
    options = make_parser().parse_args(command)
    settings = options.set
    if command[0] == "sweep":
        assert grid(ROOT / options.recipe, settings)
    else:
        assert Recipe.load(ROOT / options.recipe, settings).tasks


def test_enough_commands_are_printed():
    assert len(printed_commands()) > 5  # else the test above would test nothing


def test_the_papers_heads_to_the_letter():
    recipe = Recipe.load(ROOT / "src" / "comity" / "paper" / "bert-base.toml")
    heads = {
        name: (task.head_name, task.views, task.head_dropout) for name, task in recipe.tasks.items()
    }
    assert heads == {
        "sentiment": ("linear", ("first",), 0.3),
        "paraphrase": ("linear", ("pair",), 0.3),
        "similarity": ("bins", ("pair",), 0.3),
    }
    assert recipe.stages[0].task_sampling == "sequential"
