"""`comity sweep`: train a grid over keys of a recipe."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_data, add_series, print_json, show
from comity.cli.series import train_series

if TYPE_CHECKING:
    from comity.experiments.sweep import SweepResults


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(
        commands, "sweep", run, "train a recipe with every combination of some values"
    )
    command.add_argument("recipe", type=Path, help="a TOML recipe")
    add_data(command)
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        required=True,
        metavar="KEY=VALUE,VALUE",
        help="values of recipe keys; each combination is trained (write a list in brackets)",
    )
    add_series(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.experiments.sweep import Sweep, write_sweep
    from comity.hardware import flushed_denormals
    from comity.terminal.views import show_series, show_sweep, tell

    def write() -> "SweepResults":
        results = sweep.results()
        write_sweep(results, options.out)
        return results

    with flushed_denormals():
        sweep = Sweep(
            options.recipe,
            options.set,
            options.data or options.recipe.parent,
            options.out,
            options.drop_leaks,
            options.command_line,
        )
        for sentence in sweep.series.notes:
            tell(sentence)
        if options.dry_run:
            return show(sweep.plan(), show_series, options.json)
        train_series(sweep, options, write)
    results = write()
    if options.json:
        print_json(results.to_dict())
    else:
        show_sweep(results.recipe, results.columns(), results.rows())
        print(results.note)
    return 0
