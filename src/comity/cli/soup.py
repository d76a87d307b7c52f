"""`comity soup`: average the weights of runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, add_quiet, check_exist, show
from comity.format import or_dash, plural

if TYPE_CHECKING:
    from comity.experiments.soup import Soup


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "average the weights of runs of one recipe, keeping those that help on dev"
    command = add_command(commands, "soup", run, help)
    command.description = (
        "Average the kept weights of runs that have the same encoder, tasks and dev sets, such as "
        "the runs of a sweep over seeds or learning rates, and write the result as a run. The runs "
        "are tried from the best to the worst; one is kept if the dev score of the average does "
        "not fall (the greedy soup of Wortsman et al. 2022)."
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run")
    command.add_argument(
        "--out", type=Path, required=True, help="directory for the new run, new or empty"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace the run in --out, if there is one"
    )
    add_json(command)
    add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist(options.runs)
    from comity.experiments.soup import make_soup
    from comity.terminal.waiting import Waiting

    with Waiting("evaluating the runs and their averages", options.quiet or options.json):
        soup = make_soup(options.runs, options.out, options.overwrite, options.command_line)
    return show(soup, _show, options.json)


def _show(soup: "Soup") -> None:
    """Print the runs in the order in which they were tried, and what came out."""
    from comity.terminal.table import Table
    from comity.terminal.views import console

    table = Table("run")
    for column in (f"{soup.by} of the run", f"{soup.by} of the soup with it"):
        table.add_column(column, justify="right")
    table.add_column("")
    for member in soup.members:
        kept = "kept" if member.kept else "left out"
        table.add_row(member.run, or_dash(member.score), or_dash(member.with_it), kept)
    out = console()
    out.print(table)
    kept = sum(member.kept for member in soup.members)
    out.print(
        f"{soup.out}: the mean of {kept} of {plural(len(soup.members), 'run')}, "
        f"{soup.by} {or_dash(soup.score)} on dev; the mean of all runs has {or_dash(soup.all_runs)}"
    )
    if kept == 1:
        out.print("No other run helped, so this is the model of the best run.")
