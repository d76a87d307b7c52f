"""A JSON Schema of the recipe, for TOML editors such as Even Better TOML (taplo)."""

from typing import Any

from comity.recipe.schema import RecipeSchema, Section

DRAFT = "http://json-schema.org/draft-07/schema#"
"""A draft that TOML editors support; newer ones they may not."""

Node = dict[str, Any]


def recipe_json_schema() -> Node:
    """The JSON Schema of a whole recipe; defaults that depend on other keys are in the text."""
    schema = _with_defaults_as_text(section_json_schema(RecipeSchema))
    return {**schema, "$schema": DRAFT, "description": "A recipe of Comity."}


def section_json_schema(section: type[Section]) -> Node:
    """The JSON Schema of one table, in draft 7 and without references.

    `default_text` describes the default of a key that has no fixed one.
    """
    schema = section.model_json_schema(by_alias=True)
    return _inlined(schema, schema.get("$defs", {}))


def _inlined(node: Any, definitions: Node) -> Any:
    """`node` with references replaced by what they refer to, and without what TOML cannot say."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:  # keys next to a reference, such as its description, take precedence
        name = node["$ref"].removeprefix("#/$defs/")
        siblings = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**definitions[name], **siblings}, definitions)
    result = {key: _inlined(value, definitions) for key, value in node.items() if key != "$defs"}
    if isinstance(result.get("title"), str):  # pydantic's spelling of the name
        del result["title"]
    if "default" in result and not isinstance(result["default"], bool | int | float | str | list):
        del result["default"]  # null, which TOML does not have, or a whole table
    if "prefixItems" in result:  # the name since draft 2020-12
        result["items"] = result.pop("prefixItems")
    if "anyOf" in result:
        return _without_null(result)
    return result


def _without_null(node: Node) -> Node:
    """A choice of types without null; a single type is written without a choice."""
    choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    if len(choices) > 1:
        return {**node, "anyOf": choices}
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**choices[0], **rest}


def _with_defaults_as_text(node: Any) -> Any:
    """`default_text` moved to the end of the description, where an editor shows it."""
    if isinstance(node, list):
        return [_with_defaults_as_text(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _with_defaults_as_text(value) for key, value in node.items()}
    if isinstance(text := result.pop("default_text", None), str):
        result["description"] = f"{result['description']} Default: {text}."
    return result
