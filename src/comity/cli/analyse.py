"""`comity analyse`: plot and list the predictions of a task with numeric targets."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, print_json
from comity.format import plural


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "plot predicted against true values and list the worst errors"
    command = add_command(commands, "analyse", run, help)
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--task", required=True, help="a similarity or regression task")
    command.add_argument(
        "--out", type=Path, required=True, help="folder for the plots and the page"
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.evaluation.analysis import analyse
    from comity.terminal.waiting import Waiting

    with Waiting("drawing the plots"):
        analysis = analyse(options.run_directory, options.task, options.out)
    if options.json:
        print_json(analysis.to_dict())
        return 0
    print(
        f"{options.task}: {plural(analysis.rows, 'prediction')} from {analysis.smallest:.4g} to "
        f"{analysis.largest:.4g}"
    )
    for path in analysis.written:
        print(path)
    return 0
