"""What the server accepts at most, and the error that it answers with otherwise."""

from dataclasses import dataclass

from comity.tables.rows import shown


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of the whole server."""

    body_bytes: int = 1024 * 1024
    texts: int = 256  # texts or pairs in a request
    characters: int = 50_000  # in a text
    waiting: int = 2048  # texts or pairs of all requests that are not answered yet
    seconds: float = 30.0  # for receiving a body, and again for its answer
    batch_tokens: int = 2048  # in one pass of the encoder


class RequestError(Exception):
    """A request that is answered with an error: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        """`retry_after`: seconds after which the client may try again."""
        super().__init__(sentence)
        self.status = status
        self.sentence = shown(sentence)  # a key or a name in it may hold line ends
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
