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
from comity.training.launch import launched

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
    command.add_argument(
        "--overwrite", action="store_true", help="replace the run in --out, if there is one"
    )
    command.add_argument("--resume", type=Path, metavar="RUN", help="continue a stopped run")
    command.add_argument(
        "--or-resume",
        action="store_true",
        help="continue the run in --out if it was stopped, else start it: one command for a job "
        "that may be started again",
    )
    command.add_argument(
        "--extend",
        metavar="LENGTH",
        help="with --resume: train a finished run for longer, by a stage like the last one, such "
        "as epochs=1 or steps=500",
    )
    command.add_argument(
        "--track",
        type=_names,
        action="extend",
        metavar="TRACKER",
        help="show the run in tensorboard, wandb, trackio or mlflow (several: a,b); replaces "
        "track.to of the recipe",
    )
    add_dry_run(command)
    add_json(command)
    add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    job = _resumed(options) if options.resume is not None else _new(options)
    recipe = job.recipe if options.track is None else job.recipe.tracked_by(options.track)
    # What follows loads torch, which an error in the recipe does not need.
    from comity.runs.directory import RunDirectory
    from comity.runs.summary import run_summary
    from comity.terminal.progress import Display
    from comity.terminal.views import show_plan, show_run
    from comity.training.train import check_extendable, extended, fold_of, plan_run, train

    quiet = options.quiet or options.json
    first = launched().is_first  # only this process shows what all of them do
    with Display(quiet=quiet or options.dry_run or not first) as display:
        if options.dry_run:
            if job.extend:
                check_extendable(RunDirectory(job.out))
            plan = plan_run(
                extended(recipe, job.extend) if job.extend else recipe,
                job.data,
                drop_leaks=job.drop_leaks,
                precision=job.precision,
                fold=fold_of(RunDirectory(job.out).facts().inputs) if job.resume else None,
                on_event=display,
            )
            return show(plan, show_plan, options.json) if first else 0
        directory = train(
            recipe,
            job.data,
            job.out,
            resume=job.resume,
            extend=job.extend,
            overwrite=job.overwrite,
            drop_leaks=job.drop_leaks,
            estimate_time=not quiet,
            on_event=display,
            command=options.command_line,
        )
    return show(run_summary(directory), show_run, options.json) if first else 0


@dataclass(frozen=True)
class _Job:
    recipe: "Recipe"
    data: Path
    out: Path
    drop_leaks: bool
    resume: bool = False
    overwrite: bool = False
    precision: str | None = None  # of a resumed run
    extend: dict[str, float] | None = None


def _new(options: argparse.Namespace) -> _Job:
    from comity.runs.directory import RunDirectory, resume_or_start
    from comity.runs.lock import check_unlocked

    if options.or_resume and options.overwrite:
        raise ComityError("--or-resume and --overwrite exclude each other; leave one of them out")
    if options.extend is not None:
        raise ComityError(
            "--extend needs --resume; to train a new run for longer, set train.epochs or "
            "train.steps"
        )
    recipe, data = load_recipe(options)
    overwrite = options.overwrite
    if options.out is not None:
        check_unlocked(options.out)
        if options.or_resume:
            resume, overwrite = resume_or_start(options.out)
            if resume:
                return _continued(options, recipe, options.out)
        RunDirectory.check_new(options.out, overwrite)
    elif not options.dry_run:
        raise ComityError("--out is missing; name a directory for the run")
    return _Job(recipe, data, options.out or Path(), options.drop_leaks, overwrite=overwrite)


def _resumed(options: argparse.Namespace) -> _Job:
    """The job of --resume. A recipe may be given too, but must be the run's."""
    from comity.recipe.recipe import Recipe
    from comity.runs.directory import RunDirectory

    RunDirectory.open(options.resume)
    if options.out or options.overwrite or options.drop_leaks or options.only or options.or_resume:
        raise ComityError(
            "--resume continues the run in its own directory with its own settings; remove --out, "
            "--overwrite, --or-resume, --only and --drop-leaks"
        )
    if options.set and options.recipe is None:
        raise ComityError(
            "--resume continues with the run's own recipe; remove --set, or start a new run"
        )
    given = None if options.recipe is None else Recipe.load(options.recipe, options.set)
    return _continued(options, given, options.resume)


def _continued(options: argparse.Namespace, given: "Recipe | None", out: Path) -> _Job:
    """The job that continues the run in `out`, with its own recipe; `given` has to be the same."""
    from comity.runs.directory import SLIM_WEIGHTS, RunDirectory
    from comity.terminal.views import tell

    directory = RunDirectory.open(out)
    facts, recipe, extend = directory.facts(), directory.recipe(), _length(options.extend)
    if given is not None:
        directory.check_recipe(given, str(options.recipe))
        recipe = recipe.model_copy(update={"track": given.track})
    if directory.is_finished() and extend is None and launched().is_first:
        advice = "to train it for longer, add --extend epochs=1"
        if (directory.path / SLIM_WEIGHTS).is_file():
            advice = "it is a slim copy without weights, so it cannot be extended"
        elif not directory.checkpoints():
            advice = "it has no checkpoint any more, so it cannot be extended"
        elif options.or_resume:
            advice = f"to train it for longer, use --resume {out} --extend epochs=1"
        tell(f"{out}: the run has already finished, so nothing is trained; {advice}")
    drop_leaks = facts.inputs.drop_leaks
    if options.drop_leaks and not drop_leaks:
        raise ComityError(
            f"{out}: was started without --drop-leaks; leave it out, or start another run"
        )
    data = options.data or Path(facts.inputs.data)
    return _Job(recipe, data, out, drop_leaks, True, precision=facts.precision, extend=extend)


def _names(text: str) -> list[str]:
    """The trackers in a value of --track."""
    return [name.strip() for name in text.split(",")]


def _length(text: str | None) -> dict[str, float] | None:
    """The length in --extend, such as `epochs=1`."""
    if text is None:
        return None
    unit, _, number = text.partition("=")
    try:
        value = {"epochs": float, "steps": int}[unit.strip()](number)
    except (KeyError, ValueError):
        raise ComityError(
            f'--extend "{text}": write epochs=NUMBER or steps=NUMBER, such as epochs=1'
        ) from None
    return {unit.strip(): value}
