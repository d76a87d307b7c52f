"""Serving: `comity serve`, and a plain FastAPI server with transformers.

    python benchmarks/serve.py --data DIR [--seconds 10] [--rounds 3] [--clients 1 8 64]
    python benchmarks/serve.py --data DIR --minutes 10      # soak: memory and errors under load
    python benchmarks/serve.py --data DIR --malformed 1000  # no malformed request may give a 500

Measures requests per second and latency with 1, 8 and 64 clients, each of which sends its next
request when it has the answer to the last one. The clients are one process, the server another.

- `task`: one text, one task. The peer is a FastAPI server as most tutorials write it: a synchronous
  endpoint, which runs in the thread pool, and no batching.
- `predict`: one text, three tasks. The peer has three models of its own and runs all of them.

All servers have the weights of MiniLM in the same dtype and two torch threads.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__)
TASKS = ("task0", "task1", "task2")
CLASSES = 5
PATHS = {"task": f"/v1/tasks/{TASKS[0]}", "predict": "/v1/predict"}
WARM_UP = 0.2
"""The share of the seconds that is not measured."""


def main() -> None:
    """Run what the options ask for."""
    options = _options()
    if options.peer:
        _serve_peer(options.peer, options.precision)
    elif options.run_clients:
        print(json.dumps(asyncio.run(_load(options))))
    elif options.minutes:
        _soak(options)
    elif options.malformed:
        _malformed(options)
    else:
        _compare(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--minutes", type=float, default=0.0, help="soak for this long")
    parser.add_argument("--malformed", type=int, default=0, help="send so many malformed requests")
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=["one", "three"], help=argparse.SUPPRESS)
    parser.add_argument("--run-clients", choices=[*PATHS, "mixed"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _texts(options: argparse.Namespace, count: int = 2048) -> list[str]:
    with (options.data / "ids-sst-train.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row["sentence"] for _, row in zip(range(count), rows, strict=False)]


# --- servers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int


@contextmanager
def _started(command: list[str]) -> Iterator[Server]:
    """Start a server, which prints JSON with its port, and stop it with SIGTERM."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield Server(process, json.loads(line)["port"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def _comity(run: Path) -> list[str]:
    return [sys.executable, "-m", "comity", "serve", str(run), "--port", "0", "--json"]


def _peer(options: argparse.Namespace, kind: str, precision: str) -> list[str]:
    own = [sys.executable, str(HERE), "--data", str(options.data)]
    return [*own, "--peer", kind, "--precision", precision]


def _train(options: argparse.Namespace, precision: str, out: Path) -> Path:
    """A run with the weights of MiniLM and three equal tasks on one text."""
    from comity import Recipe, train

    task = {
        "kind": "classification",
        "train": "ids-sst-train.csv",
        "dev": "ids-sst-dev.csv",
        "text": "sentence",
        "label": "sentiment",
        "pooling": "pooler",
    }
    settings = {"steps": 1, "lr": 1e-12, "batch_size": 2, "eval_train_rows": 0, "device": "cpu"}
    recipe = Recipe.from_dict(
        {"train": {**settings, "precision": precision}, "tasks": dict.fromkeys(TASKS, task)}
    )
    return train(recipe, options.data, out / f"run-{precision}", quiet=True).path


def _serve_peer(kind: str, precision: str) -> None:
    """A FastAPI server as most tutorials write it, with one model or three."""
    import socket

    import torch
    import transformers
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from comity.model.checkpoint import find_checkpoint

    torch.set_num_threads(2)
    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    models = {
        task: transformers.BertForSequenceClassification.from_pretrained(
            folder, num_labels=CLASSES, dtype=dtype
        ).eval()
        for task in TASKS[: 1 if kind == "one" else 3]
    }
    app = FastAPI()

    class Body(BaseModel):
        text: str

    def predicted(task: str, text: str) -> dict[str, Any]:
        inputs = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            shares = models[task](**inputs).logits[0].float().softmax(-1).tolist()
        label = max(range(CLASSES), key=lambda index: shares[index])
        return {"label": str(label), "probabilities": {str(n): p for n, p in enumerate(shares)}}

    @app.post("/v1/tasks/{task}")
    def predict_task(task: str, body: Body) -> dict[str, Any]:
        return {"task": task, "predictions": [predicted(task, body.text)]}

    @app.post("/v1/predict")
    def predict(body: Body) -> dict[str, Any]:
        return {"tasks": {task: [predicted(task, body.text)] for task in models}}

    # With the protocol, as uvicorn opens sockets: asyncio then turns Nagle's algorithm off.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    predicted(TASKS[0], "a text")
    print(json.dumps({"port": bound.getsockname()[1]}), flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run([bound])


# --- clients --------------------------------------------------------------------------------------


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
) -> tuple[int, bytes]:
    """Send a request on an open connection; the status and the content of its answer."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(answer[9:12]), await reader.readexactly(length)


async def _client(
    port: int, requests: Iterator[tuple[str, bytes]], stop: float, times: list[Any]
) -> None:
    """Send requests one after another until `stop`; adds (start, seconds, status) to `times`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        while (start := time.perf_counter()) < stop:
            status, _ = await _request(reader, writer, *next(requests))
            times.append((start, time.perf_counter() - start, status))
    finally:
        writer.close()


