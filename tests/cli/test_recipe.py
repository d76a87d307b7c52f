"""`comity recipe`: the keys of a recipe in the terminal."""

import json
import subprocess
import sys

import pytest

from comity.cli.main import main


def output(capsys, *arguments):
    assert main(["recipe", *arguments]) == 0
    return capsys.readouterr().out


def test_all_keys_have_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = output(capsys).splitlines()
    assert "[train] and [[stages]]" in lines
    assert sum(line.startswith("  text ") for line in lines) == 2  # of a task, of a stage's file
    assert max(len(line) for line in lines) == 60


def test_a_key_in_full(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = output(capsys, "train.lr_layer_decay")
    assert text == (
        "lr_layer_decay  in [train] and [[stages]]\n"
        "values   number above 0 and at most 1\n"
        "default  `1.0`\n"
        "Learning rate of each encoder layer as a multiple of the layer above it (Howard\n"
        "& Ruder 2018).\n"
    )


def test_an_unknown_key(capsys):
    assert main(["recipe", "weight_decai"]) == 2
    message = 'error: unknown key "weight_decai"; did you mean "weight_decay"?\n'
    assert capsys.readouterr().err == message


def test_the_json_schema_is_json(capsys):
    schema = json.loads(output(capsys, "--json-schema"))
    assert set(schema["properties"]) == {"encoder", "train", "track", "tasks", "stages"}


def test_one_thing_at_a_time(capsys):
    assert main(["recipe", "lr", "--markdown"]) == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["", "lr", "--markdown", "--json-schema"])
def test_no_torch(argument):
    arguments = ["recipe", *([argument] if argument else [])]
    program = (
        "import sys; from comity.cli.main import main; "
        f"assert main({arguments}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
