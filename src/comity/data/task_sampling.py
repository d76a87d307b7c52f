"""Whose turn it is: the plan of a stage, step by step, made before the first step is taken."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from comity.data.batches import TaskBatches
from comity.errors import ErrorList, nearest
from comity.rng import TASK_SAMPLING, generator

SAMPLINGS = ("round-robin", "sequential", "proportional", "temperature", "annealed")

DRAWS_AT_ONCE = 1024


@dataclass(frozen=True)
class SampledTask:
    """A task as task sampling sees it: `rows` rows in batches, and its sampling weight."""

    name: str
    batches: TaskBatches
    rows: int
    sampling_weight: float = 1.0


class PlannedBatch(NamedTuple):
    """One batch of one task: `task` is its place in the stage's list of tasks, `number` counts the
    task's own turns in this stage from 0 (`tasks[task].batches.batch(number)`)."""

    task: int
    number: int


@dataclass(frozen=True)
class PlanCounts:
    """What a plan means for one task, counted from the plan.

    `turns` batches hold `examples` rows (with repeats) and `tokens` tokens, `passes` times the
    task's `rows` rows. Each row is seen `repeats_min` to `repeats_max` times, `rows_never_seen` of
    them not at all.
    """

    name: str
    turns: int
    examples: int
    rows: int
    passes: float
    repeats_min: int
    repeats_max: int
    rows_never_seen: int
    tokens: int


def plan_steps(
    task_sampling: str,
    tasks: Sequence[SampledTask],
    *,
    seed: int,
    stage: int,
    batches_per_step: int = 1,
    temperature: float = 2.0,
    epochs: float | None = None,
    steps: int | None = None,
    epoch_ends: Literal["examples", "longest"] = "examples",
) -> list[list[PlannedBatch]]:
    """All steps of a stage, each the list of its turns; a function of the arguments alone.

    The schedules:

    - round-robin: a step is one turn of every task.
    - sequential: each epoch runs every batch of each task, in the order of `tasks`. Of a last epoch
      that is a part of one, each task runs that part, rounded up to whole batches, so that none
      goes short for its place.
    - proportional: each epoch runs every batch of every task, in random order. Where sampling
      weights differ, each turn's task is drawn instead, with probability ~ weight x rows.
    - temperature: drawn with probability ~ weight x rows ^ (1 / temperature).
    - annealed: drawn with probability ~ weight x rows ^ a, where a falls from 1 in the first epoch
      to 0.2 in the last: a = 1 - 0.8 (e - 1) / (E - 1) (Stickland & Murray 2019, "BERT and PALs",
      section 4.1).

    Except under round-robin a step is `turns` turns. The plan has `steps` steps; or it ends as soon
    as `epochs` times as many examples are seen as the tasks have rows together (under sequential,
    once its passes are through), so that the last step may hold fewer turns (never under
    round-robin); or, with epoch_ends = "longest" under
    round-robin, once every task has been through `epochs` passes of its own.

    Raises `ComityError` for arguments that have no meaning or no effect together.
    """
    _check(task_sampling, tasks, batches_per_step, temperature, epochs, steps, epoch_ends)
    round_robin = task_sampling == "round-robin"
    stream = _stream(task_sampling, tasks, seed, stage, temperature, epochs)
    examples, limit = math.inf, math.inf
    if steps is not None:
        limit = steps
    elif epochs is not None and epoch_ends == "longest":
        limit = max(_turns_of_passes(task.batches, epochs) for task in tasks)
    elif epochs is not None and task_sampling != "sequential":  # its turns end by themselves
        examples = _share(epochs, sum(task.rows for task in tasks))
    plan: list[list[PlannedBatch]] = []
    seen = 0
    while len(plan) < limit and seen < examples:
        step: list[PlannedBatch] = []
        for turn in itertools.islice(stream, len(tasks) if round_robin else batches_per_step):
            step.append(turn)
            seen += tasks[turn.task].batches.size(turn.number)
            if seen >= examples and not round_robin:
                break
        if not step:
            break
        plan.append(step)
    return plan


def count(plan: Sequence[Sequence[PlannedBatch]], tasks: Sequence[SampledTask]) -> list[PlanCounts]:
    """For each task what `plan` holds, by going through the plan row by row."""
    turns = [0] * len(tasks)
    repeats = [np.zeros(task.rows, dtype=np.int32) for task in tasks]
    for turn in itertools.chain.from_iterable(plan):
        turns[turn.task] += 1
        _, rows = tasks[turn.task].batches.batch(turn.number)
        repeats[turn.task][rows] += 1  # a batch holds no row twice
    return [
        PlanCounts(
            name=task.name,
            turns=turns[k],
            examples=int(repeats[k].sum()),
            rows=task.rows,
            passes=float(repeats[k].sum() / task.rows),
            repeats_min=int(repeats[k].min()),
            repeats_max=int(repeats[k].max()),
            rows_never_seen=int((repeats[k] == 0).sum()),
            tokens=int(np.einsum("n,n", repeats[k], task.batches.lengths, dtype=np.int64)),
        )
        for k, task in enumerate(tasks)
    ]


