"""`comity serve` under load for some seconds, as a process of its own.

`python benchmarks/serve.py` measures speed, and memory over ten minutes.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from benchmarks.serve import bad_request
from tests.serve.helpers import Client, Reply

pytestmark = pytest.mark.slow

PATHS = ("/v1/tasks/mood", "/v1/tasks/alike", "/v1/predict", "/v1/embeddings")
CLIENTS = 64
REQUESTS = 30
"""Of each client."""


@pytest.fixture
def server(run) -> Iterator["subprocess.Popen[str]"]:
    """The process, which prints its port."""
    command = [sys.executable, "-m", "comity", "serve", str(run), "--port", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


@pytest.fixture
def client(server) -> Client:
    """A client, once the server is ready."""
    return Client(json.loads(server.stdout.readline())["port"])


def good_request(client: Client, draw: random.Random) -> Reply:
    """Send one to sixteen texts or pairs, short and long, to some endpoint."""
    texts = [
        f"word {draw.random()} " * draw.choice([1, 4, 60]) for _ in range(draw.choice([1, 16]))
    ]
    path = draw.choice(PATHS)
    if path == "/v1/embeddings":
        return client.post(path, {"input": texts})
    if path == "/v1/tasks/alike":
        return client.post(path, {"pairs": [[text, "another"] for text in texts]})
    return client.post(path, {"texts": texts})


def memory(process: int) -> int:
    """Resident memory of a process in KiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_many_clients_are_all_answered(server, client):
    def answers(seed: int) -> Counter[int]:
        draw = random.Random(seed)
        return Counter(good_request(client, draw).status for _ in range(REQUESTS))

    grown = []
    for turn in range(3):
        with ThreadPoolExecutor(CLIENTS) as pool:
            seeds = range(turn * CLIENTS, (turn + 1) * CLIENTS)
            statuses = sum(pool.map(answers, seeds), Counter())
        assert statuses == {200: CLIENTS * REQUESTS}
        grown.append(memory(server.pid))
    assert grown[2] - grown[1] < 0.05 * grown[1]
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


def test_malformed_requests_are_answered_with_a_sentence(server, client):
    def statuses(seed: int) -> Counter[int]:
        draw = random.Random(seed)
        found: Counter[int] = Counter()
        for _ in range(125):
            reply = client.send("POST", *bad_request(draw, PATHS), {})
            assert reply.status == 200 or reply.sentence
            found[reply.status] += 1
        return found

    with ThreadPoolExecutor(8) as pool:
        found = sum(pool.map(statuses, range(8)), Counter())
    assert found.total() == 1000
    assert found[422] > 100
    assert max(found) < 500
    assert client.post("/v1/predict", {"text": "a"}).status == 200
