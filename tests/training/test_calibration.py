"""Runs with `calibrate = true`: what they keep, and that everything which predicts applies it."""

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.special import expit, softmax
from tests.helpers import ADJECTIVES, NOUNS, number, stop_at_evaluation, write_csv

from comity import ComityError, Model, Recipe, load, train
from comity.cli.main import main
from comity.evaluation.calibration import calibrate
from comity.evaluation.predictions import kept_predictions
from comity.experiments.soup import make_soup
from comity.export import to_sentence_transformers, to_transformers
from comity.export.export import export, open_source
from comity.export.onnx import described
from comity.runs.directory import RunDirectory
from comity.runs.summary import reached, run_summary

CALIBRATED = ("mood", "topic", "tags", "same")


def rows_of(seed: int, count: int) -> list[tuple[str, ...]]:
    """Texts, and labels that follow from them except for chance."""
    draws = random.Random(seed)
    rows = []
    for item in range(count):
        adjective, noun, other = (draws.choice(list(words)) for words in (ADJECTIVES, NOUNS, NOUNS))
        up = (ADJECTIVES[adjective] == "up") ^ (draws.random() < 0.3)
        rare = up and draws.random() < 0.4
        tags = [tag for tag in ("a", "b", "c") if up and draws.random() < 0.35]
        text, second = f"the {noun} number {item} is {adjective}", f"an old {other}"
        topic = draws.choice(["t1", "t2", "t3"]) if draws.random() < 0.4 else f"t{1 + 2 * up}"
        same = "yes" if draws.random() < (0.5 if up else 0.1) else "no"
        mood = "yes" if rare else "no"
        rows.append((text, second, mood, topic, ";".join(tags), same, f"{item % 5}"))
    return rows


HEADER = ["text", "second", "mood", "topic", "tags", "same", "score"]
ONE = {"train": "train.csv", "dev": "dev.csv", "text": "text", "pooling": "pooler"}
TWO = {"train": "train.csv", "dev": "dev.csv", "texts": ["text", "second"]}


def recipe_of(encoder: Path, calibrate: bool = True, **settings: Any) -> Recipe:
    key = {"calibrate": True} if calibrate else {}
    two: dict[str, Any] = {"kind": "classification", "classes": ["no", "yes"], **key}
    tags = {"kind": "multi-label", "label": "tags", "separator": ";", "classes": ["a", "b", "c"]}
    tasks: dict[str, Any] = {
        "mood": {**ONE, **two, "label": "mood", "metric": "macro_f1"},
        "topic": {**ONE, **key, "kind": "classification", "label": "topic"},
        "tags": {**ONE, **key, **tags},
        "same": {**TWO, **two, "label": "same", "metric": "mcc", "pooling": "mean"},
        "score": {**TWO, "kind": "similarity", "head": "regression", "label": "score"},
    }
    train = {
        "precision": "float32",
        "batch_size": 16,
        "lr": 3e-3,
        "epochs": 2,
        "eval_train_rows": 20,
        **settings,
    }
    return Recipe.from_dict({"encoder": {"name": str(encoder)}, "train": train, "tasks": tasks})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate({"train": 96, "dev": 160, "new": 30}.items()):
        write_csv(folder / f"{name}.csv", HEADER, rows_of(seed, count))
    return folder


