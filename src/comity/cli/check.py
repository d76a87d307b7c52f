"""`comity check`: report every error in a recipe and its files."""

import argparse
from pathlib import Path

from comity.cli.options import (
    Commands,
    add_command,
    add_data,
    add_json,
    add_only,
    add_set,
    load_recipe,
    show,
)


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "report every error in a recipe and its files, without training"
    command = add_command(commands, "check", run, help)
    command.add_argument("recipe", type=Path, nargs="?", help="a TOML recipe")
    add_data(command)
    add_set(command)
    add_only(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    recipe, folder = load_recipe(options)
    # What follows loads torch, which an error in the recipe does not need.
    from comity.terminal.views import show_data
    from comity.terminal.waiting import Waiting
    from comity.training.data_summary import data_summary
    from comity.training.setup import prepare

    with Waiting("reading the encoder and the data"):
        summary = data_summary(prepare(recipe, folder, options.drop_leaks))
    show(summary, show_data, options.json)
    if not options.json:
        print(f"{options.recipe}: no errors found")
    return 0
