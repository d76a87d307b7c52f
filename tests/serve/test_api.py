"""The API: answers equal `Model.predict`, embeddings equal `Model.encode`, errors are sentences."""

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from tests.serve.helpers import TOPICS

from comity.serve import bodies

TEXTS = ["the film is good", "a bad, long film about a train", "soup", "", "the book " * 60]
PAIRS = [("a house", "the old house"), ("a song", ""), ("the film " * 40, "a river")]


def assert_same(found: list[dict[str, Any]], wanted: list[Any]) -> None:
    """Served predictions equal those of the model to 1e-6."""
    assert len(found) == len(wanted)
    for served, own in zip(found, wanted, strict=True):
        if isinstance(own.label, float):
            assert served["label"] == pytest.approx(own.label, rel=0, abs=1e-6)
        else:
            assert served["label"] == own.label
        assert served["probabilities"] == pytest.approx(own.probabilities, rel=0, abs=1e-6)
        assert served["clipped"] == own.clipped


@pytest.mark.parametrize("task", ["mood", "topic", "tags", "stars"])
def test_a_task_on_texts(client, model, task):
    reply = client.post(f"/v1/tasks/{task}", {"texts": TEXTS})
    assert reply.status == 200
    assert reply.json["task"] == task
    assert_same(reply.json["predictions"], model.predict(task, TEXTS))
    one = client.post(f"/v1/tasks/{task}", {"text": TEXTS[0]}).json["predictions"]
    assert_same(one, [model.predict(task, TEXTS[0])])


@pytest.mark.parametrize("task", ["alike", "close"])
def test_a_task_on_pairs(client, model, task):
    reply = client.post(f"/v1/tasks/{task}", {"pairs": PAIRS})
    assert reply.status == 200
    assert_same(reply.json["predictions"], model.predict(task, PAIRS))
    one = client.post(f"/v1/tasks/{task}", {"pair": PAIRS[0]}).json["predictions"]
    assert_same(one, model.predict(task, [PAIRS[0]]))


def test_all_tasks_that_read_the_rows(client, model):
    found = client.post("/v1/predict", {"texts": TEXTS}).json["tasks"]
    assert list(found) == ["mood", "topic", "tags", "stars"]
    for task, predictions in found.items():
        assert_same(predictions, model.predict(task, TEXTS))
    found = client.post("/v1/predict", {"pair": PAIRS[0]}).json["tasks"]
    assert list(found) == ["alike", "close"]
    for task, predictions in found.items():
        assert_same(predictions, model.predict(task, [PAIRS[0]]))
    found = client.post("/v1/predict", {"text": "tea", "tasks": ["topic", "mood", "topic"]})
    assert list(found.json["tasks"]) == ["topic", "mood"]


def test_a_row_that_was_cut_says_so_for_each_task(client, model):
    found = client.post("/v1/predict", {"texts": TEXTS}).json["tasks"]
    for task, predictions in found.items():
        cut = [row["truncated"] for row in predictions]
        assert cut == [bool(model.count_truncated(task, [text])) for text in TEXTS]
    assert [row["truncated"] for row in found["stars"]] == [False, False, False, False, True]


@pytest.mark.parametrize("name", ["comity", "close"])
def test_embeddings_in_both_formats_are_those_of_encode(client, model, name):
    body = {"input": TEXTS, "model": name}
    floats = client.post("/v1/embeddings", body).json
    packed = client.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json
    wanted = model.encode(TEXTS, task="close")
    for index, (one, other) in enumerate(zip(floats["data"], packed["data"], strict=True)):
        assert one["index"] == other["index"] == index
        decoded = base64.b64decode(other["embedding"])
        assert struct.unpack(f"<{len(decoded) // 4}f", decoded) == tuple(one["embedding"])
        np.testing.assert_allclose(one["embedding"], wanted[index], rtol=0, atol=1e-6)
    assert [row["truncated"] for row in floats["data"]] == [False] * 5
    counted = [len(ids) + 2 for ids in model._loaded.tokenizer.encode(TEXTS)]
    assert floats["usage"] == {"prompt_tokens": sum(counted), "total_tokens": sum(counted)}


def test_one_text_gives_one_embedding(client):
    one = client.post("/v1/embeddings", {"input": "soup"}).json
    assert [row["index"] for row in one["data"]] == [0]
    assert one["model"] == "comity"


def test_what_the_run_has(client, run):
    found = client.get("/v1/tasks").json
    assert found["run"] == run.name
    assert found["report"] is False
    tasks = {task["name"]: task for task in found["tasks"]}
    assert tasks["topic"]["classes"] == sorted(TOPICS)
    assert (tasks["topic"]["texts"], tasks["topic"]["columns"]) == (1, ["text"])
    assert (tasks["alike"]["texts"], tasks["alike"]["scale"]) == (2, [0, 5])
    assert tasks["stars"]["max_length"] == 16
    names = [entry["id"] for entry in client.get("/v1/models").json["data"]]
    assert names == ["comity", "close"]


