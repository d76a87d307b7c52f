"""`comity init`: the recipe it writes, what it prints, and what it never overwrites."""

import json
import subprocess
import sys
import tomllib

import pytest
from tests.helpers import alike_rows, write_csv, write_two_tasks

from comity.cli.main import main

RECIPE = """\
# mood.csv: 36 rows, delimited text, utf-8
[tasks.mood]
kind = "classification"  # "mood" has 2 values: down and up
train = "data/mood.csv"
dev = "data/mood-dev.csv"  # named like mood.csv
text = "text"  # 6 words on average
label = "mood"  # named like a label

# alike.csv: 20 rows, delimited text, utf-8
[tasks.alike]
kind = "similarity"  # "score" has 20 numbers from 1.51 to 4.18, one for each pair
train = "data/alike.csv"
dev = "data/alike-dev.csv"  # named like alike.csv
texts = ["a", "b"]  # pairs of texts, 3 and 4 words on average
label = "score"  # named like a label
scale = [0, 5]  # scores from 1.5 to 4.18
# not used: "id" is named like an id
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two tasks in the folder `data` of the working directory."""
    write_two_tasks(tmp_path / "data")
    rows = [(f"x{n}", a, b, s + n / 100) for n, (a, b, s) in enumerate(alike_rows(0, 20))]
    write_csv(tmp_path / "data" / "alike.csv", ["id", "a", "b", "score"], rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_says_why_and_check_accepts_it(folder, capsys, tiny_checkpoint):
    assert main(["init", "data/mood.csv", "data/alike.csv"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        'mood: classification; "mood" has 2 values: down and up',
        'alike: similarity; "score" has 20 numbers from 1.51 to 4.18, one for each pair',
        "recipe.toml: 2 tasks; check it with comity check recipe.toml",
    ]
    assert err == ""
    text = (folder / "recipe.toml").read_text()
    assert text.endswith(f"\n{RECIPE}")
    assert tomllib.loads(text)["train"]["balancer"] == "pcgrad"
    words = ["check", "recipe.toml", "--set", f"encoder.name={tiny_checkpoint}"]
    assert main(words) == 0
    assert "recipe.toml: no errors found" in capsys.readouterr().out


def test_a_recipe_elsewhere_has_paths_that_start_there(folder, capsys):
    (folder / "recipes").mkdir()
    assert main(["init", "data/mood.csv", "--out", "recipes/mood.toml"]) == 0
    values = tomllib.loads((folder / "recipes" / "mood.toml").read_text())
    assert values["tasks"]["mood"]["train"] == "../data/mood.csv"
    assert values["train"].keys() == {"epochs", "lr", "head_lr"}  # one task has nothing to balance


def test_a_recipe_on_standard_output(folder, capsys):
    assert main(["init", "data/mood.csv", "data/alike.csv", "--out", "-"]) == 0
    out, err = capsys.readouterr()
    assert (out.endswith(f"\n{RECIPE}"), err) == (True, "")
    assert not (folder / "recipe.toml").exists()


def test_an_existing_recipe_is_kept_unless_asked(folder, capsys):
    (folder / "recipe.toml").write_text("mine")
    assert main(["init", "data/mood.csv"]) == 2
    assert "recipe.toml: already exists; use --overwrite" in capsys.readouterr().err
    assert (folder / "recipe.toml").read_text() == "mine"
    assert main(["init", "data/none.csv", "--overwrite"]) == 2
    assert (folder / "recipe.toml").read_text() == "mine"
    assert main(["init", "data/mood.csv", "--overwrite"]) == 0
    assert "[tasks.mood]" in (folder / "recipe.toml").read_text()


def test_guesses_as_json(folder, capsys):
    write_csv(folder / "new.csv", ["text"], [("a text",), ("another",)])
    assert main(["init", "data/mood.csv", "new.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    mood = found["tasks"]["mood"]
    assert found["recipe"] == "recipe.toml"
    assert found["notes"] == ["new.csv: no column looks like a label; write its task by hand"]
    assert mood["keys"] == tomllib.loads((folder / "recipe.toml").read_text())["tasks"]["mood"]
    assert mood["evidence"]["dev"] == "named like mood.csv"
    assert main(["init", "data/mood.csv", "--json", "--out", "-"]) == 2
    assert "choose one" in json.loads(capsys.readouterr().out)["errors"][0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data/mod.csv"], 'data/mod.csv: there is no such file; did you mean "mood.csv"?'),
        (["data"], "data: is a folder; name a file in it"),
        (["data/mood-dev.csv"], "data/mood-dev.csv: is named like a dev or test set"),
        (["data/mood.csv", "--out", "data"], "data: is a directory; name a file to write"),
        (["data/mood.csv", "--out", "x/y.toml"], "x/y.toml: there is no folder x; create it first"),
    ],
)
def test_errors_are_one_sentence(folder, capsys, words, sentence):
    assert main(["init", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_no_large_package_is_loaded(folder):
    code = "import sys; from comity.cli.main import main; assert not main(['init', *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)", "data/mood.csv", "data/alike.csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "tokenizers", "sklearn", "pyarrow"} & set(done.stdout.split())
