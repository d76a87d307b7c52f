"""Case SV-02: what OpenAI's clients send to /v1/embeddings."""

import base64
import json
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from comity import load, train

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from tests.serve.helpers import Client, running


@pytest.fixture(scope="module")
def case(shared) -> Path:
    return shared / "cases" / "files" / "SV-02"


@pytest.fixture(scope="module")
def client(case, tiny_checkpoint, tmp_path_factory) -> Iterator[Client]:
    """A server of the run "base", whose task trains no embeddings."""
    from comity.serve.app import create_app

    recipe = case.parent / "base" / "recipe.toml"
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    values["encoder"] = {"name": str(tiny_checkpoint)}
    values["train"] |= {"steps": 1}
    values["train"].pop("epochs")
    out = tmp_path_factory.mktemp("case") / "run"
    run = train(values, recipe.parent, out, quiet=True).path
    with running(create_app(load(run, device="cpu"), run)) as client:
        yield client


def test_case_sv_02_every_request_gets_an_allowed_status(client, case):
    for line in (case / "requests.jsonl").read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        reply = client.post("/v1/embeddings", request["body"])
        assert reply.status in request["status"], request["name"]
        if reply.status != 200:
            assert reply.sentence
            continue
        answer, wanted = reply.json, request["body"]["input"]
        count = len(wanted) if isinstance(wanted, list) else 1
        assert answer["object"] == "list"
        assert [row["index"] for row in answer["data"]] == list(range(count))
        assert {row["object"] for row in answer["data"]} == {"embedding"}
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
        is_text = request["body"].get("encoding_format") == "base64"
        assert all(isinstance(row["embedding"], str) == is_text for row in answer["data"])


def test_case_sv_02_base64_is_the_float_answer_to_the_last_bit(client, case):
    example = json.loads((case / "base64-example.json").read_text(encoding="utf-8"))
    assert decoded(example["base64"]) == example["floats"]  # what we decode is what they mean
    body = {"input": ["The soup is warm.", "The bus is late."], "model": "comity"}
    floats = client.post("/v1/embeddings", {**body, "encoding_format": "float"}).json["data"]
    packed = client.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json["data"]
    for one, other in zip(floats, packed, strict=True):
        assert len(base64.b64decode(other["embedding"])) == 4 * 32
        assert decoded(other["embedding"]) == one["embedding"]


def decoded(text: str) -> list[float]:
    """Little-endian float32 in base64."""
    content = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(content) // 4}f", content))
