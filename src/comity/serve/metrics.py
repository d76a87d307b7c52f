"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

PATHS = ("/v1/predict", "/v1/embeddings", "/v1/tasks", "/v1/models", "/health", "/ready",
         "/metrics", "/report", "/openapi.json", "/")  # fmt: skip


class Metrics:
    """The server's metrics, in a registry of their own. `waiting` gives the texts that wait."""

    def __init__(self, waiting: Callable[[], int]):
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Counter(
            "comity_requests", "Requests, by path and HTTP status", ["path", "status"], registry=own
        )
        self._seconds = Histogram(
            "comity_request_seconds",
            "Seconds of a request",
            ["path"],
            buckets=SECONDS,
            registry=own,
        )
        self._rows = Counter(
            "comity_rows",
            "Texts and pairs answered, by task; embeddings apart",
            ["task"],
            registry=own,
        )
        self._pass_rows = Histogram(
            "comity_pass_rows",
            "Texts and pairs in a pass of the encoder",
            buckets=TEXTS,
            registry=own,
        )
        self._pass_tokens = Histogram(
            "comity_pass_tokens", "Tokens in a pass of the encoder", buckets=TOKENS, registry=own
        )
        self._pass_seconds = Histogram(
            "comity_pass_seconds", "Seconds of a pass of the encoder", buckets=SECONDS, registry=own
        )
        Gauge("comity_waiting_rows", "Texts and pairs not answered yet", registry=own).set_function(
            waiting
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        name = route_of(path)
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def count_rows(self, task: str, rows: int) -> None:
        """Count the rows that were answered for a task."""
        self._rows.labels(task).inc(rows)

    def count_pass(self, rows: int, tokens: int, seconds: float) -> None:
        """Count a pass of the encoder."""
        self._pass_rows.observe(rows)
        self._pass_tokens.observe(tokens)
        self._pass_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)


def route_of(path: str) -> str:
    """The path as a label; unknown paths share one, since clients can invent any number of them.

    >>> route_of("/v1/tasks/mood"), route_of("/health"), route_of("/wp-admin")
    ('/v1/tasks/{task}', '/health', 'other')
    """
    if path.startswith("/v1/tasks/"):
        return "/v1/tasks/{task}"
    return path if path in PATHS else "other"
