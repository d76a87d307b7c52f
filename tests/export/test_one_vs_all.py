"""A one-vs-all head in predictions, in an evaluation and in exports (test_onnx.py has one too)."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sentence_transformers import CrossEncoder
from tests.export.conftest import LABELS, TASKS, recipe, text_rows
from transformers import pipeline

from comity import Model, load, train
from comity.evaluation.metrics import calibration_error
from comity.export.export import export
from comity.runs.directory import RunDirectory

ONE, PAIR = "odd", "three"
ONE_VS_ALL = {
    ONE: {**TASKS["odd"], "loss": "one-vs-all"},
    PAIR: {**TASKS["three-mean"], "pooling": "pooler", "loss": "one-vs-all"},
    "three-mean": {**TASKS["three-mean"], "loss": "one-vs-all"},
}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    own = {**recipe(tiny_checkpoint), "tasks": ONE_VS_ALL}
    return train(own, data, tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load(run)


def shares(logits: np.ndarray) -> np.ndarray:
    """The probabilities: sigmoids, divided by their sum."""
    return expit(logits) / expit(logits).sum(axis=1, keepdims=True)


def test_probabilities_and_labels(model, texts):
    logits = model.outputs(ONE, texts)
    names = sorted(LABELS)
    for one, row in zip(model.predict(ONE, texts), shares(logits), strict=True):
        assert one.probabilities == pytest.approx(dict(zip(names, row, strict=True)), abs=1e-9)
        assert one.label == names[row.argmax()]


def test_the_loss_and_the_calibration_of_an_evaluation(model):
    rows = text_rows(1000, 12)  # the dev set
    gold = np.array([sorted(LABELS).index(row[2]) for row in rows])
    logits = torch.from_numpy(model.outputs(ONE, [row[0] for row in rows]))
    labels = torch.nn.functional.one_hot(torch.from_numpy(gold), 3).double()
    loss = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, labels) / 12
    found = model.evaluate(ONE)
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    error = calibration_error(gold, shares(logits.numpy())).value
    assert found.others["calibration_error"].value == pytest.approx(error, abs=1e-6)


def test_a_pipeline_of_transformers_gives_the_sigmoids(run, model, tmp_path, texts):
    found = export(run.path, "transformers", tmp_path / "out")
    (part,) = [part for part in found.parts if ONE in part.tasks]
    assert part.note == (
        "scores are sigmoids; divided by their sum they are the probabilities of the classes"
    )
    folder = tmp_path / "out" / "tasks" / ONE
    classify: Any = pipeline("text-classification", model=str(folder), top_k=None)
    for row, one in zip(classify(texts, truncation=True), model.predict(ONE, texts), strict=True):
        scores = {each["label"]: each["score"] for each in row}
        total = sum(scores.values())
        theirs = {label: score / total for label, score in scores.items()}
        assert theirs == pytest.approx(one.probabilities, abs=1e-5)
    best: Any = pipeline("text-classification", model=str(folder))
    labels = [one["label"] for one in best(texts, truncation=True)]
    assert labels == [one.label for one in model.predict(ONE, texts)]


@pytest.mark.parametrize("task", [PAIR, "three-mean"])
def test_a_cross_encoder_gives_the_sigmoids(run, model, tmp_path, pairs, task):
    found = export(run.path, "sentence-transformers", tmp_path / "out")
    (part,) = [part for part in found.parts if task in part.tasks]
    assert part.note.startswith("predict gives a sigmoid for each class; divided by their sum")
    scores = CrossEncoder(str(tmp_path / "out" / "cross-encoders" / task), device="cpu").predict(
        [list(pair) for pair in pairs], show_progress_bar=False
    )
    scores = np.asarray(scores)
    ours = [list(one.probabilities.values()) for one in model.predict(task, pairs)]
    np.testing.assert_allclose(scores / scores.sum(axis=1, keepdims=True), ours, atol=1e-5)


def test_an_exported_folder_keeps_the_loss(run, model, tmp_path, texts):
    export(run.path, "comity", tmp_path / "out")
    again = Model.from_pretrained(tmp_path / "out")
    assert again.target(ONE).one_vs_all
    ours, theirs = (m.predict(ONE, texts) for m in (model, again))
    assert [o.probabilities for o in ours] == [t.probabilities for t in theirs]