@pytest.fixture(scope="module")
def run(data, tiny_checkpoint, tmp_path_factory) -> RunDirectory:
    return train(recipe_of(tiny_checkpoint), data, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load(run, device="cpu")


@pytest.fixture(scope="module")
def texts(data) -> list[dict[str, str]]:
    with (data / "new.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def expected(model: Model, run: RunDirectory, task: str, rows: Any) -> tuple[Any, Any]:
    """Probabilities and decisions from the raw outputs and what best.json says."""
    record = json.loads((run.path / "best.json").read_text())["calibration"][task]
    outputs = model.outputs(task, rows) / record["temperature"]
    if task == "topic":
        probabilities = softmax(outputs, axis=1)
        return probabilities, probabilities.argmax(axis=1)
    positive = expit(outputs)
    decided = positive > record["threshold"]
    if task == "tags":
        return positive, decided
    return np.hstack([1 - positive, positive]), decided[:, 0].astype(int)


def test_the_run_keeps_what_was_fitted(run, model):
    best = run.best()
    assert tuple(best.calibration) == CALIBRATED
    assert any(found.temperature != 1 for found in best.calibration.values())
    assert best.calibration["topic"].threshold is None
    for task in ("mood", "tags", "same"):
        assert best.calibration[task].threshold == model.target(task).threshold
    for task in CALIBRATED:
        assert best.calibration[task].temperature == model.target(task).temperature
    thresholds = {best.calibration[task].threshold for task in ("mood", "tags", "same")}
    assert len(thresholds - {0.5}) >= 2  # otherwise the tests below show nothing


@pytest.mark.parametrize("task", CALIBRATED)
def test_predict_applies_it(run, model, texts, task):
    probabilities, decided = expected(model, run, task, texts)
    target = model.target(task)
    for found, row, decision in zip(
        model.predict(task, texts), probabilities, decided, strict=True
    ):
        assert list(found.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-12)
        assert found.label == target.label(decision)


@pytest.mark.parametrize("task", CALIBRATED)
def test_evaluate_prints_what_the_run_recorded(run, model, task):
    best, evaluation = run.best(), model.evaluate(task)
    assert evaluation.score.value == best.tasks[task].value
    recorded = best.calibrated[task]
    assert recorded.value == evaluation.score.value
    assert recorded.loss == evaluation.loss
    assert recorded.others == {name: score.value for name, score in evaluation.others.items()}
    kept = kept_predictions(run, task)
    assert kept.probabilities is not None
    probabilities, decided = expected(model, run, task, _dev(run))
    np.testing.assert_allclose(kept.probabilities, probabilities, atol=5.1e-7)
    names = np.array(kept.target.classes)
    assert (kept.predicted == (decided if task == "tags" else names[decided])).all()
    log = (
        -np.log(np.where(kept.gold, probabilities, 1 - probabilities)).mean()
        if (task == "tags")
        else -np.log(
            probabilities[np.arange(160), [kept.target.classes.index(name) for name in kept.gold]]
        ).mean()
    )
    assert evaluation.loss == pytest.approx(log, rel=1e-5)


def _dev(run: RunDirectory) -> list[dict[str, str]]:
    with (Path(run.facts().inputs.data) / "dev.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_info_and_the_mean_are_those_of_the_calibrated_model(run, capsys):
    summary, best = run_summary(run), run.best()
    values = [number(score.value) for score in best.tasks.values()]
    assert summary.kept is not None
    assert summary.kept.mean == pytest.approx(np.mean(values))
    assert reached(run).mean == summary.kept.mean
    assert best.score.value == pytest.approx(np.mean(values))
    assert main(["info", str(run.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["best"]["calibration"]["mood"]
    assert shown["temperature"] == best.calibration["mood"].temperature
    assert main(["info", str(run.path)]) == 0
    info = capsys.readouterr().out
    assert f"temperature {best.calibration['mood'].temperature:.4f}" in info
    assert f"threshold {best.calibration['mood'].threshold:.4f}" in info
    assert main(["evaluate", str(run.path), "--task", "mood", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["value"] == best.tasks["mood"].value
    assert evaluated["calibration"] == shown
    assert main(["evaluate", str(run.path), "--task", "mood"]) == 0
    out = capsys.readouterr().out
    assert f"{best.tasks['mood'].value:.4f} (" in out
    assert "cross-fitted" in out


def test_a_file_of_predictions(run, model, texts, data, tmp_path):
    arguments = ["predict", str(run.path), "--input", str(data / "new.csv"), "--task", "mood"]
    for name in ("out.csv", "out.json"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = json.loads((tmp_path / "out.json").read_text())
    column = next(key for key in records[0] if key.startswith("predict"))
    probabilities, decided = expected(model, run, "mood", texts)
    for row, record, p, label in zip(rows, records, probabilities, decided, strict=True):
        assert row[column] == record[column] == ("no", "yes")[label]
        assert float(row["p_yes"]) == record["p_yes"] == pytest.approx(p[1], abs=1e-6)


def test_the_server_applies_it(run, model, texts):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    from tests.serve.helpers import running

    from comity.serve.app import create_app

    with running(create_app(load(run, device="cpu"), run.path)) as client:
        for task in ("mood", "topic", "tags"):
            body = {"texts": [row["text"] for row in texts]}
            answers = client.post(f"/v1/tasks/{task}", body).json["predictions"]
            probabilities, decided = expected(model, run, task, texts)
            for found, p, decision in zip(answers, probabilities, decided, strict=True):
                assert found["label"] == model.target(task).label(decision)
                assert list(found["probabilities"].values()) == pytest.approx(p, abs=1e-5)


def test_an_exported_model_applies_it(run, model, texts, tmp_path):
    export(run.path, "comity", tmp_path / "comity")
    card = (tmp_path / "comity" / "README.md").read_text(encoding="utf-8")
    assert "mood was calibrated on its dev set: temperature" in card
    assert f"threshold {model.target('mood').threshold:.6f}" in card
    model.save_pretrained(tmp_path / "saved")
    for folder in ("comity", "saved"):
        other = load(tmp_path / folder, device="cpu")
        for task in CALIBRATED:
            assert other.predict(task, texts) == model.predict(task, texts)


def test_onnx_describes_the_thresholds(model):
    """The temperatures in the graph are tested in tests/export/test_onnx.py."""
    tasks = {task: described(model, task) for task in CALIBRATED}
    assert "threshold" not in tasks["topic"]
    for task in ("mood", "tags", "same"):
        assert tasks[task].get("threshold", 0.5) == model.target(task).threshold


def test_other_libraries_get_the_temperature_and_are_told_the_threshold(
    run, model, texts, tmp_path
):
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    source = open_source(run.path)
    threshold = f"above a probability of {model.target('mood').threshold:.6f}"
    parts = to_transformers.write(source, tmp_path / "hf", ["topic", "mood"])
    for part in parts[1:]:
        assert to_transformers.difference(source, tmp_path / "hf", part) < 1e-4
        assert (threshold in part.note) == (part.tasks == ("mood",))
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "hf/tasks/topic"))
    probabilities, _ = expected(model, run, "topic", texts)
    for row, p in zip(classify([row["text"] for row in texts]), probabilities, strict=True):
        assert row["score"] == pytest.approx(p.max(), abs=1e-4)
    parts = to_sentence_transformers.write(source, tmp_path / "st", ["same"])
    assert to_sentence_transformers.difference(source, tmp_path / "st", parts[1]) < 1e-4
    encoder = sentence_transformers.CrossEncoder(
        str(tmp_path / "st/cross-encoders/same"), device="cpu"
    )
    pairs: Any = [(row["text"], row["second"]) for row in texts]
    probabilities, _ = expected(model, run, "same", texts)
    np.testing.assert_allclose(encoder.predict(pairs), probabilities[:, 1], atol=1e-4)


def test_the_report_says_it(run, tmp_path):
    assert main(["report", str(run.path), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert f"with a temperature of {run.best().calibration['mood'].temperature:.4f}" in page


def test_training_is_the_same_with_and_without(run, data, tiny_checkpoint, tmp_path):
    plain = train(recipe_of(tiny_checkpoint, calibrate=False), data, tmp_path / "plain")
    best, calibrated = plain.best(), run.best()
    assert (best.step, best.calibration, best.calibrated) == (calibrated.step, {}, {})
    for name in ("heads.safetensors", "encoder/model.safetensors"):
        own, other = (load_file(one.kept_model() / name) for one in (plain, run))
        assert all((own[key] == other[key]).all() for key in own)
    untimed = [[e for e in one.metrics() if e.type != "train"] for one in (plain, run)]
    assert untimed[0] == untimed[1]
    for task, found in calibrated.calibration.items():
        assert found.as_trained is not None
        assert found.as_trained.value == best.tasks[task].value


def test_a_changed_or_damaged_record_is_an_error(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    path = tmp_path / "run" / "best.json"
    values = json.loads(path.read_text())
    values["calibration"]["mood"]["threshold"] = 0.9
    path.write_text(json.dumps(values))
    with pytest.raises(ComityError, match=r"best\.json: has changed since it was written"):
        load(tmp_path / "run")


def test_a_resumed_and_an_extended_run_fit_again(run, data, tiny_checkpoint, tmp_path):
    recipe = recipe_of(tiny_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=stop_at_evaluation(1))
    first = RunDirectory(tmp_path / "run").best()
    assert tuple(first.calibration) == CALIBRATED  # the model of an unfinished run has one too
    resumed = train(recipe, data, tmp_path / "run", resume=True)
    assert resumed.best() == run.best()
    extended = train(recipe, data, tmp_path / "run", resume=True, extend={"steps": 4})
    model = load(extended, device="cpu")
    for task in CALIBRATED:
        assert model.evaluate(task).score.value == extended.best().tasks[task].value


def test_a_soup_is_calibrated_for_its_own_weights(run, data, tiny_checkpoint, tmp_path):
    other = train(recipe_of(tiny_checkpoint, seed=1), data, tmp_path / "other")
    make_soup([run.path, other.path], tmp_path / "soup")
    soup = RunDirectory.open(tmp_path / "soup")
    model = load(soup, device="cpu")
    plain = RunDirectory.open(tmp_path / "soup").facts().tasks
    for task in CALIBRATED:
        assert plain[task].head.target.temperature == 1
        gold = model.dev_split(task).targets
        rows = list(csv.DictReader((data / "dev.csv").open(newline="")))
        again = calibrate(
            task, plain[task].head.target, plain[task].metric, gold, model.outputs(task, rows)
        )
        assert soup.best().calibration[task].temperature == pytest.approx(again.temperature)
        assert soup.best().calibration[task].threshold == pytest.approx(again.threshold)
        assert model.evaluate(task).score.value == soup.best().tasks[task].value


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        ("similarity", {}, "only classification and multi-label can be calibrated"),
        ("mood", {"eval_only": True}, "the task is eval_only"),
    ],
)
def test_a_key_without_effect_is_an_error(tiny_checkpoint, kind, changes, problem):
    values = recipe_of(tiny_checkpoint).to_dict()
    task = "score" if kind == "similarity" else kind
    values["tasks"][task] |= {"calibrate": True, **changes}
    with pytest.raises(ComityError, match=problem) as error:
        Recipe.from_dict(values)
    assert f"tasks.{task}.calibrate" in str(error.value)


def test_a_wrong_value_is_an_error(tiny_checkpoint):
    values = recipe_of(tiny_checkpoint).to_dict()
    values["tasks"]["mood"]["calibrate"] = "yes"
    with pytest.raises(ComityError, match=r"tasks\.mood\.calibrate"):
        Recipe.from_dict(values)
