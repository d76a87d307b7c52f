"""Inference speed: Comity, sentence-transformers and plain transformers.

    python benchmarks/encode.py --data DIR [--texts 2048] [--rounds 3]

Measures texts per second over all texts, and the latency of one text at a time. The run that is
loaded has the original weights of MiniLM (it was trained for one step at a learning rate of 1e-12),
so that the embeddings can be compared.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comity.model.checkpoint import find_checkpoint

HERE = Path(__file__)


def main() -> None:
    """Run the benchmark, print its tables and write the results."""
    options = _options()
    if options.one is not None:
        print(json.dumps(_measure(ONE[options.one](options), _texts(options))))
        return
    from common import alternate, keep, median, precisions, show, spread

    commands = {}
    for precision in precisions():
        for name in ONE:
            commands[f"{name} {precision}"] = [
                sys.executable, str(HERE), "--one", name, "--precision", precision,
                "--data", str(options.data), "--texts", str(options.texts),
            ]  # fmt: skip
    found = alternate(commands, options.rounds)
    rows = []
    for name, runs in found.items():
        speeds = [run["texts_per_second"] for run in runs]
        latency = [median([run[key] for run in runs]) for key in ("p50_ms", "p99_ms")]
        rows.append((name, median(speeds), spread(speeds), *latency))
    show("Encoding", ["library", "texts/s", "spread", "p50 ms", "p99 ms"], rows)
    ratios = {}
    for precision in precisions():
        ours, theirs = (
            median([run["texts_per_second"] for run in found[f"{name} {precision}"]])
            for name in ("comity", "sentence-transformers")
        )
        ratios["encode_" + {"bf16": "bf16", "float32": "fp32"}[precision]] = round(ours / theirs, 3)
    distances = {precision: _distance(options, precision) for precision in precisions()}
    three = _three_heads(options)
    show("Ratios", ["key", "value"], [*ratios.items(), *distances.items(), *three.items()])
    measured = {name: [run["texts_per_second"] for run in runs] for name, runs in found.items()}
    details = {"largest_cosine_distance": distances, **three, "texts_per_second": measured}
    keep("encode", ratios, details)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=list(ONE), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="bf16", help=argparse.SUPPRESS)
    return parser.parse_args()


def _texts(options: argparse.Namespace) -> list[str]:
    with (options.data / "ids-sst-train.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row["sentence"] for _, row in zip(range(options.texts), rows, strict=False)]


def _measure(encode: Callable[[list[str]], Any], texts: list[str]) -> dict[str, float]:
    encode(texts[:256])
    started = time.perf_counter()
    encode(texts)
    seconds = time.perf_counter() - started
    times = []
    for text in texts[:200]:
        one = time.perf_counter()
        encode([text])
        times.append(1e3 * (time.perf_counter() - one))
    return {
        "texts_per_second": len(texts) / seconds,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
    }


def _comity(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    model = _model(options, 1)
    return lambda texts: model.encode(texts, raw=True)


def _model(options: argparse.Namespace, tasks: int) -> Any:
    """A loaded run with the weights of MiniLM and `tasks` equal classification tasks."""
    from comity import Recipe, load, train

    task = {
        "kind": "classification",
        "train": "ids-sst-dev.csv",
        "dev": "ids-sst-dev.csv",
        "text": "sentence",
        "label": "sentiment",
        "pooling": "pooler",
    }
    settings = {"steps": 1, "lr": 1e-12, "batch_size": 2, "eval_train_rows": 0}
    recipe = Recipe.from_dict(
        {
            "train": {**settings, "precision": options.precision, "device": "cpu"},
            "tasks": {f"task{number}": task for number in range(tasks)},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return load(train(recipe, options.data, Path(folder) / "run").path)


def _sentence_transformers(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    model = SentenceTransformer(
        str(find_checkpoint("minilm")), device="cpu", model_kwargs={"dtype": dtype}
    )
    return lambda texts: model.encode(texts, batch_size=64)


def _transformers(options: argparse.Namespace) -> Callable[[list[str]], Any]:
    import transformers

    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    model = transformers.BertModel.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        found = []
        for start in range(0, len(texts), 64):
            chosen = [texts[index] for index in order[start : start + 64]]
            inputs = tokenizer(chosen, padding=True, truncation=True, return_tensors="pt")
            found.append(model(**inputs).last_hidden_state.mean(1))
        return torch.cat(found)

    return encode


def _distance(options: argparse.Namespace, precision: str) -> float:
    """The largest cosine distance between our embeddings and those of sentence-transformers."""
    options.precision = precision
    texts = _texts(options)[:512]
    ours = np.asarray(_comity(options)(texts), dtype=np.float64)
    theirs = np.asarray(_sentence_transformers(options)(texts), dtype=np.float64)
    cosines = (ours * theirs).sum(1)
    cosines /= np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(1 - cosines.min())


def _three_heads(options: argparse.Namespace) -> dict[str, float]:
    """How many times faster three heads predict together than one after another."""
    options.precision = "auto"
    model = _model(options, 3)
    texts = _texts(options)[:1024]
    model.predict_all(texts[:128])
    started = time.perf_counter()
    model.predict_all(texts)
    together = time.perf_counter() - started
    started = time.perf_counter()
    for task in model.tasks:
        model.predict(task, texts)
    apart = time.perf_counter() - started
    return {"three_heads_at_once": round(apart / together, 3)}


ONE: dict[str, Callable[[argparse.Namespace], Callable[[list[str]], Any]]] = {
    "comity": _comity,
    "sentence-transformers": _sentence_transformers,
    "transformers": _transformers,
}

if __name__ == "__main__":
    main()
