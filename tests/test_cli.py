"""The command line as a user meets it: files in, sentences and exit codes out."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tomli_w

from comity import load
from comity.cli import main
from comity.progress import Listener
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_jsonl, write_two_tasks


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder with data, a recipe and one finished run of it."""
    place = tmp_path_factory.mktemp("cli")
    write_two_tasks(place / "data")
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad")
    (place / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    command = ["train", str(place / "recipe.toml"), "--data", str(place / "data")]
    assert main([*command, "--out", str(place / "run"), "--quiet"]) == 0
    return place


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_help_is_quick_and_loads_no_torch():
    command = (
        "import sys; from comity.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    command += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True
    )
    assert "predict" in found.stdout
    assert time.perf_counter() - started < 10  # the benchmark times it; this only fends off a hang


def test_check_prints_tables(place, capsys):
    code, out, err = run(capsys, "check", place / "recipe.toml", "--data", place / "data")
    assert code == 0
    assert "mood" in out
    assert "down: 18, up: 18" in out
    assert "no faults found" in out
    assert err == ""


def test_dry_run_prints_the_plan_and_trains_nothing(place, capsys, tmp_path):
    command = ["train", place / "recipe.toml", "--data", place / "data", "--dry-run"]
    code, out, _ = run(capsys, *command, "--out", tmp_path / "none")
    assert code == 0
    assert "never seen" in out
    assert "task gradients" in out
    assert not (tmp_path / "none").exists()
    _, out, _ = run(capsys, *command, "--json")
    plan = json.loads(out)
    tasks = plan["stages"][0]["tasks"]
    assert tasks["mood"]["examples"] + tasks["alike"]["examples"] >= 56
    assert plan["stages"][0]["steps"] == 4


def test_a_plan_long_enough_is_timed_without_a_trace(place, capsys):
    command = ["train", place / "recipe.toml", "--data", place / "data", "--dry-run", "--json"]
    _, out, _ = run(capsys, *command, "--set", "train.epochs=40")
    assert json.loads(out)["seconds"] > 0


def test_timing_leaves_no_trace(place, tmp_path, tiny_checkpoint):
    from comity.prepare import prepare
    from comity.training import Trainer

    recipe = two_tasks(tiny_checkpoint, train__epochs=40, train__balancer="pcgrad")
    trainer = Trainer(prepare(recipe, place / "data"))
    before = trainer.flat.masters.clone()
    assert trainer.time_left() is not None
    assert (trainer.flat.masters == before).all()
    assert not trainer.optimizer.first.any()
    assert all(segment.step == 0 for segment in trainer.flat.segments)


def test_train_prints_what_was_reached(place, capsys, tmp_path):
    command = ["train", place / "recipe.toml", "--data", place / "data"]
    code, out, err = run(capsys, *command, "--out", tmp_path / "run", "--set", "train.steps=2")
    assert code == 0
    assert "kept model" in out
    assert "step 2: dev" in err
    code, out, err = run(capsys, *command, "--out", tmp_path / "run")
    assert code == 2
    assert "not empty" in err
    code, out, err = run(capsys, "train", "--resume", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(out)["finished"]


def test_info(place, capsys):
    code, out, _ = run(capsys, "info", place / "run")
    assert code == 0
    assert "similarity" not in out
    assert "pearson" in out
    _, out, _ = run(capsys, "info", place / "run", "--json")
    assert json.loads(out)["best"]["tasks"]["mood"]["name"] == "accuracy"


def test_evaluate_a_file_that_the_run_never_saw(place, capsys, tmp_path):
    path = write_csv(tmp_path / "new.csv", ["mood", "text"], [r[::-1] for r in mood_rows(5000, 9)])
    code, out, _ = run(
        capsys, "evaluate", place / "run", "--task", "mood", "--file", path, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert (found["task"], found["metric"], found["n"]) == ("mood", "accuracy", 9)
    texts = [text for text, _ in mood_rows(5000, 9)]
    labels = [p.label for p in load(place / "run").predict("mood", texts)]
    right = np.mean([a == b for a, (_, b) in zip(labels, mood_rows(5000, 9), strict=True)])
    assert found["value"] == pytest.approx(right)
    assert np.sum(found["confusion_matrix"]) == 9
    code, out, _ = run(capsys, "evaluate", place / "run", "--json")
    assert set(json.loads(out)["tasks"]) == {"mood", "alike"}
    code, out, _ = run(capsys, "evaluate", place / "run", "--task", "alike")
    assert "pearson" in out


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_predict_keeps_the_inputs_own_columns(place, capsys, tmp_path, ending):
    texts = ["NA", ' a "good" house, ', "", "bad\nfilm", "007", "=1+1"]
    rows = [{"id": f"0{n}", "text": text, "extra": "None"} for n, text in enumerate(texts)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    target = tmp_path / f"out{ending}"
    code, out, _ = run(
        capsys, "predict", place / "run", "--task", "mood", "--input", source, "--output", target
    )
    assert code == 0
    assert "6 rows" in out
    if ending == ".parquet":
        found = pyarrow.parquet.read_table(target).to_pylist()
    elif ending == ".jsonl":
        found = [json.loads(line) for line in target.read_text().splitlines()]
    else:
        with target.open(newline="") as file:
            found = list(csv.DictReader(file, delimiter="," if ending == ".csv" else "\t"))
    assert [{k: row[k] for k in rows[0]} for row in found] == rows
    assert list(found[0]) == ["id", "text", "extra", "prediction", "p_down", "p_up"]
    expected = load(place / "run").predict("mood", texts)
    for row, prediction in zip(found, expected, strict=True):
        assert row["prediction"] == prediction.label
        assert float(row["p_up"]) == pytest.approx(prediction.probabilities["up"], abs=1e-5)


def test_predict_in_the_classs_format(place, capsys, tmp_path):
    rows = [(f"x{n}", a, b) for n, (a, b, _) in enumerate(alike_rows(7, 3))]
    source = write_csv(tmp_path / "test.csv", ["id", "a", "b"], rows)
    target = tmp_path / "sts.csv"
    command = ["predict", place / "run", "--task", "alike", "--input", source, "--output", target]
    assert run(capsys, *command, "--format", "cs224n")[0] == 0
    lines = target.read_text().splitlines()
    assert lines[0] == "id, Predicted_Similiary"
    assert [line.split(", ")[0] for line in lines[1:]] == ["x0", "x1", "x2"]
    expected = [p.label for p in load(place / "run").predict("alike", [r[1:] for r in rows])]
    assert [float(line.split(", ")[1]) for line in lines[1:]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "none.toml", "--out", "x"], ["none.toml", "no such recipe"]),
        (["train", "{recipe}"], ["--out"]),
        (["train", "--out", "x"], ["recipe", "TOML"]),
        (["check", "{recipe}", "--data", "{place}/nowhere"], ["mood.csv"]),
        (["check", "{recipe}", "--set", "train.lrr=1"], ['did you mean "lr"']),
        (["check", "{recipe}", "--data", "{data}", "--set", "encoder.name=./none"], ["./none"]),
        (["info", "{place}/nowhere"], ["no such directory"]),
        (["info", "{data}"], ["not a run"]),
        (["evaluate", "{run}", "--task", "moood"], ['did you mean "mood"']),
        (["evaluate", "{run}", "--file", "x.csv"], ["--task"]),
        (["evaluate", "{run}", "--task", "mood", "--file", "none.csv"], ["none.csv"]),
        (["evaluate", "{run}", "--task", "mood", "--file", "{data}/alike.csv"], ['"text"']),
        (
            ["predict", "{run}", "--task", "mood", "--input", "no.csv", "--output", "o.csv"],
            ["no.csv"],
        ),
        (
            ["predict", "{run}", "--task", "mood", "--input", "{data}/mood.csv", "--output", "o.x"],
            ["o.x", ".jsonl"],
        ),
        (
            ["predict", "{run}", "--task", "mood", "--input", "{data}/alike.csv", "--output",
             "o.csv"],
            ['"text"'],
        ),
        (
            ["predict", "{run}", "--task", "mood", "--input", "{data}/mood.csv", "--output",
             "o.csv", "--format", "cs224n"],
            ['"id"'],
        ),
        (
            ["predict", "{run}", "--task", "mood", "--input", "{data}/mood.csv", "--output",
             "{place}/nowhere/o.csv"],
            ["nowhere"],
        ),
        (["train", "--resume", "{run}", "--set", "train.lr=1"], ["--resume"]),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_sentence(place, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    names = {"recipe": place / "recipe.toml", "place": place, "data": place / "data"}
    names["run"] = place / "run"
    code, out, err = run(capsys, *(argument.format(**names) for argument in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_predict_lists_all_faults_and_writes_nothing(place, capsys, tmp_path):
    rows = [{"text": "good"}, {"txet": "bad"}, {"text": ["a"]}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    target = tmp_path / "out.csv"
    code, _, err = run(
        capsys, "predict", place / "run", "--task", "mood", "--input", source, "--output", target
    )
    assert code == 2
    assert "in.jsonl:2:" in err
    assert "in.jsonl:3:" in err
    assert not target.exists()


def test_dev_rows_that_were_split_off_are_judged_again(place, tmp_path, tiny_checkpoint):
    from comity import train

    run = train(two_tasks(tiny_checkpoint, tasks__mood__dev=0.25), place / "data", tmp_path / "run")
    found = load(run.path).evaluate("mood")
    assert found.n == 9
    assert found.score.value == pytest.approx(run.best()["tasks"]["mood"]["value"])


def test_a_full_disk_is_said_and_the_run_goes_on_later(
    place, tmp_path, tiny_checkpoint, monkeypatch
):
    from comity import ComityError, train

    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    class Fill(Listener):
        def evaluated(self, trainer, evaluations):
            if trainer.progress.step == 2:
                monkeypatch.setattr("comity.runs.save_file", full)

    with pytest.raises(ComityError, match="No space left on device"):
        train(recipe, place / "data", tmp_path / "run", listener=Fill())
    monkeypatch.undo()
    assert load(tmp_path / "run").predict("mood", ["good"])
    whole = train(recipe, place / "data", tmp_path / "whole")
    resumed = train(recipe, place / "data", tmp_path / "run", resume=True)
    assert whole.best() == resumed.best()
    assert not list((tmp_path / "run").glob(".*"))


def test_python_doors_refuse_what_has_no_meaning(place):
    from comity import ComityError

    model = load(place / "run")
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


def test_embeddings_of_a_cosine_task(place, tmp_path, tiny_checkpoint):
    from comity import train

    recipe = two_tasks(tiny_checkpoint, tasks__alike__head="cosine")
    model = load(train(recipe, place / "data", tmp_path / "run").path)
    pairs = [("a house", "a home"), ("good tea", "the old train is late")]
    first = model.encode([a for a, _ in pairs])
    second = model.encode([b for _, b in pairs], task="alike")
    cosines = (first * second).sum(1)
    cosines /= np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found = [p.label for p in model.predict("alike", pairs)]
    np.testing.assert_allclose(found, cosines * 5, rtol=1e-4)
