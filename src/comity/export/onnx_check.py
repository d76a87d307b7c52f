"""Compares an exported graph with its model, as a program without Comity runs it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from comity.export.onnx_graph import INPUTS
from comity.export.onnx_int8 import open_session
from comity.inference.model import Model

Row = str | tuple[str, str]


def difference(model: Model, folder: Path, task: str, rows: Sequence[Row]) -> float:
    """The largest difference of an answer of `folder / "model.onnx"` from the model's.

    For an answer above 1 or below -1, the difference is divided by its size.
    `rows` are texts, or pairs for a task that reads two texts.
    """
    outputs, target = model.outputs(task, rows), model.target(task)
    expected = {
        "logits": outputs,
        "probabilities": target.probabilities(outputs),
        "score": target.predictions(outputs),
    }
    found = _answers(folder, task, rows)
    return max(
        _largest(values, expected[name.rpartition(".")[2]]) for name, values in found.items()
    )


def _largest(found: Any, expected: Any) -> float:
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())


def _answers(folder: Path, task: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The outputs of a task by name, computed as in docs/export-onnx.md."""
    described = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))["tasks"][task]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(described["max_length"])
    encodings = tokenizer.encode_batch(_sequences(described["view"], rows))
    arrays = (
        np.array([getattr(encoding, name) for encoding in encodings], dtype=np.int64)
        for name in ("ids", "attention_mask", "type_ids")
    )
    names = described["outputs"]
    inputs = dict(zip(INPUTS, arrays, strict=True))
    found = open_session(folder / "model.onnx").run(names, inputs)
    return dict(zip(names, found, strict=True))


def _sequences(view: str, rows: Sequence[Row]) -> list[Row]:
    if view == "texts":
        return [text for row in rows for text in row]
    if view == "pair+texts":
        return [sequence for row in rows for sequence in (row, *row)]
    if view == "pair" or isinstance(rows[0], str):
        return list(rows)
    return [row[("first", "second").index(view)] for row in rows]
