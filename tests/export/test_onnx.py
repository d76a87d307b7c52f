"""ONNX exports, run by onnxruntime with the program of docs/export-onnx.md."""

import csv
import importlib.util
import json
import re
import runpy
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import write_csv

import comity
from comity import ComityError, Recipe, load, train
from comity.export import onnx as export
from comity.export.onnx import OnnxExport, export_onnx
from comity.export.onnx_check import difference
from comity.export.onnx_int8 import int8_scores
from comity.inference.model import Model
from comity.runs.calibration import DevFit, TaskCalibration, fitted_heads

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "export-onnx.md"
LONG = "a man and a woman walk to the river in the cold morning of a dark day"

PAIR = {"texts": ["a", "b"]}
TASKS: dict[str, dict[str, Any]] = {
    "sentiment": {"kind": "classification", "text": "a", "label": "mood"},
    "paraphrase": {"kind": "classification", **PAIR, "label": "topic", "pooling": "mean"},
    "similarity": {"kind": "similarity", **PAIR, "label": "score", "pooling": "cls+mean"},
    "verdict": {"kind": "classification", "text": "a", "label": "topic", "loss": "one-vs-all"},
    "deep": {
        "kind": "classification",
        **PAIR,
        "label": "topic",
        "view": "second",
        "pooling": "cls",
        "head_layers": 2,
        "add_norm": True,
    },
    "tags": {"kind": "multi-label", "text": "a", "label": "tags", "separator": "+"},
    "price": {"kind": "regression", "text": "a", "label": "price", "pooling": "cls+mean"},
    "short": {
        "kind": "similarity",
        **PAIR,
        "label": "score",
        "head": "regression",
        "max_length": 9,
        "objectives": [{"loss": "contrastive"}],
    },
    "cosine": {"kind": "similarity", **PAIR, "label": "score", "head": "cosine"},
    "u-v": {
        "kind": "classification",
        **PAIR,
        "label": "mood",
        "interaction": True,
        "head_layers": 1,
        "add_norm": True,
        "pooling": "cls+mean",
        "max_length": 10,
    },
    "dotted.name": {
        "kind": "similarity",
        **PAIR,
        "label": "score",
        "head": "regression",
        "interaction": True,
    },
    "two-heads": {
        "kind": "similarity",
        **PAIR,
        "label": "score",
        "view": "both",
        "mix": 0.25,
        "embedding_pooling": "cls+mean",
        "max_length": 10,
    },
    "two-of-bins": {
        "kind": "similarity",
        **PAIR,
        "label": "score",
        "view": "both",
        "interaction": True,
        "pooling": "cls",
        "embedding_pooling": "mean",
    },
    "two-of-classes": {
        "kind": "classification",
        **PAIR,
        "label": "topic",
        "loss": "one-vs-all",
        "view": "both",
        "mix": 0.75,
        "head_layers": 1,
    },
}
BOTH = ("two-heads", "two-of-bins", "two-of-classes")

CALIBRATION = {
    "u-v": TaskCalibration(2.0, 0.48, "accuracy", None, None),
    "deep": TaskCalibration(0.5, None, "accuracy", None, None),
    "tags": TaskCalibration(3.0, 0.48, "micro_f1", None, None),
}


def write_data(path: Path) -> None:
    """Rows with a label of every kind."""
    rows = []
    for number in range(24):
        first = f"the {('red', 'blue', 'green')[number % 3]} house number {number}"
        second = LONG[: 3 * number]
        tags = ("hot", "hot+cold", "cold", "")[number % 4]
        topic = ("one", "two", "three")[number % 3]
        mood = ("up", "down")[number // 2 % 2]
        rows.append((first, second, mood, topic, tags, 1000 + 7 * number, number % 6))
    write_csv(path, ["a", "b", "mood", "topic", "tags", "price", "score"], rows)


def trained(folder: Path, encoder: Path, tasks: dict[str, dict[str, Any]]) -> Model:
    """A model after one step, with heads scaled up so that their outputs differ widely."""
    write_data(folder / "rows.csv")
    recipe = Recipe.from_dict(
        {
            "encoder": {"name": str(encoder)},
            "train": {"precision": "float32", "batch_size": 4},
            "stages": [{"steps": 1}],
            "tasks": {n: {"train": "rows.csv", "dev": "rows.csv", **t} for n, t in tasks.items()},
        }
    )
    model = load(train(recipe, folder, folder / "run", quiet=True))
    heads = model.network.tasks
    heads |= fitted_heads(heads, DevFit({}, {t: c for t, c in CALIBRATION.items() if t in tasks}))
    with torch.no_grad():
        for parameter in model.network.heads.parameters():
            parameter.mul_(8)
    return model


@dataclass(frozen=True)
class Exported:
    """An exported model: its folder is `parent / "exported"`."""

    model: Model
    parent: Path
    result: OnnxExport

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.parent / "exported"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_checkpoint) -> Exported:
    """A model with a task of every kind, head, view and pooling."""
    parent = tmp_path_factory.mktemp("onnx")
    model = trained(parent, tiny_checkpoint, TASKS)
    return Exported(model, parent, export_onnx(model, parent / "exported", int8=True))


