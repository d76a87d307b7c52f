"""`comity compare`: compare runs against a baseline."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, check_exist, print_json


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "compare", run, "compare runs; the first is the baseline")
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory")
    command.add_argument(
        "--group-seeds",
        action="store_true",
        help="compare the mean over the runs of a recipe that differ only in their seed",
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist(options.runs)
    from comity.evaluation.compare import compare
    from comity.terminal.views import show_comparison
    from comity.terminal.waiting import Waiting

    with Waiting("comparing the runs"):
        comparison = compare(options.runs, options.group_seeds)
    if options.json:
        print_json(comparison.to_dict())
    else:
        show_comparison(comparison)
    return 0
