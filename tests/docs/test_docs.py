"""The documentation: generated pages are up to date, and every recipe in the project is valid."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

from comity import Recipe
from comity.cli.main import make_parser
from comity.experiments.sweep import grid
from comity.recipe.reference import REGENERATE, recipe_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_of_keys_is_up_to_date():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert text == recipe_page(), f"docs/recipe.md differs from the schema; run: {REGENERATE}"


def test_the_reference_of_commands_is_up_to_date():
    page = runpy.run_path(str(ROOT / "docs" / "write_cli_page.py"))["page"]
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == page(), "docs/cli.md is not up to date; run: python docs/write_cli_page.py"
    for option in ("`--extend LENGTH`", "`comity completion`", "COMITY_CACHE"):
        assert option in text


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


def printed_recipes() -> list[str]:
    """The TOML blocks of README and docs."""
    paths = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return re.findall(r"^```toml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", printed_recipes())
def test_a_printed_recipe_is_valid(block):
    """A block without tasks of its own is a part of recipes/cs224n.toml."""
    whole = tomllib.loads((ROOT / "recipes" / "cs224n.toml").read_text(encoding="utf-8"))
    part = tomllib.loads(block)
    assert Recipe.from_dict(part if "tasks" in part else {**whole, **part}).tasks


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


def test_there_are_recipes_and_commands():
    assert len(printed_recipes()) > 1
    assert len(printed_commands()) > 5  # else the tests above would check nothing


def test_the_papers_heads_are_exact():
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


def test_the_wheel_has_every_file_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = ROOT / "src" / "comity"
    packaged = {source / "py.typed"}  # without it type checkers ignore the annotations
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = ROOT / "src" / package.replace(".", "/")
        for pattern in patterns:
            packaged |= set(folder.glob(pattern))
    files = {file for file in source.rglob("*") if file.is_file() and file.suffix != ".py"}
    assert packaged == {file for file in files if "__pycache__" not in file.parts}
    for file in source.rglob("*.py"):
        assert (file.parent / "__init__.py").is_file(), file
