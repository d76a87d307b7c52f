"""`comity serve`: its messages, and a server in a process of its own that SIGTERM ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import two_tasks, write_two_tasks

from comity import train
from comity.cli import serve
from comity.cli.main import main

for package in serve.PACKAGES:
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    write_two_tasks(folder / "data")
    recipe = two_tasks(tiny_checkpoint, train__steps=1, train__epochs=...)
    return train(recipe, folder / "data", folder / "run", quiet=True).path


def error_of(capsys, *arguments: object) -> str:
    assert main(["serve", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_port_in_use_is_one_sentence(capsys, run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = error_of(capsys, run, "--port", port)
    assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--port", "65536"), "must be a port from 0 to 65535, got 65536"),
        (("--host", "no such host"), "--host: no such host is not an address of this machine"),
        (("--host", "192.0.2.1"), "--host: 192.0.2.1 is not an address of this machine"),
        (("--max-texts", "0"), "must be a whole number above 0, got 0"),
        (("--timeout", "soon"), "must be a number of seconds, got soon"),
        (("--timeout", "nan"), "must be a number of seconds, got nan"),
        (("--api-key", "x"), 'did you mean "--api-key-file"?'),
        (("--device", "no"), '--device: this machine has no "no"'),
    ],
)
def test_wrong_options(capsys, run, arguments, part):
    assert part in error_of(capsys, run, "--port", 0, *arguments)


def test_a_folder_that_is_no_run(capsys, tmp_path):
    assert "no such directory" in error_of(capsys, tmp_path / "none")
    assert "not a run" in error_of(capsys, tmp_path, "--port", 0)


@pytest.mark.parametrize("content", ["", "  \n", "two words", "schlüssel", "a\nb"])
def test_a_wrong_api_key(capsys, run, tmp_path, monkeypatch, content):
    (tmp_path / "key").write_text(content, encoding="utf-8")
    from_file = error_of(capsys, run, "--api-key-file", tmp_path / "key")
    monkeypatch.setenv("COMITY_API_KEY", content)
    from_environment = error_of(capsys, run)
    assert from_file.replace(str(tmp_path / "key"), "COMITY_API_KEY") == from_environment
    assert "API key is" in from_environment
    if content.strip():
        assert content not in from_environment


def test_a_key_file_that_is_missing(capsys, run, tmp_path):
    message = error_of(capsys, run, "--api-key-file", tmp_path / "none")
    assert f"{tmp_path / 'none'}: cannot be read (No such file or directory)" in message


def test_the_extra_is_not_installed(capsys, run, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    message = error_of(capsys, run)
    assert 'needs uvicorn, which is not installed; run pip install "comity[serve]"' in message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_ends_the_server_after_its_last_answers(run):
    command = [sys.executable, "-m", "comity", "serve", str(run), "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COMITY_API_KEY": "k1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["tasks"] == ["mood", "alike"]
        assert started["url"] == f"http://127.0.0.1:{started['port']}"

        def send(path: str, body: Any = None) -> bytes:
            content = None if body is None else json.dumps(body).encode()
            headers = {"authorization": "Bearer k1"}
            request = urllib.request.Request(f"{started['url']}{path}", content, headers)
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.read()

        def predicted(number: int) -> int:
            texts = [f"the film number {number} {n} " * 12 for n in range(40)]
            return len(json.loads(send("/v1/predict", {"texts": texts}))["tasks"]["mood"])

        def accepted() -> float:
            """Rows that are answered or wait."""
            lines = (line.rpartition(" ") for line in send("/metrics").decode().splitlines())
            found = {name: value for name, _, value in lines}
            done = float(found.get('comity_rows_total{task="mood"}', 0))
            return done + float(found["comity_waiting_rows"])

        with ThreadPoolExecutor(6) as pool:
            replies = [pool.submit(predicted, number) for number in range(6)]
            while accepted() < 240:
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            assert [reply.result() for reply in replies] == [40] * 6
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.wait()
