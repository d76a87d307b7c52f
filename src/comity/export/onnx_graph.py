"""The ONNX graph of a model: one encoder and every head, from token ids to answers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model.bert import Bert
from comity.model.multitask import MultiTaskModel
from comity.model.reference import padded_forward
from comity.targets import Target

if TYPE_CHECKING:
    import onnx_ir

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The graph's inputs, `[B, L]` int64, named as in other exports of BERT."""

OPSET, IR_VERSION = 20, 9
"""The versions of the operators and of the file format, those of ONNX 1.15 (2023). It is the first
with an operator for GELU; the parts that older versions need instead are slower."""


def make_graph(network: MultiTaskModel) -> "onnx_ir.Model":
    """The ONNX graph of a float32 model; batch size and length are dynamic."""
    # The exporter treats sizes of 0 and 1 as special, and one tensor for two inputs as one input.
    example = tuple(torch.ones(6, 8, dtype=torch.int64) for _ in INPUTS)
    dynamic = {0: "batch", 1: "length"}
    module = _Answers(network).eval()
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            input_names=INPUTS,
            output_names=list(module(*example)),
            dynamic_shapes=(dynamic, dynamic, dynamic),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.ir_version = IR_VERSION
    _remove_notes(program.model)
    return program.model


def _remove_notes(model: "onnx_ir.Model") -> None:
    """Remove the exporter's notes: source lines with paths of this machine, and more."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    for noted in (model, graph, *graph, *values):
        noted.metadata_props.clear()


def output_name(task: str, name: str) -> str:
    """The name of an output in the graph."""
    return f"{task}.{name}"


def answer_names(task: str, target: Target) -> list[str]:
    """The graph's outputs with the answers of a task."""
    return [output_name(task, name) for name in answers(target, torch.zeros(1, target.outputs))]


def answers(target: Target, outputs: Tensor) -> dict[str, Tensor]:
    """What the head's `outputs [B, outputs]` say, as in `Target.probabilities` and `predictions`.

    `logits [B, outputs]` and `probabilities [B, classes]` (or levels) of a head with classes or
    levels; `score [B]`, in the label's unit, of a task that predicts a number. A temperature is
    part of the probabilities, not of the logits. With the view "both", the logits are those of both
    heads, and all else is mixed.
    """
    if target.text_head is not None:
        parts = zip(target.parts, target.split(outputs), strict=True)
        first, second = (answers(part, own) for part, own in parts)
        found = {name: target.mixed(first[name], second[name]) for name in first if name in second}
        return found | {"logits": outputs} if "logits" in found else found
    if target.kind == "regression" or (target.kind == "similarity" and target.head != "bins"):
        score: Any = target.restore(outputs[:, 0])  # pyright: ignore[reportArgumentType]
        return {"score": score.clamp(*target.scale) if target.kind == "similarity" else score}
    scaled = outputs if target.temperature == 1 else outputs / target.temperature
    if target.kind == "multi-label":
        probabilities = torch.sigmoid(scaled)
    elif target.outputs == 1:
        probabilities = torch.sigmoid(torch.cat([-scaled, scaled], dim=1))
    elif target.one_vs_all:  # log sigmoids
        probabilities = torch.softmax(-F.softplus(-scaled), dim=1)
    else:
        probabilities = torch.softmax(scaled, dim=1)
    found = {"logits": outputs, "probabilities": probabilities}
    if target.head == "bins":
        levels = torch.from_numpy(target.levels).to(outputs)
        found["score"] = (probabilities * levels).sum(dim=1)
    return found


class _Answers(nn.Module):
    """All outputs of a model for one padded batch.

    A head that reads one sequence has an answer for each row of the batch. One that encodes two
    texts separately has an answer for each pair of rows: 0 and 1, 2 and 3, ... A task with the view
    "both" has an answer for each three rows: the pair, its first and its second text.
    """

    def __init__(self, network: MultiTaskModel):
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> dict[str, Tensor]:
        """The graph's outputs by name."""
        bert = cast(Bert, self.network.encoder)
        hidden, pooler = padded_forward(bert, input_ids, token_type_ids, attention_mask)
        weights = attention_mask[:, :, None].to(hidden)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        pooled = {
            "pooler": pooler,
            "cls": hidden[:, 0],
            "mean": mean,
            "cls+mean": torch.cat([hidden[:, 0], mean], dim=1),
        }
        found = {}
        for task, spec in self.network.tasks.items():
            count = len(spec.views)
            # The slices leave out the last rows of a batch that cannot be divided by `count`.
            views = [
                pooled[pooling][index : index + 1 - count or None : count]
                for index, pooling in enumerate(spec.poolings)
            ]
            outputs = self.network.head(task)(views, None)
            for name, values in answers(spec.target, outputs).items():
                found[output_name(task, name)] = values
            if spec.embeds:
                found[output_name(task, "embedding")] = pooled[spec.text_pooling]
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and log messages of torch and onnxruntime."""
    disabled = logging.root.manager.disable
    handler = logging.NullHandler()  # without a handler, logging.warning would add one for good
    logging.root.addHandler(handler)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
