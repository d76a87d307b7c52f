"""What looks wrong in texts: zero bytes and text decoded with the wrong encoding."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tests.helpers import write_csv, write_jsonl

from comity.errors import ErrorList
from comity.tables.findings import Findings, finding_notes
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat

SENTENCES = [
    "Crème brûlée à la carte",
    "naïve façade",
    "It’s “fine” – really",
    "Größe über 10 °C",
    "El niño pequeño",
    "Дождик и туман",
    "雪が降る",
    "good 🙂",
    "price: 5 €",
    "a\u00a0b",
]


def kinds(text: str) -> set[str]:
    findings = Findings()
    findings.look(1, text)
    return {finding.kind for finding in findings.found()}


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_utf_8_decoded_with_another_encoding_is_suspected(text: str, codec: str):
    # As programs decode: bytes that cp1252 does not have are kept as control characters.
    wrong = "".join(bytes([b]).decode(codec, "ignore") or chr(b) for b in text.encode())
    assert kinds(wrong) == {"wrong encoding"}


def test_cp1252_decoded_as_latin_1_is_suspected():
    assert kinds("It’s fine".encode("cp1252").decode("latin-1")) == {"wrong encoding"}


@pytest.mark.parametrize(
    "text",
    [
        *SENTENCES,
        "NÃO, IRMÃ", "ÂNGULO, LÂMPADA", "Ão e Âmbar", "déjà\u00a0vu, « voilà\u00a0»",
        "Señor Ñandú", "ä, ö, ü: Äpfel, „Ä“", "Ångström", "łódź", "Việt Nam", "Ð and ð, þ",
        "â ê î ô", "«\u00a0né\u00a0»",
        "Ελληνικά", "next\u0085line", "½ × ¼ ± 3 µm², 30 £",
    ],
)  # fmt: skip
def test_ordinary_text_is_not(text: str):
    assert kinds(text) == set()


def test_lost_characters_and_zero_bytes():
    assert kinds("cr\ufffdme") == {"lost characters"}
    assert kinds("a\0b") == {"zero byte"}


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_they_are_counted_in_the_chosen_columns(tmp_path: Path, extension: str):
    texts = ["plain", "a\0", "CrÃ¨me", "\0", "un cafÃ©, s'il vous plaÃ®t", "ok"]
    path = tmp_path / f"table.{extension}"
    if extension == "csv":
        write_csv(path, ["text", "other"], [(text, "Ã¨") for text in texts])
    elif extension == "jsonl":
        write_jsonl(path, [{"text": text, "other": "Ã¨"} for text in texts])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "other": ["Ã¨"] * 6}), path)
    table = open_table(path, TableFormat(), ["text"])
    for rows in (table.rows, table.whole_rows):  # counted anew each time
        errors = ErrorList()
        assert len(list(rows(errors))) == 6
        errors.check()
    first = 1 if extension != "csv" else 2
    found = {f.kind: (f.count, f.line, f.example) for f in table.findings()}
    assert found == {
        "zero byte": (2, first + 1, ""),
        "wrong encoding": (2, first + 2, "CrÃ¨me"),
    }
    notes = finding_notes(path, table.findings())
    assert len(notes) == 2 and all(note.startswith(f"{path}: 2 values ") for note in notes)
    assert f'("CrÃ¨me", first in line {first + 2})' in notes[1]
