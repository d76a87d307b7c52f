"""The `comity` command: output, files, messages and exit codes."""

import csv
import json
import os
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tomli_w
from tests.helpers import (
    alike_rows,
    mood_rows,
    signal_after_step,
    stop_at_evaluation,
    two_tasks,
    write_csv,
    write_jsonl,
    write_two_tasks,
)

import comity
from comity import load, train
from comity.cli.main import COMMANDS, main
from comity.experiments.slim import write_slim_run
from comity.runs.lock import locked
from comity.terminal.progress import Display


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder with data, a recipe and a finished run."""
    base = tmp_path_factory.mktemp("cli")
    write_two_tasks(base / "data")
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad")
    (base / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    command = ["train", str(base / "recipe.toml"), "--data", str(base / "data")]
    assert main([*command, "--out", str(base / "run"), "--quiet"]) == 0
    return base


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def modules_after(code: str) -> set[str]:
    """The modules that a new Python process has loaded after running some code."""
    code += "\nimport sys\nprint('\\n', *sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import comity", {"torch", "numpy"}),
        ("from comity.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
         {"torch", "numpy"}),
        ("from comity.cli.main import main\nassert main(['compare', {run!r}]) == 0", {"torch"}),
        ("from comity.cli.main import main\nassert main(['report', {run!r}, '--json']) == 0",
         {"torch", "matplotlib"}),
        ("from comity import Recipe\nRecipe.load({recipe!r})", {"torch"}),
    ],
)  # fmt: skip
def test_what_needs_no_torch_does_not_load_it(base, code, absent):
    names = {"run": str(base / "run"), "recipe": str(base / "recipe.toml")}
    loaded = modules_after(code.format(**names))
    assert "comity" in loaded
    assert not absent & loaded


def test_python_m_comity_is_the_command():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "comity", "info", "nowhere"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere: no such directory")


def test_help_of_the_package_shows_the_public_api():
    shown = pydoc.plain(pydoc.render_doc(comity))
    for name in ("class ComityError", "class Model", "class Recipe", "load(", "train("):
        assert name in shown
    assert set(comity.__all__) <= set(dir(comity))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trian", 'unknown command "trian"; did you mean "train"?'),
        ("zzz", 'unknown command "zzz"; comity help lists the commands'),
    ],
)
def test_an_unknown_command_gets_a_suggestion(capsys, word, message):
    assert run(capsys, word) == (2, "", f"error: {message}\n")


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: comity {name}" in capsys.readouterr().out
    code, out, _ = run(capsys)
    assert code == 2
    assert all(command.__name__.rpartition(".")[2] in out for command in COMMANDS)


def test_check_prints_tables(base, capsys):
    code, out, err = run(capsys, "check", base / "recipe.toml", "--data", base / "data")
    assert code == 0
    assert "mood" in out
    assert "down: 18, up: 18" in out
    assert "no errors found" in out
    assert err == ""


def test_dry_run_prints_the_plan_and_trains_nothing(base, capsys, tmp_path):
    command = ["train", base / "recipe.toml", "--data", base / "data", "--dry-run"]
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


def test_a_plan_long_enough_is_timed_without_a_trace(base, capsys):
    command = [
        "train",
        base / "recipe.toml",
        "--data",
        base / "data",
        "--dry-run",
        "--json",
    ]
    _, out, _ = run(capsys, *command, "--set", "train.epochs=40")
    assert json.loads(out)["seconds"] > 0


def test_train_prints_the_scores(base, capsys, tmp_path):
    command = ["train", base / "recipe.toml", "--data", base / "data"]
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
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    words = ["comity", *map(str, command), "--out", str(tmp_path / "run")]
    assert facts["command"] == [*words, "--set", "train.steps=2"]


def test_the_plan_of_a_resumed_run_is_in_its_own_dtype(
    base, capsys, tmp_path, monkeypatch, tiny_checkpoint
):
    recipe = two_tasks(tiny_checkpoint, train__precision="auto")
    monkeypatch.setattr("comity.hardware.processor_class", lambda: "AMX")
    train(recipe, base / "data", tmp_path / "run")
    monkeypatch.setattr("comity.hardware.processor_class", lambda: "other")
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*"))
    command = ["train", "--resume", tmp_path / "run", "--dry-run", "--json"]
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert json.loads(out)["precision"] == "bfloat16"
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")) == before


def test_an_interrupted_run_says_how_to_continue(base, capsys, tmp_path, monkeypatch):
    def stop(self, event):
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, "evaluated", stop)
    command = ["train", base / "recipe.toml", "--data", base / "data", "--out", tmp_path / "run"]
    code, _, err = run(capsys, *command, "--quiet")
    assert code == 130
    assert err == f"stopped; continue with comity train --resume {tmp_path / 'run'}\n"


def test_a_stopped_run_is_described_and_continued(base, capsys, tmp_path, monkeypatch):
    """`info` and `train` give the same advice, before the first evaluation too."""
    run_path = tmp_path / "run"
    command = ["train", base / "recipe.toml", "--data", base / "data", "--quiet"]
    settings = ["--set", "train.lr=0.002"]
    monkeypatch.setattr(Display, "step_done", lambda self, event: signal_after_step(1)(event))
    code, _, err = run(capsys, *command, *settings, "--out", run_path)
    resume = f"comity train --resume {run_path}"
    assert (code, err.splitlines()[-1]) == (143, f"stopped at step 1 of 4; continue with {resume}")
    monkeypatch.undo()
    code, out, _ = run(capsys, "info", run_path)
    assert (code, out) == (0, f"{run_path}: unfinished: step 1 of 4; continue with {resume}\n")
    with locked(run_path):  # as another process that resumes it
        _, out, _ = run(capsys, "info", run_path)
    training = "another process is training it; last checkpoint: step 1 of 4"
    assert out == f"{run_path}: {training}\n"
    _, out, _ = run(capsys, "info", run_path, "--json")
    facts = json.loads(out)
    assert (facts["finished"], facts["step"], facts["steps"], facts["best"]) == (False, 1, 4, None)
    code, _, err = run(capsys, "evaluate", run_path)
    assert code == 2
    assert f"no saved model yet (unfinished: step 1 of 4; continue with {resume})" in err
    code, _, err = run(capsys, *command, "--out", run_path)
    assert code == 2
    assert f"it holds an unfinished run; continue it with {resume}" in err
    code, _, err = run(capsys, *command, "--resume", run_path)
    assert code == 2
    assert "train.lr is 0.002 in the run and 0.001 in" in err
    code, _, err = run(capsys, "train", "--resume", run_path, "--set", "train.lr=1")
    assert code == 2
    assert "remove --set" in err
    assert run(capsys, *command, *settings, "--resume", run_path)[0] == 0
    code, _, err = run(capsys, "train", "--resume", run_path)
    assert code == 0
    assert "has already finished, so nothing is trained; to train it for longer, add" in err


def test_a_finished_run_is_extended(base, capsys, tmp_path):
    copy = shutil.copytree(base / "run", tmp_path / "run")
    command = ["train", "--resume", copy, "--extend"]
    _, out, _ = run(capsys, *command, "epochs=1", "--dry-run", "--json")
    assert [stage["steps"] for stage in json.loads(out)["stages"]] == [4, 4]
    code, out, _ = run(capsys, *command, "steps=2", "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["step"] == 6
    for text in ("steps", "steps=x", "hours=1", "steps=0.5"):
        code, _, err = run(capsys, *command, text)
        assert code == 2
        assert f'--extend "{text}": write epochs=NUMBER or steps=NUMBER' in err
    code, _, err = run(capsys, "train", base / "recipe.toml", "--out", "x", "--extend", "steps=1")
    assert code == 2
    assert "--extend needs --resume" in err


@pytest.mark.parametrize(
    ("kind", "advice", "message"),
    [
        ("slim", "it is a slim copy without weights", "is a slim copy without weights"),
        ("cleaned", "it has no checkpoint any more", "has no undamaged checkpoint"),
    ],
)
def test_a_run_that_cannot_be_extended_is_not_told_to_be(
    base, capsys, tmp_path, kind, advice, message
):
    copy = tmp_path / "run"
    if kind == "slim":
        write_slim_run(base / "run", copy)
    else:
        shutil.copytree(base / "run", copy)
        assert run(capsys, "clean", copy, "--yes")[0] == 0
    options = ["--data", base / "data"]
    code, _, err = run(capsys, "train", "--resume", copy, *options)
    assert code == 0
    end = f"nothing is trained; {advice}, so it cannot be extended\n"
    assert err == f"{copy}: the run has already finished, so {end}"
    for dry_run in ([], ["--dry-run"]):
        command = ["train", "--resume", copy, *options, "--extend", "steps=1", *dry_run]
        code, _, err = run(capsys, *command)
        assert code == 2
        assert f"{copy}: {message}, so it cannot be extended" in err


def test_an_unfinished_run_is_not_extended(base, capsys, tmp_path, monkeypatch):
    recipe, path = base / "recipe.toml", tmp_path / "run"
    monkeypatch.setattr(Display, "__call__", lambda _, event: signal_after_step(2)(event))
    run(capsys, "train", recipe, "--data", base / "data", "--out", path, "--quiet")
    monkeypatch.undo()
    for options in ([], ["--dry-run"]):
        command = ["train", "--resume", path, "--extend", "steps=1", *options]
        assert run(capsys, *command) == (
            2,
            "",
            f"error: {path}: the run is unfinished, so it cannot be extended yet; first finish it "
            f"with comity train --resume {path}\n",
        )


def test_a_run_is_overwritten_only_after_everything_was_checked(base, capsys, tmp_path):
    copy = shutil.copytree(base / "run", tmp_path / "run")
    command = ["train", base / "recipe.toml", "--out", copy, "--overwrite", "--quiet"]
    code, _, err = run(capsys, *command, "--data", tmp_path)
    assert code == 2
    assert "mood.csv" in err
    before = (copy / "run.json").read_text()
    assert before == (base / "run" / "run.json").read_text()
    assert run(capsys, *command, "--data", base / "data", "--set", "train.seed=5")[0] == 0
    assert json.loads((copy / "run.json").read_text())["seed"] == 5
    assert json.loads((copy / "run.json").read_text())["id"] != json.loads(before)["id"]


def test_resume_notices_changed_data_whatever_the_paths(
    base, capsys, tmp_path, monkeypatch, tiny_checkpoint
):
    write_two_tasks(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(two_tasks(tiny_checkpoint), "data", "run", on_event=stop_at_evaluation(1))
    write_two_tasks(tmp_path / "other", mood=35)
    code, _, err = run(capsys, "train", "--resume", "run", "--data", "other")
    assert code == 2
    assert "has changed" in err
    write_csv(tmp_path / "data" / "mood.csv", ["text", "mood"], mood_rows(1, 36))
    code, _, err = run(capsys, "train", "--resume", "run")
    assert code == 2
    assert "mood.csv: has changed" in err


def test_info(base, capsys):
    code, out, _ = run(capsys, "info", base / "run")
    assert code == 0
    assert "similarity" not in out
    assert "pearson" in out
    _, out, _ = run(capsys, "info", base / "run", "--json")
    assert json.loads(out)["best"]["tasks"]["mood"]["metric"] == "accuracy"


def test_evaluate_on_a_new_file(base, capsys, tmp_path):
    path = write_csv(tmp_path / "new.csv", ["mood", "text"], [r[::-1] for r in mood_rows(5000, 9)])
    code, out, _ = run(capsys, "evaluate", base / "run", path, "--task", "mood", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["task"], found["metric"], found["n"]) == ("mood", "accuracy", 9)
    texts = [text for text, _ in mood_rows(5000, 9)]
    labels = [p.label for p in load(base / "run").predict("mood", texts)]
    right = np.mean([a == b for a, (_, b) in zip(labels, mood_rows(5000, 9), strict=True)])
    assert found["value"] == pytest.approx(right)
    assert np.sum(found["confusion_matrix"]) == 9
    assert found["classes"] == ["down", "up"] == list(found["per_class"])
    assert found["per_class"]["up"]["rows"] == sum(b == "up" for _, b in mood_rows(5000, 9))
    code, out, err = run(capsys, "evaluate", base / "run", path)
    assert code == 0
    assert f'alike: not evaluated, {path} has no columns "a", "b", "score"' in err
    assert [line.split("│")[1].strip() for line in out.splitlines() if "accuracy │" in line] == [
        "mood"
    ]
    assert any(line.split()[:3] == ["┃", "class", "┃"] for line in out.splitlines())
    code, out, _ = run(capsys, "evaluate", base / "run", path, "--json")
    assert found == {**json.loads(out)["tasks"]["mood"], "notes": []}
    assert list(json.loads(out)["skipped"]) == ["alike"]
    code, out, _ = run(capsys, "evaluate", base / "run", "--json")
    assert set(json.loads(out)["tasks"]) == {"mood", "alike"}
    code, out, _ = run(capsys, "evaluate", base / "run", "--task", "alike")
    assert "pearson" in out


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_predict_keeps_the_inputs_own_columns(base, capsys, tmp_path, ending):
    texts = ["NA", ' a "good" house, ', "", "bad\nfilm", "one\rtwo", "007", "=1+1"]
    rows = [{"id": n, "text": text, "extra": {"a": [n]}} for n, text in enumerate(texts)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    target = tmp_path / f"out{ending}"
    code, out, _ = run(
        capsys,
        "predict",
        base / "run",
        "--task",
        "mood",
        "--input",
        source,
        "--output",
        target,
    )
    assert code == 0
    assert "7 rows" in out
    found = read_back(target)
    assert list(found[0]) == ["id", "text", "extra", "prediction", "p_down", "p_up"]
    for row, wanted in zip(found, rows, strict=True):
        if ending == ".jsonl":
            assert {name: row[name] for name in wanted} == wanted
        else:  # nested values as JSON, and formulas protected from spreadsheets
            text = "'=1+1" if ending != ".parquet" and wanted["text"] == "=1+1" else wanted["text"]
            assert [str(row["id"]), row["text"]] == [str(wanted["id"]), text]
            assert json.loads(row["extra"]) == wanted["extra"]
    expected = load(base / "run").predict("mood", texts)
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
def test_predict_beside_columns_of_the_same_names(base, capsys, tmp_path, ending):
    header = ["id", "prediction", "p_up", "note", "note", "", "text"]
    source = write_csv(tmp_path / "in.csv", header, [[1, "OLD", "0.5", "x", "y", "z", "good"]])
    target = tmp_path / f"out{ending}"
    command = [
        "predict",
        base / "run",
        "--task",
        "mood",
        "--input",
        source,
        "--output",
        target,
    ]
    assert run(capsys, *command)[0] == 0
    (row,) = read_back(target)
    own = {"id": "1", "prediction": "OLD", "p_up": "0.5", "note": "x", "note_": "y"}
    assert row.items() >= (own | {"column 5": "z", "text": "good"}).items()
    assert row["prediction_"] in ("up", "down")
    assert float(row["p_down"]) + float(row["p_up_"]) == pytest.approx(1, abs=1e-5)


def test_predict_from_parquet_keeps_its_types(base, capsys, tmp_path):
    table = pyarrow.table({"n": [1, None], "tags": [["a"], []], "text": ["good", None]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    command = ["predict", base / "run", "--task", "mood", "--input", tmp_path / "in.parquet"]
    assert run(capsys, *command, "--output", tmp_path / "out.parquet")[0] == 0
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.select(["n", "tags", "text"]).equals(table)
    assert found.column("prediction").type == pyarrow.string()


def test_predict_never_writes_over_its_input(base, capsys, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "good"}])
    command = [
        "predict",
        base / "run",
        "--task",
        "mood",
        "--input",
        source,
        "--output",
        source,
    ]
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "is the input itself" in err
    assert source.read_text() == '{"text": "good"}\n'


def test_predict_in_the_classs_format(base, capsys, tmp_path):
    rows = [(f"x{n}", a, b, "OLD") for n, (a, b, _) in enumerate(alike_rows(7, 3))]
    source = write_csv(tmp_path / "test.csv", ["id", "a", "b", "prediction"], rows)
    target = tmp_path / "sts.csv"
    command = [
        "predict",
        base / "run",
        "--task",
        "alike",
        "--input",
        source,
        "--output",
        target,
    ]
    assert run(capsys, *command, "--format", "cs224n")[0] == 0
    lines = target.read_text().splitlines()
    assert lines[0] == "id, Predicted_Similiary"
    assert [line.split(", ")[0] for line in lines[1:]] == ["x0", "x1", "x2"]
    expected = [p.label for p in load(base / "run").predict("alike", [r[1:3] for r in rows])]
    assert [float(line.split(", ")[1]) for line in lines[1:]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "none.toml", "--out", "x"], ["none.toml", "no such recipe"]),
        (["train", "{recipe}"], ["--out"]),
        (["train", "--out", "x"], ["recipe", "TOML"]),
        (["check", "{recipe}", "--data", "{base}/nowhere"], ["mood.csv"]),
        (["check", "{recipe}", "--set", "train.lrr=1"], ['did you mean "lr"']),
        (["check", "{recipe}", "--data", "{data}", "--set", "encoder.name=./none"], ["./none"]),
        (["info", "{base}/nowhere"], ["no such directory"]),
        (["info", "{data}"], ["not a run"]),
        (["evaluate", "{run}", "--task", "moood"], ['did you mean "mood"']),
        (["evaluate", "{run}", "none.csv"], ["none.csv"]),
        (["evaluate", "{run}", "none.csv", "--task", "mood"], ["none.csv"]),
        (["evaluate", "{run}", "{data}/alike.csv", "--task", "mood"], ['"text"']),
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
             "{data}/mood.csv/o.csv"],
            ["mood.csv is not a directory"],
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
            ["sweep", "{recipe}", "--data", "{base}/nowhere", "--out", "x", "--set",
             "train.lr=1e-3,1e-4"],
            ["mood.csv"],
        ),
        (["paper", "--data", "{data}", "--out", "x", "--table", "4"], ["--table", '"4"']),
        (
            ["paper", "--data", "{base}/nowhere", "--out", "x", "--encoder", "{encoder}",
             "--quiet"],
            ["nowhere"],
        ),
        (["paper", "--data", "{data}", "--out", "{data}"], ["not made by comity paper"]),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_sentence(
    base, capsys, monkeypatch, tmp_path, tiny_checkpoint, arguments, words
):
    monkeypatch.chdir(tmp_path)
    names = {
        "recipe": base / "recipe.toml",
        "base": base,
        "data": base / "data",
    }
    names |= {"run": base / "run", "encoder": tiny_checkpoint}
    code, out, err = run(capsys, *(argument.format(**names) for argument in arguments))
    assert code == 2
    assert out == ""
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_row_without_an_id_is_an_error_in_the_classs_format(base, capsys, tmp_path):
    rows = [{"id": "x", "text": "good"}, {"text": "bad"}, {"id": None, "text": "poor"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    command = ["predict", base / "run", "--task", "mood", "--input", source]
    code, _, err = run(capsys, *command, "--output", tmp_path / "o.csv", "--format", "cs224n")
    assert code == 2
    lines = err.splitlines()
    assert [
        f"in.jsonl:{number}: has no id" in line for number, line in zip((2, 3), lines, strict=True)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_predict_keeps_an_empty_key_of_json(base, capsys, tmp_path, ending):
    source = write_jsonl(tmp_path / "in.jsonl", [{"": "x", "text": "good"}])
    target = tmp_path / f"out{ending}"
    command = [
        "predict",
        base / "run",
        "--task",
        "mood",
        "--input",
        source,
        "--output",
        target,
    ]
    assert run(capsys, *command)[0] == 0
    (row,) = read_back(target)
    assert row.items() >= {"": "x", "text": "good"}.items()
    assert list(row)[:3] == ["", "text", "prediction"]


def test_predict_lists_all_errors_and_writes_nothing(base, capsys, tmp_path):
    rows = [{"text": "good"}, {"txet": "bad"}, {"text": ["a"]}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    target = tmp_path / "out.csv"
    code, _, err = run(
        capsys,
        "predict",
        base / "run",
        "--task",
        "mood",
        "--input",
        source,
        "--output",
        target,
    )
    assert code == 2
    assert "in.jsonl:2:" in err
    assert "in.jsonl:3:" in err
    assert not target.exists()


def test_names_with_brackets_and_colons_are_printed_unchanged(tmp_path, capsys, tiny_checkpoint):
    rows = [("good", "[/b]"), ("bad", ":smile:"), ("poor", "[red]")]
    write_csv(tmp_path / "t.csv", ["text", "label"], rows)
    task = {"kind": "classification", "train": "t.csv", "dev": "t.csv", "text": "text"}
    recipe = {"encoder": {"name": str(tiny_checkpoint)}, "tasks": {"a": {**task, "label": "label"}}}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(recipe))
    code, out, _ = run(capsys, "check", tmp_path / "r.toml")
    assert code == 0
    assert ":smile:: 1, [/b]: 1, [red]: 1" in out


def test_compare_prints_json(base, capsys):
    code, out, err = run(capsys, "compare", base / "run", base / "run", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    best = json.loads((base / "run" / "best.json").read_text())
    for task in found["tasks"]:
        first, second = task["entries"]
        assert first["value"] == pytest.approx(best["tasks"][task["task"]]["value"])
        assert second["verdict"] == {
            "difference": 0.0, "low": 0.0, "high": 0.0, "p": None, "verdict": None
        }  # fmt: skip
    assert found["mean"]["entries"][0]["value"] == pytest.approx(best["score"]["value"])
    _, out, _ = run(capsys, "compare", base / "run", base / "run")
    assert "use --group-seeds" in out


def test_analyse_prints_json(base, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["analyse", base / "run", "--task", "alike", "--out", tmp_path / "figures"]
    code, out, err = run(capsys, *command, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    best = json.loads((base / "run" / "best.json").read_text())
    assert found["scores"]["pearson"] == pytest.approx(best["tasks"]["alike"]["value"])
    assert sum(band["rows"] for band in found["bands"]) == found["rows"] == 10
    assert found["worst"][0]["texts"]
    assert json.loads((tmp_path / "figures" / "alike.json").read_text()) == found
    assert sorted(found["written"]) == sorted(map(str, (tmp_path / "figures").iterdir()))
    _, out, _ = run(capsys, *command)
    assert "alike: 10 predictions from" in out


def test_sweep_prints_json(base, capsys, tmp_path):
    command = [
        "sweep",
        base / "recipe.toml",
        "--data",
        base / "data",
        "--out",
        tmp_path / "out",
    ]
    code, out, err = run(capsys, *command, "--set", "train.lr=1e-3,3e-3", "train.steps=2", "--json")
    assert (code, err) == (0, "")
    points = json.loads(out)["points"]
    assert [point["values"] for point in points] == [{"train.lr": 1e-3}, {"train.lr": 3e-3}]
    for point in points:
        best = json.loads((Path(point["run"]) / "best.json").read_text())
        assert point["tasks"] == {task: score["value"] for task, score in best["tasks"].items()}
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["points"] == points


def test_augment_reports_all_errors_before_it_loads_a_translator(capsys, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a translator was loaded")

    monkeypatch.setattr("comity.model.translate.Translator", never)
    command = ["augment", tmp_path / "none.csv", "--column", "text", "--to", "a/b", "--back", "b/a"]
    (tmp_path / "file").touch()
    options = ["--output", tmp_path / "file" / "o.csv", "--batch-size", 0, "--drop-similar", 2]
    code, out, err = run(capsys, *command, *options)
    assert (code, out) == (2, "")
    words = ("--batch-size", "--drop-similar", "not a directory", "no such file")
    assert [word in line for word, line in zip(words, err.splitlines(), strict=True)] == [True] * 4


@pytest.mark.parametrize("column", ["1", "01"])
def test_augment_reads_a_file_with_the_given_options(capsys, tmp_path, monkeypatch, column):
    class Upper:
        def __init__(self, *_, **__):
            self.fingerprint = "upper"

        def __call__(self, texts):
            return [f"new {text}" for text in texts]

    monkeypatch.setattr("comity.model.translate.Translator", Upper)
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes('a;"caf\xe9;1\nb;tea";0\n'.encode("cp1252"))
    reading = ["--delimiter", ";", "--encoding", "cp1252", "--no-header", "--no-quoting"]
    command = ["augment", source, "--column", column, "--to", "a/b", "--back", "b/a", *reading]
    assert run(capsys, *command, "--output", target)[0] == 0
    assert read_back(target) == [
        {"0": "a", "1": 'new new "café', "2": "1"},
        {"0": "b", "1": 'new new tea"', "2": "0"},
    ]


def test_augment_names_options_in_errors_about_its_file(capsys, tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes(b'n,text\n1,"a\n2,b\n')
    command = ["augment", source, "--column", "text", "--to", "a/b", "--back", "b/a"]
    code, _, err = run(capsys, *command, "--output", tmp_path / "out.csv")
    assert code == 2
    assert "or use --no-quoting to read quotes as text" in err


def test_augment_refuses_a_checkpoint_that_does_not_translate(capsys, tmp_path, tiny_checkpoint):
    source = write_csv(tmp_path / "in.csv", ["text"], [["good film"]])
    command = ["augment", source, "--column", "text", "--output", tmp_path / "out.csv"]
    code, out, err = run(capsys, *command, "--to", tiny_checkpoint, "--back", tiny_checkpoint)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "not a sequence-to-sequence model" in err
    assert not (tmp_path / "out.csv").exists()