def _check(
    task_sampling: str,
    tasks: Sequence[SampledTask],
    batches_per_step: int,
    temperature: float,
    epochs: float | None,
    steps: int | None,
    epoch_ends: str,
) -> None:
    errors = ErrorList()
    if task_sampling not in SAMPLINGS:
        hint = f"{nearest(task_sampling, SAMPLINGS)}; use one of {', '.join(SAMPLINGS)}"
        errors.add(f'unknown task_sampling "{task_sampling}"{hint}')
    if not tasks:
        errors.add("the stage has no tasks; name at least one")
    if (epochs is None) == (steps is None):
        errors.add("a stage ends by epochs or by steps; set exactly one of the two")
    for name, value in (
        ("epochs", epochs),
        ("steps", steps),
        ("batches_per_step", batches_per_step),
    ):
        if value is not None and not 0 < value < math.inf:
            errors.add(f"{name} is {value}; it must be greater than 0")
    if batches_per_step != 1 and task_sampling == "round-robin":
        errors.add("batches_per_step has no effect under round-robin; leave it out")
    if task_sampling == "temperature" and not 0 < temperature < math.inf:
        errors.add(f"temperature is {temperature}; it must be greater than 0")
    if epoch_ends not in ("examples", "longest"):
        errors.add(f'epoch_ends is "{epoch_ends}"; it must be "examples" or "longest"')
    if epoch_ends == "longest" and (task_sampling != "round-robin" or epochs is None):
        errors.add(
            'epoch_ends = "longest" needs task_sampling = "round-robin" and epochs; leave it out'
        )
    if task_sampling == "annealed" and epochs is None:
        errors.add("the annealed task_sampling follows the epochs; set epochs in place of steps")
    for task in tasks:
        if not 0 < task.sampling_weight < math.inf:
            errors.add(
                f'task "{task.name}": sampling weight {task.sampling_weight} must be greater than 0'
            )
        if task.sampling_weight != 1 and task_sampling in ("round-robin", "sequential"):
            what = f"a sampling weight has no effect under {task_sampling}"
            errors.add(f'task "{task.name}": {what}; leave it out')
    errors.check()


def _stream(
    task_sampling: str,
    tasks: Sequence[SampledTask],
    seed: int,
    stage: int,
    temperature: float,
    epochs: float | None,
) -> Iterator[PlannedBatch]:
    """The turns of a task_sampling, one after another without end."""
    if task_sampling == "round-robin":
        return (PlannedBatch(k, number) for number in itertools.count() for k in range(len(tasks)))
    if task_sampling == "sequential":
        return _passes(tasks, lambda epoch, owners: owners, epochs)
    if task_sampling == "proportional" and len({task.sampling_weight for task in tasks}) == 1:
        return _passes(
            tasks,
            lambda epoch, owners: generator(TASK_SAMPLING, seed, stage, epoch).permutation(owners),
        )
    if task_sampling == "proportional":
        return _drawn(tasks, lambda epoch: 1.0, seed, stage)
    if task_sampling == "temperature":
        return _drawn(tasks, lambda epoch: 1 / temperature, seed, stage)
    last = math.ceil(epochs or 1)
    return _drawn(tasks, lambda epoch: _annealed(epoch, last), seed, stage)


def _passes(
    tasks: Sequence[SampledTask],
    arrange: Callable[[int, np.ndarray], np.ndarray],
    epochs: float | None = None,
) -> Iterator[PlannedBatch]:
    """Epochs in each of which every task makes one pass, its turns where `arrange` puts them.

    With `epochs` they end, and the last of them is as much of a pass as is left.
    """
    numbers = [itertools.count() for _ in tasks]
    for epoch in itertools.count():
        if epochs is not None and epoch >= epochs:
            return
        part = 1.0 if epochs is None else min(epochs - epoch, 1.0)
        batches = [_turns_of_part(task.batches, epoch, part) for task in tasks]
        owners = np.repeat(np.arange(len(tasks)), batches)
        for k in arrange(epoch, owners).tolist():
            yield PlannedBatch(k, next(numbers[k]))


def _turns_of_part(batches: TaskBatches, epoch: int, part: float) -> int:
    """How many turns of pass `epoch` hold that part of its rows."""
    if part == 1:
        return batches.per_pass(epoch)
    first, wanted = batches.first_batch(epoch), _share(part, batches.rows)
    turns = seen = 0
    while seen < wanted:
        seen += batches.size(first + turns)
        turns += 1
    return turns


def _drawn(
    tasks: Sequence[SampledTask], exponent: Callable[[int], float], seed: int, stage: int
) -> Iterator[PlannedBatch]:
    """Turns drawn with probability ~ weight x rows ^ exponent(epoch), epochs counted from 1."""
    total = sum(task.rows for task in tasks)
    numbers = [0] * len(tasks)
    seen, epoch, bounds = 0, 0, []
    for block in itertools.count():
        for draw in generator(TASK_SAMPLING, seed, stage, block).random(DRAWS_AT_ONCE).tolist():
            if epoch != seen // total + 1:
                epoch = seen // total + 1
                bounds = _cumulative(tasks, exponent(epoch))
            k = bisect_right(bounds, draw)
            yield PlannedBatch(k, numbers[k])
            seen += tasks[k].batches.size(numbers[k])
            numbers[k] += 1


def _cumulative(tasks: Sequence[SampledTask], exponent: float) -> list[float]:
    """Cumulative probabilities of the tasks; the last is exactly 1."""
    sums = np.cumsum([task.sampling_weight * task.rows**exponent for task in tasks])
    return (sums / sums[-1]).tolist()


def _annealed(epoch: int, last: int) -> float:
    """The exponent of an epoch (1 to `last`) after Stickland & Murray."""
    if last == 1:
        return 1.0
    return 1 - 0.8 * (min(epoch, last) - 1) / (last - 1)


def _turns_of_passes(batches: TaskBatches, passes: float) -> int:
    """How many turns it takes to get through `passes` passes; part of a pass is rounded up."""
    whole = math.floor(passes)
    turns = batches.first_batch(whole)
    if passes > whole:
        turns += _share(passes - whole, batches.per_pass(whole))
    return turns


def _share(part: float, whole: int) -> int:
    """part x whole rounded up, but not for a rounding error: 0.07 x 100 is 7."""
    return math.ceil(round(part * whole, 6))
