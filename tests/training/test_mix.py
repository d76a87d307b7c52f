"""Runs with `mix = "dev"`: what they keep, and that everything which predicts applies it."""

import csv
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file
from scipy.special import expit, softmax
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score
from tests.helpers import NOUNS, number, stop_at_evaluation, write_csv

from comity import ComityError, Model, Recipe, load, train
from comity.cli.main import main
from comity.evaluation.calibration import calibrate
from comity.evaluation.predictions import kept_predictions
from comity.experiments.soup import make_soup
from comity.export.export import export
from comity.inference.answers import Query
from comity.runs.directory import RunDirectory

FITTED = ("score", "same")
HEADER = ["a", "b", "score", "same"]
BOTH = {"train": "train.csv", "dev": "dev.csv", "texts": ["a", "b"], "view": "both"}


def rows_of(seed: int, count: int) -> list[tuple[Any, ...]]:
    """Pairs of texts, and labels that follow from the number of words that they share."""
    draws = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draws.sample(list(NOUNS), 8)
        shared = draws.randrange(5)
        second = [*words[:shared], *words[4 : 8 - shared]]
        score = min(max(1.25 * shared + draws.gauss(0, 0.3), 0), 5)
        same = "yes" if shared + draws.gauss(0, 0.3) > 1.5 else "no"
        rows.append((" ".join(words[:4]), " ".join(second), f"{score:.2f}", same))
    return rows


