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
from comity.errors import ComityError


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "paper", run, "rerun the paper's tables and figure")
    command.add_argument(
        "--table",
        nargs="+",
        default=[],
        help="what to run: 1, 2, 3, figure, surgery or other-reading (default: all but the last)",
    )
    command.add_argument("--data", type=Path, help="folder with the course's data files")
    command.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        metavar="RESULTS",
        help="folder results/ of an earlier call: with --data, train only the runs it lacks; "
        "without, write the page again",
    )
    command.add_argument("--encoder", help="minilm, a folder or a hub id (default: minilm)")
    command.add_argument(
        "--epochs", type=float, help="epochs of each run (default: 2 for minilm, otherwise 3)"
    )
    command.add_argument(
        "--seeds", type=int, help="seeds of each row, one for Table 2 (default: 3)"
    )
    add_drop_leaks(command)
    add_set(command)
    add_series(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.files import path_text
    from comity.hardware import flushed_denormals
    from comity.paper.page import show_paper, write_results
    from comity.paper.run import Paper, check_options

    if options.data is None:
        if options.earlier is None:
            raise ComityError(
                "--data is missing; name the folder of the course's data files, or the results of "
                "an earlier call with --from"
            )
        _check_page_alone(options)
        return show(write_results(options.out, options.earlier), show_paper, options.json)
    from comity.terminal.views import show_series, tell

    checked = check_options(
        options.data,
        options.out,
        "minilm" if options.encoder is None else path_text(options.encoder),
        options.table,
        options.epochs,
        3 if options.seeds is None else options.seeds,
        [path_text(setting) for setting in options.set],
        options.drop_leaks,
        options.earlier,
    )
    if not options.quiet and not options.json:
        tell("reading the data and checking every run")
    with flushed_denormals():
        paper = Paper(checked, options.command_line)
        for sentence in paper.series.notes:
            tell(sentence)
        if options.dry_run:
            return show(paper.plan(), show_series, options.json)
        train_series(paper, options, lambda: write_results(options.out))
    return show(write_results(options.out), show_paper, options.json)


def _check_page_alone(options: argparse.Namespace) -> None:
    """Check that --from without --data has no option that only training reads."""
    for name in ("table", "encoder", "epochs", "seeds", "drop_leaks", "set", "dry_run", "jobs"):
        if getattr(options, name) not in (None, False, []):
            raise ComityError(
                f"--{name.replace('_', '-')}: has no effect without --data: the page shows every "
                "run in --from; leave it out, or give --data to train"
            )
    if options.out.resolve() == options.earlier.resolve():
        raise ComityError(
            f"{options.out}: --out is the folder of the slim runs; name another, such as "
            f"{options.earlier.resolve().parent}"
        )
