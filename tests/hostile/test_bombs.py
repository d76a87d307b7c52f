"""Files that claim or do more than they can are refused, with little memory and in little time.

Each file is read in a process of its own, which is killed after a minute.
"""

import base64
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from comity.errors import ErrorList
from comity.model.checkpoint import load_encoder
from comity.recipe.recipe import Recipe
from comity.tables.parquet_reader import ParquetTable
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat
from tests.conftest import write_encoder
from tests.hostile.sandbox import ENDED, outcome

GIGABYTE = 1 << 30


def refused(function: Callable[[], object], said: str, **limits: int) -> None:
    """Assert that a function ends with a ComityError that says something."""
    ending = outcome(function, **limits)
    assert ending.startswith("ComityError: "), ending[:500]
    assert said in ending, ending[:500]


def test_a_process_without_enough_memory_is_noticed():
    assert outcome(lambda: bytearray(2 * GIGABYTE), megabytes=512) == "MemoryError: "
    assert outcome(lambda: os.read(os.pipe()[0], 1), seconds=1) == "killed by SIGALRM"
    assert outcome(lambda: None) == ENDED


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_encoder(tmp_path / "encoder")


def load_it(folder: Path) -> Callable[[], object]:
    return lambda: load_encoder(str(folder)).tokenizer.encode(["a" * 20_000])


def with_holes(path: Path, size: int) -> None:
    """Make a file as large as this; it takes no space on the disk."""
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "tokenizer_config.json"])
def test_a_huge_file_is_not_read(checkpoint, name):
    with_holes(checkpoint / name, 8 * GIGABYTE)
    refused(load_it(checkpoint), "it has more than 134,217,728 bytes")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_device_without_an_end_is_not_read(checkpoint, name):
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to("/dev/zero")
    refused(load_it(checkpoint), name)


def test_a_pipe_is_not_waited_for(checkpoint):
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    refused(load_it(checkpoint), "it is not a regular file", seconds=10)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[" * 100_000, "not valid JSON"),
        ("9" * 10_000, "not valid JSON"),
        ("1" + "0" * 400, '"hidden_size" must be at most 100,000,000'),
        ("1e308", '"hidden_size" must be a whole number above 0'),
        ("100000000", "by config.json it should be [297, 100000000]"),
    ],
)
def test_the_size_of_a_config_is_checked_before_memory_is_taken(checkpoint, value, said):
    path = checkpoint / "config.json"
    path.write_text(path.read_text().replace('"hidden_size": 32', f'"hidden_size": {value}'))
    refused(load_it(checkpoint), said)


def test_a_config_with_a_million_layers(checkpoint):
    path = checkpoint / "config.json"
    path.write_text(path.read_text().replace('_layers": 2', '_layers": 1000000'))
    refused(load_it(checkpoint), '"num_hidden_layers" must be at most 1,000')


@pytest.mark.parametrize(
    ("size", "shape", "end"),
    [(None, [1 << 40, 32], 1 << 47), (1 << 60, [297, 32], 38016), (None, [297, 32], 1 << 62)],
)
def test_a_header_that_claims_terabytes(checkpoint, size, shape, end):
    name = "embeddings.word_embeddings.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    content = struct.pack("<Q", size or len(header)) + header + bytes(38016)
    (checkpoint / "model.safetensors").write_bytes(content)
    refused(load_it(checkpoint), "not a complete safetensors file")


def test_weights_larger_than_any_model_are_not_read(checkpoint):
    with_holes(checkpoint / "model.safetensors", 129 * GIGABYTE)
    refused(load_it(checkpoint), "the weights have 138,512,695,296 bytes", megabytes=200_000)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hosts", "..", "a/b", "x" * 5000])
