"""The entry points of training: train a recipe, plan a run, evaluate before training."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

from comity import hardware
from comity.data.folds import Fold
from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation
from comity.recipe.recipe import Recipe
from comity.runs.directory import SLIM_WEIGHTS, RunDirectory, resume_or_start
from comity.runs.facts import RunInputs
from comity.runs.lock import check_unlocked, locked
from comity.training.arguments import Job, RecipeLike, resolve
from comity.training.events import DataRead, Listener, ignore
from comity.training.plan import PlanSummary
from comity.training.ranks import ALONE, Ranks, joined
from comity.training.setup import prepare
from comity.training.tracking import tracked
from comity.training.trainer import Trainer


@hardware.flushed_denormals()  # has to come before torch starts its threads
def train(
    recipe: RecipeLike,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool | Literal["auto"] = False,
    extend: Mapping[str, float] | None = None,
    overwrite: bool = False,
    drop_leaks: bool = False,
    estimate_time: bool = False,
    on_event: Listener = ignore,
    command: list[str] | None = None,
    fold: Fold | None = None,
) -> RunDirectory:
    """Train a recipe and keep the run in a directory, without showing progress.

    Args:
        recipe, data, out, resume, extend, overwrite, drop_leaks, on_event: as for `comity.train`.
        estimate_time: time a few steps first, so that the plan says how long the run will take.
        command: the command line to record in run.json.
        fold: leave out this fold of the training rows; the recipe has one task. A resumed run has
            its own.

    Raises:
        ComityError: with every error in the recipe, its files or the checkpoint.
        Interrupted: a `KeyboardInterrupt` after Ctrl-C or SIGTERM; a checkpoint has been written.
    """
    if resume and overwrite:
        raise ComityError("resume and overwrite exclude each other; leave one of them out")
    if extend and not resume:
        raise ComityError("extend needs resume; to train a new run for longer, set epochs or steps")
    if not isinstance(out, (str, Path)):
        raise ComityError("out is missing; name a directory for the run: train(recipe, out=...)")
    out = Path(out)
    check_unlocked(out)  # before anything is loaded
    precision = None
    if resume == "auto":
        resume, overwrite = resume_or_start(out)
    if resume:
        run = RunDirectory.open(out)
        facts = run.facts()
        drop_leaks, precision = facts.inputs.drop_leaks, facts.precision
        fold = fold_of(facts.inputs)
        job = resolve(recipe, facts.inputs.data if data is None else data)
        run.check_recipe(job.recipe, "the given recipe")
        if run.is_finished() and not extend:
            return run
        # An error in the run comes before anything is loaded.
        if extend:
            check_extendable(run)
            job = replace(job, recipe=extended(job.recipe, extend))
        else:
            run.usable_checkpoint()
    else:
        RunDirectory.check_new(out, overwrite)
        job = resolve(recipe, data)
    no_memory = f"{out}: out of memory; free some, or use a lower batch_size or a smaller encoder"
    with joined(job.recipe.train.device) as ranks, hardware.memory_errors(no_memory):
        listening, alone = nullcontext(ignore), nullcontext()
        if ranks.is_first:  # which alone shows, tracks and writes the run
            listening, alone = tracked(job.recipe.track, out, on_event), locked(out)
        with listening as listener:
            trainer = _trainer(job, drop_leaks, listener, precision, fold, ranks)
            trainer.plan(estimate_time)
            with alone:
                run = RunDirectory(out)
                if ranks.is_first and not resume:
                    RunDirectory.create(out, overwrite)
                trainer.run(run, resume, bool(extend), command)
    return run


def check_extendable(run: RunDirectory) -> None:
    """Raise a ComityError if a run is unfinished, a slim copy, or has no usable checkpoint."""
    if (run.path / SLIM_WEIGHTS).is_file():
        raise ComityError(
            f"{run.path}: is a slim copy without weights, so it cannot be extended; name the run "
            "that it is a copy of"
        )
    if not run.is_finished():
        raise ComityError(
            f"{run.path}: the run is unfinished, so it cannot be extended yet; first finish it "
            f"with {run.resume_command}"
        )
    run.usable_checkpoint()


def extended(recipe: Recipe, by: Mapping[str, float]) -> Recipe:
    """A recipe with one more stage, like its last one but `by` {"epochs": E} or {"steps": N} long.

    The new stage keeps the optimizer's state and has a learning-rate schedule of its own: the rates
    warm up and fall once more. A run that is extended by it ends with the same weights as a run of
    the extended recipe, unless `patience` had stopped the first one.

    Raises:
        ComityError: `by` is neither of the two, or the stage cannot have that length.
    """
    if list(by) not in (["epochs"], ["steps"]):
        raise ComityError(f"extend: must be epochs or steps, got {', '.join(by) or 'nothing'}")
    values = recipe.to_dict()
    stages = values.get("stages") or [{}]
    last = {k: v for k, v in stages[-1].items() if k not in ("name", "epochs", "steps")}
    values["stages"] = [*stages, {**last, **by, "keep_optimizer_state": True}]
    return Recipe.from_dict(values, source="extended recipe")


@hardware.flushed_denormals()
def plan_run(
    recipe: RecipeLike,
    data: str | Path | None = None,
    *,
    drop_leaks: bool = False,
    precision: str | None = None,
    fold: Fold | None = None,
    on_event: Listener = ignore,
) -> PlanSummary:
    """Plan a run, with an estimate of its time, and train nothing.

    Args:
        recipe, data, drop_leaks, fold: as in `train`.
        precision: "float32" or "bfloat16", to plan a resumed run; otherwise the recipe's.

    Raises:
        ComityError: as `train`.
    """
    job = resolve(recipe, data)
    with joined(job.recipe.train.device) as ranks:
        listener = on_event if ranks.is_first else ignore
        trainer = _trainer(job, drop_leaks, listener, precision, fold, ranks)
        return trainer.plan(estimate_time=True)


@hardware.flushed_denormals()
def evaluate_untrained(recipe: RecipeLike, data: str | Path | None = None) -> dict[str, Evaluation]:
    """Evaluate the dev sets with the pretrained encoder and new heads, before any training."""
    trainer = _trainer(resolve(recipe, data), False, ignore, None)
    dev = {name: task.dev for name, task in trainer.prepared.tasks.items()}
    return trainer.evaluate(dev)[0]


def fold_of(inputs: RunInputs) -> Fold | None:
    """The fold that a run leaves out."""
    return None if inputs.fold is None else Fold(inputs.fold.number, inputs.fold.count)


def _trainer(
    job: Job,
    drop_leaks: bool,
    on_event: Listener,
    precision: str | None,
    fold: Fold | None = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    with ranks.one_on_each_machine_first():
        prepared = prepare(job.recipe, job.folder, drop_leaks, job.frames, fold)
        on_event(DataRead((*prepared.notes, *prepared.leaks)))
        trainer = Trainer(prepared, on_event, precision, ranks)
    settings = {"recipe": json.dumps(job.recipe.to_dict()), "precision": str(trainer.dtype)}
    ranks.check_same({**settings, **prepared.inputs().digests})
    return trainer
