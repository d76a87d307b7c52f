"""Task sampling: plans which tasks contribute a batch to each step of a stage."""

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
    """A task as task sampling sees it: its batches, number of rows and sampling weight."""

    name: str
    batches: TaskBatches
    rows: int
    sampling_weight: float = 1.0


class PlannedBatch(NamedTuple):
    """One batch of one task.

    `task` is the task's index in the stage; `number` counts the task's own batches in this stage
    from 0 (`tasks[task].batches.batch(number)`).
    """

    task: int
    number: int


@dataclass(frozen=True)
class PlanCounts:
    """What a plan contains of one task.

    The `batches` have `examples` rows (with repeats), which is `passes` times the task's `rows`
    rows. Each row is seen `repeats_min` to `repeats_max` times, and `rows_never_seen` of them not
    at all. The encoder reads `tokens` tokens for them.
    """

    name: str
    batches: int
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
    """All steps of a stage, each a list of batches; depends on the arguments alone.

    Task sampling:

    - round-robin: a step has one batch of every task.
    - sequential: each epoch runs every batch of each task, in the order of `tasks`. If the last
      epoch is a fraction, each task runs that fraction, rounded up to whole batches.
    - proportional: each epoch runs every batch of every task, in random order. If sampling weights
      differ, the task of each batch is drawn instead, with probability ~ weight x rows.
    - temperature: drawn with probability ~ weight x rows ^ (1 / temperature).
    - annealed: drawn with probability ~ weight x rows ^ a, where a falls from 1 in the first epoch
      to 0.2 in the last: a = 1 - 0.8 (e - 1) / (E - 1) (Stickland & Murray 2019, "BERT and PALs",
      section 4.1).

    A step has `batches_per_step` batches, except with round-robin. The plan has `steps` steps, or
    it ends after `epochs`: as soon as `epochs` times as many examples are seen as the tasks have
    rows together (sequential: after the passes). The last step may then have fewer batches, except
    with round-robin. With round-robin and epoch_ends = "longest" the plan ends when every task has
    made `epochs` passes of its own.

    Raises:
        ComityError: every argument that is wrong or has no effect.
    """
    _check(task_sampling, tasks, batches_per_step, temperature, epochs, steps, epoch_ends)
    round_robin = task_sampling == "round-robin"
    stream = _stream(task_sampling, tasks, seed, stage, temperature, epochs)
    examples, limit = math.inf, math.inf
    if steps is not None:
        limit = steps
    elif epochs is not None and epoch_ends == "longest":
        limit = max(_batches_of_passes(task.batches, epochs) for task in tasks)
    elif epochs is not None and task_sampling != "sequential":  # whose stream ends by itself
        examples = _share(epochs, sum(task.rows for task in tasks))
    plan: list[list[PlannedBatch]] = []
    seen = 0
    while len(plan) < limit and seen < examples:
        step: list[PlannedBatch] = []
        for batch in itertools.islice(stream, len(tasks) if round_robin else batches_per_step):
            step.append(batch)
            seen += tasks[batch.task].batches.size(batch.number)
            if seen >= examples and not round_robin:
                break
        if not step:
            break
        plan.append(step)
    return plan


