"""The reference of all keys of a recipe: docs/recipe.md, and what `comity recipe` prints."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from comity.errors import ComityError, nearest
from comity.format import markdown_table
from comity.recipe.json_schema import Node, section_json_schema
from comity.recipe.messages import RENAMED
from comity.recipe.schema import (
    ConsistencySection,
    EncoderSection,
    ObjectiveSection,
    Section,
    StageFile,
    StageKeys,
    StageSection,
    TaskSection,
    TrackSection,
    TrainSection,
)

REGENERATE = "comity recipe --markdown > docs/recipe.md"
"""The command that writes docs/recipe.md."""


@dataclass(frozen=True)
class Key:
    """One key of a recipe, described in text with `code` in backticks."""

    name: str
    tables: tuple[str, ...]  # where it may be set, such as "[train]"
    values: str
    default: str
    description: str

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=\.)\s", self.description, maxsplit=1)[0]


@dataclass(frozen=True)
class KeyGroup:
    """Keys that are described together: the own keys of `section`, and a text before them."""

    tables: tuple[str, ...]
    section: type[Section]
    heading: str
    introduction: str

    @property
    def keys(self) -> list[Key]:
        """The keys of the section; those of a stage have a group of their own."""
        schema = section_json_schema(self.section)
        inherited = StageKeys.model_fields if self.section is not StageKeys else {}
        return [
            Key(
                name=name,
                tables=self.tables,
                values=_values(node),
                default=_default(node, required=name in schema.get("required", ())),
                description=node["description"],
            )
            for name, node in schema["properties"].items()
            if name not in inherited
        ]


GROUPS = (
    KeyGroup(
        ("[encoder]",),
        EncoderSection,
        "## `[encoder]`",
        """\
Dropout probabilities are rounded to a multiple of 1/256 (0.1 becomes 0.1016). The values that are
kept are divided by the exact probability of keeping one.""",
    ),
    KeyGroup(("[train]",), TrainSection, "## `[train]`", "Keys of the whole run:"),
    KeyGroup(
        ("[train]", "[[stages]]"),
        StageKeys,
        "### `[train]` and `[[stages]]`",
        """\
These keys may be set in `[train]`, for all stages, and in a stage, for that stage.
[Balancers](paper.md#balancers) explains what each balancer does and which of them need an extra
package.""",
    ),
    KeyGroup(
        ("[tasks.NAME]",),
        TaskSection,
        "## `[tasks.NAME]`",
        """\
One table per task. NAME is used in file names and on the command line.

Where a file is named, a data set of the Hugging Face hub can be named instead, or a folder that
the library `datasets` has saved. This needs `pip install "comity[hub]"`.

- `hf://OWNER/NAME:train`: the split `train` of a data set;
- `hf://OWNER/NAME/CONFIG:train`: of one of its configurations;
- `hf://OWNER/NAME@REVISION:train`: of a branch, a tag or a commit;
- `hf://./FOLDER:train`: of a folder, from where relative paths start.

Labels of the type `ClassLabel` are read by their names, and -1 is a missing label. Messages count
rows from 0. The run records the commit and a digest of the rows. No code of a data set is run.""",
    ),
    KeyGroup(
        ("[[tasks.NAME.objectives]]",),
        ObjectiveSection,
        "### `[[tasks.NAME.objectives]]`",
        """\
Losses on the embeddings of the two texts of a pair, added to the head's loss. They need a
similarity task, or a classification task with two classes. Objectives compare the rows of a batch
with each other, so more `micro_batches`, which split the batch, leave fewer negatives.""",
    ),
    KeyGroup(
        ("[tasks.NAME.consistency]",),
        ConsistencySection,
        "### `[tasks.NAME.consistency]`",
        """\
Two dropout draws of the same rows should give the same prediction. Written in one line:
`consistency = { kind = "r-drop" }`. [R-Drop](choose.md#consistency) has the divergence for each
head. Objectives, evaluation and stages on masked words use one draw.""",
    ),
    KeyGroup(
        ("[[stages]]",),
        StageSection,
        "## `[[stages]]`",
        """\
Stages run one after another. If a recipe has none, one stage trains all tasks. In `--set` and in
error messages, stages are counted from 0: `--set stages.0.lr=1e-5`. In addition to the keys that
`[train]` and stages share, a stage may set:""",
    ),
    KeyGroup(
        ("[stages.data.NAME]",),
        StageFile,
        "### `[stages.data.NAME]`",
        """\
A stage may train a task on another file, with its own columns and labels. In this example,
the first stage trains a similarity task on a file of duplicate questions, whose two labels become
the ends of the scale. The second stage trains all tasks on their own files.

```toml
[[stages]]
tasks = ["similarity"]
epochs = 1

[stages.data.similarity]
file = "quora-train.csv"
label = "is_duplicate"
label_map = { "0" = 0, "1" = 5 }

[[stages]]
```

The file is read with the task's settings (`delimiter`, `header`, `decimal_mark`, ...).""",
    ),
    KeyGroup(
        ("[track]",),
        TrackSection,
        "## `[track]`",
        """\
[Experiment trackers](track.md) show a run while it trains. `[track]` changes nothing that a run
computes, so it may be changed when a run is resumed.""",
    ),
)

