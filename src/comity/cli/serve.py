"""`comity serve`: a JSON API and a page for a run's model."""

import argparse
import contextlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, check_exist
from comity.errors import ComityError
from comity.format import missing_extra
from comity.serve.limits import Limits

if TYPE_CHECKING:
    from comity.inference.model import Model

DEFAULT = Limits()

LIMITS = (
    ("--max-body", DEFAULT.body_bytes, "BYTES", "bytes in the body of a request"),
    ("--max-texts", DEFAULT.texts, "N", "texts or pairs in a request"),
    ("--max-characters", DEFAULT.characters, "N", "characters in a text"),
    ("--max-waiting", DEFAULT.waiting, "N", "texts or pairs of all requests that may wait"),
    ("--timeout", DEFAULT.seconds, "SECONDS", "seconds until a request without an answer fails"),
    ("--batch-tokens", DEFAULT.batch_tokens, "N", "tokens in one pass of the encoder"),
)
"""Each limit: its option, default, what its value is called, and what it limits."""

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra `serve` installs."""


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "serve a run's model over HTTP: a JSON API and a page to try it"
    command = add_command(commands, "serve", run, help)
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0: all networks)",
    )
    command.add_argument(
        "--port", type=_port, default=8000, help="port (default: 8000; 0 takes a free one)"
    )
    command.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file with a key that clients must send (or set COMITY_API_KEY); a key given as an "
        "option could be read by other users of the machine",
    )
    command.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", ...')
    limits = command.add_argument_group("limits")
    for option, default, metavar, help in LIMITS:
        kind = _seconds if isinstance(default, float) else _positive
        limits.add_argument(
            option, type=kind, default=default, metavar=metavar, help=f"{help} (default: {default})"
        )
    command.add_argument(
        "--json", action="store_true", help="print the address as JSON when the server is ready"
    )


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text}")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text}")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist([options.run_directory])
    _check_installed()
    from comity import hardware
    from comity.serve.app import create_app
    from comity.serve.server import open_socket, read_api_key, run_server
    from comity.terminal.views import tell
    from comity.terminal.waiting import Waiting

    api_key = read_api_key(options.api_key_file)
    limits = Limits(
        body_bytes=options.max_body,
        texts=options.max_texts,
        characters=options.max_characters,
        waiting=options.max_waiting,
        seconds=options.timeout,
        batch_tokens=options.batch_tokens,
    )
    with open_socket(options.host, options.port) as bound:  # before the model is loaded
        hardware.limit_compiled_kernels()
        with Waiting("loading the model"):
            model = _load(options)
            app = create_app(model, options.run_directory, limits, api_key)
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{port}"

        def on_start() -> None:
            if api_key is None and not _is_loopback(host):
                tell("note: there is no API key, so everyone who reaches this address can use it")
            if options.json:
                print(json.dumps({"url": url, "port": port, "tasks": model.tasks}), flush=True)
            else:
                print(f"{options.run_directory}: serving {', '.join(model.tasks)} at {url}")
                print("Ctrl-C stops the server.", flush=True)

        run_server(app, bound, limits.seconds, on_start)
    return 0


def _load(options: argparse.Namespace) -> "Model":
    from comity.inference.model import load

    try:
        return load(options.run_directory, options.device)
    except ComityError as error:
        raise ComityError(
            *(m.replace("train.device:", "--device:") for m in error.messages)
        ) from None


def _is_loopback(host: str) -> bool:
    import ipaddress

    return ipaddress.ip_address(host).is_loopback


def _check_installed() -> None:
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        names = [package.replace("_", "-") for package in missing]
        raise ComityError(missing_extra("comity serve needs", names, "serve"))
