"""Cases: inputs that users of similar tools had trouble with, read from the shared folder.

Each kind is also tested with inputs of our own, here or in the tests of the module that reads them.
"""

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tomli_w
from tests.helpers import write_csv, write_jsonl

from comity.cli.main import main
from comity.data.splits import Split, read_tasks
from comity.model.checkpoint import load_encoder, text_encoder
from comity.recipe.recipe import Recipe
from comity.training.setup import prepare

Check = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def case(shared) -> Callable[[str], Path]:
    """The folder of a case."""
    return lambda name: shared / "cases" / "files" / name


@pytest.fixture
def check(tmp_path, tiny_checkpoint, capsys) -> Check:
    """Runs `comity check --json` on tasks; returns exit code, the JSON and standard error."""

    def run(folder: Path, encoder: Path | None = None, **tasks: Any) -> tuple[int, Any, str]:
        recipe = {"encoder": {"name": str(encoder or tiny_checkpoint)}, "tasks": tasks}
        path = tmp_path / "recipe.toml"
        path.write_text(tomli_w.dumps(recipe))
        code = main(["check", str(path), "--data", str(folder), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if code:
            assert all(line.startswith("error: ") for line in err.splitlines()), err
        return code, json.loads(out) if code == 0 else None, err

    return run


def classify(train: str, **keys: Any) -> dict[str, Any]:
    task = {"kind": "classification", "train": train, "dev": train, "text": "text"}
    return {**task, "label": "label", **keys}


def compare(train: str, **keys: Any) -> dict[str, Any]:
    task = {"kind": "similarity", "train": train, "dev": train, "texts": ["a", "b"]}
    return {**task, "label": "score", **keys}


def load_split(folder: Path, encoder: Path, **tasks: Any) -> Split:
    """The training rows of the first task."""
    recipe = Recipe.from_dict({"encoder": {"name": str(encoder)}, "tasks": tasks})
    loaded = load_encoder(str(encoder))
    data = read_tasks(recipe, folder).tokenised(text_encoder(loaded.tokenizer), 128)
    return next(iter(data.values())).train


# --- input files --------------------------------------------------------------------------------


def test_in_01_quotes_that_never_close(case, check, tiny_checkpoint):
    folder = case("IN-01")
    columns = {"header": False, "texts": [5, 6], "label": 4, "delimiter": "tab"}
    for quoting in ({}, {"quoting": False}):
        code, found, err = check(folder, alike=compare("sts-train.csv", **columns, **quoting))
        if code:
            assert not quoting
            assert "sts-train.csv:2:" in err
            assert "quoting" in err
        else:
            assert found["tasks"]["alike"]["train"]["rows"] == 12
    split = load_split(
        folder, tiny_checkpoint, alike=compare("sts-train.csv", **columns, quoting=False)
    )
    expected = json.loads((folder / "expected.json").read_text())["expect"]
    assert split.targets.tolist() == expected["scores"]


def test_in_03_line_ends(case, check):
    folder = case("IN-03")
    _, found, _ = check(folder, warm=classify("train.tsv", dev="dev.tsv"))
    task = found["tasks"]["warm"]
    assert task["train"]["counts"] == {"no": 3, "yes": 3}
    assert task["dev"]["counts"] == {"no": 2, "yes": 2}
    code, found, err = check(folder, warm=classify("train.tsv", dev="old-mac.tsv"))
    if code:
        assert "old-mac.tsv" in err
        assert "line" in err
    else:
        assert found["tasks"]["warm"]["dev"]["rows"] == 4


def test_in_05_words_that_are_not_missing_values(case, check):
    folder = case("IN-05")
    _, found, _ = check(folder, a=classify("texts.csv"))
    train = found["tasks"]["a"]["train"]
    assert train["rows"] == 13
    assert train["counts"] == {"NA": 3, "None": 3, "ok": 7}
    assert (train["empty"], train["first_empty_line"]) == (1, 9)
    _, found, _ = check(folder, a=classify("texts.jsonl"))
    train = found["tasks"]["a"]["train"]
    assert (train["rows"], train["empty"]) == (14, 2)


def test_in_07_utf_16(case, check):
    folder = case("IN-07")
    for name, delimiter in (("excel-unicode.txt", "tab"), ("big-endian.csv", ",")):
        _, found, _ = check(folder, a=classify(name))
        train = found["tasks"]["a"]["train"]
        assert train["counts"] == {"plant": 2, "thing": 2}
        assert train["reading"]["delimiter"] == delimiter
    code, _, err = check(folder, a=classify("no-mark.csv"))
    assert code == 2
    assert "UTF-16" in err
    assert "encoding" in err
    _, found, _ = check(folder, a=classify("no-mark.csv", encoding="utf-16-le"))
    assert found["tasks"]["a"]["train"]["rows"] == 4


def test_in_09_decimal_commas(case, check, tiny_checkpoint):
    folder = case("IN-09")
    task = compare("grades.csv", texts=["text_a", "text_b"])
    code, _, err = check(folder, a=task)
    assert code == 2
    assert "grades.csv:2:" in err
    assert '"3,5"' in err
    assert 'decimal_mark = ","' in err
    split = load_split(folder, tiny_checkpoint, a={**task, "decimal_mark": ",", "delimiter": ";"})
    assert split.targets.tolist() == [3.5, 2.75, 0.0, 4.25, 5.0, 1.5]
    split = load_split(folder, tiny_checkpoint, a={**task, "decimal_mark": ","})
    assert len(split) == 6


def test_in_11_headers(case, check):
    folder = case("IN-11")
    code, _, err = check(folder, a=classify("noheader.csv"))
    assert code == 2
    for word in ('"text"', "header", "The oven is hot."):
        assert word in err
    by_position = {"header": False, "text": 0, "label": 1}
    _, found, _ = check(folder, a=classify("noheader.csv", **by_position))
    assert found["tasks"]["a"]["train"]["counts"] == {"cool": 3, "warm": 3}
    code, _, err = check(folder, a=classify("looks-like-header.csv"))
    assert code == 2
    assert "looks-like-header.csv:5:" in err


def test_in_13_trailing_delimiters(case, check):
    folder = case("IN-13")
    _, found, _ = check(folder, a=classify("with-header.csv"))
    assert found["tasks"]["a"]["train"]["counts"] == {"down": 2, "up": 2}
    code, found, err = check(folder, a=classify("rows-only.csv"))
    if code:
        assert "rows-only.csv:2:" in err
        assert "4 fields" in err
    else:
        assert found["tasks"]["a"]["train"]["counts"] == {"down": 2, "up": 2}


def test_in_15_nested_and_late_keys(case, check):
    folder = case("IN-15")
    code, _, err = check(folder, a=classify("nested.jsonl", text="data.text"))
    assert code == 2
    assert "nested.jsonl:3:" in err
    assert "label" in err
    assert "nested.jsonl:4:" in err
    assert "data" in err
    code, _, err = check(folder, a=classify("late-key.jsonl"))
    assert code == 2
    assert "late-key.jsonl:1:" in err
    assert "no column" not in err
    _, found, _ = check(folder, a=classify("late-key.jsonl", missing_labels="skip"))
    train = found["tasks"]["a"]["train"]
    assert (train["counts"], train["unlabelled"]) == ({"g": 1, "r": 1}, 1)


def test_in_17_parquet(case, check, tiny_checkpoint):
    folder = case("IN-17")
    for name in ("plain", "large", "view", "dictionary"):
        _, found, _ = check(folder, a=classify(f"{name}.parquet"))
        assert found["tasks"]["a"]["train"]["counts"] == {"bad": 3, "ok": 3}
    _, found, _ = check(folder, a=classify("int8.parquet"))
    assert found["tasks"]["a"]["train"]["counts"] == {"0": 3, "1": 3}
    code, _, err = check(folder, a=classify("nulls.parquet"))
    assert code == 2
    assert "nulls.parquet:4:" in err
    _, found, _ = check(folder, a=classify("nulls.parquet", missing_labels="skip"))
    train = found["tasks"]["a"]["train"]
    assert (train["rows"], train["unlabelled"], train["empty"]) == (5, 1, 2)
    for name in ("decimal", "float16"):
        split = load_split(folder, tiny_checkpoint, a=compare(f"{name}.parquet"))
        assert split.targets.tolist() == [0.5, 1.25, 5.0, 3.75, 2.0, 4.5]
    _, found, _ = check(folder, a=classify("struct.parquet", text="item.text", label="item.label"))
    assert found["tasks"]["a"]["train"]["rows"] == 6


# --- labels and scores --------------------------------------------------------------------------


def test_lb_01_spellings_of_labels(case, check):
    folder = case("LB-01")
    task = {"kind": "classification", "texts": ["a", "b"], "label": "same"}
    _, found, _ = check(folder, a={**task, "train": "train.csv", "dev": "dev.csv"})
    assert found["tasks"]["a"]["classes"] == ["0", "1"]
    assert found["tasks"]["a"]["train"]["counts"] == {"0": 2, "1": 3}
    assert found["tasks"]["a"]["dev"]["counts"] == {"0": 2, "1": 2}
    files = {"train": "train-bool.csv", "dev": "dev-bool.jsonl"}
    _, found, _ = check(folder, a={**classify("x"), "label": "free", **files})
    assert found["tasks"]["a"]["classes"] == ["False", "True"]
    assert found["tasks"]["a"]["dev"]["counts"] == {"False": 1, "True": 2}


def test_lb_03_one_table_two_tasks(case, check):
    folder = case("LB-03")
    keys = {"missing_labels": "skip"}
    _, found, _ = check(
        folder,
        mood=classify("two-tasks.csv", label="mood", **keys),
        topic=classify("two-tasks.csv", label="topic", **keys),
    )
    assert found["tasks"]["mood"]["train"]["counts"] == {"bad": 3, "good": 3}
    assert found["tasks"]["topic"]["train"]["counts"] == {"food": 3, "house": 2}
    note = next(note for note in found["notes"] if "used by" in note)
    assert "3 rows are used by mood and topic" in note
    assert "1 by neither" in note
    assert "line 9" in note
    code, _, err = check(folder, mood=classify("two-tasks.csv", label="mood"))
    assert code == 2
    for line in (6, 7, 9):
        assert f"two-tasks.csv:{line}:" in err


def test_lb_05_numbers_as_names(case, check):
    folder = case("LB-05")
    _, found, _ = check(folder, a=classify("ratings.csv", label="stars"))
    assert found["tasks"]["a"]["classes"] == ["1", "2", "3", "4", "5"]
    _, found, _ = check(folder, a=classify("gaps.csv", label="code"))
    assert found["tasks"]["a"]["classes"] == ["-5", "10", "20", "30"]


def test_lb_07_one_class(case, check):
    task = classify("train.csv", dev="dev.csv", label="state")
    code, _, err = check(case("LB-07"), heat=task)
    assert code == 2
    for word in ("train.csv", "heat", '"warm"', "5"):
        assert word in err


def test_lb_11_multi_label(case, check, tiny_checkpoint):
    folder = case("LB-11")
    files = {
        "multi.csv": {"label": "tags", "separator": "|"},
        "multi.jsonl": {"label": "tags"},
        "multi.parquet": {"label": "tags"},
        "multi-columns.csv": {"labels": ["red", "round", "blue"]},
    }
    expected = json.loads((folder / "expected.json").read_text())["expect"]["indicator"]
    for name, keys in files.items():
        task = {"kind": "multi-label", "train": name, "dev": name, "text": "text", **keys}
        _, found, _ = check(folder, a=task)
        assert found["tasks"]["a"]["classes"] == ["blue", "red", "round"], name
        assert found["tasks"]["a"]["train"]["counts"] == {"blue": 1, "red": 3, "round": 3}
        assert load_split(folder, tiny_checkpoint, a=task).targets.tolist() == expected, name


@pytest.fixture
def check_recipe(case, tmp_path, tiny_checkpoint, capsys) -> Callable[..., Any]:
    """Runs `comity check --json` on a case's own recipe; returns the JSON."""

    def run(name: str, recipe: str, *changes: str) -> Any:
        values = tomllib.loads((case(name) / recipe).read_text())
        values["encoder"] = {"name": str(tiny_checkpoint)}
        path = tmp_path / recipe
        path.write_text(tomli_w.dumps(values))
        changed = ["--set", *changes] if changes else []
        assert main(["check", str(path), "--data", str(case(name)), "--json", *changed]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_n_05_an_empty_second_text_links_no_rows(check_recipe):
    empty = {"parcels": 0, "mostly-empty": 0}
    for seed in range(4):
        for name in empty:
            found = check_recipe("N-05", f"{name}.toml", f"train.split_seed={seed}")
            task = found["tasks"]["parcel"]
            assert (task["train"]["rows"], task["dev"]["rows"]) == (30, 10)
            empty[name] += task["dev"]["empty"]
    assert 4 <= empty["parcels"] < empty["mostly-empty"]


def test_n_07_codes_keep_their_zeros(case, check_recipe, tmp_path, tiny_checkpoint):
    found = check_recipe("N-07", "trailing.toml")
    codes = ["345.1", "345.10", "780.39"]
    assert found["tasks"]["code"]["classes"] == codes
    assert any('"345.1" (5 rows) and "345.10" (5 rows) are equal' in n for n in found["notes"])
    listed = f"tasks.code.classes={json.dumps(codes)}"
    found = check_recipe("N-07", "trailing.toml", listed)
    assert found["tasks"]["code"]["classes"] == codes
    assert not any("tasks.code" in note or "equal" in note for note in found["notes"])
    loose = check_recipe("N-07", "trailing.toml", 'tasks.code.match_labels="loose"')
    assert len(loose["tasks"]["code"]["classes"]) == 2
    found = check_recipe("N-07", "leading.toml")
    assert found["tasks"]["code"]["classes"] == ["01", "02", "10"]
    run, output = tmp_path / "run", tmp_path / "out.csv"
    train = ["train", str(tmp_path / "leading.toml"), "--data", str(case("N-07"))]
    assert main([*train, "--out", str(run), "--quiet"]) == 0
    predict = ["predict", str(run), "--task", "code", "--input", str(case("N-07") / "new.csv")]
    assert main([*predict, "--output", str(output)]) == 0
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["prediction"] for row in rows} <= {"01", "02", "10"}
    assert {"p_01", "p_02", "p_10"} <= rows[0].keys()


def test_n_09_scores_on_a_fifth_of_the_scale(check_recipe):
    notes = check_recipe("N-09", "recipe.toml")["notes"]
    assert any("a fifth of the scale from 0 to 5" in n and "scale = [0, 1]" in n for n in notes)
    assert any("rounds 10 different training scores to 0 and 1" in note for note in notes)
    notes = check_recipe("N-09", "recipe.toml", "tasks.alike.scale=[0,1]")["notes"]
    assert not any("fifth" in note for note in notes)
    assert any("rounds 10 different training scores to 0 and 1" in note for note in notes)


def test_n_12_a_class_whose_only_rows_are_drawn_for_dev(check_recipe):
    absent = []
    for seed in range(8):
        found = check_recipe("N-12", "recipe.toml", f"train.split_seed={seed}")
        missing = found["tasks"]["topic"]["train"]["counts"]["refund"] == 0
        sentence = 'the class "refund" has no training row, but 1 dev row'
        assert any(sentence in note for note in found["notes"]) == missing
        absent.append(missing)
    assert any(absent)


# --- texts and tokens ---------------------------------------------------------------------------


def test_tx_02_texts_without_tokens(case, check, write_checkpoint, tmp_path):
    folder = case("TX-02")
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    encoder = write_checkpoint(tmp_path / "encoder", tokens=tokens)
    _, found, _ = check(folder, encoder, a=classify("blank.jsonl"))
    train = found["tasks"]["a"]["train"]
    assert (train["rows"], train["empty"], train["first_empty_line"]) == (13, 12, 1)
    code, _, err = check(folder, encoder, a=classify("blank.jsonl", empty_texts="error"))
    assert code == 2
    assert "blank.jsonl:13:" in err
    assert "blank.jsonl:12:" not in err


def test_tx_04_pairs_longer_than_the_limit(case, write_checkpoint, tmp_path):
    folder = case("TX-04")
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    encoder = write_checkpoint(tmp_path / "encoder", tokens=tokens)
    task = {"kind": "classification", "train": "pairs.jsonl", "dev": "pairs.jsonl"}
    task |= {"texts": ["a", "b"], "label": "same", "max_length": 12}
    recipe = Recipe.from_dict({"encoder": {"name": str(encoder)}, "tasks": {"a": task}})
    prepared = prepare(recipe, folder)
    split = prepared.tasks["a"].train
    assert split.cut(("pair",), 12) == 5
    (packed,) = split.pack(np.arange(7), ("pair",), prepared.template, 12)
    kept = []
    for start, stop in zip(packed.offsets, packed.offsets[1:], strict=False):
        second = int(packed.segments[start:stop].sum())
        kept.append([int(stop - start) - second - 2, second - 1])
        assert packed.ids[stop - 1] == prepared.template.sep_id
    expected = json.loads((folder / "expected.json").read_text())["expect"]
    assert kept == expected["tokens_kept_by_transformers_longest_first"]


# --- the same kinds, with inputs of our own -------------------------------------------------------


def test_labels_that_are_lists_objects_or_odd_numbers(tmp_path, check):
    rows = [
        {"text": "red tea", "label": ["a"]},
        {"text": "green tea", "label": "a"},
        {"text": "black tea", "label": "b"},
        {"text": "old tea", "label": {"x": 1}},
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    code, _, err = check(tmp_path, a=classify("t.jsonl"))
    assert code == 2
    assert "t.jsonl:1:" in err
    assert "t.jsonl:4:" in err


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("high", ["not a number"]),
        ("nan", ["not a number"]),
        ("inf", ["not a number"]),
        ("1_0", ["not a number"]),
        ("5.1", ["outside the scale", "from 0 to 5"]),
        ("-1", ["outside the scale", "GLUE"]),
        ("2,5", ['decimal_mark = ","']),
        ("", ["is empty", 'missing_labels = "skip"']),
    ],
)
def test_wrong_scores(tmp_path, check, score, words):
    rows = [("a cat", "a dog", "1"), ("a car", "a bus", "2.5"), ("one", "two", score)]
    write_csv(tmp_path / "s.csv", ["a", "b", "score"], rows)
    code, _, err = check(tmp_path, a=compare("s.csv"))
    assert code == 2
    assert "s.csv:4:" in err
    assert all(word in err for word in words), err


def test_labels_of_dev_that_training_never_saw(tmp_path, check):
    write_csv(tmp_path / "t.csv", ["text", "label"], [("good", "yes"), ("bad", "no")])
    rows = [("fine", "yes"), ("poor", "No"), ("odd", "maybe"), ("old", "-1")]
    write_csv(tmp_path / "d.csv", ["text", "label"], rows)
    code, _, err = check(tmp_path, a=classify("t.csv", dev="d.csv"))
    assert code == 2
    assert 'd.csv:3: the label "No"' in err
    assert 'did you mean "no"' in err
    assert 'd.csv:4: the label "maybe"' in err
    assert "GLUE" in err.splitlines()[-1]


def test_errors_of_all_files_are_reported_together(tmp_path, check):
    write_csv(tmp_path / "t.csv", ["text", "label"], [("good", "yes"), ("bad", "")])
    code, _, err = check(
        tmp_path, a=classify("t.csv"), b=classify("none.csv"), c=classify("t.csv", text="txet")
    )
    assert code == 2
    assert "t.csv:3:" in err
    assert "none.csv" in err
    assert 'did you mean "text"' in err


def test_wrong_indicators(tmp_path, check):
    rows = [("red", "1", "0"), ("blue", "2", "0"), ("green", "0", "")]
    write_csv(tmp_path / "m.csv", ["text", "x", "y"], rows)
    task = {"kind": "multi-label", "train": "m.csv", "dev": "m.csv", "text": "text"}
    code, _, err = check(tmp_path, a={**task, "labels": ["x", "y"]})
    assert code == 2
    assert "m.csv:3:" in err
    assert "m.csv:4:" in err


def test_a_cell_of_labels_needs_a_separator(tmp_path, check):
    write_csv(tmp_path / "m.csv", ["text", "tags"], [("a", "x;y"), ("b", "x")])
    task = {"kind": "multi-label", "train": "m.csv", "dev": "m.csv", "text": "text"}
    code, _, err = check(tmp_path, a={**task, "label": "tags"})
    assert code == 2
    assert "separator" in err
    _, found, _ = check(tmp_path, a={**task, "label": "tags", "separator": ";"})
    assert found["tasks"]["a"]["train"]["counts"] == {"x": 2, "y": 1}


def test_equal_targets(tmp_path, check):
    write_csv(tmp_path / "r.csv", ["text", "label"], [("a", "2"), ("b", "2.0")])
    code, _, err = check(tmp_path, a={**classify("r.csv"), "kind": "regression"})
    assert code == 2
    assert "all 2 are 2" in err


def test_listed_classes(tmp_path, check):
    write_csv(tmp_path / "t.csv", ["text", "label"], [("a", "mid"), ("b", "low"), ("c", "hi")])
    _, found, _ = check(tmp_path, a=classify("t.csv", classes=["low", "mid", "hi", "top"]))
    counts = found["tasks"]["a"]["train"]["counts"]
    assert list(counts.items()) == [("low", 1), ("mid", 1), ("hi", 1), ("top", 0)]
    code, _, err = check(tmp_path, a=classify("t.csv", classes=["low", "mid"]))
    assert code == 2
    assert "t.csv:4:" in err


def test_class_weights_must_name_classes(tmp_path, check):
    write_csv(tmp_path / "t.csv", ["text", "label"], [("a", "yes"), ("b", "no")])
    code, _, err = check(tmp_path, a=classify("t.csv", class_weights={"yess": 2.0}))
    assert code == 2
    assert 'did you mean "yes"' in err


def test_tr_02_pearson_without_a_value_is_reported_before_training(case, check):
    folder = case("TR-02")
    for name, reason in (
        ("dev-constant.tsv", "all 3 gold scores are 3.0"),
        ("dev-one-row.tsv", "one row"),
    ):
        _, found, _ = check(folder, a=compare("train.tsv", dev=name))
        assert any(reason in note for note in found["notes"]), found["notes"]


# --- predict ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_n_01_half_a_surrogate_pair_beside_the_text(case, tiny_checkpoint, tmp_path, extension):
    recipe = tomllib.loads((case("base") / "recipe.toml").read_text())
    recipe["encoder"] = {"name": str(tiny_checkpoint)}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe))
    run, output = tmp_path / "run", tmp_path / f"out.{extension}"
    data = ["--data", str(case("base"))]
    train = ["train", str(tmp_path / "recipe.toml"), *data, "--out", str(run), "--quiet"]
    assert main(train) == 0
    source = case("N-01") / "new.jsonl"
    predict = ["predict", str(run), "--task", "mood", "--input", str(source)]
    assert main([*predict, "--output", str(output)]) == 0
    if extension == "jsonl":
        found = [json.loads(line) for line in output.read_text().splitlines()]
    elif extension == "csv":
        with output.open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
    else:
        found = pyarrow.parquet.read_table(output).to_pylist()
    given = [json.loads(line) for line in source.read_text().splitlines()]
    assert [row["review"] for row in found] == [row["review"] for row in given]
    half = given[0]["author"]
    if extension != "jsonl":
        half = half[:-1] + chr(0xFFFD)
    assert [row["author"] for row in found] == [half, given[1]["author"], given[2]["author"]]
    assert all(row["prediction"] for row in found)
