"""`comity augment`: add training rows by translating texts to another language and back."""

import argparse
from pathlib import Path
from typing import Any

from comity.cli.options import (
    Commands,
    add_command,
    add_json,
    add_reading,
    naming_options,
    print_json,
)


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "add training rows by translating texts to another language and back"
    command = add_command(commands, "augment", run, help)
    command.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, JSON Lines or Parquet")
    command.add_argument(
        "--column",
        action="append",
        required=True,
        metavar="NAME",
        help="text column to translate; repeat it for the second text of a pair",
    )
    command.add_argument(
        "--to",
        required=True,
        metavar="CHECKPOINT",
        help="model that translates to the other language: a folder or hub id",
    )
    command.add_argument(
        "--back",
        required=True,
        metavar="CHECKPOINT",
        help="model that translates back: a folder or hub id",
    )
    command.add_argument(
        "--output", type=Path, required=True, help="output file; the extension sets the format"
    )
    add_reading(command, "FILE", "detected")
    command.add_argument(
        "--no-header", action="store_true", help="FILE has no header; columns are numbered from 0"
    )
    command.add_argument(
        "--batch-size", type=int, default=32, help="texts translated together (default: 32)"
    )
    command.add_argument(
        "--beams", type=int, default=1, help="beam width of the search (default: 1, greedy)"
    )
    command.add_argument(
        "--drop-similar",
        type=float,
        metavar="SHARE",
        help="also drop rows whose texts share at least this fraction of their characters with the "
        "source, such as 0.95",
    )
    command.add_argument(
        "--with-source",
        action="store_true",
        help="also write the rows of FILE, before the new ones",
    )
    add_json(command)


@naming_options()
def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.data.augment import augment, check_augment
    from comity.model.translate import Translator
    from comity.tables.rows import TableFormat
    from comity.terminal.progress import JobProgress
    from comity.terminal.views import show_augmented, tell

    columns = [
        int(column) if options.no_header and column.isdecimal() else column
        for column in options.column
    ]
    header = not options.no_header
    settings: dict[str, Any] = {
        "batch_size": options.batch_size,
        "drop_similar": options.drop_similar,
        "format": TableFormat(options.delimiter, header, options.quoting, options.encoding),
    }
    # Before the translators, which may have to be downloaded.
    check_augment(options.file, columns, options.output, **settings)
    forward = Translator(options.to, beams=options.beams)
    back = Translator(options.back, beams=options.beams)
    try:
        with JobProgress() as progress:
            report = augment(
                options.file,
                columns,
                options.output,
                forward,
                back,
                with_source=options.with_source,
                progress=progress,
                **settings,
            )
    except KeyboardInterrupt:
        tell("finished translations are kept; repeat the command to continue from there")
        raise
    if options.json:
        print_json(report)
    else:
        show_augmented(options.output, report)
    return 0
