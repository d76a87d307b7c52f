"""Runs the application: the socket, signals, and the end."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from comity.errors import ComityError

KEY_VARIABLE = "COMITY_API_KEY"

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than reverse proxies reuse one for."""

LAST_SECONDS = 5.0
"""Seconds on top of a request's limits before a server that stops gives up on it."""


def open_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free port. Nothing can connect to it yet.

    Raises:
        ComityError: the port is in use or not allowed, or this machine has no such address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ComityError(f"--host: {host} is not an address of this machine") from None
    # asyncio turns Nagle's algorithm off only where the protocol is given; with it, an answer whose
    # header and body are two packets waits 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere this would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ComityError(_bind_sentence(host, port, error)) from None
    return bound


def _bind_sentence(host: str, port: int, error: OSError) -> str:
    import errno

    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with --port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"port {port}: this user may not open it; choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is not an address of this machine"
    return f"{host}, port {port}: {error.strerror or error}; choose others with --host and --port"


def read_api_key(file: Path | None) -> str | None:
    """The API key from a file or, without one, from the environment; None if there is none.

    Raises:
        ComityError: the file cannot be read, or the key is empty or not printable ASCII.
    """
    if file is None:
        key, source = os.environ.get(KEY_VARIABLE), KEY_VARIABLE
        if key is None:
            return None
    else:
        source = str(file)
        try:
            key = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ComityError(
                f"{file}: cannot be read ({reason}); name a file with the key"
            ) from None
    key = key.strip()
    if not key:
        raise ComityError(f"{source}: the API key is empty; write one, or leave it out")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ComityError(
            f"{source}: an API key is one word of printable ASCII characters; write another"
        )
    return key


class _Server(uvicorn.Server):
    """Tells when it accepts connections, and ends normally after a signal."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]):
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM.

        uvicorn raises the signal again at the end, so that the process would seem to be killed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def make_server(app: ASGIApp, seconds: float, on_start: Callable[[], None]) -> uvicorn.Server:
    """A server that is not running yet. `seconds` is what a request may take."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(2 * seconds + LAST_SECONDS),
    )
    return _Server(config, on_start)


def run_server(
    app: ASGIApp, bound: socket.socket, seconds: float, on_start: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests that were accepted, and return.

    A second SIGINT stops at once.
    """
    server = make_server(app, seconds, on_start)
    asyncio.run(server.serve([bound]))
