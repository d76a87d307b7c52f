"""`comity report`: write a page about a run."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, check_exist, print_json


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "write a page about a run: scores, conflicts, curves, errors, data"
    command = add_command(commands, "report", run, help)
    command.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run directory; further ones: baselines"
    )
    command.add_argument(
        "--out", type=Path, help="folder for report.html and report.json (default: the first run)"
    )
    command.add_argument(
        "--group-seeds",
        action="store_true",
        help="compare the mean over the runs of a recipe that differ only in their seed",
    )
    command.add_argument("--no-texts", action="store_true", help="leave out the texts of the data")
    command.add_argument("--overwrite", action="store_true", help="replace an existing report")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist(options.runs)
    from comity.report.write import write_report
    from comity.terminal.waiting import Waiting

    with Waiting("writing the report"):
        written = write_report(
            options.runs,
            options.out,
            group_seeds=options.group_seeds,
            texts=not options.no_texts,
            overwrite=options.overwrite,
        )
    if options.json:
        print_json(written.to_dict())
    else:
        print(f"{written.page}: the report; its numbers are in {written.numbers}")
    return 0
