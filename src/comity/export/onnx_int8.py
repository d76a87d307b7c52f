"""Dynamic quantization of an exported graph to 8-bit integers, and the score it loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from comity.data.packing import PackedRows, Template
from comity.data.splits import Split
from comity.errors import ComityError
from comity.evaluation.evaluate import by_length
from comity.evaluation.metrics import METRICS, Score, not_finite
from comity.export.onnx_graph import INPUTS, output_name, quiet
from comity.inference.model import Model

if TYPE_CHECKING:
    import onnx_ir
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class Int8Score:
    """The dev score of one task with float32 and with int8 weights."""

    task: str
    rows: int
    float32: Score
    int8: Score

    @property
    def metric(self) -> str:
        """The name of the task's metric."""
        return self.float32.name

    @property
    def difference(self) -> float | None:
        """int8 minus float32, or None where one of them has no value."""
        if self.float32.value is None or self.int8.value is None:
            return None
        return self.int8.value - self.float32.value


def quantised_graph(source: Path) -> "onnx_ir.Model":
    """The graph in the file `source` with its matrices and embeddings in 8 bits.

    The weights are unsigned. Where a processor has VNNI, onnxruntime multiplies signed and unsigned
    weights with the same kernels. Without it, only the products of unsigned ones cannot overflow.
    """
    import onnx_ir

    with quiet(), TemporaryDirectory(dir=source.parent) as folder:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantised = Path(folder) / source.name
        quantize_dynamic(
            source,
            quantised,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=True,  # the only one for more than 2 GiB
        )
        graph = onnx_ir.load(quantised)
        onnx_ir.external_data.load_to_model(graph)
    graph.metadata_props.clear()
    return graph


def int8_scores(model: Model, float32: Path, int8: Path) -> tuple[list[Int8Score], list[str]]:
    """The scores of two graphs of a model on the dev sets of its run.

    Also a sentence if some dev sets cannot be read.
    """
    sessions = [open_session(float32), open_session(int8)]
    scores, unread = [], {}
    for task in model.tasks:
        try:
            split = model.dev_split(task)
        except ComityError as error:
            unread[task] = error.messages[0]
            continue
        float32_score, int8_score = (_score(session, model, task, split) for session in sessions)
        scores.append(Int8Score(task, len(split), float32_score, int8_score))
    if not unread:
        return scores, []
    reason = next(iter(unread.values()))
    return scores, [f"int8 was not measured on {', '.join(unread)}: {reason}"]


def open_session(path: Path) -> "InferenceSession":
    """A graph in onnxruntime, on as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _score(session: "InferenceSession", model: Model, task: str, split: Split) -> Score:
    """The score of a graph's predictions for the rows of a split, in the task's metric."""
    target, metric = model.target(task), METRICS[model.section(task).metric_name]
    outputs = _outputs(session, model, task, split)
    if reason := not_finite(outputs):
        return Score(metric.name, None, reason, metric.higher_is_better)
    return metric(split.targets, target.predictions(outputs) if target.classes else outputs)


def _outputs(session: "InferenceSession", model: Model, task: str, split: Split) -> NDArray:
    """The logits `[n, outputs]` of a task with classes, otherwise its `score [n]`."""
    spec, limit = model.network.tasks[task], model.facts.tasks[task].max_length
    name = output_name(task, "logits" if spec.target.classes else "score")
    tokenizer, types = model.tokenizer, model.network.encoder.segment_types
    template = Template(tokenizer.cls_id, tokenizer.sep_id, types)
    batches = by_length(split.lengths(spec.views, limit))
    found: list[Any] = []
    for indices in batches:
        views = split.pack(indices, spec.views, template, limit)
        found += session.run([name], padded(views))
    return np.concatenate(found).astype(np.float64)[np.argsort(np.concatenate(batches))]


def padded(views: Sequence[PackedRows]) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs for packed rows; of several views, those of a row are adjacent."""
    count, longest = len(views[0].offsets) - 1, max(view.longest for view in views)
    ids, mask, segments = np.zeros((3, count, len(views), longest), dtype=np.int64)
    for index, view in enumerate(views):
        tokens = np.arange(longest) < np.diff(view.offsets)[:, None]
        ids[:, index][tokens] = view.ids
        mask[:, index][tokens] = 1
        segments[:, index][tokens] = view.segments
    arrays = (values.reshape(-1, longest) for values in (ids, mask, segments))
    return dict(zip(INPUTS, arrays, strict=True))