def recipe_of(encoder: Path, mix: Any = "dev", **settings: Any) -> Recipe:
    key = {} if mix is None else {"mix": mix}
    return Recipe.from_dict(
        {
            "encoder": {"name": str(encoder), "dropout": 0.0},
            "train": {
                "precision": "float32",
                "batch_size": 8,
                "epochs": 4,
                "lr": 1e-4,
                "head_lr": 1e-2,
                **settings,
            },
            "tasks": {
                "score": {**BOTH, **key, "kind": "similarity", "label": "score"},
                "same": {
                    **BOTH, **key, "kind": "classification", "label": "same", "calibrate": True,
                    "pooling": "cls", "embedding_pooling": "mean",
                },
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate({"train": 48, "dev": 80, "new": 10}.items()):
        write_csv(folder / f"{name}.csv", HEADER, rows_of(seed, count))
    return folder


@pytest.fixture(scope="module")
def run(data, tiny_checkpoint, tmp_path_factory) -> RunDirectory:
    return train(recipe_of(tiny_checkpoint), data, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def model(run) -> Model:
    return load(run, device="cpu")


def pairs_of(data: Path, name: str) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    with (data / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["a"], row["b"]) for row in rows], rows


def by_hand(run: RunDirectory, task: str, outputs: np.ndarray, share: float) -> np.ndarray:
    """Scores, or probabilities of "yes", of both heads with a share of the first."""
    if task == "score":
        first = softmax(outputs[:, :6], axis=1) @ np.arange(6)
        return share * first + (1 - share) * 5 * outputs[:, 6].clip(0, 1)
    temperature = run.best().calibration["same"].temperature
    first, second = expit(outputs / temperature).T
    return share * first + (1 - share) * second


@pytest.mark.parametrize("task", FITTED)
def test_the_run_keeps_the_best_share_on_dev(run, model, data, task):
    pairs, rows = pairs_of(data, "dev")
    outputs = model.outputs(task, pairs)
    values = []
    for share in np.linspace(0, 1, 21):
        if task == "score":
            found = by_hand(run, task, outputs, share)
            values.append(pearsonr([float(row["score"]) for row in rows], found)[0])
        else:
            first, second = expit(outputs).T  # before the calibration
            yes = share * first + (1 - share) * second > 0.5
            values.append(accuracy_score([row["same"] == "yes" for row in rows], yes))
    best = np.flatnonzero(np.array(values) > max(values) - 1e-9)
    nearest = best[np.abs(best - 10).argmin()]
    kept = run.best().mixes[task]
    assert kept.mix == pytest.approx(nearest / 20)
    assert kept.mix != 0.5  # otherwise the tests below show nothing
    assert kept.cross_fitted is not None
    assert kept.equal is not None
    assert kept.cross_fitted > kept.equal
    assert model.target(task).mix == kept.mix


def test_the_calibration_is_that_of_the_mixed_probabilities(run, model, data):
    pairs, rows = pairs_of(data, "dev")
    target = run.facts().tasks["same"].head.target
    assert (target.mix, target.temperature) == (0.5, 1.0)
    gold = np.array([row["same"] == "yes" for row in rows]).astype(int)
    mixed = replace(target, mix=run.best().mixes["same"].mix)
    again = calibrate("same", mixed, "accuracy", gold, model.outputs("same", pairs))
    assert again == run.best().calibration["same"]


@pytest.mark.parametrize("task", FITTED)
def test_predictions_and_evaluations_apply_it(run, model, data, task):
    pairs, _ = pairs_of(data, "new")
    expected = by_hand(run, task, model.outputs(task, pairs), run.best().mixes[task].mix)
    predicted = model.predict(task, pairs)
    found = [p.label if task == "score" else p.probabilities["yes"] for p in predicted]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    answerer = model.answerer()
    answers = answerer.answer(answerer.tokenize([Query(pair, (task,)) for pair in pairs]))
    served = [answer.predictions[task] for answer in answers]
    found = [p.label if task == "score" else p.probabilities["yes"] for p in served]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    best = run.best()
    assert model.evaluate(task).score.value == best.tasks[task].value == best.calibrated[task].value
    dev, _ = pairs_of(data, "dev")
    kept = kept_predictions(run, task)
    assert kept.predicted.tolist() == pytest.approx([p.label for p in model.predict(task, dev)])


@pytest.mark.parametrize("task", FITTED)
def test_exports_apply_it(run, model, data, task, tmp_path):
    pairs, _ = pairs_of(data, "new")
    export(run.path, "comity", tmp_path / "comity")
    again = Model.from_pretrained(tmp_path / "comity")
    assert again.predict(task, pairs) == model.predict(task, pairs)
    export(run.path, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(next((tmp_path / "onnx").rglob("*.onnx"))))
    name = f"{task}.score" if task == "score" else f"{task}.probabilities"
    tokenizer = model.tokenizer
    template = model.template
    for first, second in pairs[:3]:
        a, b = tokenizer.encode([first, second])
        sequences = [
            [template.cls_id, *a, template.sep_id, *b, template.sep_id],
            [template.cls_id, *a, template.sep_id],
            [template.cls_id, *b, template.sep_id],
        ]
        length = len(sequences[0])
        ids = np.array([one + [0] * (length - len(one)) for one in sequences])
        mask = np.array([[1] * len(one) + [0] * (length - len(one)) for one in sequences])
        segments = np.zeros_like(ids)
        segments[0, len(a) + 2 :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        (found,) = session.run([name], inputs)
        share = run.best().mixes[task].mix
        expected = by_hand(run, task, model.outputs(task, [(first, second)]), share)
        np.testing.assert_allclose(np.asarray(found).ravel()[-1], expected[0], atol=1e-4)
    card = (tmp_path / "comity" / "README.md").read_text()
    assert f"heads of {task} have the shares {run.best().mixes[task].mix:g} and " in card


def test_what_the_commands_say(run, tmp_path, capsys):
    kept = run.best().mixes["score"]
    assert main(["info", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "Mix of two heads, fitted on dev" in shown
    assert 'The column "kept model" is with the fitted mix and the calibration' in shown
    row = shown[shown.index("Mix of two heads") :]
    for value in (f"{kept.mix:g}", f"{kept.equal:.4f}", f"{kept.cross_fitted:.4f}"):
        assert value in row
    assert main(["evaluate", str(run.path), "--task", "score", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mix"]["mix"] == kept.mix
    assert main(["evaluate", str(run.path), "--task", "score"]) == 0
    assert "Mix of two heads, fitted on dev" in capsys.readouterr().out
    assert main(["report", str(run.path), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert f"The share of the head on the pair, fitted on dev, is {kept.mix:g}." in page


def test_training_is_the_same_with_and_without(run, data, tiny_checkpoint, tmp_path):
    plain = train(recipe_of(tiny_checkpoint, mix=None), data, tmp_path / "plain")
    best, fitted = plain.best(), run.best()
    assert (best.step, best.mixes) == (fitted.step, {})
    assert plain.facts().tasks == run.facts().tasks
    for name in ("heads.safetensors", "encoder/model.safetensors"):
        own, other = (load_file(one.kept_model() / name) for one in (plain, run))
        assert all((own[key] == other[key]).all() for key in own)
    untimed = [[e for e in one.metrics() if e.type != "train"] for one in (plain, run)]
    assert untimed[0] == untimed[1]
    assert number(fitted.tasks["score"].value) > number(best.tasks["score"].value)


def test_a_resumed_run_and_a_soup_fit_it(run, data, tiny_checkpoint, tmp_path):
    recipe = recipe_of(tiny_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "run", on_event=stop_at_evaluation(1))
    assert tuple(RunDirectory(tmp_path / "run").best().mixes) == FITTED
    resumed = train(recipe, data, tmp_path / "run", resume=True)
    assert resumed.best() == run.best()
    other = train(recipe_of(tiny_checkpoint, seed=1), data, tmp_path / "other")
    make_soup([run.path, other.path], tmp_path / "soup")
    soup = RunDirectory.open(tmp_path / "soup")
    assert tuple(soup.best().mixes) == FITTED
    model = load(soup, device="cpu")
    for task in FITTED:
        assert model.target(task).mix == soup.best().mixes[task].mix
        assert model.evaluate(task).score.value == soup.best().tasks[task].value


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"view": "pair"}, 'has no effect here (only the view "both" has two heads); remove it'),
        ({"eval_only": True}, "has no effect here (the task is eval_only); remove it"),
        ({"mix": "half"}, "expected a number or one of 'dev', got \"half\""),
    ],
)
def test_wrong_recipes(tiny_checkpoint, changes, problem):
    values = recipe_of(tiny_checkpoint).to_dict()
    values["tasks"]["score"] |= changes
    with pytest.raises(ComityError) as caught:
        Recipe.from_dict(values)
    assert f"recipe: tasks.score.mix: {problem}" in caught.value.messages
