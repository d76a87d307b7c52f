"""`comity evaluate`: how FILE is read, and the warning about a file that was trained on."""

import json
import shutil
from pathlib import Path

import pytest
from tests.helpers import mood_rows, two_tasks, write_csv, write_two_tasks

from comity.cli.main import main
from comity.training.train import train


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory) -> Path:
    """A folder with data and a run of two tasks, one of them only evaluated."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_two_tasks(folder / "data")
    stages = [{"steps": 2, "data": {"mood": "more.csv"}}]
    write_csv(folder / "data" / "more.csv", ["text", "mood"], mood_rows(500, 24))
    recipe = two_tasks(
        tiny_checkpoint, tasks__alike__eval_only=True, train__epochs=..., stages=stages
    )
    train(recipe, folder / "data", folder / "run")
    return folder


def evaluate(capsys, folder: Path, *arguments: object) -> tuple[int, str, str]:
    code = main(["evaluate", str(folder / "run"), *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("file", ["mood.csv", "more.csv", "copy.csv"])
def test_a_file_that_the_run_was_trained_on_is_a_warning(folder, capsys, tmp_path, file):
    path = folder / "data" / file
    if file == "copy.csv":  # found by its content
        path = shutil.copy(folder / "data" / "mood.csv", tmp_path / file)
    warning = (
        f"{path} is a training file of mood; scores on rows that the model was trained on say "
        "little about new rows"
    )
    code, _, err = evaluate(capsys, folder, path)
    assert code == 0
    assert err.splitlines()[-1] == f"Warning: {warning}"
    for task in ([], ["--task", "mood"]):
        _, out, _ = evaluate(capsys, folder, path, *task, "--json")
        assert json.loads(out)["notes"] == [warning]


@pytest.mark.parametrize("arguments", [["mood-dev.csv"], ["alike.csv"], []])
def test_a_file_that_was_not_trained_on_is_none(folder, capsys, arguments):
    paths = [folder / "data" / name for name in arguments]
    code, out, err = evaluate(capsys, folder, *paths, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["notes"] == []


def test_how_the_file_is_read(folder, capsys, tmp_path):
    path = tmp_path / "new.csv"
    rows = [f'{mood}|a "caf\xe9; {text};\n' for text, mood in mood_rows(5000, 9)]
    path.write_bytes("".join(["mood|text\n", *rows]).encode("cp1252"))
    command = [path, "--task", "mood", "--json"]
    code, _, err = evaluate(capsys, folder, *command)
    assert code == 2
    assert 'set --encoding (often "cp1252"' in err
    options = ["--encoding", "cp1252", "--delimiter", "|", "--no-quoting"]
    code, out, _ = evaluate(capsys, folder, *command, *options)
    assert code == 0
    assert json.loads(out)["n"] == 9
    path.write_text("x,mood\ngood,up\n")
    code, _, err = evaluate(capsys, folder, *command)
    assert code == 2
    assert err.endswith('no column "text" (the header has "x", "mood"); correct the name\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoding", "cp1252"], "are for FILE; name a labelled file, or leave them out"),
        (["{}", "--delimiter", ";"], "--delimiter has no effect on {}; remove it"),
        (["{}", "--no-quoting"], "--no-quoting has no effect on {}; remove it"),
    ],
)
def test_options_without_effect(folder, capsys, tmp_path, arguments, message):
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "good", "mood": "up"}\n')
    code, out, err = evaluate(capsys, folder, *(a.format(path) for a in arguments))
    assert (code, out) == (2, "")
    assert err.endswith(f"{message.format(path)}\n")
