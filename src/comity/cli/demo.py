"""`comity demo`: train three small tasks and show the scores."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, add_quiet, add_set, show
from comity.errors import ComityError


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "train three small tasks that come with comity"
    command = add_command(commands, "demo", run, help)
    command.add_argument("--out", type=Path, help="keep the run here (default: demo-run)")
    command.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="write the recipe and the data files of the demo to this folder, and train nothing",
    )
    add_set(command)
    add_json(command)
    add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.files is not None:
        if options.out is not None or options.set:
            raise ComityError("--files trains nothing; remove --out and --set")
        from comity.demo.files import write_files

        paths = [str(path) for path in write_files(options.files)]
        return show({"files": paths}, lambda found: print(*found["files"], sep="\n"), options.json)
    from comity.demo.show import run_demo, show_demo

    quiet = options.quiet or options.json
    demo = run_demo(options.out, options.set, quiet, options.command_line)
    return show(demo.to_dict() if options.json else demo, show_demo, options.json)
