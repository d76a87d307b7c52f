"""`Model.save_pretrained` and `Model.from_pretrained`: a model without its run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_two_tasks

from comity import ComityError, Model, load, train
from comity.runs.directory import RunDirectory

MOODS = [text for text, _ in mood_rows(1000, 12)]
PAIRS = [(a, b) for a, b, _ in alike_rows(1000, 10)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("private-data")
    write_two_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    recipe = two_tasks(tiny_checkpoint, train__precision="bf16", tasks__alike__max_length=17)
    return train(recipe, data, tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    load(run).save_pretrained(folder)
    return folder


def test_predictions_are_equal_to_the_bit(run, saved):
    first = load(run)
    for model in (Model.from_pretrained(saved), load(saved), load(str(saved))):
        assert np.array_equal(model.outputs("mood", MOODS), first.outputs("mood", MOODS))
        assert model.predict("alike", PAIRS) == first.predict("alike", PAIRS)
        vectors = model.encode(MOODS, raw=True)
        assert np.array_equal(vectors, first.encode(MOODS, raw=True))
        assert model.count_truncated("alike", PAIRS) == first.count_truncated("alike", PAIRS)


def test_the_weights_are_those_of_the_run_whatever_the_precision(run, saved, tmp_path):
    kept = run.kept_model()
    for name in ("encoder/model.safetensors", "heads.safetensors"):
        assert (saved / name).read_bytes() == (kept / name).read_bytes()
    load(run, precision="float32").save_pretrained(tmp_path / "copy")
    assert "float32 on" in repr(load(tmp_path / "copy"))
    load(saved).save_pretrained(tmp_path / "second")
    assert load(tmp_path / "second").predict("mood", MOODS) == load(run).predict("mood", MOODS)


def test_nothing_of_the_run_is_in_the_folder(data, run, saved, tiny_checkpoint):
    files = {file.relative_to(saved).as_posix() for file in saved.rglob("*") if file.is_file()}
    assert files == {
        "comity.json",
        "heads.safetensors",
        "encoder/config.json",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        "encoder/tokenizer_config.json",
        "encoder/vocab.txt",
    }
    everything = b"".join((saved / name).read_bytes() for name in files)
    for secret in (data, data.name, run.path, tiny_checkpoint, Path.home(), "mood-dev.csv"):
        assert str(secret).encode() not in everything
    assert not any(text.encode() in everything for text in MOODS)


def test_a_labelled_file_is_evaluated_without_the_run(run, saved, tmp_path):
    new = write_csv(tmp_path / "new.csv", ["text", "mood"], mood_rows(50, 30))
    expected = load(run).evaluate("mood", new)
    assert load(saved).evaluate("mood", new).to_dict() == expected.to_dict()
    with pytest.raises(ComityError, match="an exported model has no dev rows; name a labelled"):
        load(saved).evaluate("mood")


def test_a_folder_that_is_not_empty_is_not_written(run, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ComityError, match=r"is not empty \(it has mine.txt\)"):
        load(run).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damage_is_one_sentence(run, saved, tmp_path):
    def copy(name: str) -> Path:
        return Path(shutil.copytree(saved, tmp_path / name))

    with (copy("weights") / "heads.safetensors").open("ab") as file:
        file.write(b"x")
    (copy("missing") / "encoder" / "config.json").unlink()
    (copy("json") / "comity.json").write_text("{")
    values = json.loads((saved / "comity.json").read_text())
    (copy("edited") / "comity.json").write_text(json.dumps(values | {"precision": "float32"}))
    del values["sha256"]
    (copy("later") / "comity.json").write_text(json.dumps(values | {"format": 9}))
    values["columns"]["mood"]["kind"] = "no kind"
    (copy("columns") / "comity.json").write_text(json.dumps(values))
    for name, sentence in {
        "weights": "heads.safetensors: has changed since it was written",
        "missing": "config.json: is missing",
        "json": "comity.json: is damaged",
        "edited": "comity.json: is damaged",
        "later": "was written by another version of comity; export the run again",
        "columns": "comity.json: is damaged",
    }.items():
        with pytest.raises(ComityError, match=sentence) as error:
            load(tmp_path / name)
        assert len(error.value.messages) == 1
    with pytest.raises(ComityError, match=r"has no comity.json; use load for a run"):
        Model.from_pretrained(run.path)
    with pytest.raises(ComityError, match=r"has no comity.json; name a model that comity export"):
        Model.from_pretrained(saved / "encoder")
    with pytest.raises(ComityError, match="does not exist"):
        Model.from_pretrained("/no/such/folder")


def test_weights_that_a_later_model_replaced_are_not_written(run, tmp_path):
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    model = load(copy)
    shutil.rmtree(copy)
    with pytest.raises(ComityError, match="the weights are no longer there; load the run again"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