FILES = {"float32": "model.onnx", "int8": "model_int8.onnx"}


def blocks() -> list[str]:
    page = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def program(
    parent: Path, monkeypatch: pytest.MonkeyPatch, file: str = "model.onnx", example: bool = False
) -> dict[str, Any]:
    """The names that the page's program defines, for a file of `parent / "exported"`."""
    monkeypatch.chdir(parent)
    definitions, use, embed = blocks()
    code = "\n".join([definitions, embed, *[use] * example])
    (parent / "page.py").write_text(code.replace("model.onnx", file), encoding="utf-8")
    return runpy.run_path(str(parent / "page.py"))


def test_the_example_on_the_page_runs(exported, monkeypatch, capsys):
    program(exported.parent, monkeypatch, example=True)
    printed = capsys.readouterr().out.splitlines()
    texts = ["A quiet, generous film.", "Never again."]
    labels = [mood.label for mood in exported.model.predict("sentiment", texts)]
    assert [line.split()[0] for line in printed[:2]] == labels
    assert len(printed) == 4


ROWS = [
    ("a good film", "the film is bad"),
    ("cat", ""),
    (LONG, "good"),
    ("good food", LONG),
    (LONG, LONG + " and night"),
    ("the dog", "the dog"),
    ("", "x"),
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], ROWS[3:6]], ids=len)
def test_every_answer_equals_that_of_the_model(exported, monkeypatch, rows):
    run = program(exported.parent, monkeypatch)["run"]
    for task in TASKS:
        texts = [row[: exported.model.text_count(task)] for row in rows]
        found = run(task, [list(row) for row in texts])
        expected = exported.model.predict(task, texts)
        target = exported.model.target(task)
        if expected[0].probabilities:
            own = [list(prediction.probabilities.values()) for prediction in expected]
            np.testing.assert_allclose(found[f"{task}.probabilities"], own, atol=1e-5, rtol=0)
            logits = exported.model.outputs(task, texts)
            np.testing.assert_allclose(found[f"{task}.logits"], logits, atol=1e-4, rtol=1e-5)
        if not target.classes:
            own = [prediction.label for prediction in expected]
            np.testing.assert_allclose(found[f"{task}.score"], own, atol=1e-5, rtol=1e-6)


def test_the_rows_reach_clipped_scores_cut_texts_and_every_label(exported):
    """Otherwise the test above would say little."""
    model = exported.model
    assert any(p.clipped for p in model.predict("short", ROWS))
    assert not all(p.clipped for p in model.predict("dotted.name", ROWS))
    assert 0 < model.count_truncated("short", ROWS) < len(ROWS)
    assert 0 < model.count_truncated("u-v", ROWS) < len(ROWS)
    assert {mood.label for mood in model.predict("u-v", ROWS)} == {"up", "down"}
    assert len({tuple(tags.label) for tags in model.predict("tags", [a for a, _ in ROWS])}) > 1


def test_embeddings_equal_those_of_the_model(exported, monkeypatch):
    names = program(exported.parent, monkeypatch)
    trained = [task for task, described in names["tasks"].items() if "embedding" in described]
    assert trained == ["short", "cosine", "u-v", "dotted.name", *BOTH]
    texts = [text for row in ROWS for text in row]
    for task in trained:
        own = exported.model.encode(texts, task)
        np.testing.assert_allclose(names["embed"](task, texts), own, atol=1e-5, rtol=1e-5)


