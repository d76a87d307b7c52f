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
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_jsonl, write_two_tasks

from comity import load
from comity.cli.main import main
from comity.training.events import Listener


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
    command = "import sys; from comity.cli.main import main\n"
    command += "try: main(['--help'])\nexcept SystemExit: pass\n"
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
    assert "no errors found" in out
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
    from comity.training.setup import prepare
    from comity.training.trainer import Trainer

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


def test_resume_notices_changed_data_whatever_the_paths(
    place, capsys, tmp_path, monkeypatch, tiny_checkpoint
):
    write_two_tasks(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = place / "recipe.toml"
    assert run(capsys, "train", recipe, "--data", "data", "--out", "run", "--quiet")[0] == 0
    write_two_tasks(tmp_path / "other", mood=35)
    code, _, err = run(capsys, "train", "--resume", "run", "--data", "other")
    assert code == 2
    assert "has changed" in err
    write_csv(tmp_path / "data" / "mood.csv", ["text", "mood"], mood_rows(1, 36))
    code, _, err = run(capsys, "train", "--resume", "run")
    assert code == 2
    assert "mood.csv: has changed" in err


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
    texts = ["NA", ' a "good" house, ', "", "bad\nfilm", "one\rtwo", "007", "=1+1"]
    rows = [{"id": n, "text": text, "extra": {"a": [n]}} for n, text in enumerate(texts)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    target = tmp_path / f"out{ending}"
    code, out, _ = run(
        capsys, "predict", place / "run", "--task", "mood", "--input", source, "--output", target
    )
    assert code == 0
    assert "7 rows" in out
    found = read_back(target)
    assert list(found[0]) == ["id", "text", "extra", "prediction", "p_down", "p_up"]
    for row, wanted in zip(found, rows, strict=True):
        if ending == ".jsonl":
            assert {name: row[name] for name in wanted} == wanted
        else:  # text alone: nested values as JSON
            assert [row["id"], row["text"]] == [str(wanted["id"]), wanted["text"]]
            assert json.loads(row["extra"]) == wanted["extra"]
    expected = load(place / "run").predict("mood", texts)
    for row, prediction in zip(found, expected, strict=True):
        assert row["prediction"] == prediction.label
        assert float(row["p_up"]) == pytest.approx(prediction.probabilities["up"], abs=1e-5)


def read_back(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_predict_beside_columns_of_the_same_names(place, capsys, tmp_path, ending):
    header = ["id", "prediction", "p_up", "note", "note", "", "text"]
    source = write_csv(tmp_path / "in.csv", header, [[1, "OLD", "0.5", "x", "y", "z", "good"]])
    target = tmp_path / f"out{ending}"
    command = ["predict", place / "run", "--task", "mood", "--input", source, "--output", target]
    assert run(capsys, *command)[0] == 0
    (row,) = read_back(target)
    own = {"id": "1", "prediction": "OLD", "p_up": "0.5", "note": "x", "note_": "y"}
    assert row.items() >= (own | {"column 5": "z", "text": "good"}).items()
    assert row["prediction_"] in ("up", "down")
    assert float(row["p_down"]) + float(row["p_up_"]) == pytest.approx(1, abs=1e-5)


def test_predict_from_parquet_keeps_its_types(place, capsys, tmp_path):
    table = pyarrow.table({"n": [1, None], "tags": [["a"], []], "text": ["good", None]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    command = ["predict", place / "run", "--task", "mood", "--input", tmp_path / "in.parquet"]
    assert run(capsys, *command, "--output", tmp_path / "out.parquet")[0] == 0
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.select(["n", "tags", "text"]).equals(table)
    assert found.column("prediction").type == pyarrow.string()


def test_predict_never_writes_over_its_input(place, capsys, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "good"}])
    command = ["predict", place / "run", "--task", "mood", "--input", source, "--output", source]
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "is the input itself" in err
    assert source.read_text() == '{"text": "good"}\n'


def test_predict_in_the_classs_format(place, capsys, tmp_path):
    rows = [(f"x{n}", a, b, "OLD") for n, (a, b, _) in enumerate(alike_rows(7, 3))]
    source = write_csv(tmp_path / "test.csv", ["id", "a", "b", "prediction"], rows)
    target = tmp_path / "sts.csv"
    command = ["predict", place / "run", "--task", "alike", "--input", source, "--output", target]
    assert run(capsys, *command, "--format", "cs224n")[0] == 0
    lines = target.read_text().splitlines()
    assert lines[0] == "id, Predicted_Similiary"
    assert [line.split(", ")[0] for line in lines[1:]] == ["x0", "x1", "x2"]
    expected = [p.label for p in load(place / "run").predict("alike", [r[1:3] for r in rows])]
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
        (["compare", "{run}", "{data}"], ["not a run"]),
        (["compare", "{run}", "{run}", "--group-seeds"], ["seed (0)"]),
        (["analyse", "{run}", "--task", "mood", "--out", "x"], ["mood", "classification"]),
        (
            ["sweep", "{recipe}", "--data", "{data}", "--out", "x", "--set", "train.lrr=1e-3,1e-4"],
            ['did you mean "lr"'],
        ),
        (
            ["sweep", "{recipe}", "--data", "{place}/nowhere", "--out", "x", "--set",
             "train.lr=1e-3,1e-4"],
            ["mood.csv"],
        ),
        (["paper", "--data", "{data}", "--out", "x", "--table", "4"], ["--table", '"4"']),
        (
            ["paper", "--data", "{place}/nowhere", "--out", "x", "--encoder", "{encoder}",
             "--quiet"],
            ["nowhere"],
        ),
        (["paper", "--data", "{data}", "--out", "{data}"], ["not made by comity paper"]),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_sentence(
    place, capsys, monkeypatch, tmp_path, tiny_checkpoint, arguments, words
):
    monkeypatch.chdir(tmp_path)
    names = {"recipe": place / "recipe.toml", "place": place, "data": place / "data"}
    names |= {"run": place / "run", "encoder": tiny_checkpoint}
    code, out, err = run(capsys, *(argument.format(**names) for argument in arguments))
    assert code == 2
    assert out == ""
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_row_without_an_id_is_told_for_the_classs_format(place, capsys, tmp_path):
    rows = [{"id": "x", "text": "good"}, {"text": "bad"}, {"id": None, "text": "poor"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    command = ["predict", place / "run", "--task", "mood", "--input", source]
    code, _, err = run(capsys, *command, "--output", tmp_path / "o.csv", "--format", "cs224n")
    assert code == 2
    lines = err.splitlines()
    assert [
        f"in.jsonl:{number}: has no id" in line for number, line in zip((2, 3), lines, strict=True)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_predict_keeps_an_empty_key_of_json(place, capsys, tmp_path, ending):
    source = write_jsonl(tmp_path / "in.jsonl", [{"": "x", "text": "good"}])
    target = tmp_path / f"out{ending}"
    command = ["predict", place / "run", "--task", "mood", "--input", source, "--output", target]
    assert run(capsys, *command)[0] == 0
    (row,) = read_back(target)
    assert row.items() >= {"": "x", "text": "good"}.items()
    assert list(row)[:3] == ["", "text", "prediction"]


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


def test_names_with_brackets_and_colons_are_shown_as_they_are(tmp_path, capsys, tiny_checkpoint):
    rows = [("good", "[/b]"), ("bad", ":smile:"), ("poor", "[red]")]
    write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    task = {"kind": "classification", "train": "t.csv", "dev": "t.csv", "text": "text"}
    recipe = {"encoder": {"name": str(tiny_checkpoint)}, "tasks": {"a": {**task, "label": "label"}}}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe))
    code, out, _ = run(capsys, "check", tmp_path / "r.toml")
    assert code == 0
    assert ":smile:: 1, [/b]: 1, [red]: 1" in out


def test_judging_dev_again_wants_the_same_file(place, tmp_path, tiny_checkpoint):
    from comity import ComityError, train

    write_two_tasks(tmp_path / "data")
    run = train(two_tasks(tiny_checkpoint), tmp_path / "data", tmp_path / "run")
    write_csv(tmp_path / "data" / "mood-dev.csv", ["text", "mood"], mood_rows(9, 5))
    with pytest.raises(ComityError, match=r"mood-dev.csv: has changed"):
        load(run.path).evaluate("mood")


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


def test_tasks_that_read_alike_share_an_encoding(place, tmp_path, tiny_checkpoint, monkeypatch):
    from comity import train
    from comity.model.bert import Bert

    second = {"kind": "regression", "train": "alike.csv", "dev": 0.2, "texts": ["a", "b"]}
    recipe = two_tasks(tiny_checkpoint, tasks__grade={**second, "label": "score"})
    model = load(train(recipe, place / "data", tmp_path / "run").path)
    pairs = [("a house", "a home"), ("good tea", "the old train is late"), ("x", "y")]
    passes = []
    forward = Bert.forward
    monkeypatch.setattr(Bert, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    found = model.predict_all(pairs, ["alike", "grade"])
    assert len(passes) == 1
    for task, predictions in found.items():
        assert [p.label for p in predictions] == [p.label for p in model.predict(task, pairs)]


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


def test_compare_prints_json(place, capsys):
    code, out, err = run(capsys, "compare", place / "run", place / "run", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    best = json.loads((place / "run" / "best.json").read_text())
    for task in found["tasks"]:
        first, second = task["entries"]
        assert first["value"] == pytest.approx(best["tasks"][task["task"]]["value"])
        assert second["verdict"] | {"seeds_agree": False} == {
            "difference": 0.0, "low": 0.0, "high": 0.0, "seeds_agree": False, "word": "undecided"
        }  # fmt: skip
    assert found["mean"]["entries"][0]["value"] == pytest.approx(best["score"]["value"])
    _, out, _ = run(capsys, "compare", place / "run", place / "run")
    assert "undecided" in out


def test_analyse_prints_json(place, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["analyse", place / "run", "--task", "alike", "--out", tmp_path / "figures"]
    code, out, err = run(capsys, *command, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    best = json.loads((place / "run" / "best.json").read_text())
    assert found["scores"]["pearson"] == pytest.approx(best["tasks"]["alike"]["value"])
    assert sum(band["rows"] for band in found["bands"]) == found["rows"] == 10
    assert found["worst"][0]["texts"]
    assert json.loads((tmp_path / "figures" / "alike.json").read_text()) == found
    assert sorted(found["written"]) == sorted(map(str, (tmp_path / "figures").iterdir()))
    _, out, _ = run(capsys, *command)
    assert "alike: 10 predictions from" in out


def test_sweep_prints_json(place, capsys, tmp_path):
    command = ["sweep", place / "recipe.toml", "--data", place / "data", "--out", tmp_path / "out"]
    code, out, err = run(capsys, *command, "--set", "train.lr=1e-3,3e-3", "train.steps=2", "--json")
    assert (code, err) == (0, "")
    points = json.loads(out)["points"]
    assert [point["values"] for point in points] == [{"train.lr": 1e-3}, {"train.lr": 3e-3}]
    for point in points:
        best = json.loads((Path(point["run"]) / "best.json").read_text())
        assert point["tasks"] == {task: score["value"] for task, score in best["tasks"].items()}
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["points"] == points


def test_augment_tells_all_faults_before_a_translator_is_looked_for(capsys, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a translator was looked for")

    monkeypatch.setattr("comity.model.translate.Translator", never)
    command = ["augment", tmp_path / "none.csv", "--column", "text", "--to", "a/b", "--back", "b/a"]
    options = ["--output", tmp_path / "none" / "o.csv", "--batch-size", 0, "--drop-similar", 2]
    code, out, err = run(capsys, *command, *options)
    assert (code, out) == (2, "")
    told = ("--batch-size", "--drop-similar", "no directory", "no such file")
    assert [word in line for word, line in zip(told, err.splitlines(), strict=True)] == [True] * 4


@pytest.mark.parametrize("column", ["1", "01"])
def test_augment_reads_a_file_as_told(capsys, tmp_path, monkeypatch, column):
    class Upper:
        def __init__(self, *_, **__):
            self.fingerprint = "upper"

        def __call__(self, texts):
            return [f"new {text}" for text in texts]

    monkeypatch.setattr("comity.model.translate.Translator", Upper)
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes('a;"caf\xe9;1\nb;tea";0\n'.encode("cp1252"))
    told = ["--delimiter", ";", "--encoding", "cp1252", "--no-header", "--no-quoting"]
    command = ["augment", source, "--column", column, "--to", "a/b", "--back", "b/a", *told]
    assert run(capsys, *command, "--output", target)[0] == 0
    assert read_back(target) == [
        {"0": "a", "1": 'new new "café', "2": "1"},
        {"0": "b", "1": 'new new tea"', "2": "0"},
    ]


def test_augment_refuses_a_checkpoint_that_does_not_translate(capsys, tmp_path, tiny_checkpoint):
    source = write_csv(tmp_path / "in.csv", ["text"], [["good film"]])
    command = ["augment", source, "--column", "text", "--output", tmp_path / "out.csv"]
    code, out, err = run(capsys, *command, "--to", tiny_checkpoint, "--back", tiny_checkpoint)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "not a sequence-to-sequence model" in err
    assert not (tmp_path / "out.csv").exists()
