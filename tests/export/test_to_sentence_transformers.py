"""The target `sentence-transformers`, loaded with sentence-transformers itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from tests.export.conftest import recipe
from transformers import AutoModelForSequenceClassification

from comity import load, train
from comity.export.export import export

EMBEDDINGS = ["ranked", "cosine", "cosine-both", "cosine-pooler", "interaction"]
PROBABILITY = ["same", "same-both", "ranked"]
CROSS_ENCODERS = [
    "same", "score", "levels", "three-mean", "tags-cls", "same-both", "deep", "ranked"
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(exported) -> Path:
    return Path(exported("sentence-transformers").out)


@pytest.mark.parametrize("task", EMBEDDINGS)
def test_embeddings_are_ours(task, folder, model, texts):
    loaded = SentenceTransformer(str(folder / "embeddings" / task), device="cpu")
    assert loaded.max_seq_length == (12 if task == "cosine" else 128)
    ours = model.encode(texts, task)
    if task.startswith("cosine"):
        ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert len(ours[0]) == (64 if task == "cosine-both" else 32)
    np.testing.assert_allclose(loaded.encode(texts), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", ["cosine", "cosine-both", "cosine-pooler"])
def test_the_similarity_of_embeddings_is_the_prediction(task, folder, model, pairs, exported):
    loaded = SentenceTransformer(str(folder / "embeddings" / task), device="cpu")
    assert loaded.similarity_fn_name == "cosine"
    first, second = (loaded.encode(list(column)) for column in zip(*pairs, strict=True))
    cosines = loaded.similarity_pairwise(first, second).numpy()
    np.testing.assert_allclose(cosines[:, None], model.outputs(task, pairs), rtol=0, atol=1e-5)
    (part,) = [p for p in exported("sentence-transformers").parts if p.tasks == (task,)]
    assert part.note == "normalised; the score is 5 times the cosine"
    scores = [one.label for one in model.predict(task, pairs)]
    assert (5 * cosines).clip(0, 5) == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("task", PROBABILITY)
def test_two_classes_give_the_probability_of_the_second(task, folder, model, pairs):
    loaded = CrossEncoder(str(folder / "cross-encoders" / task), device="cpu")
    found = loaded.predict(pairs)
    ours = [one.probabilities["yes"] for one in model.predict(task, pairs)]
    assert found == pytest.approx(ours, abs=1e-5)  # one sigmoid: neither none nor two
    assert loaded.num_labels == 1


def test_scores_are_on_the_scale_of_the_task(folder, model, pairs):
    for task, length in (("score", 17), ("deep", 128)):
        loaded = CrossEncoder(str(folder / "cross-encoders" / task), device="cpu")
        assert loaded.max_seq_length == length
        unclipped = model.target(task).restore(model.outputs(task, pairs)[:, 0])
        assert loaded.predict(pairs) == pytest.approx(unclipped, abs=1e-5)
        scores = [one.label for one in model.predict(task, pairs)]
        assert loaded.predict(pairs).clip(0, 5) == pytest.approx(scores, abs=1e-5)


def test_several_classes_levels_and_tags(folder, model, pairs):
    def predict(task: str, **options) -> np.ndarray:
        loaded = CrossEncoder(str(folder / "cross-encoders" / task), device="cpu")
        return np.asarray(loaded.predict(pairs, **options))

    ours = [list(one.probabilities.values()) for one in model.predict("three-mean", pairs)]
    np.testing.assert_allclose(predict("three-mean", apply_softmax=True), ours, rtol=0, atol=1e-5)
    outputs = model.outputs("three-mean", pairs)
    np.testing.assert_allclose(predict("three-mean"), outputs, rtol=0, atol=1e-5)
    levels = predict("levels", apply_softmax=True) @ np.arange(6)
    scores = [one.label for one in model.predict("levels", pairs)]
    assert levels == pytest.approx(scores, abs=1e-4)
    ours = [list(one.probabilities.values()) for one in model.predict("tags-cls", pairs)]
    np.testing.assert_allclose(predict("tags-cls"), ours, rtol=0, atol=1e-5)


def test_pooler_heads_also_load_in_transformers(folder):
    """So that CrossEncoder needs no modules for them."""
    for task in ("same", "score", "levels", "ranked"):
        place = folder / "cross-encoders" / task
        assert not (place / "modules.json").exists()
        found = AutoModelForSequenceClassification.from_pretrained(place, output_loading_info=True)
        assert not found[1]["missing_keys"]


def test_what_is_written_and_what_is_not(exported):
    found = exported("sentence-transformers")
    assert [part.folder for part in found.parts] == [
        *(f"embeddings/{task}" for task in EMBEDDINGS),
        *(f"cross-encoders/{task}" for task in CROSS_ENCODERS),
    ]
    omitted = {head.task: (head.why, head.targets) for head in found.omitted}
    one_text = "the head reads one text; CrossEncoder reads pairs"
    with_transformers = ("comity", "transformers", "onnx")
    assert omitted == {
        "two": (one_text, with_transformers),
        "odd": (one_text, with_transformers),
        "tags": (one_text, with_transformers),
        "length": (one_text, with_transformers),
        "by-mean": (one_text, ("comity", "onnx")),
        "second": (one_text, with_transformers),
        "deep-norm": (
            "LayerNorm in sentence-transformers has another epsilon than in the head",
            ("comity", "onnx"),
        ),
        "interaction": ("the head reads two texts that are encoded separately", ("comity", "onnx")),
        "never": ("the head was not trained", ("comity", "onnx")),
    }  # fmt: skip


def test_the_difference_that_is_printed_is_small_and_not_zero(exported):
    found = exported("sentence-transformers")
    assert all(0 < part.difference < 1e-5 for part in found.parts)
    assert found.checked_with == {"sentence_transformers": "6.2.0"}


def test_without_trained_embeddings_the_pooling_is_that_of_the_encoder(
    data, tmp_path, tiny_checkpoint, texts
):
    run = train(recipe(tiny_checkpoint, "two", epochs=0.1), data, tmp_path / "run")
    found = export(run.path, "sentence-transformers", tmp_path / "out")
    (part,) = found.parts
    assert part.folder == "embeddings/encoder"
    assert part.note == "no task trained these embeddings"
    loaded = SentenceTransformer(str(tmp_path / "out" / part.folder), device="cpu")
    ours = load(run).encode(texts, raw=True)
    np.testing.assert_allclose(loaded.encode(texts), ours, rtol=0, atol=1e-5)


def test_the_files_are_those_that_every_version_reads(folder):
    place = folder / "embeddings" / "cosine"
    modules = json.loads((place / "modules.json").read_text())
    kinds = ["Transformer", "Pooling", "Normalize"]
    assert [module["type"].rpartition(".")[2] for module in modules] == kinds
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads((place / "1_Pooling" / "config.json").read_text())
    assert pooling == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    config = json.loads((place / "sentence_bert_config.json").read_text())
    assert config == {"max_seq_length": 12, "do_lower_case": False}