def test_a_shard_outside_the_folder_is_refused(checkpoint, name):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "model.safetensors")
    index = {"weight_map": {"embeddings.word_embeddings.weight": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    said = "missing from the folder" if name[0] == "x" else "must be a file name only"
    refused(load_it(checkpoint), said)


@pytest.mark.parametrize("path", ["..", "../outside", "/etc", "a/../../outside", "..\\outside"])
def test_a_module_outside_the_folder_is_refused(checkpoint, path):
    (checkpoint.parent / "outside").mkdir()
    (checkpoint.parent / "config.json").write_text("{}")
    modules = [{"type": "sentence_transformers.models.Pooling", "path": path}]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    refused(load_it(checkpoint), "is not in the folder")


# --- tokenizers -----------------------------------------------------------------------------------


def with_tokenizer(folder: Path, **changes: Any) -> Path:
    """Write a tokenizer.json with changes, such as `normalizer={...}` or `model__unk_token="x"`."""
    load_encoder(str(folder)).tokenizer.save(folder, 128)
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    for key, value in changes.items():
        *owners, last = key.split("__")
        owner = state
        for name in owners:
            owner = owner[name]
        owner[last] = value
    path.write_text(json.dumps(state))
    return folder


TEN_AS = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
NESTED: dict[str, Any] = {"type": "Lowercase"}
for _ in range(200):
    NESTED = {"type": "Sequence", "normalizers": [NESTED]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [TEN_AS] * 6}}, "1,000 times longer"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 2000}}, "1,000 times longer"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 26}},
            "1,000 times longer",
        ),
        ({"normalizer": NESTED}, "it has 202 steps"),
        ({"model__max_input_chars_per_word": 10**9}, "may be at most 1,000"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be non-zero"),
        ({"model__vocab": {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2**32 - 1}}, "4294967296 tokens"),
        ({"model__unk_token": "\ud800"}, "not a tokenizer"),
    ],
)
def test_a_tokenizer_that_never_ends_or_fails_inside(checkpoint, changes, said):
    refused(load_it(with_tokenizer(checkpoint, **changes)), said)


@pytest.mark.parametrize(
    "table", [struct.pack("<I", 2**32 - 16) + bytes(16), b"", struct.pack("<I", 0) + bytes(16)]
)
def test_a_table_of_characters_that_claims_gigabytes(checkpoint, table):
    table = base64.b64encode(table).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": table}
    with_tokenizer(checkpoint, normalizer=normalizer)
    refused(load_it(checkpoint), "precompiled_charsmap is damaged")


def test_a_panic_of_the_library_is_one_sentence(checkpoint):
    table = base64.b64encode(struct.pack("<II", 4, 0xFFFFFF0F) + b"a\0").decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": table}
    with_tokenizer(checkpoint, normalizer=normalizer)
    refused(load_it(checkpoint), "not a tokenizer that the tokenizers library can use (index out")


@pytest.mark.parametrize("name", ["cls_token", "unk_token"])
def test_a_special_token_that_is_no_text(checkpoint, name):
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({name: "\ud800"}))
    refused(load_it(checkpoint), "surrogates not allowed")


def test_a_vocabulary_with_too_many_lines(checkpoint, monkeypatch):
    monkeypatch.setattr("comity.model.tokenizer.MOST_TOKENS", 200)
    refused(load_it(checkpoint), "has more than 200 lines")


# --- recipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 100_000, "nested more than 50 deep"),
        ("a = " + "{a = " * 60 + "1" + "}" * 60, "nested more than 50 deep"),
        (".".join(["a"] * 100_000) + " = 1", "recipe.toml:1: not valid TOML (tables"),
        ("\n[" + ".".join(['"a b"'] * 50_000) + "]", "recipe.toml:2: not valid TOML (tables"),
        ("a = {b = 1, " + ".".join(["a"] * 100_000) + " = 1}", "recipe.toml:1: not valid TOML"),
        ("a = " + "9" * 10_000, "a number has thousands of digits"),
        ("a = '" + "x" * (4 << 20) + "'", "it has more than 4,194,304 bytes"),
    ],
)
def test_a_recipe_that_is_too_deep_or_too_large(tmp_path, text, said):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    refused(lambda: Recipe.load(path), said)


@pytest.mark.parametrize("scale", ["[0, 1000000000000]", "[0, inf]", "[nan, 5]"])
def test_a_scale_with_too_many_levels(tmp_path, scale):
    path = tmp_path / "recipe.toml"
    path.write_text(f"""
        [tasks.alike]
        kind = "similarity"
        train = "a.csv"
        dev = "b.csv"
        texts = ["a", "b"]
        label = "score"
        scale = {scale}
    """)
    refused(lambda: Recipe.load(path), "alike.scale")


# --- tables ---------------------------------------------------------------------------------------


def read_it(path: Path, column: str = "text") -> Callable[[], object]:
    """Read the texts, the names and the columns of a table."""

    def read() -> None:
        errors = ErrorList()
        table = open_table(path, TableFormat(), (column,))
        assert table.names and table.columns
        for _ in table.rows(errors):
            pass
        errors.check()

    return read


