"""The JSON Schema accepts the project's recipes, and finds the errors that `Recipe` finds."""

import re
import tomllib
from pathlib import Path

import pytest
from tests.recipe.helpers import changed

from comity import ComityError, Recipe
from comity.recipe.json_schema import recipe_json_schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = recipe_json_schema()
TYPES = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}
# Every keyword that `fits` reads, and those that only inform.
READ = {
    "anyOf", "const", "enum", "type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum",
    "minLength", "minItems", "maxItems", "items", "properties", "required", "additionalProperties",
    "minProperties", "pattern",
}  # fmt: skip
INFORMS = {"$schema", "description", "default"}


def fits(value, node):
    """Whether a value is valid, by the rules of JSON Schema draft 7 that the schema uses."""
    if "anyOf" in node:
        return any(fits(value, choice) for choice in node["anyOf"])
    if "const" in node and value != node["const"]:
        return False
    if "enum" in node and value not in node["enum"]:
        return False
    if isinstance(value, bool):  # in Python a bool is an int
        return node["type"] == "boolean"
    if not isinstance(value, TYPES[node["type"]]):
        return False
    if isinstance(value, int | float):
        return (
            value >= node.get("minimum", value)
            and value <= node.get("maximum", value)
            and not value <= node.get("exclusiveMinimum", value - 1)
            and not value >= node.get("exclusiveMaximum", value + 1)
        )
    if isinstance(value, str):
        long_enough = len(value) >= node.get("minLength", 0)
        return long_enough and re.search(node.get("pattern", ""), value) is not None
    if isinstance(value, list):
        items = node["items"]
        nodes = items if isinstance(items, list) else [items] * len(value)
        enough = node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value))
        return enough and all(fits(v, n) for v, n in zip(value, nodes, strict=False))
    return fits_table(value, node)


def fits_table(value, node):
    """`fits` for a table."""
    others = node.get("additionalProperties", True)
    properties = node.get("properties", {})
    return (
        len(value) >= node.get("minProperties", 0)
        and set(node.get("required", ())) <= set(value)
        and all(fits(value[key], properties[key]) for key in set(value) & set(properties))
        and all(
            others is not False and (others is True or fits(value[key], others))
            for key in set(value) - set(properties)
        )
    )


def nodes_of(node):
    """The node and all nodes in it."""
    yield node
    items = node.get("items", [])
    inner = [*node.get("anyOf", []), *node.get("properties", {}).values()]
    inner += items if isinstance(items, list) else [items]
    if isinstance(node.get("additionalProperties"), dict):
        inner.append(node["additionalProperties"])
    for child in inner:
        yield from nodes_of(child)


def test_only_known_keywords():
    """Draft 7 alone, no references, and nothing that `fits` overlooks."""
    for node in nodes_of(SCHEMA):
        assert set(node) <= READ | INFORMS, node
        assert "anyOf" in node or node["type"] in TYPES
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_every_key_has_a_description():
    tables = [node for node in nodes_of(SCHEMA) if "properties" in node]
    assert len(tables) == 9  # the recipe and its eight tables
    for table in tables:
        assert table["additionalProperties"] is False
        for key, node in table["properties"].items():
            assert node["description"].endswith("."), key


def test_null_is_nowhere():
    """TOML has no null."""
    assert all(node.get("type") != "null" for node in nodes_of(SCHEMA))
    assert all(node.get("default", 0) is not None for node in nodes_of(SCHEMA))


@pytest.mark.parametrize(
    "path",
    [
        *sorted(ROOT.glob("recipes/*.toml")),
        ROOT / "src/comity/demo/demo.toml",
        ROOT / "src/comity/paper/minilm.toml",
        ROOT / "src/comity/paper/bert-base.toml",
    ],
    ids=lambda path: path.name,
)
def test_the_projects_recipes_fit(path):
    assert fits(tomllib.loads(path.read_text(encoding="utf-8")), SCHEMA)


STAGE_FILE = {"file": "x.csv", "label": 0, "label_map": {"a": 1, "b": "c", "d": 0.5}}


@pytest.mark.parametrize(
    "change",
    [
        {"train__freeze": 3},
        {"train__freeze": "embeddings"},
        {"train__betas": [0.5, 0.9]},
        {"train__evaluate_every": 7},
        {"tasks__mood__class_weights": {"a": 1.5, "b": 2}},
        {"tasks__mood__class_weights": "balanced"},
        {"tasks__alike__objectives": [{"loss": "ranking", "symmetric": True}]},
        {"stages": [{"data": {"mood": "x.csv", "alike": STAGE_FILE}}]},
        {"tasks__mood__dev": "dev.csv"},
        {
            "tasks__mood__consistency": {"kind": "r-drop", "weight": 0.5},
            "tasks__mood__loss": "one-vs-all",
        },
    ],
    ids=str,
)
def test_a_right_value_fits(change):
    assert fits(changed(**change), SCHEMA)
    try:
        Recipe.from_dict(changed(**change))
    except ComityError as error:  # rules across keys, which a schema does not know
        assert not any("expected" in m or "unknown key" in m for m in error.messages)


@pytest.mark.parametrize(
    "change",
    [
        {"train__lrr": 1.0},
        {"trian": {}},
        {"train__lr": "fast"},
        {"train__lr": 0},
        {"train__seed": 1.5},
        {"train__group_by_length": "yes"},
        {"train__betas": [0.5, 1.0]},
        {"train__betas": [0.5]},
        {"train__freeze": 0},
        {"train__lr_layer_decay": 1.1},
        {"tasks": {}},
        {"tasks__mood__train": ...},
        {"tasks__mood__text": True},
        {"tasks__mood__dev": 1.5},
        {"tasks__mood__kind": "odd"},
        {"tasks__mood__class_weights": "even"},
        {"tasks__mood__separator": ""},
        {"tasks__mood__loss": "focal"},
        {"tasks__mood__consistency": {"weight": 1.0}},
        {"tasks__mood__consistency": {"kind": "r-drop", "weight": 0}},
        {"tasks__alike__objectives": [{"weight": 1.0}]},
        {"stages": [{"train_on": "tasks"}]},
        {"stages": [{"tasks": []}]},
        {"stages": [{"data": {"mood": {"label": "x"}}}]},
    ],
    ids=str,
)
def test_a_wrong_value_does_not_fit(change):
    assert not fits(changed(**change), SCHEMA)
    with pytest.raises(ComityError):
        Recipe.from_dict(changed(**change))
