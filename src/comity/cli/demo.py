"""`comity demo`: train three small tasks and show the scores."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_set
from comity.errors import ComityError


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "train three small tasks that come with comity"
    command = add_command(commands, "demo", run, help)
    command.add_argument("--out", type=Path, help="keep the run here (default: a temporary folder)")
    command.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="write the recipe and the data files of the demo to this folder, and train nothing",
    )
    add_set(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.files is not None:
        if options.out is not None or options.set:
            raise ComityError("--files trains nothing; remove --out and --set")
        from comity.demo.files import write_files

        for path in write_files(options.files):
            print(path)
        return 0
    from comity.demo.show import run_demo

    run_demo(options.out, options.set, options.command_line)
    return 0