def test_int8_scores_are_those_of_both_files_on_dev(exported, monkeypatch):
    """Scores of scikit-learn and scipy, for what the program on the page predicts."""
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score

    rows = list(csv.DictReader((exported.parent / "rows.csv").open(encoding="utf-8")))
    texts = [[row["a"], row["b"]] for row in rows]
    scores = {score.task: score for score in exported.result.scores}
    assert list(scores) == list(TASKS) and exported.result.notes == []
    for file in ("float32", "int8"):
        names = program(exported.parent, monkeypatch, FILES[file])
        for task, score in scores.items():
            described = names["tasks"][task]
            found = names["run"](task, texts)
            gold = [row[TASKS[task]["label"]] for row in rows]
            if score.metric == "accuracy":
                probabilities = found[f"{task}.probabilities"]
                indices = probabilities.argmax(axis=1)
                if len(described["labels"]) == 2:
                    indices = (probabilities[:, 1] > described.get("threshold", 0.5)).astype(int)
                value = accuracy_score(gold, [described["labels"][index] for index in indices])
            elif score.metric == "micro_f1":
                on = [[name in label.split("+") for name in described["labels"]] for label in gold]
                predicted = found[f"{task}.probabilities"] > described["threshold"]
                value = f1_score(on, predicted, average="micro")
            else:
                value = pearsonr(np.array(gold, dtype=float), found[f"{task}.score"])[0]
            reported = getattr(score, file)
            # int8 rounds the inputs of a layer by the largest in the batch
            assert reported.value == pytest.approx(value, abs=1e-5 if file == "float32" else 0.1)
            assert score.rows == len(rows)
    assert any(score.difference for score in scores.values())


def test_int8_has_a_byte_for_each_number_in_a_matrix(exported):
    """Unsigned, so that no product overflows. The positions are sliced and stay in float32."""
    graph = onnx.load(exported.folder / "model_int8.onnx").graph
    weights = [onnx.numpy_helper.to_array(value) for value in graph.initializer]
    found = {
        kind: sum(v.size for v in weights if v.ndim == 2 and v.dtype == kind)
        for kind in ("u1", "f4")
    }
    parameters = dict(exported.model.network.named_parameters())
    matrices = sum(value.numel() for value in parameters.values() if value.dim() == 2)
    positions = parameters["encoder.position_embeddings"].numel()
    assert found == {"u1": matrices - positions, "f4": positions}


def test_float32_scores_equal_those_of_evaluate(exported):
    for score in exported.result.scores:
        expected = exported.model.evaluate(score.task).score
        assert score.metric == expected.name
        assert score.float32.value == pytest.approx(expected.value, abs=1e-5)


def test_weights_are_stored_once(exported):
    graph = onnx.load(exported.folder / "model.onnx").graph
    stored = sum(onnx.numpy_helper.to_array(value).size for value in graph.initializer)
    own = sum(parameter.numel() for parameter in exported.model.network.parameters())
    assert own <= stored < own + 100  # a few constants


def test_the_file_describes_itself(exported):
    tasks = json.loads((exported.folder / "tasks.json").read_text(encoding="utf-8"))["tasks"]
    for file in FILES.values():
        model = onnx.load(exported.folder / file)
        onnx.checker.check_model(model, full_check=True)
        assert (model.producer_name, model.producer_version) == ("comity", comity.__version__)
        assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {
            "tasks": tasks
        }
        assert {opset.domain: opset.version for opset in model.opset_import} == {"": 20}
        for value in model.graph.input:
            sizes = value.type.tensor_type.shape.dim
            assert [size.dim_param for size in sizes] == ["batch", "length"]
    assert tasks["tags"] == {
        "kind": "multi-label",
        "view": "first",
        "texts": 1,
        "max_length": 128,
        "outputs": ["tags.logits", "tags.probabilities"],
        "threshold": 0.48,
        "labels": ["cold", "hot"],
    }
    assert tasks["similarity"]["levels"] == [0, 1, 2, 3, 4, 5]
    assert (tasks["cosine"]["view"], tasks["cosine"]["scale"]) == ("texts", [0, 5])
    assert (tasks["two-heads"]["view"], "levels" in tasks["two-heads"]) == ("pair+texts", False)


