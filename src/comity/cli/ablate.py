"""`comity ablate`: what each part of a recipe is worth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import (
    Commands,
    add_command,
    add_data,
    add_series,
    add_set,
    print_json,
    show,
)
from comity.cli.series import train_series

if TYPE_CHECKING:
    from comity.experiments.ablation import AblationResults


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(
        commands, "ablate", run, "train a recipe without each of its parts, one at a time"
    )
    command.description = (
        "Train a recipe and, for each of its parts, the recipe without that part, with several "
        "seeds. A part is a key that changes how the model learns, such as balancer, pooling or "
        "objectives; without it, the key has its default, in all tasks and stages that set it."
    )
    command.add_argument("recipe", type=Path, help="a TOML recipe")
    add_data(command)
    add_set(command)
    command.add_argument(
        "--parts",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY",
        help="parts to take out (default: every one of the recipe)",
    )
    command.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each variant, with the seeds from train.seed on (default: 3)",
    )
    add_series(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.experiments.ablation import Ablation, write_ablation
    from comity.hardware import flushed_denormals
    from comity.terminal.views import show_ablation, show_series, tell

    def write() -> "AblationResults":
        results = ablation.results()
        write_ablation(results, options.out)
        return results

    with flushed_denormals():
        ablation = Ablation(
            options.recipe,
            options.data or options.recipe.parent,
            options.out,
            options.set,
            options.parts,
            options.seeds,
            options.drop_leaks,
            options.command_line,
        )
        for sentence in ablation.series.notes:
            tell(sentence)
        if options.dry_run:
            return show(ablation.plan(), show_series, options.json)
        train_series(ablation, options, write)
    results = write()
    if options.json:
        print_json(results.to_dict())
    else:
        show_ablation(results.recipe, results.columns(), results.rows())
    return 0
