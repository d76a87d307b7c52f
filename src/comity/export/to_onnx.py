"""The target `onnx`: one graph with every task, for onnxruntime."""

from pathlib import Path

from comity.export.folders import EXAMPLE_TEXTS, Part, Source
from comity.export.onnx import EXTRA, MODEL, check_extra, export_onnx
from comity.export.samples import sample_rows
from comity.targets import HeadSpec

LIBRARY = "onnx"
PACKAGES = EXTRA
TOLERANCE = 1e-4


def lacks(spec: HeadSpec) -> str | None:
    """Why a head cannot be expressed; None, since every head can."""
    return None


def write(source: Source, folder: Path, tasks: list[str]) -> list[Part]:
    """Write the graph, the tokenizer and the description of the tasks into an empty folder.

    Raises:
        ComityError: the extra `onnx` is not installed.
    """
    check_extra()
    export_onnx(source.model, folder)
    return [Part(".", "model", tuple(source.model.tasks), "onnxruntime", source.untrained_note)]


def difference(source: Source, folder: Path, part: Part) -> float:
    """The largest difference of any output of the graph from ours."""
    from comity.export import onnx_check

    rows = {task: sample_rows(source, task) for task in part.tasks}
    return max(onnx_check.difference(source.model, folder, task, own) for task, own in rows.items())


def example(source: Source, part: Part, path: str) -> str:
    """Code that runs the first task on a row; docs/export-onnx.md has a program for all."""
    from comity.export.onnx import described

    task = part.tasks[0]
    how = described(source.model, task)
    texts = list(EXAMPLE_TEXTS[: how["texts"]])
    pair = [tuple(texts)]
    sequences = {"texts": texts, "pair": pair, "pair+texts": [*pair, *texts], "second": texts[1:]}
    batch = sequences.get(how["view"], texts[:1])
    return "\n".join(
        [
            "import numpy as np",
            "import onnxruntime",
            "from tokenizers import Tokenizer",
            "",
            f'tokenizer = Tokenizer.from_file("{path}/tokenizer.json")',
            "tokenizer.enable_padding()",
            f"tokenizer.enable_truncation({how['max_length']})",
            f"batch = tokenizer.encode_batch({batch!r})",
            "inputs = {",
            '    "input_ids": np.array([row.ids for row in batch]),',
            '    "attention_mask": np.array([row.attention_mask for row in batch]),',
            '    "token_type_ids": np.array([row.type_ids for row in batch]),',
            "}",
            f'session = onnxruntime.InferenceSession("{path}/{MODEL}")',
            f"session.run({how['outputs']!r}, inputs)  # {task}; tasks.json describes every task",
        ]
    )
