"""Predicting a file: which tasks and columns, what is copied to each format, what is refused."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.helpers import write_csv, write_jsonl

from comity.errors import ComityError, ErrorList
from comity.inference.predict_file import PredictOptions, PredictReport, predict_file
from comity.inference.prediction import Prediction
from comity.recipe.recipe import Recipe
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat
from comity.targets import Target

MOOD = {"kind": "classification", "train": "t.csv", "dev": "d.csv", "text": "text", "label": "mood"}
ALIKE = {"kind": "similarity", "train": "t.csv", "dev": "d.csv", "texts": ["a", "b"], "label": "s"}


class FixedModel:
    """Predicts "up" or 5 where all texts contain "good", without any network."""

    def __init__(self, **tasks: dict[str, Any]):
        self.recipe = Recipe.from_dict({"tasks": tasks})
        self.encoded: list[tuple[int, list[str]]] = []  # rows and tasks of each call

    @property
    def tasks(self) -> list[str]:
        return list(self.recipe.tasks)

    def section(self, task: str) -> Any:
        return self.recipe.tasks[task]

    def target(self, task: str) -> Target:
        if self.section(task).kind == "classification":
            return Target("classification", "linear", classes=("down", "up"))
        return Target("similarity", "regression", scale=(0.0, 5.0), mean=0.0, deviation=1.0)

    def text_count(self, task: str) -> int:
        return len(self.section(task).text_columns)

    def count_truncated(self, task: str, texts: Sequence[tuple[str, ...]]) -> int:
        return sum(len(" ".join(row).split()) > 100 for row in texts)

    def predict_all(
        self, texts: Sequence[tuple[str, ...]], tasks: Sequence[str]
    ) -> dict[str, list[Prediction]]:
        self.encoded.append((len(texts), list(tasks)))
        assert all(len(row) == self.text_count(task) for task in tasks for row in texts)
        up = [float(all("good" in text for text in row)) for row in texts]
        named = [Prediction("up" if p else "down", {"down": 1 - p, "up": p}) for p in up]
        scores = [Prediction(5 * p, {}, clipped=p == 1) for p in up]
        is_named = {task: self.section(task).kind == "classification" for task in tasks}
        return {task: named if is_named[task] else scores for task in tasks}


def predict(source: Path, output: Path, model: Any = None, **options: Any) -> PredictReport:
    fixed: Any = model or FixedModel(mood=MOOD)
    return predict_file(fixed, source, output, PredictOptions(**options))


def read_back(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, read by another library."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


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
    assert predict(source, tmp_path / "out.csv").rows == 3
    assert 1 <= opens[str(source)] <= 3
    found = read_back(tmp_path / "out.csv")
    assert [(row["id"], row["text"], row["note"]) for row in found] == [
        (str(number), text, note) for number, text, note in rows
    ]
    assert [row["prediction"] for row in found] == ["up", "down", "up"]


def test_parquet_in_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with (folder / "in.parquet").open("wb") as file:
        pq.write_table(pa.table({"text": ["good", "bad"]}), file)
    assert predict(folder / "in.parquet", folder / "out.parquet").rows == 2
    with (folder / "out.parquet").open("rb") as file:
        assert pq.read_table(file)["prediction"].to_pylist() == ["up", "down"]


# --- columns that are only copied -----------------------------------------------------------------


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".json", ".parquet"])
def test_half_a_surrogate_pair_in_another_column(tmp_path, extension):
    # json.dumps writes the half as an escape, as JSON allows.
    rows = [{"author": "mira \ud83d", "text": "good"}, {"author": "ines 🙂", "text": "bad"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    output = tmp_path / f"out{extension}"
    assert predict(source, output).rows == 2
    found = read_back(output)
    half = chr(0xD83D if extension in (".jsonl", ".json") else 0xFFFD)
    assert [row["author"] for row in found] == [f"mira {half}", "ines 🙂"]
    assert [row["prediction"] for row in found] == ["up", "down"]


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_half_a_surrogate_pair_in_the_names_of_columns(tmp_path, extension):
    row = {"a\ud83d": "x", f"a{chr(0xD83E)}": "y", "text": "good"}
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    output = tmp_path / f"out{extension}"
    predict(source, output)
    (row,) = read_back(output)
    names = ["a\ud83d", "a\ud83e"] if extension == ".jsonl" else ["a\ufffd", "a\ufffd_"]
    assert [row[name] for name in names] == ["x", "y"]


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from("=+-@'\t\r\n\",")
)
BIG = st.integers(-(2**70), 2**70) | st.sampled_from([2**53 + 1, 2**63, 2**64 - 1, -(2**63)])
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | BIG | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
quick = settings(max_examples=60)
OUTPUTS = st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"])


@given(
    rows=st.lists(st.tuples(JSON_VALUE, JSON_VALUE), min_size=1, max_size=4),
    to=OUTPUTS,
    source=st.sampled_from([".jsonl", ".json"]),
)
@quick
def test_other_readers_read_copied_json_values(tmp_path_factory, rows, to, source):
    folder = tmp_path_factory.mktemp("json")
    items = [{"text": "good", "one": one, "two": two} for one, two in rows]
    if source == ".json":
        (folder / "in.json").write_text(json.dumps(items, indent=1), encoding="utf-8")
    else:
        write_jsonl(folder / "in.jsonl", items)
    predict(folder / f"in{source}", folder / f"out{to}", raw_csv=True)
    found = read_back(folder / f"out{to}")
    assert [row["prediction"] for row in found] == ["up"] * len(items)
    for name in ("one", "two"):
        wanted = [item[name] for item in items]
        got = [row[name] for row in found]
        if to in (".jsonl", ".json"):
            assert json.dumps(got) == json.dumps(wanted)  # 1 and 1.0 and true differ
        elif to == ".parquet" and not any(isinstance(v, str) for v in got):
            assert got == wanted  # numbers, true and false have a type
        else:
            for cell, value in zip(got, wanted, strict=True):
                if value is None:
                    assert not cell
                elif isinstance(value, str):
                    assert cell == value
                else:
                    assert json.loads(cell) == value


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), to=OUTPUTS)
@quick
def test_other_readers_read_copied_cells_of_csv(tmp_path_factory, rows, to):
    folder = tmp_path_factory.mktemp("csv")
    # Our reader removes an apostrophe that protects spreadsheets; see the tests of the reader.
    rows = [[re.sub(r"\A'+", "", cell) for cell in row] for row in rows]
    source = write_csv(folder / "in.csv", ["text", "one", "two"], [("good", *row) for row in rows])
    predict(source, folder / f"out{to}", raw_csv=True, quoting=True, delimiter=",")
    found = read_back(folder / f"out{to}")
    assert [[row["one"], row["two"]] for row in found] == rows


SECONDS = st.integers(-(2**33), 2**33)
ARROW = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "bool": (pa.bool_(), st.booleans()),
    "float64": (pa.float64(), FLOAT),
    "decimal": (pa.decimal128(30, 4), st.decimals(-(10**20), 10**20, places=4)),
    "string": (pa.string(), TEXT),
    "large_string": (pa.large_string(), TEXT),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), TEXT),
    "binary": (pa.binary(), st.binary(max_size=4)),
    "nanoseconds": (pa.timestamp("ns", "UTC"), st.integers(-(2**63) + 1, 2**63 - 1)),
    "years": (pa.timestamp("us"), st.integers(-(10**17), 10**18)),
    "time": (pa.time64("ns"), st.integers(0, 86_400 * 10**9 - 1)),
    "duration": (pa.duration("ns"), st.integers(-(2**62), 2**62)),
    "date": (pa.date32(), st.integers(-700_000, 3_000_000)),
    "list": (pa.list_(pa.timestamp("ns")), st.lists(SECONDS, max_size=3)),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.duration("ns"))]),
        st.fixed_dictionaries({"a": st.none() | SECONDS, "b": st.none() | SECONDS}),
    ),
    "map": (
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(TEXT, SECONDS, max_size=2).map(lambda d: list(d.items())),
    ),
}


@st.composite
def arrow_tables(draw: st.DrawFn) -> pa.Table:
    """A table with a text column and columns of several types."""
    count = draw(st.integers(1, 4))
    columns: dict[str, Any] = {"text": ["good"] * count}
    for name in draw(st.lists(st.sampled_from(sorted(ARROW)), unique=True, min_size=1, max_size=5)):
        kind, values = ARROW[name]
        columns[name] = pa.array(
            draw(st.lists(st.none() | values, min_size=count, max_size=count)), kind
        )
    return pa.table(columns)


@example(
    table=pa.table({"text": ["good"], "years": pa.array([971890963200000000], pa.timestamp("us"))}),
    to=".csv",
    group=1,
)  # the year 32767 is the last that Arrow prints
@given(table=arrow_tables(), to=OUTPUTS, group=st.integers(1, 3))
@quick
def test_other_readers_read_copied_columns_of_parquet(tmp_path_factory, table, to, group):
    folder = tmp_path_factory.mktemp("parquet")
    pq.write_table(table, folder / "in.parquet", row_group_size=group)
    table = pq.read_table(folder / "in.parquet")
    predict(folder / "in.parquet", folder / f"out{to}", raw_csv=True)
    if to == ".parquet":
        found = pq.read_table(folder / "out.parquet").select(table.column_names)
        assert found.equals(table) and found.schema.equals(table.schema)
        return
    found = read_back(folder / f"out{to}")
    for name in table.column_names[1:]:
        column = table.column(name)
        got = [row[name] for row in found]
        absent = column.is_null().to_pylist()
        assert [not value for value, null in zip(got, absent, strict=True) if null] == [True] * sum(
            absent
        )
        kept = [value for value, null in zip(got, absent, strict=True) if not null]
        assert_equal_texts(kept, column.drop_null(), is_json=to in (".json", ".jsonl"))


def assert_equal_texts(got: list[Any], column: Any, is_json: bool) -> None:
    """Values of JSON, or cells, mean the values of an Arrow column."""
    kind = column.type
    types = pa.types
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind):
        values = got if is_json else [json.loads(cell) for cell in got]
        assert values == column.to_pylist()
    elif types.is_decimal(kind):
        assert [Decimal(value) for value in got] == column.to_pylist()
    elif types.is_timestamp(kind) or types.is_date(kind):
        unit = "D" if types.is_date(kind) else kind.unit
        read = [np.datetime64(text.removesuffix("Z"), unit).astype(int) for text in got]
        assert read == column.cast(pa.int32() if unit == "D" else pa.int64()).to_pylist()
    elif types.is_time(kind):
        read = [[Decimal(part) for part in text.split(":")] for text in got]
        found = [int(10**9 * (3600 * hour + 60 * minute + second)) for hour, minute, second in read]
        assert found == column.cast(pa.int64()).to_pylist()
    elif types.is_duration(kind):
        assert [seconds(value) for value in got] == column.cast(pa.int64()).to_pylist()
    elif types.is_binary(kind):
        for text, value in zip(got, column.to_pylist(), strict=True):
            is_hex = text.startswith("0x") and bytes.fromhex(text[2:]) == value
            assert is_hex or text.encode() == value
    elif types.is_nested(kind):
        values = got if is_json else [json.loads(cell) for cell in got]
        assert [len(value) for value in values] == [len(value) for value in column]
        if types.is_struct(kind):
            whole = [value["a"] for value in values]
            assert whole == column.combine_chunks().field("a").to_pylist()
    else:
        assert got == column.cast(pa.string()).to_pylist()


def seconds(duration: str) -> int:
    """The nanoseconds of an ISO 8601 duration in seconds."""
    sign, number = re.fullmatch(r"(-?)PT([0-9.]+)S", duration).groups()  # type: ignore[union-attr]
    return int(Decimal(sign + number) * 10**9)


def test_pandas_reads_its_own_parquet_file_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"text": ["good", "bad"], "when": pandas.to_datetime([1700000000123456789, None])},
        index=pandas.Index([7, 3], name="id"),
    )
    frame.to_parquet(tmp_path / "in.parquet")
    predict(tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pandas.read_parquet(tmp_path / "out.parquet")
    pandas.testing.assert_frame_equal(found[["text", "when"]], frame)
    assert found["prediction"].tolist() == ["up", "down"]


def test_pandas_reads_csv_and_json_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [{"id": "007", "text": 'a "good"\nday, really', "n": 2**60 + 1}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    for name in ("out.csv", "out.json"):
        predict(source, tmp_path / name)
    found = pandas.read_csv(tmp_path / "out.csv", dtype={"id": str})
    assert found[["id", "text", "n"]].to_dict("records") == rows
    found = pandas.read_json(tmp_path / "out.json", dtype=False)
    assert found[["id", "text", "n"]].to_dict("records") == rows


def test_ids_keep_their_type_and_digits(tmp_path):
    rows = '{"id": 9007199254740993, "x": 1.50, "text": "good"}\n{"id": 7, "text": "bad"}\n'
    (tmp_path / "in.jsonl").write_text(rows)
    for extension in (".jsonl", ".csv", ".parquet"):
        predict(tmp_path / "in.jsonl", tmp_path / f"out{extension}")
    assert '"id": 9007199254740993, "x": 1.50,' in (tmp_path / "out.jsonl").read_text()
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("9007199254740993,1.50,")
    assert pq.read_table(tmp_path / "out.parquet").column("id").to_pylist() == [2**53 + 1, 7]
    source = write_csv(tmp_path / "in.csv", ["id", "text"], [("007", "good")])
    for extension in (".json", ".parquet"):
        predict(source, tmp_path / f"zeros{extension}")
        assert read_back(tmp_path / f"zeros{extension}")[0]["id"] == "007"


def test_columns_of_one_name_are_all_kept(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array([1]), pa.array(["good"]), pa.array([2])], ["n", "text", "n"]
    )
    pq.write_table(table, tmp_path / "in.parquet")
    for extension in (".parquet", ".jsonl"):
        predict(tmp_path / "in.parquet", tmp_path / f"out{extension}")
        assert read_back(tmp_path / f"out{extension}")[0].items() >= {"n": 1, "n_": 2}.items()


def test_values_that_are_not_json_and_repeated_keys_are_copied(tmp_path):
    line = '{"text": "good", "x": NaN, "y": [-Infinity, 1], "z": 1, "z": 2}\n'
    (tmp_path / "in.jsonl").write_text(line)
    predict(tmp_path / "in.jsonl", tmp_path / "out.json")

    def refused(name: str) -> None:
        raise AssertionError(name)

    (row,) = json.loads((tmp_path / "out.json").read_text(), parse_constant=refused)
    assert (row["x"], row["y"], row["z"]) == (None, ["-Infinity", 1], 2)


# --- cells that a spreadsheet would run -----------------------------------------------------------

CELLS = ["=1+2", "+44 is", "-5 degrees", "@home", "\t=2", "\rx", "=", "-"]
SAFE = ["plain", "'quoted", "a=b", "-5", "+4.5e-3", "-3,5", "", "'", "＝1", "-0.25"]


@pytest.mark.parametrize("extension", [".csv", ".tsv"])
def test_formulas_are_protected_and_read_back(tmp_path, extension):
    texts = [*CELLS, *SAFE, *("'" + cell for cell in CELLS), "''=1"]
    source = write_jsonl(tmp_path / "in.jsonl", [{"=n": text, "text": text} for text in texts])
    output = tmp_path / f"out{extension}"
    predict(source, output)
    found = read_back(output)
    marked = {*CELLS, *("'" + cell for cell in CELLS), "''=1"}
    for row, text in zip(found, texts, strict=True):
        assert row["text"] == row["'=n"] == ("'" + text if text in marked else text)
    table = open_table(output, TableFormat(quoting=True), ["text", "=n"])
    errors = ErrorList()
    assert [row.values for row in table.rows(errors)] == [(text, text) for text in texts]
    errors.check()
    predict(source, output, raw_csv=True, overwrite=True)
    assert [row["text"] for row in read_back(output)] == texts


@pytest.mark.parametrize("extension", [".jsonl", ".json", ".parquet"])
def test_formulas_in_other_formats_are_left_alone(tmp_path, extension):
    source = write_jsonl(tmp_path / "in.jsonl", [{"=n": text, "text": text} for text in CELLS])
    predict(source, tmp_path / f"out{extension}")
    found = read_back(tmp_path / f"out{extension}")
    assert [(row["=n"], row["text"]) for row in found] == [(text, text) for text in CELLS]


# --- tasks and columns ----------------------------------------------------------------------------


def three_tasks() -> Any:
    return FixedModel(mood=MOOD, topic={**MOOD, "label": "topic"}, alike=ALIKE)


def test_all_tasks_at_once_share_the_encoder(tmp_path):
    rows = [{"text": "good", "a": "good", "b": "good"}, {"text": "bad", "a": "good", "b": "x"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    model = three_tasks()
    report = predict(source, tmp_path / "out.jsonl", model)
    found = read_back(tmp_path / "out.jsonl")
    assert [row["mood_prediction"] for row in found] == ["up", "down"]
    assert [row["topic_p_up"] for row in found] == [1.0, 0.0]
    assert [row["alike_prediction"] for row in found] == [5.0, 0.0]
    assert model.encoded == [(2, ["mood", "topic"]), (2, ["alike"])]
    assert report.columns["alike"] == ["alike_prediction"] and report.skipped == {}


def test_tasks_whose_columns_are_missing_are_named(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]])
    report = predict(source, tmp_path / "out.csv", three_tasks())
    assert list(report.columns) == ["mood", "topic"]
    assert report.notes == [
        f'alike is skipped: {source} has no columns "a" and "b"; to predict it, use --task alike '
        "--text COLUMN COLUMN"
    ]
    assert list(report.skipped) == ["alike"]
    for extension in (".csv", ".jsonl", ".parquet"):
        other = tmp_path / f"other{extension}"
        if extension == ".csv":
            write_csv(other, ["x"], [["good"]])
        elif extension == ".jsonl":
            write_jsonl(other, [{"x": "good"}])
        else:
            pq.write_table(pa.table({"x": ["good"]}), other)
        with pytest.raises(ComityError) as caught:
            predict(other, tmp_path / "none.csv", three_tasks())
        words = ("text", "a", "b")
        assert len(caught.value.messages) == 3
        for word, message in zip(words, caught.value.messages, strict=True):
            assert f'no column "{word}"' in message


def test_a_task_whose_column_is_there_twice_is_skipped(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["a", "b", "text", "text"], [["x", "y", "p", "q"]])
    report = predict(source, tmp_path / "out.csv", three_tasks())
    assert list(report.columns) == ["alike"]
    assert report.skipped["mood"].startswith(f'{source}:1: "text" occurs 2 times in the header')


def test_the_only_task_needs_no_name_and_no_prefix(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["text"], [["good"]])
    assert predict(source, tmp_path / "a.csv").columns == {"mood": ["prediction", "p_down", "p_up"]}
    report = predict(source, tmp_path / "b.csv", three_tasks(), task="mood")
    assert report.columns == {"mood": ["prediction", "p_down", "p_up"]}


def test_text_columns_of_the_file(tmp_path):
    source = write_csv(tmp_path / "in.csv", ["review", "other"], [["good", "good"], ["bad", "x"]])
    report = predict(source, tmp_path / "a.csv", three_tasks(), text=["review"])
    assert list(report.columns) == ["mood", "topic"]
    assert "two texts" in report.skipped["alike"]
    report = predict(source, tmp_path / "b.csv", three_tasks(), text=["review", "other"])
    assert [row["alike_prediction"] for row in read_back(tmp_path / "b.csv")] == ["5.0", "0.0"]
    with pytest.raises(ComityError, match="reads one text, but --text names 2"):
        predict(source, tmp_path / "c.csv", three_tasks(), task="mood", text=["review", "other"])
    with pytest.raises(ComityError, match=r'no column "reviw" .* did you mean "review"'):
        predict(source, tmp_path / "c.csv", three_tasks(), task="mood", text=["reviw"])
    rows_only = tmp_path / "rows.csv"
    rows_only.write_text("good,1\nbad,2\n")
    predict(rows_only, tmp_path / "d.csv", text=["0"], header=False)
    assert [row["prediction"] for row in read_back(tmp_path / "d.csv")] == ["up", "down"]


def test_how_the_file_is_read(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes("text;n\ncrème, good;1\n".encode("cp1252"))
    with pytest.raises(ComityError, match="0xE8"):
        predict(source, tmp_path / "out.json")
    predict(source, tmp_path / "out.json", encoding="cp1252", delimiter=";")
    assert read_back(tmp_path / "out.json")[0]["text"] == "crème, good"
    with pytest.raises(ComityError, match=r"--delimiter has no effect on .*in\.jsonl"):
        predict(
            write_jsonl(tmp_path / "in.jsonl", [{"text": "x"}]), tmp_path / "o.csv", delimiter=";"
        )
    # The recipe's settings hold where all tasks agree on them, and options come first.
    model: Any = FixedModel(mood={**MOOD, "delimiter": "tab"})
    with pytest.raises(ComityError, match='no column "text"'):
        predict(source, tmp_path / "o.csv", model, encoding="cp1252")
    predict(source, tmp_path / "o.csv", model, encoding="cp1252", delimiter=";")
    model = FixedModel(mood={**MOOD, "delimiter": "tab"}, topic={**MOOD, "label": "topic"})
    report = predict(source, tmp_path / "p.csv", model, encoding="cp1252")
    assert report.reading["delimiter"] == ";"


def test_a_file_for_one_task_is_read_with_the_format_of_this_task(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes("a;b\ncrème, good;good\n".encode("cp1252"))
    tab = {**MOOD, "delimiter": "tab", "encoding": "utf-8"}
    model: Any = FixedModel(mood=tab, alike={**ALIKE, "encoding": "cp1252"})
    report = predict(source, tmp_path / "out.json", model)
    assert list(report.columns) == ["alike"] and 'no column "text"' in report.skipped["mood"]
    assert read_back(tmp_path / "out.json")[0]["a"] == "crème, good"
    # Of two tasks that read the file with their own format, no one decides.
    model = FixedModel(mood={**MOOD, "encoding": "cp1252"}, alike=ALIKE)
    both = tmp_path / "both.csv"
    both.write_text("text,a,b\ncrème,x,y\n", encoding="utf-8")
    report = predict(both, tmp_path / "both.json", model)
    assert list(report.columns) == ["mood", "alike"]
    assert read_back(tmp_path / "both.json")[0]["text"] == "crème"
    # A file that no task can read is an error that says why.
    model = FixedModel(mood=MOOD, alike={**ALIKE, "encoding": "ascii"})
    with pytest.raises(ComityError, match="0xE8"):
        predict(source, tmp_path / "none.json", model)


def test_what_is_counted(tmp_path):
    texts = ["word " * 101, "good", "", "a \0 byte", "CrÃ¨me brÃ»lÃ©e"]
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    report = predict(source, tmp_path / "out.jsonl")
    assert (report.rows, report.truncated, report.empty) == (5, {"mood": 1}, 1)
    words = [
        "empty text (first: line 3)",
        "1 row cut to the max_length of mood",
        "zero byte",
        "CrÃ¨me",
    ]
    assert len(report.notes) == len(words)
    for word, note in zip(words, report.notes, strict=True):
        assert word in note


def test_clipped_scores_are_counted(tmp_path: Path):
    source = write_csv(tmp_path / "in.csv", ["a", "b"], [["good", "good"], ["good", "bad"]])
    report = predict(source, tmp_path / "out.csv", FixedModel(alike=ALIKE))
    assert report.clipped == {"alike": 1}
    assert "1 score of alike beyond its scale, clipped to its end" in report.notes


# --- what is refused ------------------------------------------------------------------------------


def test_all_errors_of_a_file_are_reported_and_no_output_is_left(tmp_path):
    rows = [{"text": "good"}, {"text": ["a"]}, {"text": {"b": 1}}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(ComityError) as caught:
        predict(source, tmp_path / "new" / "out.jsonl")
    assert [message.split(": ")[0] for message in caught.value.messages] == [
        f"{source}:2",
        f"{source}:3",
    ]
    assert list(tmp_path.iterdir()) == [source]


def test_folders_of_the_output_are_made(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "good"}])
    output = tmp_path / "a" / "b" / "out.csv"
    predict(source, output)
    assert len(read_back(output)) == 1 and list(output.parent.iterdir()) == [output]
    with pytest.raises(ComityError, match=r"in\.jsonl is not a directory"):
        predict(source, source / "out.csv")


def test_an_existing_output_is_kept_unless_told(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "good"}])
    output = tmp_path / "out.csv"
    output.write_text("precious")
    with pytest.raises(ComityError, match="already exists; use --overwrite"):
        predict(source, output)
    assert output.read_text() == "precious"
    predict(source, output, overwrite=True)
    assert len(read_back(output)) == 1


def test_the_leaderboard_format_needs_an_id_in_every_row(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": 7, "text": "good"}, {"text": "bad"}])
    output = tmp_path / "out.csv"
    with pytest.raises(ComityError, match=r"in\.jsonl:2: .* id"):
        predict(source, output, leaderboard=True)
    rows = [
        {"id": 7, "text": "good"},
        {"id": "=x", "text": "bad"},
        {"id": 'a, "b"', "text": "good"},
    ]
    write_jsonl(source, rows)
    assert predict(source, output, leaderboard=True).rows == 3
    assert output.read_text() == 'id, Predicted_Sentiment\n7, up\n=x, down\n"a, ""b""", up\n'
    with output.open(newline="") as file:
        read = list(csv.reader(file, skipinitialspace=True))
    assert [row[0] for row in read] == ["id", "7", "=x", 'a, "b"']


def test_the_leaderboard_format_holds_one_task(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": 7, "text": "good", "a": "x", "b": "y"}])
    with pytest.raises(ComityError, match="name it with --task"):
        predict(source, tmp_path / "out.csv", three_tasks(), leaderboard=True)
    predict(source, tmp_path / "out.csv", three_tasks(), leaderboard=True, task="alike")
    assert (tmp_path / "out.csv").read_text() == "id, Predicted_Similiary\n7, 0.0\n"
