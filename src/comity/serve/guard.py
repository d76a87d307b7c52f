"""What holds for every request: the API key, safe headers, and metrics."""

import base64
import binascii
import hmac
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comity.serve.limits import RequestError
from comity.serve.metrics import Metrics

OPEN = ("/health", "/ready")
"""Paths that need no API key, for probes."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox"
)
"""A report is one file, with its styles inside and without scripts."""

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """Wraps the application.

    A key is accepted as `Authorization: Bearer KEY`, or as the password of Basic authentication,
    for which browsers ask by themselves.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None):
        self._app = app
        self._metrics = metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; other messages of ASGI are passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path: str = scope["path"]
        policy = REPORT_POLICY if path == "/report" else POLICY
        headers = [*HEADERS, (b"content-security-policy", policy.encode())]
        status = 500

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        try:
            if self._key is None or path in OPEN or self._has_key(scope):
                await self._app(scope, receive, send_safely)
            else:
                await _refuse(send_safely)
        finally:
            self._metrics.count_request(path, status, time.perf_counter() - started)

    def _has_key(self, scope: Scope) -> bool:
        assert self._key is not None
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, credentials = given.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials.strip(), self._key)


async def _refuse(send: Send) -> None:
    """Answer that the API key is missing or wrong."""
    error = RequestError(
        401, 'the API key is missing or wrong; send it as the header "Authorization: Bearer KEY"'
    )
    body = json.dumps(error_body(error.status, error.sentence)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Basic realm="comity", charset="UTF-8"'),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(status: int, sentence: str) -> dict[str, Any]:
    """An error as in the OpenAI API, whose clients show the message."""
    kinds = {401: "authentication_error", 404: "not_found_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    return {"error": {"message": sentence, "type": kind}}
