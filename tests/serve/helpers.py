"""A run with every kind of head, a server in a thread, and a client of the standard library."""

import http.client
import json
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from tests.helpers import alike_rows, mood_rows, two_tasks, write_csv, write_two_tasks

from comity import Recipe
from comity.serve.limits import Limits
from comity.serve.server import LAST_SECONDS, make_server, open_socket

TOPICS = [f"topic {number}" for number in range(12)]


def many_heads(encoder: Path, folder: Path) -> Recipe:
    """A recipe with six tasks, and its files in `folder`.

    One text: mood (two classes), topic (twelve), tags (multi-label), stars (a number). Two texts:
    alike (a score) and close (the cosine of two embeddings).
    """
    write_two_tasks(folder)
    rows = [(text, TOPICS[n % 12], n % 2, n % 3 == 0, n % 7) for n, (text, _) in
            enumerate(mood_rows(0, 24))]  # fmt: skip
    header = ["text", "topic", "one", "<b>two</b>", "stars"]
    write_csv(folder / "more.csv", header, [(*row[:3], int(row[3]), row[4]) for row in rows])
    write_csv(folder / "close.csv", ["a", "b", "score"], alike_rows(0, 20))
    files = {"train": "more.csv", "dev": "more.csv", "text": "text"}
    recipe = two_tasks(encoder, train__steps=1, train__epochs=...).to_dict()
    recipe["tasks"] |= {
        "topic": {"kind": "classification", "label": "topic", "pooling": "cls", **files},
        "tags": {"kind": "multi-label", "labels": ["one", "<b>two</b>"], **files},
        "stars": {"kind": "regression", "label": "stars", "max_length": 16, **files},
        "close": {
            "kind": "similarity",
            "head": "cosine",
            "train": "close.csv",
            "dev": "close.csv",
            "texts": ["a", "b"],
            "label": "score",
        },
    }
    return Recipe.from_dict(recipe)


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The content as JSON, in which NaN is not allowed."""
        return json.loads(self.content, parse_constant=_refuse)

    @property
    def sentence(self) -> str:
        """The sentence of an error, which must be one."""
        sentence = self.json["error"]["message"]
        assert sentence
        assert "\n" not in sentence
        return sentence


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@dataclass
class Client:
    """Sends requests, each on a new connection."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Reply:
        """Send a GET request."""
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Send a POST request, of bytes or of JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, content, headers)

    def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
        """Send any request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            chunked = "transfer-encoding" in headers
            connection.request(method, path, body, self.headers | headers, encode_chunked=chunked)
            reply = connection.getresponse()
            lower = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, lower, reply.read())
        finally:
            connection.close()


@contextmanager
def running(app: Any, limits: Limits | None = None) -> Iterator[Client]:
    """A server in a thread; stops it as SIGTERM does."""
    limits = limits or Limits()
    started = threading.Event()
    bound = open_socket("127.0.0.1", 0)
    port = bound.getsockname()[1]
    server = make_server(app, limits.seconds, started.set)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        assert started.wait(30)
        yield Client(port)
    finally:
        server.should_exit = True
        # The server promises to end within the seconds of two requests and LAST_SECONDS.
        thread.join(2 * limits.seconds + LAST_SECONDS + 15)
        assert not thread.is_alive(), _what_runs(server)


def _what_runs(server: uvicorn.Server) -> str:
    """What a server that does not end is waiting for."""
    state = server.server_state
    connections = [
        (vars(own), own.cycle and vars(own.cycle))  # pyright: ignore
        for own in state.connections
    ]
    stacks = ["".join(traceback.format_stack(frame)) for frame in sys._current_frames().values()]
    return "\n\n".join([f"{connections}", f"{state.tasks}", *stacks])
