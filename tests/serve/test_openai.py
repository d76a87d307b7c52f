"""/v1/embeddings through OpenAI's own client."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.serve.helpers import running

from comity import Model, load
from comity.serve.app import create_app

pytestmark = pytest.mark.slow
openai = pytest.importorskip("openai", reason="openai is not installed; make test-slow installs it")

TEXTS = ["a quiet street", "tea", "the river and the garden, and again the river"]


@pytest.fixture(scope="module")
def port(run) -> Iterator[int]:
    """The port of a server that wants a key."""
    with running(create_app(load(run, device="cpu"), run, api_key="secret")) as client:
        yield client.port


def client_of(port: int, key: str = "secret"):
    """OpenAI's client for a local server."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
def test_embeddings_are_those_of_the_model(port, model: Model, options):
    found = client_of(port).embeddings.create(model="close", input=TEXTS, **options)
    assert [entry.index for entry in found.data] == [0, 1, 2]
    assert found.model == "close"
    assert found.usage.prompt_tokens == found.usage.total_tokens > len(TEXTS)
    vectors = np.array([entry.embedding for entry in found.data])
    np.testing.assert_allclose(vectors, model.encode(TEXTS, task="close"), atol=1e-6)


def test_models_are_listed(port):
    assert [model.id for model in client_of(port).models.list()] == ["comity", "close"]


def test_errors_are_raised_with_their_sentence(port):
    client = client_of(port)
    with pytest.raises(openai.NotFoundError, match="unknown model"):
        client.embeddings.create(model="gpt", input="tea")
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
        client.embeddings.create(model="comity", input="tea", dimensions=8)
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        client_of(port, "wrong").models.list()
