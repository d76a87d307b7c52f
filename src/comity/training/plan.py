"""The training plan, computed before training: steps, examples, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comity.data.batches import TaskBatches
from comity.data.splits import Split, TaskData
from comity.data.task_sampling import PlanCounts, PlannedBatch, SampledTask, count, plan_steps
from comity.data.unlabelled import with_unlabelled
from comity.format import plural
from comity.model.parameters import FlatParameters
from comity.recipe.schema import DRAWN, Stage, TrainSection
from comity.tables.locations import file_text

FEW_STEPS = 500
"""With fewer steps, a head on a frozen encoder may be far from its optimum (docs/decisions.md)."""


@dataclass(frozen=True)
class StagePlan:
    """One stage, step by step."""

    stage: Stage
    number: int
    tasks: list[SampledTask]
    splits: list[Split]  # the training rows of each task in this stage
    steps: list[list[PlannedBatch]]
    counts: list[PlanCounts]
    evaluations: set[int]  # steps of the stage, counted from 1, after which dev is evaluated

    @property
    def gradient_rows(self) -> int:
        """How many task gradients a step keeps apart: 1 for the balancer `sum`, else one per task.

        Only tasks with a batch in the step count.
        """
        if self.stage.balancer == "sum":
            return 1
        return max(len({batch.task for batch in step}) for step in self.steps)

    @property
    def freezes_encoder(self) -> bool:
        """Whether the whole encoder is frozen, so that each row is encoded once."""
        return self.stage.freeze == "encoder"

    def evaluates_frozen(self, average: str) -> bool:
        """Whether all evaluations of the stage have its frozen encoder.

        An average of the weights that continues from the stage before holds another one.
        """
        return self.freezes_encoder and (average == "none" or not self.stage.keep_optimizer_state)

    @property
    def shares(self) -> bool:
        """Whether the stage's task gradients can be compared: several tasks, and their labels."""
        return self.stage.train_on == "labels" and len(self.tasks) > 1

    @property
    def compared_tasks(self) -> list[str]:
        """The tasks whose gradients are compared."""
        return [task.name for task in self.tasks] if self.shares else []

    def unprobed(self, conflict_every: int) -> str | None:
        """Why a stage that `shares` has no conflict probes, or None if it has them."""
        if self.freezes_encoder:
            return "nothing is shared: the encoder is frozen"
        if conflict_every == 0:
            return "no probes: conflict_every is 0"
        for task in self.tasks:
            if task.batches.per_pass(0) < 2:
                return f"no probes: {task.name} has fewer than two batches of training rows"
        return None

    def is_probed(self, conflict_every: int) -> bool:
        """Whether the stage has conflict probes."""
        return self.shares and self.unprobed(conflict_every) is None

    def probes(self, before: int, conflict_every: int) -> int:
        """How many conflict probes the stage has, if earlier stages have `before` steps."""
        if not self.is_probed(conflict_every):
            return 0
        regular = (before + len(self.steps)) // conflict_every - before // conflict_every
        # One more comes after the stage's first step.
        return regular + ((before + 1) % conflict_every > 0)

    def allocated_rows(self, conflict_every: int) -> int:
        """How many task gradients the stage's steps and probes need at the same time.

        A probe keeps one gradient of each task apart. Second ones are computed one by one, and
        discarded, in a row of their own that is not counted here.
        """
        probed = len(self.tasks) if self.is_probed(conflict_every) else 0
        return max(self.gradient_rows, probed)


def plan_stages(
    stages: Sequence[Stage], data: Mapping[str, TaskData], train: TrainSection
) -> list[StagePlan]:
    """Plan every stage of a recipe."""
    return [plan_stage(number, stage, data, train) for number, stage in enumerate(stages)]


