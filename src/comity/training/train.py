"""The entry points of training: train a recipe, plan a run, evaluate before training."""

from pathlib import Path

from comity import hardware
from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation
from comity.runs import RunDirectory
from comity.training.arguments import Job, RecipeLike, resolve
from comity.training.events import DataRead, Listener, ignore
from comity.training.plan import PlanSummary
from comity.training.setup import prepare
from comity.training.trainer import Trainer


@hardware.flushed_denormals()  # has to come before torch starts its threads
def train(
    recipe: RecipeLike,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    drop_leaks: bool = False,
    estimate_time: bool = False,
    on_event: Listener = ignore,
    command: list[str] | None = None,
) -> RunDirectory:
    """Train a recipe and keep the run in a directory.

    Args:
        recipe: what to train: the path of a TOML file, a dict as in TOML, or a `Recipe`. In a dict,
            a DataFrame may be in place of a file. A resumed run needs the recipe and the tables it
            was started with.
        data: the folder where the recipe's relative paths start (default: the folder of the
            recipe's file, or the working directory; a resumed run has its own).
        out: the run directory: new or empty, or with `resume` an existing run.
        resume: continue from the last checkpoint of `out`.
        drop_leaks: leave out training rows that also appear in a dev set. A resumed run keeps the
            setting it was started with.
        estimate_time: time a few steps first, so that the plan says how long the run will take.
        on_event: called with each event of `comity.training.events`.
        command: the command line to record in run.json.

    Raises:
        ComityError: with every error in the recipe's files or the checkpoint.

    Example:
        run = train("recipe.toml", data="data", out="runs/first")
    """
    if not isinstance(out, (str, Path)):
        raise ComityError("out is missing; name a directory for the run: train(recipe, out=...)")
    run, precision = RunDirectory(Path(out)), None
    if resume:
        facts = RunDirectory.open(run.path).facts()
        drop_leaks, precision = facts.inputs.drop_leaks, facts.precision
        data = facts.inputs.data if data is None else data
    else:
        RunDirectory.check_new(run.path)
    job = resolve(recipe, data)
    if resume and run.recipe() != job.recipe:
        raise ComityError(f"{out}: was started with another recipe; resume with its own")
    trainer = _trainer(job, drop_leaks, on_event, precision)
    if not resume:
        RunDirectory.create(run.path)
    trainer.plan(estimate_time)
    trainer.run(run, resume, command)
    return run


@hardware.flushed_denormals()
def plan_run(
    recipe: RecipeLike,
    data: str | Path | None = None,
    *,
    drop_leaks: bool = False,
    precision: str | None = None,
    on_event: Listener = ignore,
) -> PlanSummary:
    """Plan a run, with an estimate of its time, and train nothing.

    Args:
        recipe, data, drop_leaks: as in `train`.
        precision: "float32" or "bfloat16", to plan a resumed run; otherwise the recipe's.

    Raises:
        ComityError: as `train`.
    """
    trainer = _trainer(resolve(recipe, data), drop_leaks, on_event, precision)
    return trainer.plan(estimate_time=True)


@hardware.flushed_denormals()
def evaluate_untrained(recipe: RecipeLike, data: str | Path | None = None) -> dict[str, Evaluation]:
    """Evaluate the dev sets with the pretrained encoder and new heads, before any training."""
    trainer = _trainer(resolve(recipe, data), False, ignore, None)
    dev = {name: task.dev for name, task in trainer.prepared.tasks.items()}
    return trainer.evaluate(dev)[0]


def _trainer(job: Job, drop_leaks: bool, on_event: Listener, precision: str | None) -> Trainer:
    prepared = prepare(job.recipe, job.folder, drop_leaks, job.frames)
    on_event(DataRead((*prepared.notes, *prepared.leaks)))
    return Trainer(prepared, on_event, precision)
