"""Training checkpoints: weights, optimizer moments, balancer state and counters."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from comity.errors import ComityError
from comity.model.parameters import FlatParameters
from comity.runs import RunDirectory, read_json, validated
from comity.training.conflict import ConflictMonitor
from comity.training.optim import FlatAdamW
from comity.training.selection import Selection

BALANCER = "balancer."
"""Prefix of the balancer's tensors in the file."""


@dataclass
class Progress:
    """How far a run has come."""

    stage: int = 0
    stage_step: int = 0  # steps done in the stage
    step: int = 0  # steps done in the run
    examples: int = 0
    skipped: int = 0  # steps
    skipped_in_a_row: int = 0
    conflict: ConflictMonitor = field(default_factory=ConflictMonitor)
    selection: Selection = field(default_factory=Selection)


@dataclass
class _State:
    """The contents of state.json."""

    progress: Progress
    segment_steps: list[int]  # updates of each segment of the flat vector


_STATE = TypeAdapter(_State)


def write_checkpoint(
    directory: RunDirectory,
    progress: Progress,
    flat: FlatParameters,
    optimizer: FlatAdamW,
    balancer_state: Mapping[str, Tensor],
) -> None:
    """Write everything that a resumed run needs, then delete the previous checkpoint."""
    tensors = {
        **{f"{BALANCER}{name}": tensor for name, tensor in balancer_state.items()},
        "masters": flat.masters,
        "first_moments": optimizer.first,
        "second_moments": optimizer.second,
    }
    state = _State(progress, [segment.step for segment in flat.segments])

    def save(folder: Path) -> None:
        save_file({k: v.cpu() for k, v in tensors.items()}, folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps(asdict(state)))

    directory.write_checkpoint(progress.step, save)


def read_checkpoint(
    directory: RunDirectory, flat: FlatParameters, optimizer: FlatAdamW
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore the newest complete checkpoint into `flat` and `optimizer`.

    Returns the progress and the balancer's state.

    Raises:
        ComityError: no complete checkpoint, or one of another model.
    """
    folder = directory.newest_checkpoint()
    path = folder / "state.json"
    state = validated(_STATE, read_json(path), path)
    tensors = load_file(folder / "state.safetensors")
    if tensors["masters"].shape != flat.masters.shape:
        raise ComityError(
            f"{folder}: has {len(tensors['masters']):,} parameters, the recipe's model has "
            f"{len(flat.masters):,}; resume with the recipe that started the run"
        )
    flat.masters.copy_(tensors["masters"])
    flat.refresh(0, len(flat.masters))
    optimizer.first.copy_(tensors["first_moments"])
    optimizer.second.copy_(tensors["second_moments"])
    for segment, step in zip(flat.segments, state.segment_steps, strict=True):
        segment.step = step
    balancer_state = {
        name.removeprefix(BALANCER): tensor
        for name, tensor in tensors.items()
        if name.startswith(BALANCER)
    }
    return state.progress, balancer_state
