"""Trains on generated rows of which some are broken, and checks that each of them is listed.

    python benchmarks/broken_rows.py [--rows 1000000] [--steps 200] [--share 0.02]

The training rows are in three files, CSV, JSON Lines and Parquet, that make one table. The encoder
is a BERT of two layers with random weights. The command fails if the run's skipped-rows.jsonl is
not what was broken. It prints the seconds of each part of the run and its peak memory.
"""

import argparse
import csv
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import transformers
from common import memory

from comity import Recipe
from comity.training.events import DataRead, Event
from comity.training.train import train

WORDS = "the river was cold and a train left early while nobody at home heard it go"
LABELS = ("yes", "no")
GROUP = 50_000
"""Rows of a Parquet row group."""

Broken = dict[tuple[str, int], str]
"""The reason of each broken row, by file and line."""


def main() -> None:
    """Generate, train, compare and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["COMITY_CACHE"] = str(folder / "cache")
        broken = _write_data(folder, options.rows, options.share)
        _write_encoder(folder / "encoder")
        started = time.perf_counter()
        read: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, DataRead):
                read.append(time.perf_counter() - started)
                print("\n".join(event.notes), file=sys.stderr)

        run = train(_recipe(folder, options.steps), folder, folder / "run", on_event=listen)
        seconds = time.perf_counter() - started
        listed = _listed(run.path / "skipped-rows.jsonl", folder)
    wrong = {key for key in {*broken, *listed} if broken.get(key) != listed.get(key)}
    if wrong:
        some = [(key, broken.get(key), listed.get(key)) for key in sorted(wrong)[:5]]
        raise SystemExit(f"{len(wrong):,} rows are not as they were broken, such as {some}")
    result = {
        "rows": options.rows,
        "broken": dict(Counter(broken.values())),
        "steps": options.steps,
        "seconds_until_read": round(read[0], 1),
        "seconds": round(seconds, 1),
        "peak_mb": round(memory()[1] / 1e6),
    }
    print(json.dumps(result, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.02, help="of the rows that are broken")
    return parser.parse_args()


def _recipe(folder: Path, steps: int) -> Recipe:
    task = {
        "kind": "classification",
        "train": "part-*",
        "dev": "dev.csv",
        "text": "text",
        "label": "label",
        "classes": list(LABELS),
    }
    return Recipe.from_dict(
        {
            "encoder": {"name": str(folder / "encoder")},
            "train": {"steps": steps, "bad_rows": "skip", "max_length": 32},
            "tasks": {"task": task},
        }
    )


def _listed(path: Path, folder: Path) -> Broken:
    """The rows that the run lists. No row may be listed twice."""
    found: Broken = {}
    with path.open() as file:
        for line in file:
            entry = json.loads(line)
            key = (str(Path(entry["file"]).relative_to(folder)), entry["line"])
            assert key not in found, f"{key} is listed twice"
            found[key] = entry["reason"]
    return found


def _write_encoder(folder: Path) -> None:
    """A BERT of two layers, 64 wide, with random weights."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS.split()))]
    tokens += [piece for digit in "0123456789" for piece in (digit, f"##{digit}")]
    transformers.set_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


# --- data -----------------------------------------------------------------------------------------


def _write_data(folder: Path, count: int, share: float) -> Broken:
    """Write the three parts and a dev set without broken rows; return what was broken."""
    draws = random.Random(0)
    part = count // 3
    broken: Broken = {}
    _write_csv(folder / "part-1.csv", part, share, draws, broken)
    _write_json(folder / "part-2.jsonl", part, share, draws, broken)
    _write_parquet(folder / "part-3.parquet", count - 2 * part, share, draws, broken)
    _write_csv(folder / "dev.csv", 500, 0, draws, broken)
    return broken


def _rows(count: int, draws: random.Random) -> Iterator[tuple[str, str]]:
    for number in range(count):
        yield (
            f"{' '.join(draws.choices(WORDS, k=draws.randint(5, 20)))} {number}",
            LABELS[number % 2],
        )


def _write_csv(path: Path, count: int, share: float, draws: random.Random, broken: Broken) -> None:
    with path.open("wb") as file:
        file.write(b"text,label\n")
        line = 2
        for text, label in _rows(count, draws):
            if draws.random() < 0.1:
                text = f'{text},\n "said" nobody'
            if draws.random() < share:
                data, reason = _broken_csv(text.split(",")[0], label, draws)
                broken[path.name, line] = reason
            else:
                buffer = io.StringIO()
                csv.writer(buffer, lineterminator="\n").writerow([text, label])
                data = buffer.getvalue().encode()
            file.write(data)
            line += data.count(b"\n")


def _broken_csv(text: str, label: str, draws: random.Random) -> tuple[bytes, str]:
    data, reason = draws.choice(
        [
            (text, "wrong number of fields"),
            (f"{text},{label},{label}", "wrong number of fields"),
            (f'"{text},{label}', "broken quotes"),
            (f'"{text}" again,{label}', "broken quotes"),
            (f"{text},", "no label"),
            (f"{text},maybe", "unknown label"),
            ("text,label", "repeated header"),
            (f"{text} caf\xe9,{label}", "undecodable bytes"),
        ]
    )
    return data.encode("latin-1") + b"\n", reason


def _write_json(path: Path, count: int, share: float, draws: random.Random, broken: Broken) -> None:
    with path.open("wb") as file:
        for line, (text, label) in enumerate(_rows(count, draws), start=1):
            whole = json.dumps({"text": text, "label": label})
            if draws.random() < share:
                whole, reason = draws.choice(
                    [
                        (whole[:-3], "invalid JSON"),
                        (json.dumps([text, label]), "invalid JSON"),
                        (json.dumps({"label": label}), "no text"),
                        (json.dumps({"text": {"is": text}, "label": label}), "no text"),
                        (json.dumps({"text": text}), "no label"),
                        (
                            json.dumps({"text": text, "label": [label]}),
                            "label is not a single class",
                        ),
                        (whole.replace("the", "th\xe9"), "undecodable bytes"),
                    ]
                )
                if reason != "undecodable bytes" or "\xe9" in whole:
                    broken[path.name, line] = reason
            file.write(whole.encode("latin-1") + b"\n")


def _write_parquet(
    path: Path, count: int, share: float, draws: random.Random, broken: Broken
) -> None:
    schema = pa.schema([("text", pa.binary()), ("label", pa.string())])
    texts: list[bytes] = []
    labels: list[str | None] = []
    with pq.ParquetWriter(path, schema) as writer:
        for line, (text, label) in enumerate(_rows(count, draws), start=1):
            data, own, reason = text.encode(), label, ""
            if draws.random() < share:
                data, own, reason = draws.choice(
                    [
                        (data + b"\xff", label, "no text"),
                        (data, None, "no label"),
                        (data, "maybe", "unknown label"),
                    ]
                )
                broken[path.name, line] = reason
            texts.append(data)
            labels.append(own)
            if len(texts) == GROUP or line == count:
                writer.write_table(pa.table([texts, labels], schema))
                texts, labels = [], []


if __name__ == "__main__":
    main()