def _requests(kind: str, texts: list[str], seed: int) -> Iterator[tuple[str, bytes]]:
    """Endless requests: of one text, or `mixed` ones of many sizes."""
    draw = random.Random(seed)
    while True:
        if kind != "mixed":
            yield PATHS[kind], json.dumps({"text": draw.choice(texts)}).encode()
            continue
        some = draw.choices(texts, k=draw.choice([1, 1, 1, 2, 8, 64]))
        some[0] *= draw.choice([1, 1, 1, 30])
        path = draw.choice([*PATHS.values(), "/v1/embeddings"])
        body: dict[str, Any] = {"texts": some}
        if path == "/v1/embeddings":
            body = {"input": some, "encoding_format": draw.choice(["float", "base64"])}
        yield path, json.dumps(body).encode()


async def _load(options: argparse.Namespace) -> dict[str, Any]:
    """Send requests with many clients for a while, and summarise."""
    texts = _texts(options)
    (clients,) = options.clients
    times: list[tuple[float, float, int]] = []
    begin = time.perf_counter()
    stop = begin + options.seconds
    kind = options.run_clients
    await asyncio.gather(
        *(
            _client(options.port, _requests(kind, texts, seed), stop, times)
            for seed in range(clients)
        )
    )
    measured_from = begin + WARM_UP * options.seconds
    measured = sorted(seconds for start, seconds, _ in times if start >= measured_from)
    elapsed = time.perf_counter() - measured_from
    return {
        "requests_per_second": len(measured) / elapsed,
        "p50_ms": 1e3 * _quantile(measured, 0.50),
        "p99_ms": 1e3 * _quantile(measured, 0.99),
        "statuses": dict(Counter(status for *_, status in times)),
    }