def plan_stage(
    number: int, stage: Stage, data: Mapping[str, TaskData], train: TrainSection
) -> StagePlan:
    """Plan one stage; `number` counts stages from 0."""
    tasks, splits = [], []
    for name in stage.tasks:
        split = _stage_split(data[name], stage)
        tasks.append(_sampled_task(data[name], split, number, stage, train))
        splits.append(split)
    steps = plan_steps(
        stage.task_sampling,
        tasks,
        seed=train.seed,
        stage=number,
        batches_per_step=stage.batches_per_step,
        temperature=stage.sampling_temperature,
        epochs=None if stage.steps else stage.epochs,
        steps=stage.steps,
        epoch_ends=stage.epoch_ends,
    )
    evaluations = _evaluations(steps, tasks, train.evaluate_every, stage)
    counts = count(steps, tasks, encoded_once=stage.freeze == "encoder")
    return StagePlan(stage, number, tasks, splits, steps, counts, evaluations)


def _stage_split(data: TaskData, stage: Stage) -> Split:
    """The task's training rows in a stage, which may have a file of its own."""
    own = stage.data.get(data.name)
    if own is not None:
        return data.stage_train[file_text(own.file)]
    if data.unlabelled is None:
        return data.train
    return with_unlabelled(data.train, data.unlabelled)


def _sampled_task(
    data: TaskData, split: Split, number: int, stage: Stage, train: TrainSection
) -> SampledTask:
    section = data.task
    tokens = section.batch_tokens
    if tokens is None and section.batch_size is None:
        tokens = train.batch_tokens
    views = section.masked_views
    if stage.train_on == "labels":
        # Each further dropout draw encodes what the heads read once more, unless it is frozen.
        draws = 1 if stage.freeze == "encoder" else section.draws
        views = (*section.trained_views, *(draws - 1) * section.views)
    batches = TaskBatches(
        data.name,
        split.lengths(views, data.max_length),
        seed=train.seed,
        stage=number,
        batch_size=None if tokens else section.batch_size or train.batch_size,
        batch_tokens=tokens,
        group_by_length=train.group_by_length,
    )
    weight = section.sampling_weight if stage.task_sampling in DRAWN else 1.0
    return SampledTask(data.name, batches, len(split), weight)


def _evaluations(
    steps: Sequence[Sequence[PlannedBatch]],
    tasks: Sequence[SampledTask],
    every: int | str,
    stage: Stage,
) -> set[int]:
    """The steps after which dev is evaluated: every n steps, or at the end of each epoch."""
    last = {len(steps)}
    if stage.epoch_ends == "longest" and stage.steps is None:
        every = max(task.batches.per_pass(0) for task in tasks) if every == "epoch" else every
    if isinstance(every, int):
        return set(range(every, len(steps) + 1, every)) | last
    sizes = [sum(tasks[b.task].batches.size(b.number) for b in step) for step in steps]
    epochs = np.cumsum(sizes) // sum(task.rows for task in tasks)
    ends = np.flatnonzero(np.diff(epochs, prepend=0)) + 1
    return {int(end) for end in ends} | last


def memory(
    flat: FlatParameters,
    plans: Sequence[StagePlan],
    conflict_every: int,
    averages: int,
    encoded: int = 0,
) -> dict[str, int]:
    """Bytes for parameters (masters and compute buffer), task gradients, optimizer state, and the
    copy of a checkpoint that is being written.

    `averages` is the number of vectors for the weight average, and `encoded` the bytes of the rows
    that a frozen encoder has encoded. Both are listed if there are any.
    """
    numbers = len(flat.masters)
    buffer = 0 if flat.compute is flat.masters else flat.compute.element_size() * numbers
    dense = flat.shared_stop - flat.table_stop
    rows = max(
        plan.allocated_rows(conflict_every) + plan.is_probed(conflict_every) for plan in plans
    )
    heads = numbers - flat.shared_stop
    masked = any(plan.stage.train_on != "labels" for plan in plans)
    # The gathered decoder, its gradient, and the gradient row that takes it.
    whole_table = 3 * flat.table_stop if masked else 0
    return {
        "parameters": 4 * numbers + buffer,
        "task gradients": 4 * (rows * dense + heads + whole_table),
        "optimizer": 8 * numbers,
        **({"weight average": 4 * numbers * averages} if averages else {}),
        "checkpoint": 4 * numbers * (3 + averages),
        **({"encoded rows": encoded} if encoded else {}),
    }


