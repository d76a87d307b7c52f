"""Limits, the API key, errors of the model, and the end: over real connections."""

import asyncio
import base64
import http.client
import json
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.helpers import Client, Reply, running

from comity.inference.answers import Answer, Answerer
from comity.serve.app import create_app
from comity.serve.limits import Limits
from comity.serve.server import open_socket

PATHS = ("/v1/tasks/mood", "/v1/tasks/alike", "/v1/predict", "/v1/embeddings")


class Gate:
    """Lets the model's passes wait, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.open = threading.Event()
        self.open.set()
        self.entered = 0
        answer = Answerer.answer

        def wait(own: Answerer, batch: Any) -> list[Answer]:
            self.entered += 1
            assert self.open.wait(20)
            return answer(own, batch)

        monkeypatch.setattr(Answerer, "answer", wait)

    def close(self) -> None:
        """Let passes wait from now on."""
        self.open.clear()
        self.entered = 0

    def wait_for_a_pass(self) -> None:
        """Return when a pass has begun."""
        end = time.monotonic() + 20
        while not self.entered and time.monotonic() < end:
            time.sleep(0.002)


@pytest.fixture
def gate(monkeypatch) -> Gate:
    return Gate(monkeypatch)


def wait_until(client: Client, path: str, status: int) -> Reply:
    """The first answer with this status."""
    end = time.monotonic() + 20
    while (reply := client.get(path)).status != status and time.monotonic() < end:
        time.sleep(0.01)
    return reply


@pytest.mark.parametrize("path", PATHS)
def test_limits_hold_on_every_path(model, run, path):
    limits = Limits(body_bytes=200, texts=2, characters=30)
    key = {"/v1/embeddings": "input", "/v1/tasks/alike": "pairs"}.get(path, "texts")
    row: Any = ["a", "b"] if key == "pairs" else "a"
    long: Any = ["a", "b" * 31] if key == "pairs" else "b" * 31
    with running(create_app(model, run, limits), limits) as client:
        assert client.post(path, {key: [row, row]}).status == 200
        reply = client.post(path, {key: [row, row, row]})
        assert (reply.status, "3 rows, and a request can have 2" in reply.sentence) == (422, True)
        reply = client.post(path, {key: [row, long]})
        assert reply.status == 422
        assert f'"{key}"[1] has 31 characters' in reply.sentence
        body = json.dumps({key: [row]}).encode() + b" " * 300
        assert client.post(path, body).status == 413
        reply = client.send("POST", path, iter([body]), {"transfer-encoding": "chunked"})
        assert (reply.status, "more than 200 bytes" in reply.sentence) == (413, True)
        assert client.post(path, {key: [row]}).status == 200


def test_a_server_runs_the_largest_pass_before_the_first_request(model, run, monkeypatch):
    """So its memory does not grow when the first large request comes."""
    passes: list[int] = []
    answer = Answerer.answer

    def note(own: Answerer, batch: Any) -> list[Answer]:
        passes.append(sum(item.tokens for item in batch))
        return answer(own, batch)

    monkeypatch.setattr(Answerer, "answer", note)
    limits = Limits(batch_tokens=500)
    with running(create_app(model, run, limits), limits) as client:
        assert passes[-1] >= 500
        before = len(passes)
        client.post("/v1/predict", {"texts": [f"{n}" + " tea" * 99 for n in range(9)]})
        assert max(passes[before:]) <= max(passes[:before])


def test_a_body_that_stops_arriving_is_given_up(model, run):
    limits = Limits(seconds=0.2)
    with running(create_app(model, run, limits), limits) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("content-length", "100")
        connection.endheaders(b'{"text": ')
        reply = connection.getresponse()
        assert reply.status == 408
        assert "did not arrive within 0.2 seconds" in json.loads(reply.read())["error"]["message"]
        connection.close()


def test_too_many_requests_are_refused_and_late_ones_given_up(model, run, gate):
    limits = Limits(waiting=2, seconds=1.0)
    with running(create_app(model, run, limits), limits) as client, ThreadPoolExecutor() as pool:
        assert client.get("/ready").status == 200
        gate.close()
        first = pool.submit(client.post, "/v1/predict", {"texts": ["a", "b"]})
        busy = wait_until(client, "/ready", 503)
        assert busy.json["status"] == "too many texts are waiting"
        reply = client.post("/v1/embeddings", {"input": "c"})
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert client.get("/health").status == 200
        late = first.result()
        assert late.status == 504
        assert "no answer within 1 seconds" in late.sentence
        gate.open.set()
        assert client.post("/v1/predict", {"text": "a"}).status == 200
        assert client.get("/ready").status == 200


def test_an_error_of_the_model_fails_one_request(model, run, monkeypatch, caplog):
    answer = Answerer.answer

    def fail(own: Answerer, batch: Any) -> list[Answer]:
        if any("poison" in item.query.texts for item in batch):
            raise RuntimeError("a fault of the model")
        return answer(own, batch)

    monkeypatch.setattr(Answerer, "answer", fail)
    with running(create_app(model, run)) as client:
        reply = client.post("/v1/predict", {"text": "poison"})
        assert reply.status == 500
        assert "the server's log has the reason" in reply.sentence
        assert "fault" not in reply.sentence
        assert client.post("/v1/predict", {"text": "tea"}).status == 200
        assert client.get("/health").status == 200
    assert "a fault of the model" in caplog.text


def test_an_output_that_is_not_finite_is_an_error(model, run, monkeypatch):
    with running(create_app(model, run)) as client:
        monkeypatch.setattr(Answerer, "_pool", lambda *_: _nan())
        reply = client.post("/v1/tasks/mood", {"text": "tea"})
        assert (reply.status, "not a finite number" in reply.sentence) == (500, True)


def _nan() -> Any:
    import torch

    return torch.full((1, 32), float("nan"))


def test_a_model_that_has_stopped_is_reported(model, run, monkeypatch, caplog):
    """A fault of the batcher itself ends its thread; the server must not look healthy."""
    with running(create_app(model, run)) as client:
        monkeypatch.setattr("comity.serve.batcher.Batcher._next_batch", lambda _: 1 / 0)
        with ThreadPoolExecutor() as pool:
            lost = pool.submit(client.post, "/v1/predict", {"text": "tea"})
            assert wait_until(client, "/health", 503).json["status"] == "the model has stopped"
            assert client.get("/ready").status == 503
            assert "restart the server" in client.post("/v1/predict", {"text": "tea"}).sentence
            assert lost.result().status == 500
    assert "ZeroDivisionError" in caplog.text


def test_the_api_key(model, run):
    key = "s3cret-key"
    with running(create_app(model, run, api_key=key)) as client:
        assert client.get("/health").status == client.get("/ready").status == 200
        basic = base64.b64encode(f"anyone:{key}".encode()).decode()
        wrong = base64.b64encode(b"s3cret-key:").decode()
        for path in ("/", "/v1/tasks", "/metrics", "/openapi.json", "/report", "/nowhere"):
            for header in (
                "",
                "Bearer",
                "Bearer x",
                f"Basic {wrong}",
                "Basic ?",
                key,
                "Bearer \xff",
            ):
                reply = client.get(path, authorization=header)
                assert reply.status == 401
                assert "Authorization: Bearer KEY" in reply.sentence
                assert reply.headers["www-authenticate"].startswith("Basic ")
            for header in (f"Bearer {key}", f"bearer {key}", f"Basic {basic}"):
                assert client.get(path, authorization=header).status in (200, 404)
        assert client.post("/v1/predict", {"text": "a"}).status == 401
        reply = client.post("/v1/predict", {"text": "a"}, authorization=f"Bearer {key}")
        assert reply.status == 200


def test_accepted_requests_are_answered_when_the_server_stops(model, run, gate):
    found: list[Future[Reply]] = []
    with ThreadPoolExecutor() as pool:
        with running(create_app(model, run)) as client:
            idle = socket.create_connection(("127.0.0.1", client.port))
            gate.close()
            for number in range(4):
                found.append(pool.submit(client.post, "/v1/predict", {"text": f"text {number}"}))
            gate.wait_for_a_pass()
            time.sleep(0.2)  # the other requests have arrived too
            threading.Timer(0.5, gate.open.set).start()
        assert [reply.result().status for reply in found] == [200] * 4
        idle.close()
    with pytest.raises(OSError, match="refused"):
        client.get("/health")


def test_many_clients_get_their_own_answers(client, model):
    """Each of 200 requests, sent by 16 clients at once, gets the answer to its own text."""
    texts = [f"the film number {n} is {'good' if n % 2 else 'bad'}" for n in range(200)]
    with ThreadPoolExecutor(16) as pool:
        bodies = ({"text": text} for text in texts)
        replies = pool.map(lambda body: client.post("/v1/tasks/stars", body).json, bodies)
        labels = [reply["predictions"][0]["label"] for reply in replies]
    wanted = [prediction.label for prediction in model.predict("stars", texts)]
    assert labels == pytest.approx(wanted, rel=0, abs=1e-6)
    assert len(set(wanted)) > 100


# --- malformed requests ---------------------------------------------------------------------------

KEYS = (
    "text",
    "texts",
    "pair",
    "pairs",
    "tasks",
    "input",
    "model",
    "encoding_format",
    "dimensions",
)

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["float", "base64", "mood", "\x00", "\ud800", "\u202e[SEP]"]),
    ),
    lambda values: st.one_of(
        st.lists(values, max_size=3), st.dictionaries(st.sampled_from(KEYS), values, max_size=2)
    ),
    max_leaves=6,
)
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    VALUES,
    st.dictionaries(st.text(max_size=8), VALUES, max_size=3),
).map(lambda value: json.dumps(value).encode())
DAMAGED = st.tuples(BODIES, st.integers(0, 60), st.binary(max_size=4)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(path=st.sampled_from(PATHS), body=st.one_of(BODIES, DAMAGED, st.binary(max_size=60)))
def test_no_body_is_an_error_of_the_server(client, path, body):
    reply = client.post(path, body)
    assert reply.status in (200, 400, 404, 422)
    if reply.status != 200:
        assert reply.sentence
    reply.json  # noqa: B018 - raises unless it is JSON without NaN


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"text":' * 50_000,
        b'{"texts":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"texts":[' + b"0," * 300_000 + b"0]}",
        b'{"input":[' + b'"a",' * 200_000 + b'"a"]}',
        b"{" + b",".join(b'"k%d":0' % n for n in range(20_000)) + b"}",
        b'{"text":NaN}',
        b'{"text":1e999}',
        b'{"text":"a","text":"b"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"text":"\x01"}',
        b"null",
    ],
    ids=range(13),
)
def test_no_odd_body_is_an_error_of_the_server(client, path, body):
    reply = client.post(path, body)
    assert reply.status in (200, 400, 422)
    reply.json  # noqa: B018


@pytest.mark.parametrize(
    "text", [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000]
)
def test_what_is_not_http_is_refused(client, text):
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith((b"HTTP/1.1 400", b""))
    assert client.get("/health").status == 200


def test_answers_are_sent_without_waiting_for_acknowledgements():
    """With Nagle's algorithm, an answer of two packets takes 40 ms longer."""
    found: list[int] = []

    async def exchange() -> None:
        done = asyncio.Event()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        bound = open_socket("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            await done.wait()
            writer.close()

    asyncio.run(exchange())
    assert found == [1]
