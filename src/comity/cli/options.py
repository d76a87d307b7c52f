"""Options and output that several commands share."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.recipe.recipe import Recipe

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help: str
) -> argparse.ArgumentParser:
    """Add a command's parser; `help` is a short phrase without a capital or full stop."""
    command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    command.set_defaults(run=run)
    return command


def add_data(command: argparse.ArgumentParser) -> None:
    """Add --data and --drop-leaks."""
    command.add_argument(
        "--data", type=Path, help="folder of the data files (default: the recipe's folder)"
    )
    add_drop_leaks(command)


def add_drop_leaks(command: argparse.ArgumentParser) -> None:
    """Add --drop-leaks."""
    command.add_argument(
        "--drop-leaks",
        action="store_true",
        help="leave out training rows that are also in a dev set",
    )


def add_set(command: argparse.ArgumentParser) -> None:
    """Add --set for single values."""
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the recipe, such as train.lr=3e-5",
    )


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    command.add_argument("--dry-run", action="store_true", help="print the plan and do not train")


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def add_quiet(command: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    command.add_argument("--quiet", action="store_true", help="do not show progress")


def add_series(command: argparse.ArgumentParser) -> None:
    """Add the options of commands that train several runs."""
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the runs; repeat the command to continue where it stopped",
    )
    add_dry_run(command)
    add_json(command)
    add_quiet(command)


def load_recipe(options: argparse.Namespace) -> "tuple[Recipe, Path]":
    """The recipe with its overrides, and the folder of its files."""
    from comity.recipe.recipe import Recipe

    if options.recipe is None:
        raise ComityError(
            "the recipe is missing; name a TOML file, before --set (README.md has an example)"
        )
    recipe = Recipe.load(options.recipe, options.set)
    return recipe, options.data or options.recipe.parent


def print_json(value: Any) -> None:
    """Print a dataclass or a plain value as one line of JSON."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    print(json.dumps(plain, allow_nan=False))


def show(value: Any, show_table: Callable[[Any], None], as_json: bool) -> int:
    """Print a result as JSON, or with `show_table`; returns the exit code 0."""
    if as_json:
        print_json(value)
    else:
        show_table(value)
    return 0
