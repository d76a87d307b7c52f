"""`comity predict`: label a file with a run's model."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command
from comity.format import plural


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "predict", run, "label a file with a run's model")
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--task", required=True, help="the task to predict")
    command.add_argument(
        "--input", type=Path, required=True, help="input file: CSV, TSV, JSON Lines or Parquet"
    )
    command.add_argument(
        "--output", type=Path, required=True, help="output file; the extension sets the format"
    )
    command.add_argument(
        "--format",
        choices=("table", "cs224n"),
        default="table",
        help="cs224n: the leaderboard format of the course CS 224N (default: table)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.inference.model import load
    from comity.inference.predict_file import predict_file
    from comity.terminal.waiting import Waiting

    model = load(options.run_directory)
    with Waiting("predicting"):
        rows = predict_file(model, options.task, options.input, options.output, options.format)
    print(f"{options.output}: {plural(rows, 'row')} written")
    return 0
