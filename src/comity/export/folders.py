"""What the targets of an export share: its parts, the files of a BERT folder, an output layer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.files import write_atomically
from comity.inference.model import Model
from comity.model.checkpoint import checkpoint_tensors, save_tensors
from comity.model.checkpoint_files import WEIGHTS
from comity.runs.directory import RunDirectory
from comity.targets import HeadSpec, Target


@dataclass(frozen=True)
class Source:
    """The run that is exported."""

    directory: RunDirectory
    model: Model  # the kept model, in float32 on the CPU
    untrained: frozenset[str]  # tasks whose heads were never trained

    @property
    def untrained_note(self) -> str:
        """A sentence about heads that were not trained, or ""."""
        if not self.untrained:
            return ""
        heads, verb = ("head", "was") if len(self.untrained) == 1 else ("heads", "were")
        return f"the {heads} of {', '.join(sorted(self.untrained))} {verb} not trained"

    def spec(self, task: str) -> HeadSpec:
        """What a task's head reads and predicts."""
        return self.model.network.tasks[task]

    def max_length(self, task: str) -> int:
        """The most tokens of a task's sequences."""
        return self.model.facts.tasks[task].max_length


@dataclass(frozen=True)
class Part:
    """A folder of an export that a library loads by itself."""

    folder: str  # in the export; "." is all of it
    what: str  # "model", "encoder", "embeddings" or "head"
    tasks: tuple[str, ...]  # whose outputs it gives
    loads_with: str  # the class that loads it
    note: str = ""  # what its user has to know
    difference: float | None = None  # the largest of its outputs from ours; None: not checked


EXAMPLE_TEXTS = ("A quiet, generous film.", "A calm and kind film.")
"""What the code in model cards predicts."""


def row_code(texts: int) -> str:
    """A row of one or two example texts, as Python code."""
    if texts == 1:
        return json.dumps(EXAMPLE_TEXTS[0])
    return f"({', '.join(map(json.dumps, EXAMPLE_TEXTS))})"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def write_bert(
    folder: Path,
    model: Model,
    max_length: int,
    head: Mapping[str, Tensor] | None = None,
    **config: Any,
) -> None:
    """Write config.json, model.safetensors and the tokenizer of a BERT, as transformers has them.

    Args:
        folder: created if it does not exist.
        model: whose encoder and tokenizer are written.
        max_length: in tokens; transformers truncates to it.
        head: tensors of a head; the encoder's names then begin with "bert.".
        config: keys to add to config.json.
    """
    encoder = model.network.encoder
    write_json(folder / "config.json", encoder.checkpoint_config() | config)
    tensors = checkpoint_tensors(encoder)
    if head is not None:
        tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()} | dict(head)
    save_tensors(tensors, folder / WEIGHTS)
    model.tokenizer.save(folder, max_length, encoder.segment_types)


def output_layer(source: Source, task: str) -> tuple[Tensor, Tensor]:
    """The weight `[outputs, W]` and bias `[outputs]` of a head's last layer.

    Those of a head that predicts a number give it in the unit of the labels. Logits are divided by
    the temperature of a calibration.
    """
    layer: Any = source.model.network.head(task).output
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    target = source.spec(task).target
    if target.head == "regression":
        low, high = torch.from_numpy(target.restore(np.array([0.0, 1.0])))
        weight, bias = weight * (high - low), bias * (high - low) + low
    weight, bias = weight / target.temperature, bias / target.temperature
    return weight.float(), bias.float()


def as_outputs(target: Target, values: NDArray) -> NDArray[np.float64]:
    """Outputs of `output_layer` as those of the head, `[n, outputs]`: logits or one number.

    Logits are those divided by the temperature.
    """
    values = values.astype(np.float64).reshape(len(values), -1)
    return target.normalise(values) if target.head == "regression" else values


def threshold_note(target: Target) -> str:
    """What the user of another library has to know about a task's threshold, or ""."""
    if target.threshold == 0.5:
        return ""
    what = "a label" if target.kind == "multi-label" else f'"{target.classes[1]}"'
    return (
        f"Comity predicts {what} above a probability of {target.threshold:.6f}, a threshold that "
        "this format cannot hold: compare the probability with it"
    )


def largest_difference(first: NDArray, second: NDArray) -> float:
    """The largest absolute difference; infinity for NaN or unequal shapes."""
    if first.shape != second.shape:
        return float("inf")
    difference = np.abs(first.astype(np.float64) - second).max(initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")
