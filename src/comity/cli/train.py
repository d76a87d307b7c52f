"""`comity train`: train a recipe, or resume a run."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import (
    Commands,
    add_command,
    add_data,
    add_dry_run,
    add_json,
    add_only,
    add_quiet,
    add_set,
    load_recipe,
    show,
)
from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.recipe.recipe import Recipe


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "train", run, "train a recipe, or resume a run")
    command.add_argument("recipe", type=Path, nargs="?", help="a TOML recipe")
    add_data(command)
    add_set(command)
    add_only(command)
    command.add_argument("--out", type=Path, help="directory for the run, new or empty")
    command.add_argument("--resume", type=Path, metavar="RUN", help="continue a stopped run")
    add_dry_run(command)
    add_json(command)
    add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    job = _resumed(options) if options.resume is not None else _new(options)
    # What follows loads torch, which an error in the recipe does not need.
    from comity.runs import run_summary
    from comity.terminal.progress import Display
    from comity.terminal.views import show_plan, show_run
    from comity.training.train import plan_run, train

    quiet = options.quiet or options.json
    with Display(quiet=quiet or options.dry_run) as display:
        if options.dry_run:
            plan = plan_run(
                job.recipe,
                job.data,
                drop_leaks=job.drop_leaks,
                precision=job.precision,
                on_event=display,
            )
            return show(plan, show_plan, options.json)
        directory = train(
            job.recipe,
            job.data,
            job.out,
            resume=options.resume is not None,
            drop_leaks=job.drop_leaks,
            estimate_time=not quiet,
            on_event=display,
            command=options.command_line,
        )
    return show(run_summary(directory), show_run, options.json)


@dataclass(frozen=True)
class _Job:
    recipe: "Recipe"
    data: Path
    out: Path
    drop_leaks: bool
    precision: str | None = None  # of a resumed run


def _new(options: argparse.Namespace) -> _Job:
    from comity.runs import RunDirectory

    recipe, data = load_recipe(options)
    if options.out is not None:
        RunDirectory.check_new(options.out)
    elif not options.dry_run:
        raise ComityError("--out is missing; name a directory for the run")
    return _Job(recipe, data, options.out or Path(), options.drop_leaks)


def _resumed(options: argparse.Namespace) -> _Job:
    from comity.runs import RunDirectory, is_finished
    from comity.terminal.views import tell

    directory = RunDirectory.open(options.resume)
    changed = options.set or options.only or options.out or options.drop_leaks
    if options.recipe is not None or changed:
        raise ComityError(
            "--resume uses the run's own recipe and settings; remove the recipe, --set, --only, "
            "--out and --drop-leaks"
        )
    if is_finished(options.resume):
        tell(f"{options.resume}: the run has already finished, so nothing is trained")
    facts = directory.facts()
    data = options.data or Path(facts.inputs.data)
    return _Job(directory.recipe(), data, options.resume, facts.inputs.drop_leaks, facts.precision)
