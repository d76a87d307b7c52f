"""Training checkpoints: weights, their average, moments, balancer state and counters."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from comity.errors import ComityError
from comity.files import read_record, write_record
from comity.model.parameters import FlatParameters
from comity.runs.directory import RunDirectory, validated
from comity.training.averaging import WeightAverage
from comity.training.conflict import ConflictMonitor
from comity.training.optim import FlatAdamW
from comity.training.plan import StagePlan
from comity.training.selection import Selection
from comity.training.tally import Count, Tally

BALANCER, AVERAGE = "balancer.", "average."
"""Prefixes of the tensors of the balancer and of the weight average in the file."""


@dataclass
class Progress:
    """How far a run has come."""

    stage: Count = 0
    stage_step: Count = 0  # steps done in the stage
    step: Count = 0  # steps done in the run
    evaluation_due: bool = False  # after the last step; an interrupt may come first
    examples: Count = 0
    skipped: Count = 0  # steps
    skipped_in_a_row: Count = 0
    norm: float | None = None  # of the last update's gradient, before clipping
    lr: float | None = None  # of the last update: the stage's, on its schedule
    tally: Tally = field(default_factory=Tally)
    conflict: ConflictMonitor = field(default_factory=ConflictMonitor)
    selection: Selection = field(default_factory=Selection)


@dataclass
class _State:
    """The contents of state.json."""

    progress: Progress
    segment_steps: list[Count]  # updates of each segment of the flat vector


_STATE = TypeAdapter(_State)


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, so that training waits only for the copying."""

    def __init__(self, directory: RunDirectory, keep: int):
        """After each checkpoint, all but the newest `keep` ones are deleted."""
        self._directory = directory
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "comity-checkpoint")
        self._writing: Future[None] | None = None

    def start(
        self,
        progress: Progress,
        flat: FlatParameters,
        optimizer: FlatAdamW,
        average: WeightAverage,
        balancer_state: Mapping[str, Tensor],
    ) -> None:
        """Copy everything that a resumed run needs, and let the thread write the copy.

        Call `wait` first: there is memory for one copy.
        """
        tensors = {
            **{f"{BALANCER}{name}": tensor for name, tensor in balancer_state.items()},
            **{f"{AVERAGE}{name}": tensor for name, tensor in average.tensors().items()},
            "masters": flat.masters,
            "first_moments": optimizer.first,
            "second_moments": optimizer.second,
        }
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        state = asdict(_State(progress, [segment.step for segment in flat.segments]))
        self._writing = self._thread.submit(self._write, progress.step, copies, state)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            WriteError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait until the thread has ended, whether it could write or not."""
        self._thread.shutdown()

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        def save(folder: Path) -> None:
            save_file(tensors, folder / "state.safetensors")
            write_record(folder / "state.json", state)

        self._directory.write_checkpoint(step, save, self._keep)


@dataclass(frozen=True)
class Restored:
    """What a checkpoint holds besides weights and moments."""

    progress: Progress
    balancer_state: dict[str, Tensor]
    notes: list[str]  # one sentence on each newer checkpoint that cannot be used


def read_checkpoint(
    directory: RunDirectory,
    plans: Sequence[StagePlan],
    flat: FlatParameters,
    optimizer: FlatAdamW,
    average: WeightAverage,
) -> Restored:
    """Restore the newest undamaged checkpoint into `flat`, `optimizer` and `average`.

    Raises:
        ComityError: no checkpoint can be used, or it is one of another model or plan.
    """
    folder, notes = directory.usable_checkpoint()
    try:
        state = validated(_STATE, read_record(folder / "state.json"), folder / "state.json")
        tensors = load_file(folder / "state.safetensors")
        _check_sizes(folder, state, tensors, flat)
        _check_progress(folder, state.progress, plans)
        flat.masters.copy_(tensors["masters"])
        optimizer.first.copy_(tensors["first_moments"])
        optimizer.second.copy_(tensors["second_moments"])
        average.restore(_under(AVERAGE, tensors))
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ComityError(
            f"{folder}: cannot be read as a checkpoint ({error}); delete it to continue from the "
            "one before"
        ) from None
    flat.refresh(0, len(flat.masters))
    for segment, step in zip(flat.segments, state.segment_steps, strict=True):
        segment.step = step
    return Restored(state.progress, _under(BALANCER, tensors), notes)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _check_sizes(
    folder: Path, state: _State, tensors: Mapping[str, Tensor], flat: FlatParameters
) -> None:
    same = len(state.segment_steps) == len(flat.segments)
    if not same or tensors["masters"].shape != flat.masters.shape:
        raise ComityError(
            f"{folder}: has {len(tensors['masters']):,} parameters, the recipe's model has "
            f"{len(flat.masters):,}; resume with the recipe that started the run"
        )


def _check_progress(folder: Path, progress: Progress, plans: Sequence[StagePlan]) -> None:
    """Whoever can write a checkpoint can write its digest too, so its numbers are checked."""
    if not _fits(progress, plans):
        raise ComityError(
            f"{folder}: state.json does not fit the run; delete the folder to continue from the "
            "checkpoint before"
        )


def _fits(progress: Progress, plans: Sequence[StagePlan]) -> bool:
    """Whether a run with these stages can have come this far."""
    stage, monitor = progress.stage, progress.conflict
    before = sum(len(plan.steps) for plan in plans[:stage])
    if stage > len(plans) or progress.step > before + progress.stage_step:
        return False
    if progress.stage_step == 0:
        return True  # a stage starts with a monitor of its own
    if stage == len(plans):
        return False
    plan = plans[stage]
    return (
        progress.stage_step < len(plan.steps) + progress.evaluation_due
        and monitor.tasks == plan.compared_tasks
        and monitor.has_consistent_sizes()
    )
