"""`comity predict`: standard input and output, options, and what is printed."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from tests.helpers import two_tasks, write_csv, write_jsonl, write_two_tasks

from comity.cli.main import main
from comity.training.train import train


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory) -> Path:
    """A run of two tasks."""
    folder = tmp_path_factory.mktemp("predict")
    write_two_tasks(folder / "data")
    train(two_tasks(tiny_checkpoint), folder / "data", folder / "run")
    return folder / "run"


def predict(capfd, run: Path, *arguments: object) -> tuple[int, str, str]:
    code = main(["predict", str(run), *map(str, arguments)])
    return code, *capfd.readouterr()


def test_all_tasks_that_the_file_has_columns_for(capfd, run, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["text", "a"], [("good", "x"), ("bad", "y")])
    output = tmp_path / "new" / "out.json"
    code, out, err = predict(capfd, run, "--input", source, "--output", output)
    assert code == 0
    assert out == f"{output}: 2 rows written\n"
    assert err == (
        f'note: alike is skipped: {source} has no column "b"; to predict it, use --task alike '
        "--text COLUMN COLUMN\n"
    )
    keys = ["text", "a", "mood_prediction", "mood_p_down", "mood_p_up"]
    assert [list(row) for row in json.loads(output.read_text())] == [keys] * 2


def test_a_pair_of_text_columns(capfd, run, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["one", "two"], [("a cat", "a dog")])
    output = tmp_path / "out.csv"
    for text in (["--text", "one", "two"], ["--text", "one", "--text", "two"]):
        command = ["--input", source, "--output", output, "--overwrite", *text]
        code, _, err = predict(capfd, run, *command)
        assert code == 0 and err == (
            "note: mood is skipped: it reads one text, but --text names 2; to predict it, use "
            "--task mood --text COLUMN\n"
        )
        with output.open(newline="") as file:
            assert next(csv.DictReader(file)).keys() == {"one", "two", "alike_prediction"}


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"x,y\n1,2\n", [], ["name the column with --text, or use --no-header if"]),
        (b'x,text\n1,"a\n2,b\n', [], ["or use --no-quoting to read quotes as text"]),
        (b"text\ncr\xe8me\n", [], ["or set --encoding (often"]),
        ("text\nok\n".encode("utf-16-le"), [], ['set --encoding "utf-16-le" or save']),
        (b'x,text\n1,"a\n2,b\n', ["--no-quoting"], []),
    ],
)
def test_errors_name_options_instead_of_keys(capfd, run, tmp_path, content, arguments, words):
    (tmp_path / "in.csv").write_bytes(content)
    options = ["--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv", "--task", "mood"]
    code, _, err = predict(capfd, run, *options, *arguments)
    assert code == (2 if words else 0), err
    assert all(word in err for word in words), err
    assert not re.search("set (header|quoting|encoding|delimiter)", err)


def test_the_result_as_json(capfd, run, tmp_path):
    rows = [{"text": "word " * 2000}, {"text": ""}, {"text": "CrÃ¨me"}]
    source, output = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    code, out, err = predict(
        capfd, run, "--task", "mood", "--input", source, "--output", output, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["rows"], found["truncated"], found["empty"]) == (3, {"mood": 1}, 1)
    assert found["columns"] == {"mood": ["prediction", "p_down", "p_up"]}
    assert found["reading"]["format"] == "json lines" and len(found["notes"]) == 3


def test_an_existing_file_is_not_replaced(capfd, run, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]])
    output = tmp_path / "out.csv"
    output.write_text("precious")
    code, _, err = predict(capfd, run, "--input", source, "--output", output)
    assert code == 2 and "--overwrite" in err and output.read_text() == "precious"


# --- standard input and output --------------------------------------------------------------------


@pytest.fixture
def piped(capfd, run, monkeypatch):
    """Runs predict with bytes as standard input; returns code, output in bytes, and errors."""

    def call(content: bytes, *arguments: object) -> tuple[int, bytes, str]:
        out = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out))
            code = main(["predict", str(run), *map(str, arguments)])
            sys.stdout.flush()
            written = out.getvalue()
        return code, written, capfd.readouterr().err

    return call


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_standard_input_to_standard_output(piped, format):
    content = b"text\ngood\nbad\n"
    options = ["--input-format", "csv", "--format", format]
    code, out, err = piped(content, "--input", "-", "--output", "-", *options)
    assert code == 0
    assert err.splitlines()[-1] == "2 rows written" and "/tmp" not in err
    if format == "parquet":
        rows = pyarrow.parquet.read_table(io.BytesIO(out)).to_pylist()
    elif format == "json":
        rows = json.loads(out)
    elif format == "jsonl":
        rows = [json.loads(line) for line in out.splitlines()]
    else:
        delimiter = "," if format == "csv" else "\t"
        rows = list(csv.DictReader(io.StringIO(out.decode(), newline=""), delimiter=delimiter))
    assert [row["text"] for row in rows] == ["good", "bad"]
    assert {row["mood_prediction"] for row in rows} <= {"up", "down"}


def test_one_format_for_both(piped):
    code, out, _ = piped(
        b'{"text": "good"}\n', "--input", "-", "--output", "-", "--format", "jsonl"
    )
    assert code == 0 and json.loads(out)["text"] == "good"


def test_errors_name_standard_input(piped, tmp_path):
    options = ["--input-format", "jsonl", "--output", tmp_path / "out.csv", "--task", "mood"]
    code, out, err = piped(b'{"text": "good"}\n{"text": ["x"]}\n', "--input", "-", *options)
    assert (code, out) == (2, b"")
    assert err.startswith("error: standard input:2: the text is a list")
    code, _, err = piped(b"", "--input", "-", *options)
    assert code == 2 and err.startswith("error: standard input: the file is empty")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "given", "needed"),
    [
        (b"text\ngood\n", "jsonl", "csv"),
        (b'{"text": "good"}\n', "csv", "jsonl"),
        (b"PAR1\0\0PAR1", "csv", "parquet"),
    ],
)
def test_standard_input_in_another_format_is_not_to_be_renamed(piped, content, given, needed):
    options = ["--input-format", given, "--output", "-", "--format", "csv", "--task", "mood"]
    code, out, err = piped(content, "--input", "-", *options)
    assert (code, out) == (2, b"")
    assert f"use --input-format {needed}" in err and "rename" not in err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_folder_that_cannot_be_written_to(capfd, run, tmp_path, as_json):
    source = write_csv(tmp_path / "in.csv", ["text"], [("good",)])
    options = ["--input", source, "--output", "/proc/out.csv", *["--json"] * as_json]
    code, out, err = predict(capfd, run, *options)
    message = "/proc/out.csv: cannot be written (No such file or directory)"
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {message}") and ".part" not in err
    if as_json:
        assert json.loads(out)["errors"][0].startswith(message)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "-", "--output", "o.csv"], "--input-format"),
        (["--input", "i.csv", "--output", "-"], "--format"),
        (["--input", "i.csv", "--output", "-", "--format", "csv", "--json"], "--json"),
        (["--input", "-", "--output", "-", "--format", "cs224n"], "--input-format"),
    ],
)
def test_standard_streams_need_a_format(capfd, run, arguments, words):
    code, out, err = predict(capfd, run, *arguments)
    assert code == 2 and words in err
    assert list(json.loads(out)) == ["errors"] if "--json" in arguments else out == ""
