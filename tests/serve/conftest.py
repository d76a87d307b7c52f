"""A run with six tasks, its model, and a server for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.helpers import Client, many_heads, running

from comity import Model, load, train

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny_checkpoint) -> Path:
    """The run directory."""
    folder = tmp_path_factory.mktemp("serve")
    recipe = many_heads(tiny_checkpoint, folder / "data")
    return train(recipe, folder / "data", folder / "six-tasks", quiet=True).path


@pytest.fixture(scope="session")
def model(run) -> Model:
    """The run's model, apart from the server's."""
    return load(run, device="cpu")


@pytest.fixture(scope="module")
def client(run) -> Iterator[Client]:
    """A client of a server with the default limits."""
    from comity.serve.app import create_app

    with running(create_app(load(run, device="cpu"), run)) as client:
        yield client
