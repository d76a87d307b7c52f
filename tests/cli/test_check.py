"""`comity check`: what it says in text and as JSON, and that `train` says it too."""

import json

import pytest
import tomli_w
from tests.helpers import write_csv

from comity.cli.main import main


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint):
    """A recipe of three small tasks with something to say about each."""
    rows = [(f"a good film {n}", "yes" if n % 2 else "no", n) for n in range(12)]
    rows += [("the tea is bad", "?", 3), ("the cat and dog", "Yes", 4), ("", "no", 5)]
    rows += [("\u4f60\u597d\u4e16\u754c" * 40, "yes", 6), ("a\0b", "no", 7)]
    write_csv(tmp_path / "t.csv", ["text", "label", "score"], rows)
    pairs = [(f"one {n}", f"two {n}", n / 12) for n in range(12)]
    write_csv(tmp_path / "p.csv", ["a", "b", "score"], pairs)
    text = {"train": "t.csv", "dev": "t.csv", "text": "text"}
    tasks = {
        "mood": {"kind": "classification", "label": "label", **text},
        "size": {"kind": "regression", "label": "score", **text, "dev": 0.2},
        "alike": {
            "kind": "similarity",
            "train": "p.csv",
            "dev": 0.25,
            "texts": ["a", "b"],
            "label": "score",
        },
    }
    encoder = {"name": str(tiny_checkpoint)}
    train = {"steps": 1, "batch_size": 4, "precision": "float32", "eval_train_rows": 0}
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps({"encoder": encoder, "train": train, "tasks": tasks}))
    return path


SAID = [
    '1 row has the label "?", which looks like a missing label',
    "differ only in case",
    "a fifth of the scale",
    "rounds 9 different training scores to 0 and 1",
    "also training data of mood (16 rows)",
    "1 training row has a zero byte in a text",
    "of the tokens in",
]


def test_check_says_what_looks_wrong(recipe, capsys):
    assert main(["check", str(recipe)]) == 0
    out = capsys.readouterr().out
    for words in SAID:
        assert words in out, words
    assert "deviation" in out
    assert "no errors found" in out


def test_check_counts_as_json(recipe, capsys):
    assert main(["check", str(recipe), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    said = "\n".join([*found["notes"], *found["leaks"]])
    for words in SAID:
        assert words in said, words
    train = found["tasks"]["mood"]["train"]
    assert (train["empty"], train["empty_lines"], train["first_empty_line"]) == (1, [16], 16)
    assert train["zero_bytes"] == 1
    assert train["unknown"] == pytest.approx(160 / (160 + 12 * 5 + 8 + 1), abs=0.05)
    assert train["unknown"] > 0.1
    score = found["tasks"]["size"]["train"]["scores"]
    assert score["deviation"] > 0


def test_train_says_it_too(recipe, capsys, tmp_path):
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    err = capsys.readouterr().err
    for words in SAID:
        assert words in err, words