@pytest.mark.parametrize("header", ["a," * 9_000 + "text", "," * 9_000 + "text"])
def test_many_columns_of_one_name_take_little_time(tmp_path, header):
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n" + "," * 9_000 + "x\n")
    assert outcome(read_it(path), seconds=20) == ENDED


def test_a_table_with_too_many_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("comity.tables.rows.MOST_COLUMNS", 100)
    path = tmp_path / "rows.csv"
    path.write_text("," * 100 + "text\n" + "," * 100 + "x\n")
    refused(read_it(path), "has 101 columns, and at most 100")
    schema = pyarrow.schema([(f"c{number}", pyarrow.int8()) for number in range(101)])
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "rows.parquet")
    refused(read_it(tmp_path / "rows.parquet"), "has 101 columns")


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", '{"text": ' + "[" * 100_000), ("a.json", "[" * 100_000)]
)
def test_json_that_is_too_deep(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    refused(read_it(tmp_path / name), "the JSON is nested too deeply")


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "x" * 5000 + ",a\n")
    monkeypatch.setattr("comity.tables.text_files.LONGEST_LINE", 4000)
    refused(read_it(path), "a line has 4,000 characters or more")


def test_an_object_that_is_too_long(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a", "more": [' + "{}," * 5000 + "{}]}\n")
    monkeypatch.setattr("comity.tables.jsonl_reader.LONGEST_OBJECT", 4000)
    refused(read_it(path), "rows.jsonl:2: the object has more than 4,000 characters")


def dictionary(count: int, text: str) -> pyarrow.DictionaryArray:
    """A column that repeats one text, which a file holds once."""
    indices = pyarrow.array(np.zeros(count, np.int32))
    return pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([text]))


def write_parquet(path: Path, column: Any, **options: Any) -> Path:
    """A file of one column, "text"; it is small, whatever it unpacks to."""
    table = pyarrow.table({"text": column})
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=1 << 30, **options)
    assert path.stat().st_size < 100_000
    return path


@pytest.fixture
def small_bounds(monkeypatch):
    """Bounds of Parquet files, so that the tests need no large ones."""
    monkeypatch.setattr("comity.tables.parquet_reader.SMALL_ROWS", 10_000)
    monkeypatch.setattr("comity.tables.parquet_reader.SMALL_BYTES", 8 << 20)
    monkeypatch.setattr("comity.tables.parquet_reader.BATCH_BYTES", 4 << 20)


@pytest.mark.parametrize("as_dictionary", [True, False])
def test_a_dictionary_that_repeats_a_long_text(tmp_path, small_bounds, as_dictionary):
    # All rows would take 5 GB.
    column = dictionary(5000, "x" * (1 << 20))
    options = {"dictionary_pagesize_limit": GIGABYTE, "store_schema": as_dictionary}
    path = write_parquet(tmp_path / "rows.parquet", column, **options)
    refused(read_it(path), "bytes hold more than 8,388,608 bytes of values")


def test_lists_that_repeat_a_long_text(tmp_path, small_bounds):
    column = pyarrow.ListArray.from_arrays([0, 5000], dictionary(5000, "x" * (1 << 20)))
    options = {"dictionary_pagesize_limit": GIGABYTE}
    path = write_parquet(tmp_path / "rows.parquet", column, **options)
    refused(read_it(path), "bytes hold more than 8,388,608 bytes of values")


def test_a_text_that_unpacks_to_much_more(tmp_path, small_bounds, monkeypatch):
    column = pyarrow.array(["x" * (10 << 20)])
    path = write_parquet(tmp_path / "rows.parquet", column, use_dictionary=False)
    monkeypatch.setattr(ParquetTable, "_rows_of_batch", None)  # which reads the first row
    refused(read_it(path), "bytes hold more than 8,388,608 bytes of values")


@pytest.mark.parametrize("as_items", [True, False])
def test_more_rows_than_a_file_can_hold(tmp_path, small_bounds, as_items):
    column = dictionary(200_000, "x")
    if as_items:
        column = pyarrow.ListArray.from_arrays([0, 200_000], column)
    path = write_parquet(tmp_path / "rows.parquet", column)
    refused(read_it(path), "claims 200,000 rows or items")
