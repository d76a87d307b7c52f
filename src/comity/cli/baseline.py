"""`comity baseline`: train every task alone, to compare a shared model with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import (
    Commands,
    add_command,
    add_data,
    add_series,
    add_set,
    check_exist,
    print_json,
    show,
)
from comity.cli.series import train_series

if TYPE_CHECKING:
    from comity.experiments.baseline import BaselineResults


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(
        commands, "baseline", run, "train every task alone, to compare a shared model with"
    )
    command.description = (
        "Train every task of a recipe alone: the recipe with --only TASK, so as many epochs over "
        "the task's own rows (or steps) as the recipe has, with several seeds. The table also has "
        "the scores of the best constant and of the encoder before training."
    )
    command.add_argument("recipe", type=Path, help="a TOML recipe")
    add_data(command)
    add_set(command)
    command.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each task, with the seeds from train.seed on (default: 3)",
    )
    command.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="also train each task and seed N times without a fold of its training rows, and write "
        "what each run predicts for its fold as soft labels to OUT/teachers",
    )
    command.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="runs of the shared model, to compare with the tasks alone",
    )
    add_series(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist(options.compare)
    from comity.experiments.baseline import Baseline, write_baseline
    from comity.hardware import flushed_denormals
    from comity.terminal.views import show_baseline, show_comparison, show_series, tell

    def write() -> "BaselineResults":
        results = baseline.results()
        write_baseline(results, options.out)
        return results

    with flushed_denormals():
        baseline = Baseline(
            options.recipe,
            options.data or options.recipe.parent,
            options.out,
            options.set,
            options.seeds,
            options.folds,
            options.compare,
            options.drop_leaks,
            options.command_line,
        )
        for sentence in baseline.notes:
            tell(sentence)
        if options.dry_run:
            return show(baseline.plan(), show_series, options.json)
        train_series(baseline, options, write)
    results = write()
    if options.json:
        print_json(results.to_dict())
        return 0
    show_baseline(results.recipe, results.columns(), results.rows())
    print(results.budget)
    if results.comparison is not None:
        show_comparison(results.comparison, "name at least two seeds of the shared model")
    for path in results.teachers:
        print(f"soft labels: {path}")
    return 0
