"""`comity predict`: label a file with a run's model."""

import argparse
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, add_reading, show, with_options
from comity.errors import ComityError
from comity.format import plural

if TYPE_CHECKING:
    from comity.inference.predict_file import PredictReport

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
STANDARD = "-"
"""As --input: standard input. As --output: standard output."""


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "predict", run, "label a file with a run's model")
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument(
        "--task", help="the task to predict (default: all tasks whose columns the file has)"
    )
    command.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="input file: CSV, TSV, JSON Lines, a JSON array or Parquet; - for standard input",
    )
    command.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="output file: .csv, .tsv, .jsonl, .json or .parquet; - for standard output",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    command.add_argument(
        "--format",
        choices=(*FORMATS, "cs224n"),
        help="format of the output (default: by its extension), and of standard input; cs224n: "
        "the leaderboard format of the course CS 224N",
    )
    command.add_argument(
        "--input-format", choices=FORMATS, help="format of the input (default: by its extension)"
    )
    command.add_argument(
        "--text",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN",
        help="the text column of the input, or both columns of a pair (default: the recipe's)",
    )
    add_reading(command, "the input", "the recipe's")
    command.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the input has a header; without one columns are numbered from 0 (default: "
        "the recipe's)",
    )
    command.add_argument(
        "--raw-csv",
        action="store_true",
        help="write CSV and TSV byte for byte; by default a cell that a spreadsheet would run "
        "(it begins with =, +, -, @, tab or carriage return, and is not a number) gets "
        "an apostrophe in front",
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    to_stdout = options.output == STANDARD
    if to_stdout and options.json:
        raise ComityError("--json and --output - both use standard output; choose one")
    if to_stdout and options.format is None:
        raise ComityError("--output - needs --format, such as --format csv")
    input_format = options.input_format
    if options.input == STANDARD and input_format is None:
        if options.format in (None, "cs224n"):
            raise ComityError("--input - needs --input-format, such as --input-format csv")
        input_format = options.format
    with tempfile.TemporaryDirectory(prefix="comity-") as folder:
        source, destination = Path(options.input), Path(options.output)
        if options.input == STANDARD:
            source = Path(folder) / "input"
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if to_stdout:
            destination = Path(folder) / "output"
        try:
            report = _predict(options, source, destination, input_format)
        except ComityError as error:
            raise ComityError(*[_named(m, source, options) for m in error.messages]) from None
        if to_stdout:
            with destination.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    report = replace(
        report,
        skipped={task: _named(why, source, options) for task, why in report.skipped.items()},
        notes=[_named(note, source, options) for note in report.notes],
    )
    return show(report, lambda report: _show(report, to_stdout), options.json)


def _named(message: str, source: Path, options: argparse.Namespace) -> str:
    """A message that names options, and standard input, not the file that holds a copy of it."""
    message = with_options(message.replace("correct the name", "name the column with --text"))
    if options.input != STANDARD:
        return message
    message = message.replace(str(source), "standard input")
    return re.sub(r"rename it to end in \.(\w+)", r"use --input-format \1", message)


def _show(report: "PredictReport", to_stdout: bool) -> None:
    """Print what was written, on standard error if standard output has the rows."""
    from comity.terminal.views import tell

    for note in report.notes:
        tell(f"note: {note}")
    rows = f"{plural(report.rows, 'row')} written"
    if to_stdout:
        tell(rows)
    else:
        print(f"{report.output}: {rows}")


def _predict(
    options: argparse.Namespace, source: Path, destination: Path, input_format: str | None
) -> "PredictReport":
    """Write the predictions."""
    from comity.inference.model import load
    from comity.inference.predict_file import PredictOptions, predict_file
    from comity.terminal.waiting import Waiting

    is_leaderboard = options.format == "cs224n"
    output_format = None if is_leaderboard else options.format
    wanted = PredictOptions(
        task=options.task,
        text=options.text,
        delimiter=options.delimiter,
        header=options.header,
        quoting=options.quoting,
        encoding=options.encoding,
        input_extension=None if input_format is None else f".{input_format}",
        output_extension=None if output_format is None else f".{output_format}",
        leaderboard=is_leaderboard,
        raw_csv=options.raw_csv,
        overwrite=options.overwrite,
    )
    model = load(options.run_directory)
    with Waiting("predicting"):
        return predict_file(model, source, destination, wanted)
