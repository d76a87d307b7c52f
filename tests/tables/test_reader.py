"""Tables of all formats: cases from users, encodings, line ends, opens, and unreadable files."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.reader import open_table
from comity.tables.rows import NoValue, Row, TableFormat, Value

Read = tuple[list[Row], list[str]]


def read(path: Path, columns: list[str] | list[int], **format: Any) -> Read:
    """The rows, and the messages of all errors."""
    errors = ErrorList(limit=100)
    rows: list[Row] = []
    try:
        rows.extend(open_table(path, TableFormat(**format), columns).rows(errors))
        errors.check()
    except ComityError as error:
        return rows, error.messages
    return rows, []


def values(path: Path, columns: list[str] | list[int], **format: Any) -> list[tuple[Value, ...]]:
    """The values of a table that has no errors."""
    rows, messages = read(path, columns, **format)
    assert messages == []
    return [row for _, row in rows]


def one_error(path: Path, columns: list[str] | list[int], *words: str, **format: Any) -> str:
    """The single message about a file without rows; it names the file and contains `words`."""
    rows, messages = read(path, columns, **format)
    assert rows == [] and len(messages) == 1
    assert messages[0].startswith(f"{path}:") and "\n" not in messages[0]
    for word in words:
        assert word in messages[0], messages[0]
    return messages[0]


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared / "cases" / "files"


def expected(cases: Path, case: str) -> dict[str, Any]:
    return json.loads((cases / case / "expected.json").read_text(encoding="utf-8"))


# --- the shared cases -----------------------------------------------------------------------------


def test_case_in_01_quotes_that_never_close(cases: Path):
    path, want = cases / "IN-01" / "sts-train.csv", expected(cases, "IN-01")["expect"]
    for quoting in (None, False):
        rows = values(path, [5, 6, 4], header=False, quoting=quoting)
        assert [row[0] for row in rows] == want["text_a"]
        assert [row[1] for row in rows] == want["text_b"]
        assert [float(str(row[2])) for row in rows] == want["scores"]
    _, messages = read(path, [5, 6, 4], header=False, quoting=True)
    assert messages[0].startswith(f"{path}:2:") and "quoting = false" in messages[0]


def test_case_in_03_line_ends(cases: Path):
    want = expected(cases, "IN-03")["expect"]
    for split, count in (("train", want["train_counts"]), ("dev", want["dev_counts"])):
        labels = [row[1] for row in values(cases / "IN-03" / f"{split}.tsv", ["text", "label"])]
        assert {label: labels.count(label) for label in labels} == count
    old_mac = values(cases / "IN-03" / "old-mac.tsv", ["text", "label"])
    assert old_mac == values(cases / "IN-03" / "dev.tsv", ["text", "label"])


def test_case_in_05_words_that_look_like_missing_values(cases: Path):
    want = expected(cases, "IN-05")["expect"]
    rows, messages = read(cases / "IN-05" / "texts.csv", ["text", "label"])
    assert messages == [] and [row[0] for _, row in rows] == want["texts"]
    labels = [row[1] for _, row in rows]
    assert {label: labels.count(label) for label in labels} == want["label_counts"]
    assert [line for line, row in rows if row[0] == ""] == [want["empty_text_line"]]
    rows, messages = read(cases / "IN-05" / "texts.jsonl", ["text", "label"])
    assert messages == [] and [row[0] for _, row in rows] == [*want["texts"], None]
    assert rows[-1][0] == want["texts.jsonl"]["null_text_line"]


def test_case_in_07_utf_16(cases: Path):
    folder, want = cases / "IN-07", expected(cases, "IN-07")["expect"]
    for name, delimiter in (("excel-unicode.txt", "tab"), ("big-endian.csv", ",")):
        rows = values(folder / name, ["text", "label"])
        assert [row[0] for row in rows] == want["texts"]
        assert open_table(folder / name, TableFormat()).describe()["delimiter"] == delimiter
    one_error(folder / "no-mark.csv", ["text"], "UTF-16", "zero byte at offset 1", "utf-16-le")
    rows = values(folder / "no-mark.csv", ["text", "label"], encoding="utf-16-le")
    assert [row[0] for row in rows] == want["texts"]


def test_case_in_09_semicolons(cases: Path):
    path, want = cases / "IN-09" / "grades.csv", expected(cases, "IN-09")["expect"]
    rows = values(path, want["columns"])
    assert [float(str(row[2]).replace(",", ".")) for row in rows] == want["scores"]
    assert open_table(path, TableFormat()).names == want["columns"]
    rows = values(path, [0, 1, 2], header=False)  # the header is a row then
    assert len(rows) == 7 and rows[0] == tuple(want["columns"])


def test_case_in_11_headers(cases: Path):
    path = cases / "IN-11" / "noheader.csv"
    rows, messages = read(path, ["text", "label"])
    assert rows == [] and len(messages) == 2
    for column, message in zip(("text", "label"), messages, strict=True):
        assert message.startswith(f'{path}:1: no column "{column}"')
        assert "The oven is hot." in message and "header = false" in message
    assert len(values(path, [0, 1], header=False)) == 6
    _, messages = read(path, [0, 1])  # positions, but the header was not turned off
    assert all("header = false" in message for message in messages) and len(messages) == 2
    rows, messages = read(cases / "IN-11" / "looks-like-header.csv", ["text", "label"])
    assert len(rows) == 6 and len(messages) == 1 and ".csv:5: " in messages[0]


def test_case_in_13_delimiter_at_the_end(cases: Path):
    want = expected(cases, "IN-13")["expect"]
    rows = values(cases / "IN-13" / "with-header.csv", ["text", "label"])
    assert [row[0] for row in rows] == want["texts"]
    assert sorted({str(row[1]) for row in rows}) == want["labels"]
    rows, messages = read(cases / "IN-13" / "rows-only.csv", ["text", "label"])
    assert rows == [] and len(messages) == 4
    assert ".csv:2: 4 fields, but the header has 3" in messages[0]


def test_case_in_15_nested_and_late_keys(cases: Path):
    want = expected(cases, "IN-15")["expect"]
    rows, messages = read(cases / "IN-15" / "nested.jsonl", ["data.text", "label"])
    assert messages == [] and len(rows) == want["nested.jsonl"]["lines"]
    good = [line for line, row in rows if all(isinstance(value, str) for value in row)]
    assert good == sorted([*want["nested.jsonl"]["good_lines"], 6])
    by_line = dict(rows)
    assert by_line[3][1] == NoValue("no key 'label'")
    assert by_line[4][0] == NoValue("'data' is null, so it has no key 'text'")
    assert by_line[6][0] == "42"
    rows, messages = read(cases / "IN-15" / "late-key.jsonl", ["label"])
    assert messages == []
    assert rows == [(1, (NoValue("no key 'label'"),)), (2, ("g",)), (3, ("r",))]


def test_case_in_17_parquet(cases: Path):
    folder, want = cases / "IN-17", expected(cases, "IN-17")["expect"]
    texts = want["plain/large/view/dictionary"]["texts"]
    labels = want["plain/large/view/dictionary"]["labels"]
    for name in ("plain", "large", "view", "dictionary"):
        rows = values(folder / f"{name}.parquet", ["text", "label"])
        assert rows == list(zip(texts, labels, strict=True))
    labels = [row[0] for row in values(folder / "int8.parquet", ["label"])]
    assert {label: labels.count(label) for label in labels} == want["int8.parquet"]["counts"]
    for name in ("decimal", "float16"):
        scores = [float(str(row[0])) for row in values(folder / f"{name}.parquet", ["score"])]
        assert scores == want["decimal.parquet and float16.parquet"]["scores"]
    rows, _ = read(folder / "nulls.parquet", ["text", "label"])
    lines = want["nulls.parquet"]
    assert [n for n, row in rows if row[1] is None] == [lines["null_label_row_from_1"]]
    assert [n for n, row in rows if row[0] is None] == [lines["null_text_row_from_1"]]
    assert [n for n, row in rows if row[0] == ""] == [lines["empty_text_row_from_1"]]
    assert [row[0] for row in values(folder / "struct.parquet", ["item.text"])] == texts
    one_error(folder / "struct.parquet", ["text"], '"item.text"', "did you mean")


def test_case_lb_11_lists_and_cells(cases: Path):
    folder = cases / "LB-11"
    rows = values(folder / "multi.csv", ["tags"])
    assert [row[0] for row in rows] == ["red|round", "", "red|red", " round | red ", "round|blue"]
    lists = [["red", "round"], [], ["red"], ["red", "round"], ["blue", "round"]]
    for ending in ("jsonl", "parquet"):
        assert [row[0] for row in values(folder / f"multi.{ending}", ["tags"])] == lists
    rows = values(folder / "multi-columns.csv", ["text", "blue"])
    assert [row[1] for row in rows] == ["0", "0", "0", "0", "1"]
    assert rows[2][0] == "A red, red rose."


ROWS = {
    "ids-sst-train": 8544,
    "ids-sst-dev": 1101,
    "quora-train": 14167,
    "quora-dev": 2001,
    "sts-train": 6040,
    "sts-dev": 863,
}


@pytest.mark.parametrize("name", ROWS)
def test_real_files_as_python_reads_them(shared: Path, name: str):
    path = shared / "data" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        header, *want = csv.reader(file, delimiter="\t")
    rows = values(path, header)
    assert len(rows) == ROWS[name]
    assert [list(row) for row in rows] == want


# --- unreadable files and formats -----------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "rain.csv").write_text("text,label\nIt rains.,yes\n")
    one_error(tmp_path / "rian.csv", ["text"], "no such file", 'did you mean "rain.csv"')
    one_error(tmp_path / "zzz.parquet", ["text"], "no such file")
    message = one_error(tmp_path / "none.csv", ["text"], "no such file")
    assert "rain" not in message  # no suggestion because of the extension alone
    (tmp_path / "rian.png").touch()  # no table, and the next one is no file
    (tmp_path / "rian2.csv").mkdir()
    message = one_error(tmp_path / "rian.csv", ["text"], "no such file")
    assert message.endswith('; did you mean "rain.csv"?')
    message = one_error(tmp_path / "rian.tsv", ["text"], "no such file")
    assert message.endswith("; check the path")
    one_error(tmp_path / "rain.json", ["text"], "no such file", 'did you mean "rain.csv"')
    one_error(tmp_path / "nowhere" / "rain.csv", ["text"], "no folder")
    (tmp_path / "folder.csv").mkdir()
    one_error(tmp_path / "folder.csv", ["text"], "is a folder")
    os.mkfifo(tmp_path / "pipe.csv")
    one_error(tmp_path / "pipe.csv", ["text"], "not a regular file")
    one_error(tmp_path / ("x" * 300 + ".csv"), ["text"], "cannot be read")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads any file")
def test_a_file_without_permission(tmp_path: Path):
    path = tmp_path / "secret.csv"
    path.write_text("text\nhush\n")
    path.chmod(0)
    one_error(path, ["text"], "cannot be read", "permissions")


@pytest.mark.parametrize(
    "ending", ["csv", "tsv", "txt", "tab", "jsonl", "ndjson", "json", "parquet"]
)
def test_an_empty_file(tmp_path: Path, ending: str):
    path = tmp_path / f"empty.{ending}"
    path.write_bytes(b"")
    one_error(path, ["text"], "empty")
    if ending != "parquet":
        path.write_bytes(b"\n\r\n\n")
        one_error(path, ["text"], "empty")
        path.write_bytes(b"\xef\xbb\xbf")
        one_error(path, ["text"], "empty")
    with pytest.raises(ComityError, match="empty"):
        open_table(path, TableFormat())


def test_an_unknown_extension(tmp_path: Path):
    path = tmp_path / "book.dat"
    path.write_bytes(b"text,label\n")
    one_error(path, ["text"], '".dat"', ".jsonl", ".parquet")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04rest of an archive", "spreadsheet"),
        (b"\xd0\xcf\x11\xe0rest", "Excel"),
        (gzip.compress(b"text,label\nfog,1\n", mtime=0), "gzip"),
        (bz2.compress(b"text,label\nfog,1\n"), "bzip2"),
        (lzma.compress(b"text,label\nfog,1\n"), "xz"),
        (pickle.dumps([("fog", 1)], protocol=4), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        (b"<!doctype HTML>\n<title>404</title>", "web page"),
    ],
)
def test_files_of_another_kind_given_by_mistake(tmp_path: Path, content: bytes, word: str):
    for ending in ("csv", "jsonl", "gz", "xlsx"):
        path = tmp_path / f"table.{ending}"
        path.write_bytes(content)
        one_error(path, ["text"], word)


def test_parquet_with_another_extension(tmp_path: Path):
    for ending in ("csv", "jsonl"):
        path = tmp_path / f"table.{ending}"
        path.write_bytes(b"PAR1 columns PAR1")
        one_error(path, ["text"], ".parquet")


def test_extensions_in_upper_case(tmp_path: Path):
    path = tmp_path / "SHOUT.CSV"
    path.write_text("text;label\nHo;1\n")
    assert values(path, ["text", "label"]) == [("Ho", "1")]


def test_descriptions(tmp_path: Path):
    path = tmp_path / "plums.tsv"
    path.write_bytes("text\tlabel\nripe plums\t1\n".encode("utf-16"))
    assert open_table(path, TableFormat()).describe() == {
        "format": "delimited text",
        "encoding": "utf-16",
        "delimiter": "tab",
        "quoting": False,
        "header": True,
    }
    path = tmp_path / "plums.jsonl"
    path.write_text('{"text": "ripe"}\n{"label": "1", "text": "raw"}\n')
    table = open_table(path, TableFormat())
    assert table.describe() == {"format": "json lines", "encoding": "utf-8"}
    assert table.names == ["text", "label"]
    path.write_text('{"text": "ripe"}\nraw\n')
    with pytest.raises(ComityError, match=r"plums\.jsonl:2: "):
        assert open_table(path, TableFormat()).names


# --- opens and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_a_text_file_is_opened_to_look_at_it_and_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str
):
    path = tmp_path / f"table{extension}"
    lines = {".csv": 'text,n\n"a, b",1\n"c",2\n', ".jsonl": '{"text": "a"}\n{"text": "c"}\n'}
    path.write_text(lines[extension])
    opened: list[str] = []
    real = io.open

    def counted(file: Any, *args: Any, **keys: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **keys)

    monkeypatch.setattr("io.open", counted)
    monkeypatch.setattr("builtins.open", counted)
    table = open_table(path, TableFormat(), ["text"])
    errors = ErrorList()
    assert [own["text"] for _, own in table.whole_rows(errors)][1:] == ["c"]
    assert table.describe() and errors.total == 0
    assert opened == [str(path)] * 2


@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_rows_are_read_when_they_are_asked_for(tmp_path: Path, extension: str):
    path = tmp_path / f"table{extension}"
    line = {".csv": "some words,1\n", ".jsonl": '{"text": "some words"}\n'}[extension]
    header = {".csv": "text,n\n", ".jsonl": ""}[extension]
    path.write_text(header + line * 200_000 + "bad\n")  # 2.6 MB and more
    errors = ErrorList()
    tracemalloc.start()
    rows = open_table(path, TableFormat(), ["text"]).rows(errors)
    first = next(rows)
    assert first.values == ("some words",) and errors.total == 0
    count = 1 + sum(1 for _ in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, errors.total) == (200_000, 1)
    assert peak < 1_000_000


def test_pyarrow_is_not_imported_for_text(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("text,n\na,1\n")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from comity.errors import ErrorList\n"
        "from comity.tables.reader import open_table\n"
        "from comity.tables.rows import TableFormat\n"
        f"table = open_table(Path({str(path)!r}), TableFormat(), ['text'])\n"
        "assert len(list(table.rows(ErrorList()))) == 1\n"
        "assert 'pyarrow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- encodings and line ends ----------------------------------------------------------------------

SNOW = [("Snö faller.", "ja"), ("雪", "nej"), ("❄", "ja")]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, ending: str, codec: str):
    path = tmp_path / f"snow.{ending}"
    if ending == "jsonl":
        lines = [json.dumps({"text": a, "label": b}, ensure_ascii=False) for a, b in SNOW]
    else:
        lines = ["text\tlabel", *("\t".join(row) for row in SNOW)]
    path.write_bytes("\n".join(lines).encode(codec))
    assert values(path, ["text", "label"]) == SNOW
    assert open_table(path, TableFormat()).names == ["text", "label"]
    # The encoding can also be named, although the file has a mark.
    assert values(path, ["text", "label"], encoding=codec.removesuffix("-sig")) == SNOW


@pytest.mark.parametrize(("codec", "offset"), [("utf-16-le", 1), ("utf-16-be", 0)])
def test_utf_16_without_a_mark(tmp_path: Path, codec: str, offset: int):
    for ending, content in (
        ("csv", "text,label\nfog,1\n"),
        ("jsonl", '{"text": "fog", "label": 1}'),
    ):
        path = tmp_path / f"fog.{ending}"
        path.write_bytes(content.encode(codec))
        one_error(
            path, ["text"], "UTF-16", f"zero byte at offset {offset}", f'encoding = "{codec}"'
        )
        assert values(path, ["text", "label"], encoding=codec) == [("fog", "1")]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_that_is_also_valid_utf_8(tmp_path: Path, codec: str):
    path = tmp_path / "tuman.tsv"
    path.write_bytes("текст\tзнак\nтуман\tа\nдождик\tб\n".encode(codec))
    one_error(path, ["текст"], "UTF-16", f'= "{codec}"')
    assert values(path, ["текст"], encoding=codec) == [("туман",), ("дождик",)]


def test_a_zero_byte_is_only_a_character(tmp_path: Path):
    path = tmp_path / "zero.csv"
    path.write_bytes(b"text,label\nbe\x00fore,1\n\x00,2\n")
    assert values(path, ["text", "label"]) == [("be\x00fore", "1"), ("\x00", "2")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("before", [0, 10, 40_000])
def test_bytes_that_are_not_utf_8(tmp_path: Path, end: str, before: int):
    head = ("text,label" + end + ("plain words," + "x" * 9 + end) * before).encode()
    path = tmp_path / "latin.csv"
    path.write_bytes(head + "crème,".encode("latin-1") + b"1" + end.encode())
    _, messages = read(path, ["text", "label"])
    start = f"{path}:{before + 2}: the byte 0xE8 at offset {len(head) + 2:,} is not UTF-8"
    assert len(messages) == 1 and messages[0].startswith(start) and "encoding" in messages[0]
    assert values(path, ["text", "label"], encoding="latin-1")[-1] == ("crème", "1")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_bytes_that_are_not_utf_8_at_the_start_of_a_line(tmp_path: Path, end: str):
    path = tmp_path / "latin.csv"
    path.write_bytes(b"text,label" + end.encode() + b"\xe9t\xe9,1\n")
    one_error(path, ["text"], f":2: the byte 0xE9 at offset {10 + len(end)} is not UTF-8")


def test_text_cut_off_in_the_middle_of_a_character(tmp_path: Path):
    path = tmp_path / "cut.jsonl"
    path.write_bytes('{"text": "a"}\n{"text": "é'.encode()[:-1])
    _, messages = read(path, ["text"])
    assert len(messages) == 1 and ":2: the byte 0xC3 at offset 24 is not UTF-8" in messages[0]


@pytest.mark.parametrize("codec", ["utf-99", "hex", "rot13", "undefined", "", "utf-8\x00"])
def test_unknown_encodings(tmp_path: Path, codec: str):
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    one_error(path, ["text"], "encoding =", encoding=codec)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, end: str, last: bool):
    path = tmp_path / "ends.tsv"
    content = end.join(["text\tlabel", "warm soup\tyes", "cold soup\tno"]) + (end if last else "")
    path.write_bytes(content.encode())
    rows, messages = read(path, ["text", "label"])
    assert messages == []
    assert rows == [(2, ("warm soup", "yes")), (3, ("cold soup", "no"))]
    path = tmp_path / "ends.jsonl"
    path.write_bytes((end.join(['{"a": "x"}', "", '{"a": "y"}']) + (end if last else "")).encode())
    assert read(path, ["a"]) == ([(1, ("x",)), (3, ("y",))], [])


def test_line_ends_doubled_by_a_copy(tmp_path: Path):
    path = tmp_path / "doubled.tsv"
    path.write_bytes(b"text\tlabel\r\r\nwarm\tyes\r\r\ncold\tno\r\r\n")
    assert values(path, ["text", "label"]) == [("warm", "yes"), ("cold", "no")]


# --- damaged files --------------------------------------------------------------------------------

SEEDS = {
    "csv": b'text,label\n"a, b",1\n"say ""no""\nand go",2\nplain,1\n',
    "tsv": '\ufefftext\tlabel\r\nsn\u00f6\t1\r\n"quoted"\t2\r\n'.encode(),
    "txt": "text|label\nfog|1\nrain|2\n".encode("utf-16"),
    "jsonl": '{"text": "sn\u00f6", "label": 1.50}\n{"text": null, "label": [true, "x"]}\n'.encode(),
}


@settings(max_examples=150)
@given(
    ending=st.sampled_from(sorted(SEEDS)),
    cut=st.one_of(st.none(), st.integers(0, 60)),
    flips=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=4),
    header=st.booleans(),
    quoting=st.sampled_from([None, True, False]),
)
def test_damaged_text_gives_rows_or_errors(
    tmp_path_factory: pytest.TempPathFactory,
    ending: str,
    cut: int | None,
    flips: list[tuple[int, int]],
    header: bool,
    quoting: bool | None,
):
    content = bytearray(SEEDS[ending][:cut])
    for offset, byte in flips:
        if offset < len(content):
            content[offset] = byte
    path = tmp_path_factory.mktemp("damaged") / f"table.{ending}"
    path.write_bytes(content)
    columns = ["text", "label"] if header else [0, 1]
    rows, messages = read(path, columns, header=header, quoting=quoting)
    assert rows or messages
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_the_columns_that_a_recipe_can_choose(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,,b,c d\n1,2,3,4,5\n")
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": {"c": 2, "d": {"e": 3}}}\n{"f": 4}\n')
    nested = pyarrow.table({"a": [1], "b": [{"c": 2, "d": {"e": 3}}]})
    pyarrow.parquet.write_table(nested, tmp_path / "t.parquet")
    found = {
        name: open_table(tmp_path / name, TableFormat()).columns
        for name in ("t.csv", "t.jsonl", "t.parquet")
    }
    assert found == {
        "t.csv": ["a", "c d"],
        "t.jsonl": ["a", "b.c", "b.d.e", "f"],
        "t.parquet": ["a", "b.c", "b.d.e"],
    }
    assert open_table(tmp_path / "t.csv", TableFormat(header=False)).columns == [0, 1, 2, 3, 4]
    for name, columns in found.items():
        assert open_table(tmp_path / name, TableFormat(), columns).missing == []
