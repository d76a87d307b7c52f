"""Predicting a file: how often it is read, and columns that the task does not use."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tests.helpers import write_csv, write_jsonl

from comity.errors import ComityError
from comity.inference.model import Prediction
from comity.inference.predict_file import predict_file
from comity.recipe.recipe import Recipe
from comity.targets import Target


class FixedModel:
    """Predicts "up" for each text that contains "good", without any network."""

    def section(self, task: str) -> Any:
        keys = {"kind": "classification", "train": "t.csv", "dev": "d.csv"}
        keys |= {"text": "text", "label": "mood"}
        return Recipe.from_dict({"tasks": {task: keys}}).tasks[task]

    def target(self, task: str) -> Target:
        return Target("classification", "linear", classes=("down", "up"))

    def text_count(self, task: str) -> int:
        return 1

    def predict(self, task: str, texts: Sequence[tuple[str, ...]]) -> list[Prediction]:
        up = [float("good" in text) for (text,) in texts]
        return [Prediction("up" if p else "down", {"down": 1 - p, "up": p}) for p in up]


MODEL: Any = FixedModel()


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_delimited_file_is_opened_at_most_three_times(tmp_path, monkeypatch):
    rows = [(1, 'a "good" day\n, or two', "x"), (2, "a bad day", ""), (3, "good", "y")]
    source = write_csv(tmp_path / "in.csv", ["id", "text", "note"], rows)
    opens: Counter[str] = Counter()
    real = io.open

    def counted(file: Any, *args: Any, **keys: Any) -> Any:
        opens[str(file)] += 1
        return real(file, *args, **keys)

    monkeypatch.setattr("io.open", counted)
    monkeypatch.setattr("builtins.open", counted)
    assert predict_file(MODEL, source, tmp_path / "out.csv").rows == 3
    assert 1 <= opens[str(source)] <= 3
    found = read_back(tmp_path / "out.csv")
    assert [(row["id"], row["text"], row["note"]) for row in found] == [
        (str(number), text, note) for number, text, note in rows
    ]
    assert [row["prediction"] for row in found] == ["up", "down", "up"]


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_half_a_surrogate_pair_in_another_column(tmp_path, extension):
    # json.dumps writes the half as an escape, as JSON allows.
    rows = [{"author": "mira \ud83d", "text": "good"}, {"author": "ines 🙂", "text": "bad"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    output = tmp_path / f"out{extension}"
    assert predict_file(MODEL, source, output).rows == 2
    found = read_back(output)
    half = chr(0xD83D if extension == ".jsonl" else 0xFFFD)
    assert [row["author"] for row in found] == [f"mira {half}", "ines 🙂"]
    assert [row["prediction"] for row in found] == ["up", "down"]


def test_all_errors_of_a_file_are_reported_and_no_output_is_left(tmp_path):
    rows = [{"text": "good"}, {"text": ["a"]}, {"text": {"b": 1}}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(ComityError) as caught:
        predict_file(MODEL, source, tmp_path / "out.jsonl")
    assert [message.split(": ")[0] for message in caught.value.messages] == [
        f"{source}:2",
        f"{source}:3",
    ]
    assert list(tmp_path.iterdir()) == [source]


def test_the_leaderboard_format_needs_an_id_in_every_row(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": 7, "text": "good"}, {"text": "bad"}])
    output = tmp_path / "out.csv"
    with pytest.raises(ComityError, match=r"in\.jsonl:2: .* id"):
        predict_file(MODEL, "mood", source, output, format="cs224n")
    write_jsonl(source, [{"id": 7, "text": "good"}, {"id": "x", "text": "bad"}])
    assert predict_file(MODEL, "mood", source, output, format="cs224n") == 2
    assert output.read_text() == "id, Predicted_Sentiment\n7, up\nx, down\n"