def count(
    plan: Sequence[Sequence[PlannedBatch]], tasks: Sequence[SampledTask], encoded_once: bool = False
) -> list[PlanCounts]:
    """Count for each task what `plan` contains, row by row.

    With `encoded_once` a row is encoded once, however often it is seen.
    """
    batches = [0] * len(tasks)
    repeats = [np.zeros(task.rows, dtype=np.int32) for task in tasks]
    for batch in itertools.chain.from_iterable(plan):
        batches[batch.task] += 1
        _, rows = tasks[batch.task].batches.batch(batch.number)
        repeats[batch.task][rows] += 1  # a batch has no row twice
    encoded = [np.minimum(seen, 1) for seen in repeats] if encoded_once else repeats
    return [
        PlanCounts(
            name=task.name,
            batches=batches[k],
            examples=int(repeats[k].sum()),
            rows=task.rows,
            passes=float(repeats[k].sum() / task.rows),
            repeats_min=int(repeats[k].min()),
            repeats_max=int(repeats[k].max()),
            rows_never_seen=int((repeats[k] == 0).sum()),
            tokens=int(np.einsum("n,n", encoded[k], task.batches.lengths, dtype=np.int64)),
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
        hint = nearest(task_sampling, SAMPLINGS) or f"; use one of {', '.join(SAMPLINGS)}"
        errors.add(f'unknown task_sampling "{task_sampling}"{hint}')
    if not tasks:
        errors.add("the stage has no tasks; name at least one")
    if (epochs is None) == (steps is None):
        errors.add("set exactly one of epochs and steps")
    for name, value in (
        ("epochs", epochs),
        ("steps", steps),
        ("batches_per_step", batches_per_step),
    ):
        if value is not None and not 0 < value < math.inf:
            errors.add(f"{name} must be greater than 0, got {value}")
    if batches_per_step != 1 and task_sampling == "round-robin":
        errors.add("batches_per_step has no effect with round-robin; remove it")
    if task_sampling == "temperature" and not 0 < temperature < math.inf:
        errors.add(f"temperature must be greater than 0, got {temperature}")
    if epoch_ends not in ("examples", "longest"):
        errors.add(f'epoch_ends must be "examples" or "longest", got "{epoch_ends}"')
    if epoch_ends == "longest" and (task_sampling != "round-robin" or epochs is None):
        errors.add(
            'epoch_ends = "longest" needs task_sampling = "round-robin" and epochs; remove it'
        )
    if task_sampling == "annealed" and epochs is None:
        errors.add('task_sampling = "annealed" depends on epochs; set epochs instead of steps')
    for task in tasks:
        _check_sampling_weight(task_sampling, task, errors)
    errors.check()


def _check_sampling_weight(task_sampling: str, task: SampledTask, errors: ErrorList) -> None:
    weight = task.sampling_weight
    if not 0 < weight < math.inf:
        errors.add(f'task "{task.name}": sampling_weight must be greater than 0, got {weight}')
    if weight != 1 and task_sampling in ("round-robin", "sequential"):
        what = f"sampling_weight has no effect with {task_sampling}"
        errors.add(f'task "{task.name}": {what}; remove it')


def _stream(
    task_sampling: str,
    tasks: Sequence[SampledTask],
    seed: int,
    stage: int,
    temperature: float,
    epochs: float | None,
) -> Iterator[PlannedBatch]:
    """The batches of a stage, one after another; endless except for sequential with epochs."""
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
    if task_sampling == "annealed":
        last = math.ceil(epochs or 1)
        return _drawn(tasks, lambda epoch: _annealed(epoch, last), seed, stage)
    raise ValueError(f"no batches are defined for task_sampling {task_sampling}")


def _passes(
    tasks: Sequence[SampledTask],
    arrange: Callable[[int, np.ndarray], np.ndarray],
    epochs: float | None = None,
) -> Iterator[PlannedBatch]:
    """Epochs in which every task makes one pass, its batches in the order that `arrange` gives.

    With `epochs` there are that many; if the last is a fraction, so are its passes.
    """
    numbers = [itertools.count() for _ in tasks]
    for epoch in itertools.count():
        if epochs is not None and epoch >= epochs:
            return
        fraction = 1.0 if epochs is None else min(epochs - epoch, 1.0)
        batches = [_batches_of_fraction(task.batches, epoch, fraction) for task in tasks]
        owners = np.repeat(np.arange(len(tasks)), batches)
        for k in arrange(epoch, owners).tolist():
            yield PlannedBatch(k, next(numbers[k]))


def _batches_of_fraction(batches: TaskBatches, epoch: int, fraction: float) -> int:
    """How many batches of pass `epoch` contain that fraction of its rows."""
    if fraction == 1:
        return batches.per_pass(epoch)
    first, wanted = batches.first_batch(epoch), _share(fraction, batches.rows)
    count = seen = 0
    while seen < wanted:
        seen += batches.size(first + count)
        count += 1
    return count


def _drawn(
    tasks: Sequence[SampledTask], exponent: Callable[[int], float], seed: int, stage: int
) -> Iterator[PlannedBatch]:
    """Batches of tasks drawn with probability ~ weight x rows ^ exponent(epoch), epochs from 1."""
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
    """The exponent in an epoch (1 to `last`) of Stickland & Murray."""
    if last == 1:
        return 1.0
    return 1 - 0.8 * (min(epoch, last) - 1) / (last - 1)


def _batches_of_passes(batches: TaskBatches, passes: float) -> int:
    """The number of batches in `passes` passes; a fraction of a pass is rounded up."""
    whole = math.floor(passes)
    count = batches.first_batch(whole)
    if passes > whole:
        count += _share(passes - whole, batches.per_pass(whole))
    return count


def _share(fraction: float, whole: int) -> int:
    """fraction x whole rounded up, except for a rounding error: 0.07 x 100 is 7."""
    return math.ceil(round(fraction * whole, 6))
