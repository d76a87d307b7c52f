"""`comity baseline`: tasks alone, floors, the comparison with a shared model, and soft labels."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from safetensors.torch import load_file
from tests.helpers import (
    alike_rows,
    mood_rows,
    number,
    stop_after_step,
    two_tasks,
    write_csv,
    write_two_tasks,
)
from torch import equal

from comity import ComityError, Recipe, load, train
from comity.cli.main import main
from comity.data.folds import Fold
from comity.data.soft_labels import read_soft_labels
from comity.experiments.baseline import Baseline
from comity.files import sha256_of
from comity.runs.directory import RunDirectory, is_finished
from comity.terminal.progress import SeriesDisplay
from comity.training.train import train as train_run

STEPS = {"train__epochs": ..., "train__steps": 4}


def write_recipe(folder: Path, checkpoint: Path, **changes) -> Path:
    """A recipe of two tasks on disk, and its data beside it."""
    write_two_tasks(folder / "data")
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(two_tasks(checkpoint, **(STEPS | changes)).to_dict()))
    return path


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint) -> Path:
    return write_recipe(tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_checkpoint) -> Path:
    """A recipe with a baseline of two seeds and three folds in `out`. Nothing may change it."""
    recipe = write_recipe(tmp_path_factory.mktemp("baseline"), tiny_checkpoint)
    assert main([*command(recipe), "--seeds", "2", "--folds", "3", "--quiet"]) == 0
    return recipe


def command(recipe: Path, *more: str) -> list[str]:
    data, out = recipe.parent / "data", recipe.parent / "out"
    return ["baseline", str(recipe), "--data", str(data), "--out", str(out), *more]


def copied(trained: Path, folder: Path) -> Path:
    """A copy of the trained baseline."""
    shutil.copytree(trained.parent, folder, dirs_exist_ok=True)
    return folder / "recipe.toml"


def weights(run: Path) -> dict:
    return load_file(run / RunDirectory(run).best().folder / "heads.safetensors")


# --- tasks alone ----------------------------------------------------------------------------------


def test_a_task_alone_is_the_run_that_only_trains(trained, tmp_path):
    data, out = str(trained.parent / "data"), str(tmp_path / "run")
    only = ["--only", "alike", "--set", "train.seed=1", "--quiet"]
    assert main(["train", str(trained), "--data", data, "--out", out, *only]) == 0
    alone = trained.parent / "out" / "runs" / "alike-seed1"
    assert RunDirectory(alone).recipe().to_dict() == RunDirectory(Path(out)).recipe().to_dict()
    one, other = weights(alone), weights(Path(out))
    assert one.keys() == other.keys()
    assert all(equal(one[name], other[name]) for name in one)


def test_the_table_has_floors_and_the_mean_over_seeds(trained, capsys):
    assert main([*command(trained), "--seeds", "2", "--folds", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((trained.parent / "out" / "baseline.json").read_text())
    mood, alike = found["tasks"]
    own = [
        number(RunDirectory(trained.parent / "out" / "runs" / name).best().tasks["mood"].value)
        for name in ("mood-seed0", "mood-seed1")
    ]
    assert mood["scores"] == own
    assert mood["mean"] == pytest.approx(np.mean(own))
    assert mood["deviation"] == pytest.approx(np.std(own, ddof=1))
    assert mood["examples"] == 32  # 4 steps of 8 rows, as in the shared run
    assert mood["constant"]["score"]["value"] == 0.5  # half of the dev rows are "down"
    assert mood["untouched"]["model"] == "logistic regression"
    assert alike["constant"]["score"]["value"] is None
    assert alike["untouched"]["model"] == "cosine"
    assert [Path(path).name for path in found["teachers"]] == [
        f"{task}-seed{seed}.safetensors" for task in ("mood", "alike") for seed in (0, 1)
    ]


def test_a_shared_model_is_compared_with_the_tasks_alone(trained, tmp_path, capsys):
    data = trained.parent / "data"
    shared = [
        train(Recipe.load(trained, [f"train.seed={seed}"]), data, tmp_path / str(seed)).path
        for seed in (0, 1)
    ]
    capsys.readouterr()
    runs = ["--compare", *map(str, shared)]
    assert main([*command(trained), "--seeds", "2", "--json", *runs]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    differences = []
    for table in comparison["tasks"]:
        task = table["task"]
        means = [
            np.mean([number(RunDirectory(run).best().tasks[task].value) for run in side])
            for side in (
                [trained.parent / "out" / "results" / f"{task}-seed{seed}" for seed in (0, 1)],
                shared,
            )
        ]
        verdict = table["entries"][1]["verdict"]
        assert verdict["difference"] == pytest.approx(means[1] - means[0])
        assert verdict["verdict"] in ("higher", "lower", "undecided")
        differences.append(means[1] - means[0])
    mean = comparison["mean"]["entries"][1]["verdict"]["difference"]
    assert mean == pytest.approx(np.mean(differences))
    assert main([*command(trained), "--seeds", "2", *runs]) == 0
    shown = capsys.readouterr().out
    assert "each task alone" in shown
    assert "adjusted for 3 differences" in shown


def test_an_evaluated_task_is_left_out_and_named(tmp_path, tiny_checkpoint, capsys):
    recipe = write_recipe(tmp_path, tiny_checkpoint, tasks__alike__eval_only=True)
    assert main([*command(recipe), "--dry-run", "--json"]) == 0
    shown = capsys.readouterr()
    assert "alike: is left out, since eval_only is set" in shown.err
    assert [run["name"] for run in json.loads(shown.out)["runs"]] == [
        f"mood-seed{seed}" for seed in range(3)
    ]
    assert not (tmp_path / "out").exists()


# --- to continue ----------------------------------------------------------------------------------


@pytest.fixture
def nothing_trains(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a run is trained")

    monkeypatch.setattr("comity.experiments.runner.train", fail)


def test_a_complete_baseline_needs_neither_training_nor_its_runs(
    trained, tmp_path, nothing_trains, monkeypatch
):
    recipe = copied(trained, tmp_path)
    shutil.rmtree(tmp_path / "out" / "runs")
    monkeypatch.setattr("comity.experiments.baseline.untouched_floor", lambda *_: None)
    before = json.loads((tmp_path / "out" / "baseline.json").read_text())
    assert main([*command(recipe), "--seeds", "2", "--folds", "3"]) == 0
    after = json.loads((tmp_path / "out" / "baseline.json").read_text())
    assert [task["scores"] for task in after["tasks"]] == [t["scores"] for t in before["tasks"]]


def test_a_lost_file_of_soft_labels_is_written_again_from_its_runs(
    trained, tmp_path, nothing_trains
):
    recipe = copied(trained, tmp_path)
    path = tmp_path / "out" / "teachers" / "alike-seed1.safetensors"
    before = path.read_bytes()
    path.unlink()
    assert main([*command(recipe), "--seeds", "2", "--folds", "3"]) == 0
    assert path.read_bytes() == before


def test_a_stopped_baseline_keeps_what_is_finished(recipe, tmp_path, monkeypatch, capsys):
    evaluated = SeriesDisplay.evaluated

    def stop(self, event):
        if (tmp_path / "out" / "runs" / "mood-seed1" / "run.json").is_file():
            raise KeyboardInterrupt
        evaluated(self, event)

    monkeypatch.setattr(SeriesDisplay, "evaluated", stop)
    assert main([*command(recipe), "--seeds", "2"]) == 130
    assert "repeat the command" in capsys.readouterr().err
    mood, alike = json.loads((tmp_path / "out" / "baseline.json").read_text())["tasks"]
    assert (len(mood["runs"]), alike["runs"], alike["mean"]) == (1, [], None)
    first = (tmp_path / "out" / "runs" / "mood-seed0" / "metrics.jsonl").read_bytes()
    monkeypatch.undo()
    assert main([*command(recipe), "--seeds", "2", "--quiet"]) == 0
    assert (tmp_path / "out" / "runs" / "mood-seed0" / "metrics.jsonl").read_bytes() == first
    assert all(is_finished(tmp_path / "out" / "results" / f"alike-seed{n}") for n in (0, 1))


def test_a_stopped_run_without_a_fold_is_resumed_without_it(recipe, tmp_path):
    alone = Recipe.load(recipe, ["train.evaluate_every=2"]).only(["mood"])

    def run(name: str, **options) -> RunDirectory:
        return train_run(alone, tmp_path / "data", tmp_path / name, **options)

    whole = run("whole", fold=Fold(2, 3))
    with pytest.raises(KeyboardInterrupt):
        run("stopped", fold=Fold(2, 3), on_event=stop_after_step(3), command=["comity", "baseline"])
    assert main(["train", "--resume", str(tmp_path / "stopped"), "--quiet"]) == 0
    one, other = weights(whole.path), weights(tmp_path / "stopped")
    assert all(equal(one[name], other[name]) for name in one)
    assert whole.facts().inputs.fold == RunDirectory(tmp_path / "stopped").facts().inputs.fold
    on_all = run("all")
    assert not all(equal(one[name], tensor) for name, tensor in weights(on_all.path).items())


def test_a_run_without_a_fold_is_started_again_by_its_own_command(recipe, tmp_path):
    alone = Recipe.load(recipe).only(["mood"])
    words = ["comity", "baseline", "recipe.toml"]
    with pytest.raises(KeyboardInterrupt):
        train_run(
            alone,
            tmp_path / "data",
            tmp_path / "run",
            fold=Fold(1, 2),
            on_event=stop_after_step(1),
            command=words,
        )
    sentence = RunDirectory(tmp_path / "run").status().sentence
    assert sentence.endswith("so start it again with comity baseline recipe.toml")


# --- soft labels ----------------------------------------------------------------------------------


def test_soft_labels_are_what_the_model_without_the_fold_predicts(trained):
    out = trained.parent / "out"
    texts = [row[0] for row in mood_rows(0, 36)]
    labels = read_soft_labels(out / "teachers" / "mood-seed1.safetensors")
    assert (labels.kind, labels.classes, labels.seed) == ("classification", ("down", "up"), 1)
    assert labels.rows.tolist() == list(range(36))
    assert labels.file == sha256_of(trained.parent / "data" / "mood.csv")
    for fold in (1, 2, 3):
        run = RunDirectory(out / "runs" / f"mood-seed1-fold{fold}of3")
        rows = np.flatnonzero(labels.folds == fold)
        predicted = load(run).predict("mood", [texts[row] for row in rows])
        expected = [[p.probabilities[name] for name in labels.classes] for p in predicted]
        np.testing.assert_allclose(labels.values[rows], expected, atol=1e-6)
        found = run.data()
        assert found is not None
        assert found.tasks["mood"].train.rows == 36 - len(rows)
        heads = run.path / run.best().folder / "heads.safetensors"
        assert labels.weights[fold - 1]["heads.safetensors"] == sha256_of(heads)


def test_soft_labels_of_similarity_are_shares_of_the_scale(trained):
    out = trained.parent / "out"
    pairs = [row[:2] for row in alike_rows(0, 20)]
    labels = read_soft_labels(out / "teachers" / "alike-seed0.safetensors")
    for fold in (1, 2, 3):
        rows = np.flatnonzero(labels.folds == fold)
        model = load(out / "runs" / f"alike-seed0-fold{fold}of3")
        predicted = model.predict("alike", [pairs[row] for row in rows])
        np.testing.assert_allclose(labels.values[rows], [p.label / 5 for p in predicted], atol=1e-6)
    assert labels.logits is None


def test_the_folds_do_not_depend_on_the_seed_and_the_files_have_no_texts(trained):
    paths = [trained.parent / "out" / "teachers" / f"mood-seed{n}.safetensors" for n in (0, 1)]
    first, second = map(read_soft_labels, paths)
    np.testing.assert_array_equal(first.folds, second.folds)
    assert not np.array_equal(first.values, second.values)
    for noun in ("house", "great", "number"):
        assert not any(noun.encode() in path.read_bytes() for path in paths)


def test_a_split_seed_that_only_another_task_needs_changes_no_fold(tmp_path, tiny_checkpoint):
    share = {"tasks__alike__dev": 0.2, "train__split_seed": 7}
    recipe = write_recipe(tmp_path, tiny_checkpoint, **share)
    Baseline(recipe, tmp_path / "data", tmp_path / "out", seeds=1, folds=2).train(quiet=True)
    for task, texts in (("mood", 36), ("alike", 16)):
        labels = read_soft_labels(tmp_path / "out" / "teachers" / f"{task}-seed0.safetensors")
        assert len(labels.rows) == texts
        for fold in (1, 2):
            run = RunDirectory(tmp_path / "out" / "runs" / f"{task}-seed0-fold{fold}of2")
            held_out = labels.rows[labels.folds == fold]
            recorded = run.facts().inputs.fold
            assert recorded is not None
            assert recorded.sha256 == hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "1"], "--folds must be at least 2, got 1"),
        (["--folds", "99"], "the 36 training rows form 36 groups without a text in common"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--set", "train.lrr=1"], 'unknown key "lrr" in [train]; did you mean "lr"?'),
        (["--set", "tasks.mood.train=none.csv"], "none.csv: there is no such file"),
        (["--compare", "nothing"], "nothing: no such directory; name a directory written by"),
    ],
)
def test_bad_input_is_one_sentence(recipe, capsys, more, message):
    assert main(command(recipe, *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (recipe.parent / "out").exists()


def test_a_task_without_dev_is_one_sentence(recipe, capsys):
    recipe.write_text(recipe.read_text().replace('dev = "mood-dev.csv"\n', ""))
    assert main(command(recipe)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f'error: {recipe}: tasks.mood.dev: missing; add "dev" to [tasks.mood]'


def test_a_run_of_other_tasks_cannot_be_compared(trained, tmp_path, capsys):
    shutil.copytree(trained.parent / "out" / "runs" / "mood-seed0", tmp_path / "other")
    text = trained.read_text().replace("[tasks.mood]", "[tasks.feeling]")
    (tmp_path / "recipe.toml").write_text(text.replace("[tasks.alike]", "[tasks.closeness]"))
    more = ["--data", str(trained.parent / "data"), "--out", str(tmp_path / "out")]
    other = str(tmp_path / "other")
    assert main(["baseline", str(tmp_path / "recipe.toml"), *more, "--compare", other]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "other: has none of the tasks feeling, closeness" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "2"], "--folds is 3 there and 2 here"),
        (["--folds", "3", "--drop-leaks"], "--drop-leaks is not the same"),
        (["--folds", "3", "--set", "train.lr=2e-3"], "train.lr is 0.001 there and 0.002 here"),
    ],
)
def test_soft_labels_of_other_runs_are_refused(trained, capsys, more, message):
    assert main([*command(trained, *more), "--seeds", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"mood-seed0.safetensors: holds soft labels of other runs ({message})" in line


def test_other_data_is_refused(trained, tmp_path, capsys):
    recipe = copied(trained, tmp_path)
    write_csv(tmp_path / "data" / "mood.csv", ["text", "mood"], mood_rows(0, 30))
    assert main([*command(recipe), "--seeds", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the file of mood train has changed since this run" in line


def test_leaks_are_dropped_before_folds_are_drawn(recipe, tmp_path):
    rows = [*mood_rows(0, 12), *mood_rows(1000, 4)]  # the last four are in dev too
    write_csv(tmp_path / "data" / "mood.csv", ["text", "mood"], rows)
    baseline = Baseline(
        recipe, tmp_path / "data", tmp_path / "out", folds=2, seeds=1, drop_leaks=True
    )
    baseline.train(quiet=True)
    labels = read_soft_labels(tmp_path / "out" / "teachers" / "mood-seed0.safetensors")
    assert labels.rows.tolist() == list(range(12))
    with pytest.raises(ComityError, match="was trained with --drop-leaks"):
        Baseline(recipe, tmp_path / "data", tmp_path / "out", seeds=1).train(quiet=True)


def test_folds_of_unequal_size_are_named(recipe, tmp_path):
    rows = [("hub", f"spoke {n}", 1.0) for n in range(16)] + alike_rows(0, 4)
    write_csv(tmp_path / "data" / "alike.csv", ["a", "b", "score"], rows)
    baseline = Baseline(recipe, tmp_path / "data", tmp_path / "out", folds=3, seeds=1)
    (sentence,) = (note for note in baseline.notes if "folds" in note)
    assert sentence.startswith("alike: one of 3 folds has 16 of 20 training rows, because texts")