def _quantile(values: list[float], share: float) -> float:
    """A quantile of sorted values; 0 if there are none."""
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def _clients(
    options: argparse.Namespace, server: Server, kind: str, clients: int, seconds: float
) -> dict[str, Any]:
    """Run the clients in a process of their own."""
    command = [sys.executable, str(HERE), "--data", str(options.data), "--run-clients", kind]
    command += ["--port", str(server.port), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


# --- measurements ---------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> None:
    """Compare the servers, and write the results."""
    from common import keep, median, precisions, show

    found: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = {precision: _train(options, precision, Path(folder)) for precision in precisions()}
        for number in range(options.rounds):
            for precision, run in runs.items():
                for kind, peer in (("task", "one"), ("predict", "three")):
                    commands = {"comity": _comity(run), "peer": _peer(options, peer, precision)}
                    for name, command in commands.items():
                        print(f"round {number + 1}: {name} {kind} {precision}", file=sys.stderr)
                        with _started(command) as server:
                            for clients in options.clients:
                                key = (precision, kind, name, clients)
                                one = _clients(options, server, kind, clients, options.seconds)
                                if set(one["statuses"]) != {"200"}:
                                    raise SystemExit(f"{key}: statuses {one['statuses']}")
                                found.setdefault(key, []).append(one)
    columns = ("requests_per_second", "p50_ms", "p99_ms")
    middle = {key: [median([run[c] for run in all]) for c in columns] for key, all in found.items()}
    rows = [(f"{k} {p} {name}", clients, *v) for (p, k, name, clients), v in middle.items()]
    show("Serving", ["server", "clients", "requests/s", "p50 ms", "p99 ms"], rows)
    ratios: dict[str, float] = {}
    for precision, kind, name, clients in middle:
        if name == "comity":
            ours, theirs = (middle[precision, kind, who, clients] for who in ("comity", "peer"))
            key = f"serve_{kind}_{precision}_{clients}"
            ratios[key] = round(ours[0] / theirs[0], 3)
            ratios[f"{key}_p99"] = round(ours[2] / theirs[2], 3)
    show("Ratios, ours / peer", ["key", "value"], list(ratios.items()))
    details = {" ".join(map(str, key)): all for key, all in found.items()}
    keep("serve", ratios, {"measurements": details})


def _soak(options: argparse.Namespace) -> None:
    """Send mixed requests with 16 clients for some minutes; report memory and errors."""
    from common import keep, precisions, show

    precision = precisions()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = _train(options, precision, Path(folder))
        with _started(_comity(run)) as server:
            command = [sys.executable, str(HERE), "--data", str(options.data)]
            command += ["--run-clients", "mixed", "--port", str(server.port), "--clients", "16"]
            command += ["--seconds", str(60 * options.minutes)]
            clients = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            memory = [_resident(server.process.pid)]
            while clients.poll() is None:
                time.sleep(min(5.0, 6 * options.minutes))
                memory.append(_resident(server.process.pid))
                print(f"{memory[-1] / 2**20:.0f} MiB", file=sys.stderr)
            assert clients.stdout is not None
            result = json.loads(clients.stdout.read())
    parts = [memory[n * len(memory) // 5 : (n + 1) * len(memory) // 5] for n in range(5)]
    fifths = [statistics.median(part or memory[:1]) / 2**20 for part in parts]
    rows = [(f"fifth {number + 1}", value) for number, value in enumerate(fifths)]
    show("Resident memory, MiB, median", ["part of the soak", "MiB"], rows)
    show("Answers", ["status", "count"], list(result["statuses"].items()))
    keep("soak", {}, {"minutes": options.minutes, "memory_mib": fifths, **result})


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


# --- malformed requests ---------------------------------------------------------------------------


def _malformed(options: argparse.Namespace) -> None:
    """Send malformed requests; fails if one is answered with a status of 500 or more."""
    from common import precisions, show

    with tempfile.TemporaryDirectory() as folder:
        run = _train(options, precisions()[0], Path(folder))
        with _started(_comity(run)) as server:
            statuses = asyncio.run(_send_malformed(server.port, options.malformed))
            good = asyncio.run(_send_malformed(server.port, 0))
    show("Answers to malformed requests", ["status", "count"], sorted(statuses.items()))
    if good != {200: 1}:
        raise SystemExit(f"the server no longer answers a good request: {dict(good)}")
    if any(status >= 500 for status in statuses):
        raise SystemExit("some malformed requests were answered with an error of the server")


async def _send_malformed(port: int, count: int) -> Counter[int]:
    """The statuses of `count` malformed requests, or of one good request if `count` is 0."""
    draw = random.Random(0)
    found: Counter[int] = Counter()
    good = PATHS["predict"], b'{"text": "a"}'
    paths = tuple(PATHS.values())
    for path, body in [bad_request(draw, paths) for _ in range(count)] or [good]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        status, content = await _request(reader, writer, path, body)
        if status != 200 and not json.loads(content)["error"]["message"]:
            raise SystemExit(f"status {status} without a sentence")
        found[status] += 1
        writer.close()
    return found


def bad_request(draw: random.Random, paths: Sequence[str]) -> tuple[str, bytes]:
    """A path of the API and a body that is wrong in a random way (a few are right by chance)."""
    path = draw.choice([*paths, "/v1/embeddings", "/v1/tasks/unknown"])
    body = json.dumps(_random_object(draw)).encode()
    at = draw.randrange(len(body) + 1)
    bad = [
        body,
        body[:at],
        body[:at] + bytes(draw.randrange(256) for _ in range(3)) + body[at:],
        b"[" * draw.randrange(1, 100_000),
        b'{"texts":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"text":NaN}',
        json.dumps({"text": "a" * draw.randrange(50_001, 200_000)}).encode(),
        json.dumps({"texts": ["a"] * draw.randrange(257, 5000)}).encode(),
        b" " * draw.randrange(2**20 + 1, 2**21),
        bytes(draw.randrange(256) for _ in range(draw.randrange(100))),
    ]
    return path, draw.choice(bad)


def _random_object(draw: random.Random) -> dict[str, Any]:
    keys = ["text", "texts", "pair", "pairs", "tasks", "input", "model", "dimensions", "other"]
    return {draw.choice(keys): _random_value(draw, 3) for _ in range(draw.randrange(4))}


def _random_value(draw: random.Random, depth: int) -> Any:
    plain = [None, True, 0, -1.5, 10**30, "", "text", "\x00", "\ud800", float("nan"), "😀"]
    if depth == 0 or draw.random() < 0.5:
        return draw.choice(plain)
    values = [_random_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return values if draw.random() < 0.7 else {str(n): value for n, value in enumerate(values)}


if __name__ == "__main__":
    main()
