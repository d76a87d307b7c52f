"""Cases of tables that go out: columns that are only copied, formulas, and very long texts."""

import csv
import json
import os
import runpy
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from comity.cli.main import main
from comity.errors import ErrorList
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat


@pytest.fixture(scope="module")
def run(shared, tiny_checkpoint, tmp_path_factory) -> Path:
    """A run of the cases' own recipe."""
    folder, data = tmp_path_factory.mktemp("run"), shared / "cases" / "files" / "base"
    recipe = tomllib.loads((data / "recipe.toml").read_text())
    recipe["encoder"] = {"name": str(tiny_checkpoint)}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    command = ["train", str(folder / "recipe.toml"), "--data", str(data), "--quiet"]
    assert main([*command, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def case(shared) -> Callable[[str], Path]:
    """The folder of a case."""
    return lambda name: shared / "cases" / "files" / name


def predict(run: Path, source: Path, output: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of the output, read by another library."""
    command = ["predict", str(run), "--input", str(source), "--output", str(output)]
    assert main([*command, *options]) == 0
    if output.suffix == ".parquet":
        return pq.read_table(output).to_pylist() if "N-02" not in str(source) else []
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text().splitlines()]
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


FILES = ["nanoseconds", "duration", "time-of-day", "year-9999", "microseconds", "many-types"]


@pytest.mark.parametrize("name", FILES)
def test_n_02_parquet_types_that_python_cannot_hold(case, run, tmp_path, name):
    source = case("N-02") / f"{name}.parquet"
    given = pq.read_table(source)
    predict(run, source, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(given.column_names).equals(given)
    assert found.column("prediction").null_count == 0
    for extension in ("csv", "jsonl"):
        rows = predict(run, source, tmp_path / f"out.{extension}")
        assert [row["review"] for row in rows] == given.column("review").to_pylist()
        if name == "nanoseconds":
            read = [np.datetime64(row["posted"], "ns").astype(int) for row in rows[:2]]
            assert read == given.column("posted").cast(pa.int64()).to_pylist()[:2]
            assert not rows[2]["posted"]
        if name == "duration":
            assert [row["took"] for row in rows[:2]] == ["PT0.000000005S", "PT0.0000015S"]
        if name == "many-types":
            assert [row["price"] for row in rows[:2]] == ["1.50", "20.00"]
            assert [float(row["half"]) for row in rows[::2]] == [
                0.1,
                2.5,
            ]  # float32, not 0.10000000149
            assert rows[0]["raw"] == "0x00ff"


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_n_06_a_quoted_text_of_more_than_a_million_characters(
    case, tiny_checkpoint, tmp_path, capsys
):
    for name in ("make_big.py", "dev.csv"):
        shutil.copy(case("N-06") / name, tmp_path / name)
    with working_in(tmp_path):
        runpy.run_path("make_big.py")
    table = open_table(tmp_path / "big.csv", TableFormat(), ["document"])
    errors = ErrorList()
    lengths = [len(str(row.values[0])) for row in table.rows(errors)]
    errors.check()
    assert lengths == [28, 1_164_889, 19]
    recipe = tomllib.loads((case("N-06") / "recipe.toml").read_text())
    recipe["encoder"] = {"name": str(tiny_checkpoint)}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe))
    assert main(["check", str(tmp_path / "recipe.toml"), "--json"]) == 0
    train = json.loads(capsys.readouterr().out)["tasks"]["paper"]["train"]
    assert (train["rows"], train["truncated"]) == (3, 1)


def test_ex_05_texts_that_a_spreadsheet_would_run(case, run, tmp_path):
    source = case("EX-05") / "formula.jsonl"
    expect = json.loads((case("EX-05") / "expected.json").read_text())["expect"]
    texts = [json.loads(line)["text"] for line in source.read_text("utf-8").splitlines()]
    found = predict(run, source, tmp_path / "out.csv", "--text", "text")
    for number, (row, text) in enumerate(zip(found, texts, strict=True)):
        protected = number in expect["rows_to_protect"]
        assert row["text"] == ("'" + text if protected else text)
        assert number in expect["rows_to_protect"] + expect["rows_unchanged"] + [9]
    rows = open_table(tmp_path / "out.csv", TableFormat(), ["text"]).rows(ErrorList())
    assert [row.values[0] for row in rows] == texts
    raw = predict(run, source, tmp_path / "raw.csv", "--text", "text", "--raw-csv")
    assert [row["text"] for row in raw] == texts
    for extension in ("jsonl", "parquet"):
        kept = predict(run, source, tmp_path / f"out.{extension}", "--text", "text")
        assert [row["text"] for row in kept] == texts
