"""Pooling in training: gradients, unread poolers, frozen encoders and what users are told."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from tests.helpers import two_tasks, write_csv, write_two_tasks
from tests.training.test_gradients import first_batches, flat_of, make_trainer, plain_gradients

from comity import load, train
from comity.model.multitask import to_packed
from comity.training.setup import Prepared, prepare


@pytest.fixture
def folder(tmp_path):
    write_two_tasks(tmp_path / "data")
    return tmp_path / "data"


def without_pooler(checkpoint, target):
    copy = shutil.copytree(checkpoint, target)
    tensors = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("pooler")}
    save_file(kept, copy / "model.safetensors")
    return copy


@pytest.mark.parametrize("poolings", [("cls+mean", "cls+mean"), ("cls", "cls+mean")])
def test_task_gradients_equal_autograd(folder, tiny_checkpoint, poolings):
    trainer = make_trainer(
        folder,
        tiny_checkpoint,
        encoder__dropout=0.0,
        tasks__mood__pooling=poolings[0],
        tasks__alike__pooling=poolings[1],
        tasks__alike__interaction=True,
    )
    batches = first_batches(trainer)
    trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    plain = torch.stack([flat_of(trainer, plain_gradients(trainer, b)) for b in batches])
    flat = trainer.flat
    for row in range(2):
        weights = [float(row == 0), float(row == 1)]
        for start, stop in ((0, flat.table_stop), (flat.table_stop, flat.shared_stop)):
            found = trainer.gradients.combined(start, stop, weights, 1.0)
            torch.testing.assert_close(found, plain[row, start:stop], rtol=1e-4, atol=1e-6)
    heads = trainer.gradients.combined(flat.shared_stop, len(flat.masters), [1.0, 1.0], 1.0)
    torch.testing.assert_close(heads, plain.sum(0)[flat.shared_stop :], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("read", [False, True])
def test_a_pooler_that_nothing_reads_stays_as_it_was(folder, tmp_path, tiny_checkpoint, read):
    """Weight decay does not shrink it either."""
    recipe = two_tasks(
        tiny_checkpoint,
        train__weight_decay=0.5,
        tasks__mood__pooling="pooler" if read else "cls+mean",
        tasks__alike__pooling="mean",
    )
    run = train(recipe, folder, tmp_path / "run")
    before = load_file(tiny_checkpoint / "model.safetensors")["pooler.dense.weight"]
    kept = run.path / run.best().folder / "encoder" / "model.safetensors"
    assert torch.equal(load_file(kept)["pooler.dense.weight"], before) != read


def test_a_run_records_the_pooling_that_it_used(folder, tmp_path, tiny_checkpoint):
    """The defaults of an encoder without a pooler; the kept encoder declares them in turn."""
    encoder = without_pooler(tiny_checkpoint, tmp_path / "encoder")
    run = train(two_tasks(encoder), folder, tmp_path / "run")
    assert {task.head.pooling for task in run.facts().tasks.values()} == {"mean"}
    model = load(run.path)
    assert model.evaluate("mood").score.value == run.best().tasks["mood"].value
    again = two_tasks(run.path / run.best().folder / "encoder")
    assert prepare(again, folder).model().tasks["mood"].pooling == "mean"


def test_embeddings_of_both_poolings_are_twice_as_wide(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(
        tiny_checkpoint, tasks__alike__head="cosine", tasks__alike__pooling="cls+mean"
    )
    model = load(train(recipe, folder, tmp_path / "run").path)
    vectors = model.encode(["a house", "the old tea"], task="alike")
    assert vectors.shape == (2, 64)
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors, axis=1).prod()
    found = model.outputs("alike", [("a house", "the old tea")])
    assert found[0, 0] == pytest.approx(cosine, abs=1e-5)


def notes_of(prepared: Prepared) -> list[str]:
    return [note for note in prepared.notes if "reads the pooler" in note]


def test_reading_an_untrained_pooler_is_told(folder, tmp_path, tiny_checkpoint):
    encoder = without_pooler(tiny_checkpoint, tmp_path / "encoder")
    assert notes_of(prepare(two_tasks(encoder), folder)) == []
    assert (
        notes_of(prepare(two_tasks(tiny_checkpoint, tasks__mood__pooling="pooler"), folder)) == []
    )
    (note,) = notes_of(prepare(two_tasks(encoder, tasks__mood__pooling="pooler"), folder))
    assert note.startswith("mood: reads the pooler, which")
    assert 'a head reads "mean"' in note


def test_a_head_on_a_frozen_encoder_learns(folder, tmp_path, tiny_checkpoint):
    """Rows that logistic regression separates on the mean-pooled vectors, at the default rate."""
    words = {"up": ["good", "great", "best"], "down": ["bad", "poor", "worst"]}
    rows = [(f"{a} {b} {c}", m) for m, w in words.items() for a in w for b in w for c in w]
    write_csv(folder / "mood.csv", ["text", "mood"], rows)
    recipe = two_tasks(
        tiny_checkpoint,
        encoder__dropout=0.0,
        train__lr=...,
        train__freeze="encoder",
        train__steps=150,
        train__epochs=...,
        tasks__alike=...,
        tasks__mood__pooling="mean",
        tasks__mood__head_dropout=0.0,
    )
    assert recipe.stages[0].lr == 0.01
    run = train(recipe, folder, tmp_path / "run")
    prepared = prepare(recipe, folder)
    model, data = prepared.model(), prepared.tasks["mood"]

    def vectors(split) -> np.ndarray:
        indices = np.arange(len(split))
        (rows,) = split.pack(indices, ("first",), prepared.template, 128)
        packed = to_packed([rows], torch.device("cpu"))
        with torch.no_grad():
            return model.embed(packed, "mean").numpy()

    regression = LogisticRegression(max_iter=1000, C=100.0)
    regression.fit(vectors(data.train), data.train.targets)
    assert regression.score(vectors(data.train), data.train.targets) == 1.0  # separable
    found = load(run.path).evaluate("mood", folder / "mood.csv").score.value
    assert found is not None
    assert found > 0.9
