"""Exports a run to ONNX: one graph with every task, a tokenizer, and a description of the tasks."""

import importlib.util
import json
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from comity.errors import ComityError
from comity.export.onnx_graph import INPUTS, answer_names, make_graph, output_name
from comity.export.onnx_int8 import Int8Score, int8_scores, quantised_graph
from comity.files import write_atomically
from comity.format import missing_extra
from comity.inference.model import Model

if TYPE_CHECKING:
    import onnx_ir

EXTRA = ("onnx", "onnxscript", "onnxruntime")
"""The packages of the extra `onnx`."""

MODEL, INT8, CONFIG, TASKS = "model.onnx", "model_int8.onnx", "config.json", "tasks.json"

LARGEST = 2_000_000_000
"""Bytes of weights up to which a graph is one file. A file of 2 GiB cannot be read, so the weights
of a larger model are written to a second file, such as model.onnx.data."""


@dataclass(frozen=True)
class OnnxExport:
    """What an export wrote."""

    files: dict[str, int]  # size in bytes by name
    scores: list[Int8Score] = field(default_factory=list)  # with `int8`
    notes: list[str] = field(default_factory=list)  # sentences that the user should see


def export_onnx(model: Model, out: Path, int8: bool = False) -> OnnxExport:
    """Write model.onnx, the tokenizer, config.json and tasks.json to the folder `out`.

    docs/export-onnx.md describes the files, and the inputs and outputs of the graph.

    Args:
        model: in float32 on the CPU.
        out: created if it does not exist; files of the same names are replaced.
        int8: also write model_int8.onnx, and compare the scores of both on the run's dev sets.

    Raises:
        ComityError: the extra `onnx` is not installed.
        ValueError: the model is not in float32 on the CPU.
        OSError: a file cannot be written.
    """
    check_extra()
    network = model.network
    if {(p.dtype, p.device.type) for p in network.parameters()} != {(torch.float32, "cpu")}:
        raise ValueError("the export needs a model in float32 on the CPU")
    out.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save(out, network.encoder.max_length, network.encoder.segment_types)
    tasks = {task: described(model, task) for task in model.tasks}
    _write_json(out / CONFIG, network.encoder.checkpoint_config())
    _write_json(out / TASKS, {"inputs": INPUTS, "tasks": tasks})
    _save(make_graph(network), out / MODEL, tasks)
    return add_int8(model, out) if int8 else OnnxExport(_sizes(out))


def add_int8(model: Model, out: Path) -> OnnxExport:
    """Write model_int8.onnx next to the model.onnx in `out`, and compare their scores.

    Args:
        model: that was exported.
        out: the folder of the export.
    """
    tasks = {task: described(model, task) for task in model.tasks}
    _save(quantised_graph(out / MODEL), out / INT8, tasks)
    scores, notes = int8_scores(model, out / MODEL, out / INT8)
    return OnnxExport(_sizes(out), scores, notes)


def check_extra() -> None:
    """Raise a ComityError if a package of the extra is not installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ComityError(missing_extra("the export to ONNX needs", missing, "onnx"))


def described(model: Model, task: str) -> dict[str, Any]:
    """What a program needs to know to run a task and read its outputs."""
    spec = model.network.tasks[task]
    target = spec.target
    values: dict[str, Any] = {
        "kind": target.kind,
        "view": "pair+texts" if spec.both else "texts" if spec.apart else spec.views[0],
        "texts": model.text_count(task),
        "max_length": model.facts.tasks[task].max_length,
        "outputs": answer_names(task, target),
    }
    if spec.embeds:
        values["embedding"] = output_name(task, "embedding")
    if target.classes:
        values["labels"] = list(target.classes)
    if target.threshold != 0.5:
        values["threshold"] = target.threshold
    if target.has_levels:
        values["levels"] = target.levels.tolist()
    if target.kind == "similarity":
        values["scale"] = list(target.scale)
    return values


def _save(graph: "onnx_ir.Model", path: Path, tasks: dict[str, Any]) -> None:
    """Write a graph with the tasks in its metadata; its weights go to a second file if large."""
    import onnx
    import onnx_ir

    graph.producer_name, graph.producer_version = "comity", metadata.version("comity")
    graph.metadata_props["tasks"] = json.dumps(tasks)
    weights = (value.const_value for value in graph.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    onnx_ir.save(graph, path, external_data=f"{path.name}.data" if size > LARGEST else None)
    onnx.checker.check_model(str(path))


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
