"""`comity init`: draft a recipe from data files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, print_json
from comity.errors import ComityError
from comity.format import plural

if TYPE_CHECKING:
    from comity.draft.draft import Draft

STANDARD = "-"
"""As --out: standard output."""


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "init", run, "draft a recipe from your data files")
    command.description = (
        "Look into data files and write a recipe: which tasks they are for, their columns, kinds "
        "and dev sets. Comments in the recipe say why each value was chosen."
    )
    command.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="training files; a file beside one that has the same name but for dev or valid is its "
        "dev set",
    )
    command.add_argument(
        "--out",
        default="recipe.toml",
        metavar="RECIPE",
        help="the recipe to write (default: recipe.toml); - for standard output",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing recipe")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    to_stdout = options.out == STANDARD
    if to_stdout and options.json:
        raise ComityError("--json and --out - both use standard output; choose one")
    recipe = Path("recipe.toml" if to_stdout else options.out)
    if not to_stdout:
        _check_out(recipe, options.overwrite)
    from comity.draft.draft import draft_recipe
    from comity.files import write_atomically
    from comity.terminal.views import tell
    from comity.terminal.waiting import Waiting

    with Waiting("reading the files"):
        draft = draft_recipe(options.files, recipe)
    if to_stdout:
        sys.stdout.write(draft.text)
    else:
        write_atomically(recipe, draft.text)
    if options.json:
        print_json({"recipe": str(recipe), **draft.to_dict()})
    else:
        for note in draft.notes:
            tell(f"note: {note}")
        if not to_stdout:
            _show(draft, recipe)
    return 0


def _check_out(recipe: Path, overwrite: bool) -> None:
    """Raise a ComityError if the recipe cannot be written."""
    if recipe.is_dir():
        raise ComityError(f"{recipe}: is a directory; name a file to write")
    if recipe.exists() and not overwrite:
        raise ComityError(
            f"{recipe}: already exists; use --overwrite to replace it, or --out to name another"
        )
    if not recipe.parent.is_dir():
        raise ComityError(f"{recipe}: there is no folder {recipe.parent}; create it first")


def _show(draft: "Draft", recipe: Path) -> None:
    for name, task in draft.tasks.items():
        print(f"{name}: {task.keys['kind'].value}; {task.keys['kind'].evidence}")
    print(f"{recipe}: {plural(len(draft.tasks), 'task')}; check it with comity check {recipe}")
