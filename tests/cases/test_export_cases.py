"""Cases EX-01 and EX-03: what users of exported models ran into, loaded as they load them."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from tests.helpers import mood_rows, write_csv
from transformers import pipeline

from comity import Model, load, train
from comity.cli.main import main


@pytest.fixture
def case(shared, tmp_path):
    """Copies a case to a folder; returns the folder and what the case expects."""

    def copy(name: str) -> tuple[Path, dict[str, Any]]:
        source = shared / "cases" / "files" / name
        shutil.copytree(source, tmp_path / "data")
        return tmp_path / "data", json.loads((source / "expected.json").read_text())

    return copy


def exported(tasks: dict[str, Any], folder: Path, encoder: Path, target: str) -> tuple[Model, Path]:
    """Train a few steps and export with the command."""
    values = {
        "encoder": {"name": str(encoder)},
        "train": {"precision": "float32", "epochs": 3, "batch_size": 2, "lr": 1e-3},
        "tasks": tasks,
    }
    run, out = folder / "run", folder / "out"
    model = load(train(values, folder, run, quiet=True))
    assert main(["export", str(run), "--to", target, "--out", str(out)]) == 0
    return model, out


def test_ex_01_the_pipeline_speaks_the_labels(case, tiny_checkpoint, capsys):
    folder, expected = case("EX-01")
    write_csv(folder / "mood.csv", ["text", "mood"], mood_rows(0, 12))
    keys = {"kind": "classification", "text": "text", "pooling": "pooler"}
    tasks = {
        "verdict": {**keys, "train": "verdicts.csv", "dev": "verdicts.csv", "label": "verdict"},
        "mood": {**keys, "train": "mood.csv", "dev": "mood.csv", "label": "mood"},
    }
    model, out = exported(tasks, folder, tiny_checkpoint, "transformers")
    config = json.loads((out / "tasks" / "verdict" / "config.json").read_text())
    expect = expected["expect"]
    assert config["id2label"] == expect["config.json id2label"]
    assert config["label2id"] == expect["label2id"]
    assert config["problem_type"] == expect["problem_type"]
    other = json.loads((out / "tasks" / "mood" / "config.json").read_text())
    assert other["id2label"] == {"0": "down", "1": "up"}
    texts = ["The room was clean.", "The key was lost.", "The stairs were fine."]
    for task in ("verdict", "mood"):
        classify: Any = pipeline("text-classification", model=str(out / "tasks" / task), top_k=None)
        for theirs, ours in zip(classify(texts), model.predict(task, texts), strict=True):
            found = {one["label"]: one["score"] for one in theirs}
            assert found == pytest.approx(ours.probabilities, abs=1e-5)
            assert theirs[0]["label"] == ours.label


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_ex_03_embeddings_have_the_trained_pooling_and_length(
    case, tiny_checkpoint, pooling, caplog
):
    folder, expected = case("EX-03")
    model, out = exported(with_scores(folder, pooling, "mean"), folder, tiny_checkpoint,
                          "sentence-transformers")  # fmt: skip
    place = out / "embeddings" / "near"
    files = ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
    assert expected["expect"]["files"][:3] == files
    for name in (*files, "sentence_bert_config.json"):
        assert (place / name).is_file()
    with caplog.at_level(logging.INFO):
        loaded = SentenceTransformer(str(place), device="cpu")
    assert "creating a new one" not in caplog.text
    assert "No modules.json" not in caplog.text
    assert loaded.max_seq_length == 64
    texts = ["The soup is warm.", "The bus is late.", "tea " * 200]
    ours = model.encode(texts, "near")
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)  # the cosine head normalises
    np.testing.assert_allclose(loaded.encode(texts), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_ex_03_cross_encoders_take_one_sigmoid_and_keep_the_scale(case, tiny_checkpoint, pooling):
    folder, _ = case("EX-03")
    tasks = with_scores(folder, "mean", pooling)
    model, out = exported(tasks, folder, tiny_checkpoint, "sentence-transformers")
    pairs = [("The soup is warm.", "The soup is not cold."), ("tea " * 200, "The bus is late.")]
    same = CrossEncoder(str(out / "cross-encoders" / "same"), device="cpu")
    probabilities = [one.probabilities["1"] for one in model.predict("same", pairs)]
    assert same.predict(pairs) == pytest.approx(probabilities, abs=1e-5)
    assert all(0 < probability < 1 for probability in same.predict(pairs))
    alike = CrossEncoder(str(out / "cross-encoders" / "alike"), device="cpu")
    scores = [one.label for one in model.predict("alike", pairs)]
    assert alike.predict(pairs) == pytest.approx(scores, abs=1e-5)
    assert same.max_seq_length == alike.max_seq_length == 64


def with_scores(folder: Path, embedding: str, head: str) -> dict[str, Any]:
    """Three tasks: the pairs of the case, and two on scores from 0 to 5 for similar pairs."""
    rows = [("A soup.", "Some soup.", 4.5), ("A bus.", "A garden.", 0.5), ("Tea.", "Rice.", 1.0)]
    write_csv(folder / "scores.csv", ["a", "b", "score"], rows * 4)
    pairs = {"train": "pairs.csv", "dev": "pairs.csv", "texts": ["a", "b"], "max_length": 64}
    scores = {**pairs, "train": "scores.csv", "dev": "scores.csv", "kind": "similarity"}
    scores |= {"label": "score"}
    return {
        "same": {**pairs, "kind": "classification", "label": "same", "pooling": head},
        "alike": {**scores, "head": "regression", "pooling": head},
        "near": {**scores, "head": "cosine", "pooling": embedding},
    }
