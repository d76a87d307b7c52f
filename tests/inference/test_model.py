"""`load` and `Model`: predictions, embeddings, evaluation, and their errors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_two_tasks

from comity import ComityError, load, train
from comity.evaluation.predictions import kept_predictions
from comity.inference.prediction import Prediction
from comity.model.bert import Bert
from comity.runs.directory import RunDirectory
from comity.terminal.views import show_evaluation
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
    del facts["sha256"]  # older versions wrote no digest either
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


def test_a_run_in_bf16_can_be_loaded_in_float32(data, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint, train__precision="bf16"), data, tmp_path / "run")
    model = load(run, precision="float32")
    assert {parameter.dtype for parameter in model._model.parameters()} == {torch.float32}
    assert "float32 on" in repr(model)
    stored = load_file(run.kept_model() / "encoder" / "model.safetensors")
    table = model._model.encoder.word_embeddings
    assert torch.equal(table.cpu(), stored["embeddings.word_embeddings.weight"])
    assert not torch.equal(table, table.bfloat16().float())  # not rounded on the way
    with pytest.raises(ComityError, match='expected float32 or bf16, got "fp16"'):
        load(run, precision="fp16")


def test_a_changed_dev_file_is_not_evaluated(data, tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path / "data")
    run = train(two_tasks(tiny_checkpoint), tmp_path / "data", tmp_path / "run")
    write_csv(tmp_path / "data" / "mood-dev.csv", ["text", "mood"], mood_rows(9, 5))
    with pytest.raises(ComityError, match=r"mood-dev.csv: has changed"):
        load(run.path).evaluate("mood")


def test_one_text_gives_one_prediction(trained):
    model = load(trained)
    (expected,) = model.predict("mood", ["a good film"])
    assert model.predict("mood", "a good film") == expected
    assert model.predict_all("a good film", ["mood"]) == {"mood": expected}
    assert model.predict("mood", "").label in ("up", "down")
    vectors = model.encode(["a good film"], raw=True)
    assert np.array_equal(model.encode("a good film", raw=True), vectors[0])


def test_tables_and_dicts_are_read_by_the_recipes_names(trained):
    pandas = pytest.importorskip("pandas")
    model = load(trained)
    rows = [("a tea", "the old tea", "good"), ("a bus", "the car", "bad"), ("x", "", "the worst")]
    table = pandas.DataFrame(rows, columns=["a", "b", "text"], index=[30, 10, 20])
    moods = model.predict("mood", [text for _, _, text in rows])
    alikes = model.predict("alike", [(a, b) for a, b, _ in rows])
    for form in (table, table.to_dict("records"), table.to_dict("list")):
        assert model.predict("mood", form) == moods
        assert model.predict("alike", form) == alikes
        assert model.predict_all(form) == {"mood": moods, "alike": alikes}
    vectors = model.encode(list(table["b"]), raw=True)
    assert np.array_equal(model.encode(table[["b"]], raw=True), vectors)
    with pytest.raises(ComityError, match='must have one of the columns "text", "a", "b"'):
        model.encode(table, raw=True)


def test_predict_all_leaves_out_tasks_that_read_other_rows(trained):
    model = load(trained)
    with pytest.warns(UserWarning, match="alike is left out: it reads 2 texts per row") as found:
        assert list(model.predict_all(iter(["x", "y"]))) == ["mood"]
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="mood is left out: it reads one text per row"):
        assert list(model.predict_all([("x", "y")])) == ["alike"]
    with pytest.warns(UserWarning, match='alike is left out: the table has no column "a", "b"'):
        assert [len(p) for p in model.predict_all({"text": ["x", "y"]}).values()] == [2]
    assert model.predict_all([]) == {"mood": [], "alike": []}
    with pytest.raises(ComityError, match="no task can read these rows"):
        model.predict_all([("x", "y", "z")])
    with pytest.raises(ComityError, match="row 0 must be a pair of texts"):
        model.predict_all(["x"], ["alike"])
    with pytest.raises(ComityError, match=r'write \["mood"\]'):
        model.predict_all(["x"], "mood")


def test_no_rows_give_no_rows(trained):
    model = load(trained)
    for none in ([], iter([]), np.array([]), {"text": []}):
        assert model.predict("mood", none) == []
    assert model.outputs("alike", []).shape == (0, 1)
    assert model.encode([], raw=True).shape == (0, 32)


def test_only_a_run_is_loaded(trained, tmp_path):
    wrongs: list[tuple[Any, str]] = [
        (tmp_path / "none", "no such directory"),
        (tmp_path, "not a run"),
        (trained.path / trained.best().folder, f"name the run itself: {trained.path}"),
        (trained.usable_checkpoint()[0], f"name the run itself: {trained.path}"),
        (trained.path / "recipe.toml", f"name the run itself: {trained.path}"),
        (None, "expected a run directory, got None"),
        (5, "expected a run directory, got 5"),
    ]
    for wrong, sentence in wrongs:
        with pytest.raises(ComityError, match=re.escape(sentence)):
            load(wrong)


def test_reprs_are_short_and_say_what_matters(trained):
    model = load(trained)
    name = re.escape(str(trained.path))
    assert re.fullmatch(
        rf"<Model of {name}: mood \(classification: down, up\), alike \(similarity from 0 to 5\); "
        r"float32 on cpu>",
        repr(model),
    )
    assert re.fullmatch(
        rf"<Run {name}: mood accuracy [\d.]+, alike pearson -?[\d.]+ on dev at step 4>",
        repr(trained),
    )
    recipe = trained.recipe()
    assert repr(recipe) == str(recipe)
    assert "mood (classification), alike (similarity); 1 stage" in repr(recipe)
    assert repr(Prediction("b", {"a": 0.1, "b": 0.5, "c": 0.15, "d": 0.25})) == (
        "Prediction('b': b 0.500, d 0.250, c 0.150, ...)"
    )
    assert repr(Prediction(1 / 3, {})) == "Prediction(0.333333)"
    assert re.fullmatch(
        r"<Evaluation of mood: accuracy 0\.\d+ \([\d.]+ to [\d.]+\), 12 rows>",
        repr(model.evaluate("mood")),
    )


def test_one_file_is_evaluated_for_every_task_whose_columns_it_has(trained, data, tmp_path):
    model = load(trained)
    one = model.evaluate_all(data / "mood-dev.csv")
    assert list(one.tasks) == ["mood"]
    assert one.tasks["mood"].n == 12
    assert "alike: not evaluated" in one.skipped["alike"]
    assert 'no columns "a", "b", "score"' in one.skipped["alike"]
    rows = [(*m, *a) for m, a in zip(mood_rows(1000, 10), alike_rows(1000, 10), strict=True)]
    both = write_csv(tmp_path / "both.csv", ["text", "mood", "a", "b", "score"], rows)
    found = model.evaluate_all(both)
    assert found.skipped == {}
    assert found.tasks["alike"].score == model.evaluate("alike").score
    assert model.evaluate_all().tasks["mood"].score == model.evaluate("mood").score
    neither = write_csv(tmp_path / "neither.csv", ["x"], [("y",)])
    with pytest.raises(ComityError) as error:
        model.evaluate_all(neither)
    assert len(error.value.messages) == 2
    wrong = write_csv(tmp_path / "wrong.csv", ["text", "mood", "a", "b", "score"], [(*"xyabc",)])
    with pytest.raises(ComityError, match="has the columns of mood, alike; if it is for one, name"):
        model.evaluate_all(wrong)


def test_a_file_is_evaluated_for_the_task_whose_encoding_it_has(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    recipe = two_tasks(tiny_checkpoint, tasks__mood__encoding="cp1252", train__epochs=0.1)
    model = load(train(recipe, tmp_path, tmp_path / "run", quiet=True))
    new = tmp_path / "new.csv"
    new.write_bytes(
        b"text,mood\n" + "".join(f"é{t},{m}\n" for t, m in mood_rows(0, 9)).encode("cp1252")
    )
    found = model.evaluate_all(new)
    assert found.tasks["mood"].n == 9
    assert 'has no columns "a", "b", "score"' in found.skipped["alike"]


def test_rows_that_are_left_out_are_counted(tmp_path, tiny_checkpoint, capsys):
    write_two_tasks(tmp_path)
    settings = {"ignore_labels": ["?"], "missing_labels": "skip", "empty_texts": "drop"}
    recipe = two_tasks(tiny_checkpoint, **{f"tasks__mood__{k}": v for k, v in settings.items()})
    model = load(train(recipe, tmp_path, tmp_path / "run", quiet=True))
    extra = [("a", "?"), ("b", "?"), ("c", ""), ("", mood_rows(0, 1)[0][1])]
    new = write_csv(tmp_path / "new.csv", ["text", "mood"], [*mood_rows(0, 9), *extra])
    found = model.evaluate("mood", new)
    assert found.n == 9
    assert found.rows == {
        "unlabelled": 1, "ignored": 2, "empty": 1, "dropped": 1, "truncated": 0, "clipped": 0
    }  # fmt: skip
    capsys.readouterr()
    show_evaluation(found)
    out = capsys.readouterr().out
    assert "mood: 1 row without a label; left out" in out
    assert "mood: 2 rows with a label that ignore_labels lists; left out" in out
    assert "mood: 1 row left out because of an empty text" in out


def test_a_table_in_memory_is_evaluated_like_its_file(trained, data):
    pandas = pytest.importorskip("pandas")
    model = load(trained)
    table = pandas.read_csv(data / "alike-dev.csv")
    assert model.evaluate("alike", table).to_dict() == model.evaluate("alike").to_dict()
    assert model.evaluate_all(table).tasks.keys() == {"alike"}
    with pytest.raises(ComityError, match="expected a file or a DataFrame, got"):
        model.evaluate("mood", ["a text"])


def test_numbers_of_a_table_in_memory_need_no_decimal_mark(tmp_path, tiny_checkpoint):
    pandas = pytest.importorskip("pandas")
    write_two_tasks(tmp_path)
    recipe = two_tasks(tiny_checkpoint, tasks__alike__decimal_mark=",", train__epochs=0.1)
    for name in ("alike.csv", "alike-dev.csv"):
        table = pandas.read_csv(tmp_path / name)
        table.to_csv(tmp_path / name, index=False, decimal=",", sep=";")
    model = load(train(recipe, tmp_path, tmp_path / "run", quiet=True))
    table = pandas.read_csv(tmp_path / "alike-dev.csv", decimal=",", sep=";")
    assert table["score"].dtype == "float64"
    assert model.evaluate("alike", table).to_dict() == model.evaluate("alike").to_dict()


def test_wrong_arguments_are_errors(trained):
    model = load(trained.path)
    with pytest.raises(ComityError, match='did you mean "mood"'):
        model.predict("mod", ["x"])
    for wrong in (None, ["mood"], 3):
        with pytest.raises(ComityError, match="expected the name of a task"):
            model.predict(wrong, ["x"])  # pyright: ignore[reportCallIssue, reportArgumentType]
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


def test_rows_beyond_one_chunk_keep_their_order(trained, monkeypatch):
    """Chunks of 4 rows give every row what it gets alone."""
    model = load(trained)
    texts = [
        "x",
        "a good film",
        "the old book is good and the tea is cold",
        "bad",
        "a",
        "a red car",
    ]
    pairs = [(text, f"the {text} of a house") for text in reversed(texts)]
    monkeypatch.setattr("comity.inference.model.CHUNK", 4)
    for task, rows in (("mood", texts), ("alike", pairs)):
        alone = np.concatenate([model.outputs(task, [row]) for row in rows])
        assert len(np.unique(alone.round(6))) == len(rows)
        np.testing.assert_allclose(model.outputs(task, rows), alone, rtol=0, atol=1e-5)
    alone = np.stack([model.encode(text, raw=True) for text in texts])
    np.testing.assert_allclose(model.encode(texts, raw=True), alone, rtol=0, atol=1e-5)


def test_tasks_with_other_limits_do_not_share_an_encoding(data, tmp_path, tiny_checkpoint):
    second = {"kind": "regression", "train": "alike.csv", "dev": 0.2, "texts": ["a", "b"]}
    grade = {**second, "label": "score", "max_length": 7}
    model = load(train(two_tasks(tiny_checkpoint, tasks__grade=grade), data, tmp_path / "run"))
    pairs = [("a house", "the old train is late today"), ("good tea and cold water", "the tea")]
    found = model.predict_all(pairs, ["alike", "grade"])
    for task, predictions in found.items():
        assert [p.label for p in predictions] == [p.label for p in model.predict(task, pairs)]
    assert model.count_truncated("grade", pairs) == 2


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


def test_clipped_scores_are_marked_and_counted(trained, capsys):
    """The head's weights are set so that it predicts far beyond the scale."""
    model = load(trained)
    head: Any = model._model.head("alike")
    torch.nn.init.zeros_(head.output.weight)
    torch.nn.init.constant_(head.output.bias, 7.0)
    (found,) = model.predict("alike", [("a", "b")])
    assert (found.label, found.clipped) == (5.0, True)
    evaluation = model.evaluate("alike")
    assert evaluation.rows["clipped"] == evaluation.n
    show_evaluation(evaluation)
    assert "rows with a score beyond the scale; clipped to its end" in capsys.readouterr().out