# --- summaries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageSummary:
    """One stage of a plan, counted."""

    name: str
    train_on: str
    task_sampling: str
    balancer: str
    steps: int
    evaluations: int
    tasks: dict[str, PlanCounts]


@dataclass(frozen=True)
class PlanSummary:
    """A run's plan, counted."""

    stages: list[StageSummary]
    memory_bytes: dict[str, int]  # as `memory` returns it
    precision: str
    device: str
    notes: list[str]
    seconds: float | None  # estimated training time; None where it was not estimated


def plan_summary(
    plans: Sequence[StagePlan],
    tasks: Mapping[str, TaskData],
    average: str,
    memory_bytes: dict[str, int],
    precision: str,
    device: str,
    seconds: float | None,
    processes: int = 1,
) -> PlanSummary:
    """Count a plan."""
    return PlanSummary(
        stages=[_stage_summary(plan) for plan in plans],
        memory_bytes=memory_bytes,
        precision=precision,
        device=device,
        notes=[
            *_frozen_notes(plans),
            *_process_notes(processes),
            *_micro_batch_notes(tasks),
            *_average_notes(average, plans),
        ],
        seconds=None if seconds is None else round(seconds, 1),
    )


def _frozen_notes(plans: Sequence[StagePlan]) -> list[str]:
    """A note for each stage that freezes the encoder and is short."""
    return [
        f"{plan.stage.name}: {plural(len(plan.steps), 'step')} may be too few for heads to "
        "converge; further ones take little time, so set more epochs"
        for plan in plans
        if plan.freezes_encoder and len(plan.steps) < FEW_STEPS
    ]


def _process_notes(processes: int) -> list[str]:
    if processes == 1:
        return []
    return [f"{processes} processes share the rows of every batch; the memory is that of each"]


def _micro_batch_notes(tasks: Mapping[str, TaskData]) -> list[str]:
    """A note for each task whose objectives do not see the whole batch."""
    return [
        f"{name}: a batch is split into {data.task.micro_batches} micro-batches, and objectives "
        "compare only the rows of one; for more negatives, lower micro_batches"
        for name, data in tasks.items()
        if data.task.objectives and data.task.micro_batches > 1
    ]


def _average_notes(average: str, plans: Sequence[StagePlan]) -> list[str]:
    """A note if there are never two evaluations to average."""
    in_a_row = longest = 0
    for plan in plans:
        kept = in_a_row if plan.stage.keep_optimizer_state else 0
        in_a_row = kept + len(plan.evaluations)
        longest = max(longest, in_a_row)
    if average != "last-evaluations" or longest > 1:
        return []
    return [
        "train.average: no stage has two evaluations, so nothing is averaged; train for longer or "
        "lower train.evaluate_every"
    ]


def _stage_summary(plan: StagePlan) -> StageSummary:
    return StageSummary(
        name=plan.stage.name,
        train_on=plan.stage.train_on,
        task_sampling=plan.stage.task_sampling,
        balancer=plan.stage.balancer,
        steps=len(plan.steps),
        evaluations=len(plan.evaluations),
        tasks={count.name: count for count in plan.counts},
    )


@dataclass(frozen=True)
class PlannedRun:
    """One run of a series, and how much it trains on."""

    name: str
    state: str  # "to train", "to resume" or "finished"
    steps: int
    examples: int
    tokens: int


@dataclass(frozen=True)
class SeriesPlan:
    """The plan of several runs."""

    runs: list[PlannedRun]
    seconds: float | None  # estimated time for the unfinished runs; None if not estimated
