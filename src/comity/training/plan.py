"""The plan before the spend: what each task will see, in how many steps, with how much memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from comity.data.batches import TaskBatches
from comity.data.splits import Split, TaskData
from comity.data.task_sampling import PlanCounts, PlannedBatch, SampledTask, count, plan_steps
from comity.model.parameters import FlatParameters
from comity.recipe.schema import DRAWN, Stage, TrainSection

if TYPE_CHECKING:
    from comity.training.trainer import Trainer


@dataclass(frozen=True)
class StagePlan:
    """One stage, step by step, as it will be run."""

    stage: Stage
    number: int
    tasks: list[SampledTask]
    splits: list[Split]  # the training rows of each task in this stage
    steps: list[list[PlannedBatch]]
    counts: list[PlanCounts]
    evaluations: set[int]  # steps of the stage, counted from 1, after which dev is judged

    @property
    def rows_needed(self) -> int:
        """Task gradients kept apart in a step: one for each task present, one in all for `sum`."""
        if self.stage.balancer == "sum":
            return 1
        return max(len({turn.task for turn in step}) for step in self.steps)

    def rows_of_a_probe(self, watch: int) -> int:
        """Rows that a probe for conflict fills: none where the balancer sees every step."""
        summed = self.stage.balancer == "sum" and self.stage.train_on == "labels"
        watched = summed and len(self.tasks) > 1 and watch > 0
        return len(self.tasks) if watched else 0


def plan_stage(
    number: int, stage: Stage, data: dict[str, TaskData], train: TrainSection
) -> StagePlan:
    """Lay out one stage."""
    tasks, splits = [], []
    for name in stage.tasks:
        of_task = data[name]
        of_stage = stage.data.get(name)
        split = of_task.train if of_stage is None else of_task.stage_train[of_stage.file]
        section = of_task.task
        tokens = section.batch_tokens
        if tokens is None and section.batch_size is None:
            tokens = train.batch_tokens
        views = section.trained_views if stage.train_on == "labels" else section.views
        batches = TaskBatches(
            name,
            split.lengths(views, of_task.max_length),
            seed=train.seed,
            stage=number,
            batch_size=None if tokens else section.batch_size or train.batch_size,
            batch_tokens=tokens,
            group_by_length=train.group_by_length,
        )
        weight = section.sampling_weight if stage.task_sampling in DRAWN else 1.0
        tasks.append(SampledTask(name, batches, len(split), weight))
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
    return StagePlan(
        stage,
        number,
        tasks,
        splits,
        steps,
        count(steps, tasks),
        _evaluations(steps, tasks, train.evaluate_every, stage),
    )


def _evaluations(
    steps: Sequence[Sequence[PlannedBatch]],
    tasks: Sequence[SampledTask],
    every: int | str,
    stage: Stage,
) -> set[int]:
    """After which steps dev is judged: every n, or each time an epoch of the stage is over."""
    last = {len(steps)}
    if stage.epoch_ends == "longest" and stage.steps is None:
        every = max(task.batches.per_pass(0) for task in tasks) if every == "epoch" else every
    if isinstance(every, int):
        return set(range(every, len(steps) + 1, every)) | last
    sizes = [sum(tasks[t.task].batches.size(t.number) for t in step) for step in steps]
    epochs = np.cumsum(sizes) // sum(task.rows for task in tasks)
    ends = np.flatnonzero(np.diff(epochs, prepend=0)) + 1
    return {int(end) for end in ends} | last


def memory(flat: FlatParameters, plans: Sequence[StagePlan], watch: int) -> dict[str, int]:
    """Bytes for parameters (masters and compute buffer), task gradients and optimizer.

    A stage that is watched for conflict needs a row for each task beside its own, now and then.
    """
    numbers = len(flat.masters)
    buffer = 0 if flat.compute is flat.masters else flat.compute.element_size() * numbers
    dense = flat.shared_stop - flat.table_stop
    rows = max(plan.rows_needed + plan.rows_of_a_probe(watch) for plan in plans)
    heads = numbers - flat.shared_stop
    masked = any(plan.stage.train_on != "labels" for plan in plans)
    # Gathered as the decoder, the decoder's gradient, and the row that takes it.
    whole_table = 3 * flat.table_stop if masked else 0
    return {
        "parameters": 4 * numbers + buffer,
        "task gradients": 4 * (rows * dense + heads + whole_table),
        "optimizer": 8 * numbers,
    }


def plan_summary(trainer: "Trainer", seconds: float | None) -> dict[str, Any]:
    """The plan before the spend, for its table and its JSON."""
    return {
        "stages": [_stage_summary(plan) for plan in trainer.plans],
        "memory_bytes": memory(trainer.flat, trainer.plans, trainer.settings.conflict_every),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "device": str(trainer.device),
        "notes": _accumulation_notes(trainer.prepared.tasks),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def _accumulation_notes(tasks: Mapping[str, TaskData]) -> list[str]:
    """What a user may expect of accumulation that it does not do."""
    return [
        f"{name}: its objectives compare only the rows of one micro-batch ("
        f"{data.task.micro_batches} in a batch); for more negatives use a larger micro-batch"
        for name, data in tasks.items()
        if data.task.objectives and data.task.micro_batches > 1
    ]


def _stage_summary(plan: StagePlan) -> dict[str, Any]:
    return {
        "name": plan.stage.name,
        "train_on": plan.stage.train_on,
        "task_sampling": plan.stage.task_sampling,
        "balancer": plan.stage.balancer,
        "steps": len(plan.steps),
        "evaluations": len(plan.evaluations),
        "tasks": {
            count.name: {
                "rows": count.rows,
                "turns": count.batches,
                "examples": count.examples,
                "tokens": count.tokens,
                "passes": round(count.passes, 4),
                "repeats_min": count.repeats_min,
                "repeats_max": count.repeats_max,
                "rows_never_seen": count.rows_never_seen,
            }
            for count in plan.counts
        },
    }