def test_no_path_of_this_machine_is_in_the_files(exported):
    paths = (ROOT, sys.prefix, sys.base_prefix, tempfile.gettempdir(), exported.parent, Path.home())
    for file in exported.folder.iterdir():
        content = file.read_bytes()
        for path in (*paths, "site-packages", ".py"):
            assert str(path).encode() not in content, (file.name, path)


def test_sizes_are_reported(exported):
    sizes = {file.name: file.stat().st_size for file in exported.folder.iterdir()}
    assert exported.result.files == sizes
    assert sizes.keys() == {
        "config.json", "model.onnx", "model_int8.onnx", "tasks.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip
    assert sizes["model_int8.onnx"] < sizes["model.onnx"]


def test_large_weights_are_in_a_second_file(exported, tmp_path, monkeypatch):
    """Not above 2 GB, as in use, but above 0 bytes."""
    monkeypatch.setattr(export, "LARGEST", 0)
    shutil.copytree(exported.folder, tmp_path / "exported")
    for file in FILES.values():
        path = tmp_path / "exported" / file
        size = path.stat().st_size
        export._save(onnx_ir.load(path), path, {})
        assert path.stat().st_size < size
        assert path.with_name(f"{file}.data").stat().st_size > size / 3
        rows = [[text] for text in ("a good film", "cat")]
        expected, found = (
            program(folder, monkeypatch, file)["run"]("sentiment", rows)
            for folder in (exported.parent, tmp_path)
        )
        np.testing.assert_array_equal(found["sentiment.logits"], expected["sentiment.logits"])


def test_an_encoder_with_one_segment_type(tmp_path, write_checkpoint, monkeypatch, capfd):
    """It ignores token_type_ids. No task reads the pooler, so the graph does not have it."""
    sizes = {"num_hidden_layers": 1, "type_vocab_size": 1, "hidden_act": "gelu_new"}
    encoder = write_checkpoint(tmp_path / "encoder", **sizes)
    model = trained(tmp_path, encoder, {"paraphrase": TASKS["paraphrase"]})
    capfd.readouterr()
    result = export_onnx(model, tmp_path / "exported")
    assert capfd.readouterr() == ("", "")  # torch and onnxruntime print a lot
    assert result.scores == [] and "model_int8.onnx" not in result.files
    graph = onnx.load(tmp_path / "exported" / "model.onnx").graph
    assert not [value.name for value in graph.initializer if "pooler" in value.name]
    found = program(tmp_path, monkeypatch)["run"]("paraphrase", ROWS)
    expected = model.outputs("paraphrase", ROWS)
    np.testing.assert_allclose(found["paraphrase.logits"], expected, atol=1e-4, rtol=1e-5)


def test_missing_dev_sets_are_one_sentence(exported):
    data = exported.parent / "rows.csv"
    data.rename(exported.parent / "elsewhere.csv")
    try:
        scores, notes = int8_scores(exported.model, *(exported.folder / f for f in FILES.values()))
    finally:
        (exported.parent / "elsewhere.csv").rename(data)
    assert scores == []
    missing = f"{data}: there is no such file; check the path"
    assert notes == [f"int8 was not measured on {', '.join(TASKS)}: {missing}"]


def test_packages_that_are_missing_are_named(exported, tmp_path, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else present(name)
    )
    with pytest.raises(ComityError) as error:
        export_onnx(exported.model, tmp_path / "exported")
    assert str(error.value) == (
        "the export to ONNX needs onnx, onnxscript and onnxruntime, which are not installed; run "
        'pip install "comity[onnx]"'
    )
    assert not (tmp_path / "exported").exists()


def test_a_rounded_model_is_refused(exported, tmp_path):
    model = load(exported.parent / "run")
    model.network.to(torch.bfloat16)
    with pytest.raises(ValueError, match="float32"):
        export_onnx(model, tmp_path / "exported")


def test_the_check_notices_another_model(exported):
    rows = {task: ROWS if "texts" in own else [a for a, _ in ROWS] for task, own in TASKS.items()}
    for task in TASKS:
        assert difference(exported.model, exported.folder, task, rows[task]) < 1e-4, task
    other = load(exported.parent / "run")  # its heads are not scaled up
    for task in TASKS.keys() - {"cosine"}:
        assert difference(other, exported.folder, task, rows[task]) > 1e-2, task
