"""A run at a glance: how far it has come, its scores and its conflicts."""

from dataclasses import dataclass, field

from comity.recipe.schema import TrainSection
from comity.runs.directory import RunDirectory
from comity.runs.entries import (
    BestModel,
    BestOfTask,
    EvaluationEntry,
    SkippedEntry,
    StageConflictEntry,
)
from comity.runs.facts import Machine, SoupMember
from comity.runs.lock import is_training


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance: `comity info`."""

    run: str
    finished: bool
    step: int  # of the end, or the one from which an unfinished run continues
    steps: int | None  # planned
    status: str  # a sentence
    encoder: str
    precision: str
    seed: int
    machine: Machine
    versions: dict[str, str]
    best: BestModel | None  # None before the first evaluation
    best_of_task: dict[str, BestOfTask]
    evaluations: list[EvaluationEntry]
    conflict: list[StageConflictEntry]  # one for each stage that trains two tasks or more
    skipped: int  # steps
    average: str | None = None  # what was averaged to give the evaluated weights
    soup: list[SoupMember] = field(default_factory=list)  # the runs that a soup was made from

    @property
    def kept(self) -> EvaluationEntry | None:
        """The evaluation of the kept model, with its calibration."""
        best = self.best
        if best is None:
            return None
        return next((best.kept(e) for e in self.evaluations if e.step == best.step), None)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task of which the kept model predicts nothing but one class."""
        return self.kept.warnings if self.kept else []


def run_summary(directory: RunDirectory) -> RunSummary:
    """Summarise a run.

    Raises:
        ComityError: a file is damaged.
    """
    facts = directory.facts()
    recipe = directory.recipe()  # an edited recipe does not describe the run
    evaluations = directory.entries(EvaluationEntry)
    status = directory.status()
    sentence = status.sentence
    if not status.finished and is_training(directory.path):
        of = f" of {status.steps:,}" if status.steps else ""
        sentence = f"another process is training it; last checkpoint: step {status.step:,}{of}"
    return RunSummary(
        run=str(directory.path),
        finished=status.finished,
        step=status.step,
        steps=status.steps,
        status=sentence,
        encoder=facts.inputs.encoder.name,
        precision=facts.precision,
        seed=facts.seed,
        machine=facts.machine,
        versions=facts.versions,
        best=directory.best() if directory.has_best() else None,
        best_of_task=evaluations[-1].best_of_task if evaluations else {},
        evaluations=evaluations,
        conflict=stage_conflicts(directory),
        skipped=len(directory.entries(SkippedEntry)),
        average=weight_average(recipe.train),
        soup=facts.soup,
    )


def weight_average(train: TrainSection) -> str | None:
    """What was averaged, in words; None where the trained weights were evaluated."""
    if train.average == "ema":
        return f"moving average of the weights, decay {train.average_decay:g}"
    if train.average == "last-evaluations":
        return f"mean of the weights at the last {train.average_last} evaluations"
    return None


def stage_conflicts(directory: RunDirectory) -> list[StageConflictEntry]:
    """The last summary of conflict of each stage, in order.

    A stage that has one task, or trains on masked words, has none.
    """
    last = {entry.stage: entry for entry in directory.entries(StageConflictEntry)}
    return [last[stage] for stage in sorted(last)]


@dataclass(frozen=True)
class Reached:
    """The dev scores of a run's kept model."""

    step: int
    mean: float | None  # None if any task has no value: a mean without its worst task misleads
    tasks: dict[str, float | None]


def reached(directory: RunDirectory) -> Reached:
    """The step, mean and task scores of the kept model."""
    best = directory.best()
    tasks = {name: score.value for name, score in best.tasks.items()}
    kept = directory.kept_evaluation()
    return Reached(best.step, None if None in tasks.values() or not kept else kept.mean, tasks)
