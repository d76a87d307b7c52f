"""`comity info`: show the scores of a run."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, check_exist, show


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "show a run's scores, the best score of each task, and gradient conflicts"
    command = add_command(commands, "info", run, help)
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist([options.run_directory])
    from comity.runs.directory import RunDirectory
    from comity.runs.summary import run_summary
    from comity.terminal.views import show_run

    return show(run_summary(RunDirectory.open(options.run_directory)), show_run, options.json)
