"""`comity paper`: train the rows of the paper's tables."""

import argparse
from pathlib import Path

from comity.cli.options import (
    Commands,
    add_command,
    add_drop_leaks,
    add_series,
    add_set,
    show,
)
from comity.cli.series import train_series


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "paper", run, "rerun the paper's tables and figure")
    command.add_argument(
        "--table",
        nargs="+",
        default=[],
        help="what to run: 1, 2, 3, figure, surgery or other-reading (default: all but the last)",
    )
    command.add_argument(
        "--data", type=Path, required=True, help="folder with the course's data files"
    )
    command.add_argument(
        "--encoder", default="minilm", help="minilm, a folder or a hub id (default: minilm)"
    )
    command.add_argument(
        "--epochs", type=float, help="epochs of each run (default: 2 for minilm, otherwise 3)"
    )
    command.add_argument(
        "--seeds", type=int, default=3, help="seeds of each row, one for Table 2 (default: 3)"
    )
    add_drop_leaks(command)
    add_set(command)
    add_series(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.hardware import flushed_denormals
    from comity.paper.page import show_paper, write_results
    from comity.paper.run import Paper, check_options
    from comity.terminal.views import show_series, tell

    checked = check_options(
        options.data,
        options.out,
        options.encoder,
        options.table,
        options.epochs,
        options.seeds,
        options.set,
        options.drop_leaks,
    )
    if not options.quiet and not options.json:
        tell("reading the data and checking every run")
    with flushed_denormals():
        paper = Paper(checked, options.command_line)
        for sentence in paper.series.notes:
            tell(sentence)
        if options.dry_run:
            return show(paper.plan(), show_series, options.json)
        train_series(paper, options, lambda: write_results(paper))
    return show(write_results(paper), show_paper, options.json)