def test_answers_are_what_the_openapi_document_says(client):
    for path, body, answer in [
        ("/v1/tasks/tags", {"texts": TEXTS}, bodies.TaskAnswer),
        ("/v1/predict", {"pairs": PAIRS}, bodies.PredictAnswer),
        ("/v1/embeddings", {"input": TEXTS}, bodies.EmbeddingsAnswer),
        ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}, bodies.EmbeddingsAnswer),
        ("/v1/predict", {}, bodies.ErrorAnswer),
        ("/v1/tasks", None, bodies.TasksAnswer),
        ("/v1/models", None, bodies.ModelsAnswer),
        ("/health", None, bodies.StatusAnswer),
        ("/ready", None, bodies.StatusAnswer),
    ]:
        reply = client.get(path) if body is None else client.post(path, body)
        parsed = answer.model_validate(reply.json)
        assert parsed.model_dump() == reply.json  # no key more, none less
    document = client.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    post = document["paths"]["/v1/predict"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"text", "texts", "pair", "pairs", "tasks"}
    assert {"200", "400", "401", "413", "422", "503", "504"} <= set(post["responses"])
    assert "/metrics" not in document["paths"]


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/v1/tasks/mod", {"text": "a"}, 404, 'did you mean "mood"?'),
        ("/v1/tasks/mood", {"pair": ["a", "b"]}, 422, 'send "text" or "texts"'),
        ("/v1/tasks/alike", {"texts": ["a", "b"]}, 422, 'send "pair" or "pairs"'),
        ("/v1/tasks/mood", {"text": "a", "texts": []}, 422, '"text" and "texts"'),
        ("/v1/tasks/mood", {}, 422, "none of them"),
        ("/v1/tasks/mood", {"text": None}, 422, "none of them"),
        ("/v1/tasks/mood", {"texts": []}, 422, '"texts" is empty'),
        ("/v1/tasks/mood", {"text": 5}, 422, '"text" must be a string, got a number'),
        ("/v1/tasks/mood", {"texts": ["a", None]}, 422, '"texts"[1] must be a string, got null'),
        ("/v1/tasks/mood", {"texts": "a"}, 422, '"texts" must be a list of strings, got a string'),
        ("/v1/tasks/mood", {"tekst": "a"}, 422, 'did you mean "text"?'),
        ("/v1/tasks/mood", {"a\nb\x1b": 1}, 422, r'unknown key "a\nb\x1b"'),
        ("/v1/tasks/a%0Ab", {"text": "a"}, 404, r'unknown task "a\nb"'),
        ("/v1/tasks/mood", {"zebra": 1}, 422, "the keys are text, texts, pair, pairs"),
        ("/v1/tasks/mood", ["a"], 422, "must be a JSON object"),
        ("/v1/tasks/mood", b'{"text": "a"', 400, "not valid JSON"),
        ("/v1/tasks/mood", b'{"text": "\xff"}', 400, "not valid JSON"),
        ("/v1/tasks/mood", b'{"text": "\\ud800"}', 400, "not valid JSON"),
        ("/v1/tasks/mood", b"", 400, "not valid JSON"),
        ("/v1/tasks/alike", {"pair": ["a"]}, 422, '"pair" must be a list of two'),
        ("/v1/tasks/alike", {"pairs": [["a", "b"], ["a"]]}, 422, '"pairs"[1] must be a list'),
        ("/v1/tasks/alike", {"pairs": [["a", "b", "c"]]}, 422, "got a list of 3"),
        ("/v1/tasks/alike", {"pairs": [["a", 2]]}, 422, '"pairs"[0][1] must be a string'),
        ("/v1/predict", {"text": "a", "tasks": ["alike"]}, 422, "alike reads a pair"),
        ("/v1/predict", {"text": "a", "tasks": ["x"]}, 422, 'unknown task "x"'),
        ("/v1/predict", {"text": "a", "tasks": []}, 422, '"tasks" is empty'),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 422, '"float" or "base64"'),
        ("/v1/embeddings", {"input": "a", "dimensions": 4}, 422, "dimensions"),
        ("/v1/embeddings", {"input": [[2, 3]]}, 422, "token ids are not accepted"),
        ("/v1/embeddings", {"input": []}, 422, '"input" is empty'),
        ("/v1/embeddings", {}, 422, '"input" is missing'),
        ("/v1/embeddings", {"input": "a", "model": "ada"}, 404, "comity, close"),
        ("/v2", {}, 404, "/openapi.json"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_sentence(client, path, body, status, part):
    reply = client.post(path, body)
    assert reply.status == status
    assert part in reply.sentence
    assert reply.headers["content-type"] == "application/json"


def test_a_wrong_method_names_the_right_one(client):
    reply = client.get("/v1/predict")
    assert reply.status == 405
    assert "use POST" in reply.sentence
    assert reply.headers["allow"] == "POST"


def test_the_page_and_every_answer_have_safe_headers(client):
    for path in ("/", "/app.js", "/style.css", "/icon.svg", "/v1/tasks", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = client.get("/").content.decode()
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page  # nothing comes from another site


def test_metrics_count_requests_and_rows(client):
    def value(name: str) -> float:
        lines = client.get("/metrics").content.decode().splitlines()
        found = [line.split(" ")[-1] for line in lines if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    requests = 'comity_requests_total{path="/v1/predict",status="200"}'
    rows = 'comity_rows_total{task="tags"}'
    before = value(requests), value(rows)
    client.post("/v1/predict", {"texts": ["a", "b", "c"]})
    assert (value(requests), value(rows)) == (before[0] + 1, before[1] + 3)
    assert value("comity_waiting_rows") == 0
    unknown = 'comity_requests_total{path="other",status="404"}'
    before = value(unknown)
    client.get("/a")
    client.get("/b")
    assert value(unknown) == before + 2


def test_a_report_is_shown_apart_from_the_page(client, run):
    assert client.get("/report").status == 404
    (run / "report.html").write_text("<title>Report</title>", encoding="utf-8")
    try:
        reply = client.get("/report")
        assert reply.content == b"<title>Report</title>"
        assert "sandbox" in reply.headers["content-security-policy"]
        assert client.get("/v1/tasks").json["report"] is True
    finally:
        (run / "report.html").unlink()


def test_json_may_be_sent_without_a_content_type(client):
    body = json.dumps({"text": "tea"}).encode()
    for content_type in ("application/json", "application/x-www-form-urlencoded", ""):
        reply = client.post("/v1/tasks/mood", body, **{"content-type": content_type})
        assert reply.status == 200
