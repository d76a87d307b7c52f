"""`load` and `Model`: predictions, embeddings, evaluation, and their errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_two_tasks

from comity import ComityError, load, train
from comity.evaluation.predictions import kept_predictions
from comity.model.bert import Bert
from comity.runs import RunDirectory
from comity.training.setup import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    write_two_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    return train(two_tasks(tiny_checkpoint), data, tmp_path_factory.mktemp("runs") / "run")


def test_split_off_dev_rows_are_evaluated_again(data, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint, tasks__mood__dev=0.25), data, tmp_path / "run")
    found = load(run.path).evaluate("mood")
    assert found.n == 9
    assert found.score.value == pytest.approx(run.best().tasks["mood"].value)


def test_dev_rows_are_drawn_again_by_the_split_that_the_run_records(
    data, tmp_path, tiny_checkpoint
):
    settings = {"train__seed": 3, "tasks__mood__dev": 0.25, "tasks__mood__split": "rows"}
    recipe = two_tasks(tiny_checkpoint, train__split_seed=5, **settings)
    run = train(recipe, data, tmp_path / "run")
    lines = kept_predictions(run, "mood").lines
    split = load(run.path)._split("mood", None)
    assert split.table.lines[split.rows].tolist() == list(lines)
    # Runs of older versions record no split seed: their dev rows came from the training seed.
    facts = json.loads((run.path / "run.json").read_text())
    assert facts["inputs"].pop("split_seed") == 5
    (run.path / "run.json").write_text(json.dumps(facts))
    older = load(run.path)._split("mood", None).rows.tolist()
    same = two_tasks(tiny_checkpoint, train__split_seed=3, **settings)
    assert older == prepare(same, data).tasks["mood"].dev.rows.tolist()
    with pytest.raises(ComityError, match="older version"):
        prepare(recipe, data).check_unchanged(run.facts().inputs)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_loaded_model_computes_the_numbers_of_the_run(
    data, tmp_path, tiny_checkpoint, precision, dtype
):
    """To the bit (probabilities are written with six digits), in the run's dtype."""
    run = train(two_tasks(tiny_checkpoint, train__precision=precision), data, tmp_path / "run")
    model = load(run.path)
    assert {parameter.dtype for parameter in model._model.parameters()} == {dtype}
    moods = model.predict("mood", [text for text, _ in mood_rows(1000, 12)])
    probabilities = [list(mood.probabilities.values()) for mood in moods]
    recorded = kept_predictions(run, "mood").probabilities
    assert recorded is not None
    np.testing.assert_allclose(probabilities, recorded, rtol=0, atol=6e-7)
    scores = model.predict("alike", [(a, b) for a, b, _ in alike_rows(1000, 10)])
    recorded = kept_predictions(run, "alike").predicted
    assert [score.label for score in scores] == list(recorded)


def test_a_changed_dev_file_is_not_evaluated(data, tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path / "data")
    run = train(two_tasks(tiny_checkpoint), tmp_path / "data", tmp_path / "run")
    write_csv(tmp_path / "data" / "mood-dev.csv", ["text", "mood"], mood_rows(9, 5))
    with pytest.raises(ComityError, match=r"mood-dev.csv: has changed"):
        load(run.path).evaluate("mood")


def test_wrong_arguments_are_errors(trained):
    model = load(trained.path)
    with pytest.raises(ComityError, match='did you mean "mood"'):
        model.predict("mod", ["x"])
    with pytest.raises(ComityError, match="row 1 must be one text"):
        model.predict("mood", ["x", ("a", "b")])
    with pytest.raises(ComityError, match="pair of texts"):
        model.predict("alike", ["x"])
    with pytest.raises(ComityError, match="raw=True"):
        model.encode(["x"])
    assert model.encode(["x", "a longer text"], raw=True).shape == (2, 32)
    assert model.predict("mood", []) == []


def test_tasks_that_read_alike_share_an_encoding(data, tmp_path, tiny_checkpoint, monkeypatch):
    second = {"kind": "regression", "train": "alike.csv", "dev": 0.2, "texts": ["a", "b"]}
    recipe = two_tasks(tiny_checkpoint, tasks__grade={**second, "label": "score"})
    model = load(train(recipe, data, tmp_path / "run").path)
    pairs = [("a house", "a home"), ("good tea", "the old train is late"), ("x", "y")]
    passes = []
    forward = Bert.forward
    monkeypatch.setattr(Bert, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    found = model.predict_all(pairs, ["alike", "grade"])
    assert len(passes) == 1
    for task, predictions in found.items():
        assert [p.label for p in predictions] == [p.label for p in model.predict(task, pairs)]


def test_embeddings_of_a_cosine_task(data, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, tasks__alike__head="cosine")
    model = load(train(recipe, data, tmp_path / "run").path)
    pairs = [("a house", "a home"), ("good tea", "the old train is late")]
    first = model.encode([a for a, _ in pairs])
    second = model.encode([b for _, b in pairs], task="alike")
    cosines = (first * second).sum(1)
    cosines /= np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found = [p.label for p in model.predict("alike", pairs)]
    np.testing.assert_allclose(found, cosines * 5, rtol=1e-4)
