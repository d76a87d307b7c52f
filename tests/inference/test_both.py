"""`view = "both"`: one run of three tasks in evaluate, predict, encode, serve and exports."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import pearsonr
from tests.export.conftest import PAIR, pair_rows, write_data

from comity import Model, load, train
from comity.cli.main import main
from comity.evaluation.predictions import kept_predictions
from comity.export.export import export
from comity.inference.answers import Query
from comity.runs.directory import RunDirectory

TASKS: dict[str, dict[str, Any]] = {
    "score": {
        **PAIR, "kind": "similarity", "label": "score", "view": "both", "mix": 0.25,
        "pooling": "cls+mean", "embedding_pooling": "cls", "max_length": 12,
    },
    "levels": {
        **PAIR, "kind": "similarity", "label": "score", "view": "both", "interaction": True,
        "pooling": "pooler", "embedding_pooling": "mean",
    },
    "three": {
        **PAIR, "kind": "classification", "label": "three", "view": "both", "pooling": "mean",
        "objectives": [], "head_layers": 1,
    },
    "same": {**PAIR, "kind": "classification", "label": "same", "pooling": "mean"},
}  # fmt: skip
BOTH = ("score", "levels", "three")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    recipe = {
        "encoder": {"name": str(tiny_checkpoint), "dropout": 0.1},
        "train": {"precision": "float32", "batch_size": 8, "epochs": 1, "lr": 3e-3, "head_lr": 0.1},
        "tasks": TASKS,
    }
    return train(recipe, data, tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load(run, "cpu")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rows = [(str(row[0]), str(row[1])) for row in pair_rows(500, 12)]
    return [*rows, ("", ""), ("tea " * 200, "one"), ("one", "tea " * 200)]


def by_hand(task: str, outputs: np.ndarray) -> np.ndarray:
    """Probabilities or scores from the outputs of both heads."""
    if task == "three":
        return (softmax(outputs[:, :3], axis=1) + softmax(outputs[:, 3:], axis=1)) / 2
    expected = [softmax(outputs[:, :6], axis=1) @ np.arange(6)]
    if task == "score":
        return 0.25 * expected[0] + 0.75 * 5 * outputs[:, 6].clip(0, 1)
    return (expected[0] + softmax(outputs[:, 6:], axis=1) @ np.arange(6)) / 2


def answered(task: str, found: Any) -> np.ndarray:
    """Predictions as `by_hand` has them."""
    if task == "three":
        return np.array([list(one.probabilities.values()) for one in found])
    return np.array([one.label for one in found])


@pytest.mark.parametrize("task", BOTH)
def test_predictions_mix_the_two_heads(model, pairs, task):
    found = model.predict(task, pairs)
    expected = by_hand(task, model.outputs(task, pairs))
    np.testing.assert_allclose(answered(task, found), expected, atol=1e-9)
    assert expected.std(axis=0).max() > 0.01
    assert bool(found[0].probabilities) == (task != "score")


def test_the_second_head_is_the_cosine_of_the_embeddings(model, pairs):
    first, second = (model.encode(list(texts), "score") for texts in zip(*pairs, strict=True))
    tensors = torch.from_numpy(first), torch.from_numpy(second)
    cosines = torch.nn.functional.cosine_similarity(*tensors)
    found = model.outputs("score", pairs)[:, 6]
    np.testing.assert_allclose(found, cosines.numpy(), atol=1e-5)


@pytest.mark.parametrize("task", BOTH)
def test_evaluation_is_that_of_the_predictions(model, run, data, task):
    with (data / "pairs-dev.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["a"], row["b"]) for row in rows]
    labels = [one.label for one in model.predict(task, pairs)]
    found = model.evaluate(task)
    if task == "three":
        value = np.mean([row["three"] == label for row, label in zip(rows, labels, strict=True)])
        assert np.array(found.confusion).sum() == 12
    else:
        value = pearsonr([float(row["score"]) for row in rows], labels)[0]
        assert (found.confusion is None) == (task == "score")
        assert len(found.names) == (0 if task == "score" else 6)
    assert found.score.value == pytest.approx(value, abs=1e-6)
    assert run.best().tasks[task].value == pytest.approx(value, abs=1e-6)
    kept = kept_predictions(run, task)
    if task == "three":
        assert kept.predicted.tolist() == labels
    else:
        np.testing.assert_allclose(kept.predicted, labels)
    assert (kept.probabilities is None) == (task == "score")
    assert found.rows["truncated"] == model.count_truncated(task, pairs)


def test_the_loss_is_the_sum_of_both(model):
    rows = pair_rows(1000, 12)
    outputs = model.outputs("score", [row[:2] for row in rows])
    gold = np.array([row[3] for row in rows])
    logits, levels = torch.from_numpy(outputs[:, :6]), torch.from_numpy(np.floor(gold + 0.5))
    loss = torch.nn.functional.cross_entropy(logits, levels.long()).item()
    loss += np.square(outputs[:, 6] - gold / 5).mean()
    assert model.evaluate("score").loss == pytest.approx(loss, rel=1e-6)


def test_served_answers_equal_predictions_and_texts_are_encoded_once(model, pairs, monkeypatch):
    answerer = model.answerer()
    read = []
    encode = model._model.encoder.forward

    def counted(groups, *args):
        read.append(sum(len(group.packed.offsets) - 1 for group in groups))
        return encode(groups, *args)

    tokenized = answerer.tokenize([Query(pair, tuple(TASKS)) for pair in pairs])
    answers = answerer.answer(tokenized)
    for task in TASKS:
        own = [answer.predictions[task] for answer in answers]
        for found, wanted in zip(own, model.predict(task, pairs), strict=True):
            if task in ("three", "same"):
                assert found.label == wanted.label
            else:
                assert found.label == pytest.approx(wanted.label, abs=1e-5)
            assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
        cut = [bool(model.count_truncated(task, [pair])) for pair in pairs]
        assert [task in answer.truncated for answer in answers] == cut
    assert {0, 1} == {len(answer.truncated & {"score"}) for answer in answers}
    monkeypatch.setattr(model._model.encoder, "forward", counted)
    answerer.answer(answerer.tokenize([Query(("soup", "tea"), ("levels", "three", "same"))]))
    assert read == [3]  # the pair for three tasks, and each text for two


def test_tasks_that_read_the_same_share_an_encoding(model):
    assert model._model.reads("three") != model._model.reads("levels")
    found = model.predict_all([("soup", "tea")])
    for task in TASKS:
        assert found[task][0].label == pytest.approx(
            model.predict(task, [("soup", "tea")])[0].label
        )


def test_the_probability_of_two_classes(data, tmp_path, tiny_checkpoint):
    task = {**PAIR, "kind": "classification", "label": "same", "view": "both", "mix": 0.75}
    recipe = {
        "encoder": {"name": str(tiny_checkpoint)},
        "train": {"precision": "float32", "steps": 1, "batch_size": 8},
        "tasks": {"same": task},
    }
    own = load(train(recipe, data, tmp_path / "run", quiet=True))
    pairs = [row[:2] for row in pair_rows(30, 4)]
    outputs = own.outputs("same", pairs)
    yes = [one.probabilities["yes"] for one in own.predict("same", pairs)]
    np.testing.assert_allclose(yes, 0.75 * expit(outputs[:, 0]) + 0.25 * expit(outputs[:, 1]))


def test_a_file_of_predictions_has_no_columns_of_levels_where_a_head_has_none(
    run, data, tmp_path, capsys
):
    out = tmp_path / "out.csv"
    inputs = ["--input", str(data / "pairs-dev.csv"), "--output", str(out)]
    assert main(["predict", str(run.path), *inputs, "--task", "score"]) == 0
    header = out.read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith("prediction")
    assert main(["predict", str(run.path), *inputs, "--task", "levels", "--overwrite"]) == 0
    assert (
        out.read_text(encoding="utf-8")
        .splitlines()[0]
        .endswith("prediction,p_0,p_1,p_2,p_3,p_4,p_5")
    )


# --- exports --------------------------------------------------------------------------------------


def test_an_exported_folder_is_equal_to_the_bit(run, model, pairs, tmp_path):
    (part,) = export(run.path, "comity", tmp_path / "out").parts
    assert part.difference == 0.0
    again = Model.from_pretrained(tmp_path / "out")
    for task in TASKS:
        np.testing.assert_array_equal(again.outputs(task, pairs), model.outputs(task, pairs))
        assert again.predict(task, pairs) == model.predict(task, pairs)
    np.testing.assert_array_equal(again.encode(["tea"], "levels"), model.encode(["tea"], "levels"))


def test_what_other_libraries_get(run, model, tmp_path):
    library: Any = pytest.importorskip("sentence_transformers")
    found = export(run.path, "sentence-transformers", tmp_path / "out")
    assert [part.folder for part in found.parts] == [
        *(f"embeddings/{task}" for task in BOTH), "cross-encoders/same"
    ]  # fmt: skip
    why = "the prediction is the mean of two heads; CrossEncoder has one"
    omitted = [(head.task, head.why, head.targets) for head in found.omitted]
    assert omitted == [(task, why, ("comity", "onnx")) for task in BOTH]
    theirs = library.SentenceTransformer(str(tmp_path / "out/embeddings/score"), device="cpu")
    texts = ["soup", "a house", "tea " * 200]
    np.testing.assert_allclose(theirs.encode(texts), model.encode(texts, "score"), atol=1e-5)
    found = export(run.path, "transformers", tmp_path / "more")
    reasons = {head.task: head.why for head in found.omitted}
    assert reasons["three"] == (
        "the prediction is the mean of two heads; BertForSequenceClassification has one"
    )


def test_a_card_says_that_the_task_reads_pairs(run, tmp_path):
    export(run.path, "comity", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| score | similarity")]
    assert "a pair of texts" in row
