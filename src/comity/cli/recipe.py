"""`comity recipe`: describes the keys of a recipe."""

import argparse
import json
import shutil
import sys
import textwrap
from typing import Any

from comity.cli.options import Commands, add_command

WIDTH = 160  # of a line where there is no terminal


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "list the keys of a recipe, or describe one of them"
    command = add_command(commands, "recipe", run, help)
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("key", nargs="?", metavar="KEY", help="such as lr, train.lr or tasks.label")
    choice.add_argument(
        "--markdown", action="store_true", help="print the reference page, docs/recipe.md"
    )
    choice.add_argument(
        "--json-schema", action="store_true", help="print a JSON Schema for TOML editors"
    )


def run(options: argparse.Namespace) -> int:
    """Print what the options ask for.

    Raises:
        ComityError: no key has the name that was given.
    """
    from comity.recipe.json_schema import recipe_json_schema
    from comity.recipe.reference import find_keys, recipe_page

    if options.json_schema:
        print(json.dumps(recipe_json_schema(), indent=2))
    elif options.markdown:
        sys.stdout.write(recipe_page())
    elif options.key is not None:
        print("\n\n".join(_described(key) for key in find_keys(options.key)))
    else:
        _print_all()
    return 0


def _print_all() -> None:
    """The first sentence on each key, wrapped to the width of the terminal."""
    from comity.recipe.reference import GROUPS

    width = shutil.get_terminal_size((WIDTH, 24)).columns
    for group in GROUPS:
        print(" and ".join(group.tables))
        longest = max(len(key.name) for key in group.keys)
        for key in group.keys:
            start = f"  {key.name:{longest}}  "
            indent = " " * len(start)
            print(textwrap.fill(key.summary, width, initial_indent=start, subsequent_indent=indent))
        print()
    print("`comity recipe KEY` describes one key in full.")


def _described(key: Any) -> str:
    """Every fact about one key, wrapped to the width of the terminal."""
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, 100)
    lines = [
        f"{key.name}  in {' and '.join(key.tables)}",
        f"values   {key.values}",
        f"default  {key.default}",
        *textwrap.wrap(key.description, width),
    ]
    return "\n".join(lines)