_PAGE = f"""\
<!-- Generated from the schema by `{REGENERATE}`; do not edit. -->

# The recipe

A recipe is a TOML file. Relative paths of data files are relative to `--data` or, without it, to
the recipe's folder. Keys can also be set on the command line:
`--set train.lr=3e-5 tasks.mood.batch_size=16` (but not in a task whose name contains a dot). An
unknown key, a wrong type, and **a key that would have no effect in this recipe** are errors. They
are reported before anything is loaded.

`comity recipe` lists all keys, `comity recipe KEY` describes one of them, and
`comity recipe --json-schema` prints a JSON Schema, which lets a TOML editor complete and check
keys.
"""


def all_keys() -> list[Key]:
    """Every key of every table, in the order of the page."""
    return [key for group in GROUPS for key in group.keys]


def find_keys(name: str) -> list[Key]:
    """The keys called `name`, which may name the table too: "lr", "train.lr", "tasks.mood.head".

    Raises:
        ComityError: no key has that name.
    """
    *tables, last = name.split(".")
    found = [key for key in all_keys() if key.name == last and _is_in(key, tables)]
    if found:
        return found
    names = {key.name for key in all_keys()}
    renamed = dict.fromkeys(table[last] for table in RENAMED.values() if last in table)
    if renamed and last not in names:
        raise ComityError(f'unknown key "{name}"; it is now called "{" or ".join(renamed)}"')
    hint = nearest(last, names) or "; `comity recipe` lists all keys"
    raise ComityError(f'unknown key "{name}"{hint}')


def recipe_page() -> str:
    """The text of docs/recipe.md."""
    parts = [_PAGE]
    for group in GROUPS:
        rows = [[f"`{key.name}`", key.values, key.default, key.description] for key in group.keys]
        table = markdown_table(["key", "values", "default", "meaning"], rows)
        parts.append("\n".join([group.heading, "", group.introduction, "", *table, ""]))
    return "\n".join(parts)


def _is_in(key: Key, path: list[str]) -> bool:
    """Whether one of the key's tables fits `path`, such as ["tasks", "mood"]; [] fits any."""
    return not path or any(path[0] == re.split(r"[.\]]", t.strip("["))[0] for t in key.tables)


def _values(node: Node) -> str:
    """The values that a key takes, in words."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_values(choice) for choice in node["anyOf"]))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    kind = node["type"]
    if kind == "array":
        return _list(node)
    words = {"string": "text", "boolean": "`true`, `false`", "object": "table"}
    numbers = {"integer": "whole number", "number": "number"}
    return words.get(kind) or " ".join([numbers[kind], *_bounds(node)])


def _list(node: Node) -> str:
    if isinstance(node["items"], list):
        return f"list of {len(node['items'])}: {_values(node['items'][0])}"
    if node["items"].get("type") == "object":
        return "list of tables"
    least = node.get("minItems", 0)
    size = f"at least {least}: " if least > 1 else ""
    return f"list of {size}{_values(node['items'])}"


def _bounds(node: Node) -> Iterator[str]:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    bounds = [f"{word} {node[bound]:g}" for bound, word in words.items() if bound in node]
    if bounds:
        yield " and ".join(bounds)


def _default(node: Node, required: bool) -> str:
    if required:
        return "required"
    if "default_text" in node:
        return node["default_text"]
    default = node["default"]
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`".replace("e-0", "e-")
