"""The target `transformers`, loaded with transformers itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.conftest import LABELS, TASKS, recipe
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from comity import load, train
from comity.export.export import Export, export

WRITTEN = ["two", "odd", "tags", "length", "same", "score", "levels", "second", "ranked"]


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    return Path(exported("transformers").out)


def logits_of(folder: Path, columns) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    batch = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**batch).logits.double().numpy()


def without_empty(pairs) -> list[tuple[str, str]]:
    """Pipelines of transformers read a pair with an empty second text as one text."""
    return [pair for pair in pairs if all(pair)]


def columns_of(task: str, texts, pairs) -> list[list[str]]:
    if "text" in TASKS[task]:
        return [texts]
    first, second = (list(column) for column in zip(*pairs, strict=True))
    return [second] if TASKS[task].get("view") == "second" else [first, second]


@pytest.mark.parametrize("task", WRITTEN)
def test_logits_are_ours(task, folder, model, texts, pairs):
    logits = logits_of(folder / "tasks" / task, columns_of(task, texts, pairs))
    ours = model.outputs(task, texts if "text" in TASKS[task] else pairs)
    target = model.target(task)
    if target.kind == "classification" and len(target.classes) == 2:
        assert np.abs(logits[:, 0]).max() == 0
        logits = logits[:, 1:]
    if target.head == "regression":  # in the unit of the labels
        ours = target.restore(ours)
        assert np.ptp(ours) > 1e-3
    scale = 100 if task == "length" else 1  # labels in the hundreds
    np.testing.assert_allclose(logits, ours, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("task", ["two", "odd", "same", "second"])
def test_the_pipeline_gives_the_same_labels(task, folder, model, texts, pairs):
    classify: Any = pipeline("text-classification", model=str(folder / "tasks" / task))
    pairs = without_empty(pairs)
    columns = columns_of(task, texts, pairs)
    rows = columns[0]
    if len(columns) == 2:
        rows = [{"text": a, "text_pair": b} for a, b in pairs]
    found = classify(rows, truncation=True)
    ours = model.predict(task, texts if "text" in TASKS[task] else pairs)
    assert [one["label"] for one in found] == [one.label for one in ours]
    for theirs, one in zip(found, ours, strict=True):
        assert theirs["score"] == pytest.approx(one.probabilities[one.label], abs=1e-5)


def test_the_pipeline_gives_every_tag_and_plain_numbers(folder, model, texts):
    tags: Any = pipeline("text-classification", model=str(folder / "tasks" / "tags"), top_k=None)
    for theirs, one in zip(tags(texts, truncation=True), model.predict("tags", texts), strict=True):
        found = {label["label"]: label["score"] for label in theirs}
        assert found == pytest.approx(one.probabilities, abs=1e-5)
    length: Any = pipeline("text-classification", model=str(folder / "tasks" / "length"))
    found = length(texts, truncation=True)
    assert {one["label"] for one in found} == {"score"}
    numbers = [one.label for one in model.predict("length", texts)]
    assert [one["score"] for one in found] == pytest.approx(numbers, rel=1e-5)


def test_levels_give_the_score_as_the_card_says(folder, exported, model, pairs):
    (part,) = [part for part in exported("transformers").parts if "levels" in part.tasks]
    assert part.note == "the score is the mean of the labels, weighted by their probabilities"
    classify: Any = pipeline(
        "text-classification", model=str(folder / "tasks" / "levels"), top_k=None
    )
    pairs = without_empty(pairs)
    found = classify([{"text": a, "text_pair": b} for a, b in pairs], truncation=True)
    scores = [sum(float(one["label"]) * one["score"] for one in row) for row in found]
    assert scores == pytest.approx([one.label for one in model.predict("levels", pairs)], abs=1e-4)


def test_labels_are_in_the_order_of_the_run(folder, model):
    config = json.loads((folder / "tasks" / "odd" / "config.json").read_text())
    names = sorted(LABELS)
    assert list(model.target("odd").classes) == names
    assert config["id2label"] == {str(index): name for index, name in enumerate(names)}
    assert config["label2id"] == {name: index for index, name in enumerate(names)}
    problems = {
        name: json.loads((folder / "tasks" / name / "config.json").read_text())["problem_type"]
        for name in ("two", "tags", "score", "levels")
    }
    assert problems == {
        "two": "single_label_classification",
        "tags": "multi_label_classification",
        "score": "regression",
        "levels": "single_label_classification",
    }


def test_the_encoder_is_ours(folder, model, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    encoder = AutoModel.from_pretrained(folder / "encoder").eval()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        found = encoder(**batch)
    mask = batch["attention_mask"][..., None]
    mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
    ours = model.encode(texts, raw=True)  # the mean, since a pooler reads no single texts
    np.testing.assert_allclose(mean.numpy(), ours, rtol=0, atol=1e-5)
    pooled = model.embeddings(texts, "pooler", 128)
    np.testing.assert_allclose(found.pooler_output.numpy(), pooled, rtol=0, atol=1e-5)


def test_what_is_written_and_what_is_not(exported):
    found: Export = exported("transformers")
    assert [part.folder for part in found.parts] == ["encoder", *(f"tasks/{t}" for t in WRITTEN)]
    both, st = ("comity", "sentence-transformers", "onnx"), ("comity", "onnx")
    omitted = {head.task: (head.why, head.targets) for head in found.omitted}
    reads = "; BertForSequenceClassification reads the pooler"
    separate = "the head reads two texts that are encoded separately"
    layers = "the head has hidden layers; BertForSequenceClassification has none"
    cosine = "the prediction is the cosine of two embeddings"
    assert omitted == {
        "by-mean": (f"the head reads the mean of all tokens{reads}", st),
        "three-mean": (f"the head reads the mean of all tokens{reads}", both),
        "tags-cls": (f"the head reads [CLS] without the pooler{reads}", both),
        "same-both": (
            f"the head reads [CLS] without the pooler and the mean of all tokens{reads}", both
        ),
        "deep": (layers, both),
        "deep-norm": (layers, st),
        "cosine": (cosine, both),
        "cosine-both": (cosine, both),
        "cosine-pooler": (cosine, both),
        "interaction": (separate, st),
        "never": ("the head was not trained", st),
    }  # fmt: skip


def test_the_difference_that_is_printed_is_small_and_not_zero(exported):
    differences = [part.difference for part in exported("transformers").parts]
    assert all(0 < difference < 1e-5 for difference in differences)
    assert exported("transformers").checked_with == {"transformers": "5.24.0"}


def test_a_folder_of_the_export_is_loaded_by_its_name(folder):
    """As from a repository with all folders."""
    name = "tasks/two"
    model = AutoModelForSequenceClassification.from_pretrained(folder, subfolder=name)
    tokenizer = AutoTokenizer.from_pretrained(folder, subfolder=name)
    assert list(model.config.id2label.values()) == ["down", "up"]
    assert tokenizer.model_max_length == 128


def test_one_segment_type(data, tmp_path, write_checkpoint, pairs):
    """Without a segment for the second text, transformers must not number it."""
    encoder = write_checkpoint(tmp_path / "encoder", type_vocab_size=1)
    run = train(recipe(encoder, "same"), data, tmp_path / "run", quiet=True)
    export(run.path, "transformers", tmp_path / "out")
    logits = logits_of(tmp_path / "out" / "tasks" / "same", columns_of("same", [], pairs))
    ours = load(run).outputs("same", pairs)
    np.testing.assert_allclose(logits[:, 1:], ours, rtol=0, atol=1e-5)
