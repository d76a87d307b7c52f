"""The web application: the API, the page, and what probes and Prometheus read."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from comity.errors import ComityError
from comity.inference.answers import Answer, Embedding, Query
from comity.inference.model import Model
from comity.inference.prediction import Prediction
from comity.serve import bodies
from comity.serve.batcher import Answers, Batcher, Failed
from comity.serve.guard import Guard, error_body
from comity.serve.limits import Limits, RequestError
from comity.serve.metrics import CONTENT_TYPE, Metrics

DEFAULT_MODEL = "comity"
"""What clients of the OpenAI API name as `model`, besides the tasks that train embeddings."""

EMBEDDINGS = "embeddings"
"""The rows of /v1/embeddings among the metrics by task."""

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the page in `static/`, by path."""

DESCRIPTION = "Predictions and embeddings of one multi-task model; each text is encoded once."


def create_app(
    model: Model, run: Path, limits: Limits | None = None, api_key: str | None = None
) -> ASGIApp:
    """The application for a model.

    Args:
        model: the loaded model of `run`.
        run: the run directory, whose name and report are shown.
        limits: what requests may be.
        api_key: what clients must send; None: anyone may send requests.
    """
    service = Service(model, run, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.warm_up)
        service.batcher.start()
        yield
        await asyncio.to_thread(service.batcher.stop)

    app = FastAPI(
        title="Comity",
        summary=DESCRIPTION,
        version=version("comity"),
        docs_url=None,  # FastAPI's pages load their scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_routes(app, service)
    _add_errors(app)
    return Guard(app, service.metrics, api_key)


class Service:
    """The endpoints, for one model."""

    def __init__(self, model: Model, run: Path, limits: Limits):
        self._model = model
        self._run = run
        self._limits = limits
        self._text_counts = {task: model.text_count(task) for task in model.tasks}
        self._started = int(time.time())
        self._answerer = model.answerer()
        self._trained = self._answerer.embeddings()
        default = next(iter(self._trained.values()), self._answerer.encoder_embedding())
        self._embeddings: dict[str, Embedding] = {DEFAULT_MODEL: default} | self._trained
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(self._answerer, limits, self.metrics.count_pass)

    def warm_up(self) -> None:
        """Answer each task once, then the largest pass.

        So the first request does not wait for what is loaded late, and a server takes the memory
        that a pass needs when it starts, or fails then.
        """
        queries = [Query(("text",) * count, (task,)) for task, count in self._text_counts.items()]
        self._answerer.answer(self._answerer.tokenize(queries))
        task, longest = max(self._answerer.limits.items(), key=lambda item: item[1])
        texts = range(-(-self._limits.batch_tokens // longest))
        long = [(f"{number}" + " text" * longest,) * self._text_counts[task] for number in texts]
        self._answerer.answer(self._answerer.tokenize([Query(row, (task,)) for row in long]))

    async def predict_task(self, request: Request) -> Response:
        """Predict one task for one or many rows."""
        task = request.path_params["task"]
        count = self._text_counts.get(task)
        if count is None:
            raise RequestError(404, self._unknown_task(task))
        rows = (await self._body(request, bodies.TextsBody)).rows(self._limits)
        if len(rows[0]) != count:
            raise RequestError(422, f"{task} reads {_texts(count)}; {_ADVICE[count]}")
        found = await self._answer([Query(row, (task,)) for row in rows])
        self.metrics.count_rows(task, len(rows))
        return _json({"task": task, "predictions": _predictions(found.answers, task)})

    async def predict(self, request: Request) -> Response:
        """Predict all tasks that read such rows; each row is encoded once for all of them."""
        body = await self._body(request, bodies.PredictBody)
        rows = body.rows(self._limits)
        tasks = self._tasks_for(len(rows[0]), body.tasks)
        found = await self._answer([Query(row, tasks) for row in rows])
        for task in tasks:
            self.metrics.count_rows(task, len(rows))
        return _json({"tasks": {task: _predictions(found.answers, task) for task in tasks}})

    def _tasks_for(self, count: int, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The tasks for rows of `count` texts: those wanted, or all."""
        if wanted is None:
            tasks = tuple(task for task, texts in self._text_counts.items() if texts == count)
            if not tasks:
                raise RequestError(422, f"no task of this run reads {_texts(count)}")
            return tasks
        if not wanted:
            raise RequestError(422, '"tasks" is empty; leave it out to predict all tasks')
        for task in wanted:
            if task not in self._text_counts:
                raise RequestError(422, self._unknown_task(task))
            if self._text_counts[task] != count:
                own = self._text_counts[task]
                raise RequestError(422, f"{task} reads {_texts(own)}; {_ADVICE[own]}")
        return tuple(dict.fromkeys(wanted))

    async def embed(self, request: Request) -> Response:
        """Embeddings of texts, as in the OpenAI API."""
        body = await self._body(request, bodies.EmbeddingsBody)
        rows = body.rows(self._limits)
        if body.model not in self._embeddings:
            known = ", ".join(self._embeddings)
            raise RequestError(404, f"unknown model; /v1/embeddings has {known}")
        embedding = self._embeddings[body.model]
        found = await self._answer([Query(row, embedding=embedding) for row in rows])
        self.metrics.count_rows(EMBEDDINGS, len(rows))
        as_base64 = body.encoding_format == "base64"
        entries = [
            _embedding_entry(index, answer, as_base64) for index, answer in enumerate(found.answers)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        return _json({"object": "list", "data": entries, "model": body.model, "usage": usage})

    async def tasks(self) -> Response:
        """The run, what its tasks read and predict, and the limits of a request."""
        limits = self._limits
        answer = {
            "run": self._run.resolve().name,
            "tasks": [self._description(task) for task in self._model.tasks],
            "report": self._report.is_file(),
            "limits": {
                "body_bytes": limits.body_bytes,
                "texts": limits.texts,
                "characters": limits.characters,
                "seconds": limits.seconds,
            },
        }
        return _json(answer)

    def _description(self, task: str) -> dict[str, Any]:
        target = self._model.target(task)
        return {
            "name": task,
            "kind": target.kind,
            "texts": self._text_counts[task],
            "columns": [str(column) for column in self._model.section(task).text_columns],
            "classes": list(target.classes),
            "scale": list(target.scale) if target.kind == "similarity" else None,
            "max_length": self._answerer.limits[task],
        }

    async def models(self) -> Response:
        """What /v1/embeddings takes as `model`: "comity", and tasks that train embeddings."""
        entries = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "comity",
                "trained": bool(self._trained),
            }
            for name in self._embeddings
        ]
        return _json({"object": "list", "data": entries})

    async def health(self) -> Response:
        """Whether the process works; restart it if it does not."""
        alive = self.batcher.alive
        return _json({"status": "ok" if alive else "the model has stopped"}, 200 if alive else 503)

    async def ready(self) -> Response:
        """Whether the server takes requests now."""
        if not self.batcher.alive:
            return await self.health()
        full = self.batcher.full
        return _json(
            {"status": "too many texts are waiting" if full else "ok"}, 503 if full else 200
        )

    async def prometheus(self) -> Response:
        """Metrics in Prometheus's text format."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def report(self) -> Response:
        """The run's report, if it has one."""
        if not self._report.is_file():
            raise RequestError(404, "this run has no report")
        content = await asyncio.to_thread(self._report.read_bytes)
        return Response(content, media_type="text/html; charset=utf-8")

    @property
    def _report(self) -> Path:
        return self._run / "report.html"

    async def _body(self, request: Request, body_class: type[bodies.BodyClass]) -> bodies.BodyClass:
        return bodies.parse(await self._read(request), body_class)

    async def _read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            RequestError: it is larger than the limit, or does not arrive in time.
        """
        limits = self._limits
        declared = request.headers.get("content-length", "0")
        too_large = RequestError(
            413, f"the body has more than {limits.body_bytes:,} bytes; send fewer texts at a time"
        )
        if declared.isdecimal() and int(declared) > limits.body_bytes:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(limits.seconds):
                async for part in request.stream():
                    content += part
                    if len(content) > limits.body_bytes:  # a body may declare no length
                        raise too_large
        except TimeoutError:
            raise RequestError(
                408, f"the body did not arrive within {limits.seconds:g} seconds; send it again"
            ) from None
        except ClientDisconnect:
            raise RequestError(400, "the client has closed the connection") from None
        return bytes(content)

    async def _answer(self, queries: Sequence[Query]) -> Answers:
        try:
            return await self.batcher.answer(queries)
        except Failed:
            raise RequestError(
                500, "the model failed on this request; the server's log has the reason"
            ) from None

    def _unknown_task(self, task: str) -> str:
        try:
            self._model.section(task)
        except ComityError as error:
            return error.messages[0]
        return ""


_ADVICE = {1: 'send "text" or "texts"', 2: 'send "pair" or "pairs"'}


def _texts(count: int) -> str:
    return "one text per row" if count == 1 else "a pair of texts per row"


def _predictions(answers: Sequence[Answer], task: str) -> list[dict[str, Any]]:
    return [_prediction(answer.predictions[task], task in answer.truncated) for answer in answers]


def _prediction(prediction: Prediction, truncated: bool) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "clipped": prediction.clipped,
        "truncated": truncated,
    }


def _embedding_entry(index: int, answer: Answer, as_base64: bool) -> dict[str, Any]:
    assert answer.embedding is not None
    embedding: Any
    if as_base64:
        embedding = base64.b64encode(answer.embedding.astype("<f4").tobytes()).decode()
    else:
        embedding = answer.embedding.tolist()
    return {
        "object": "embedding",
        "index": index,
        "embedding": embedding,
        "truncated": answer.embedding_truncated,
    }


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    try:
        content = json.dumps(value, allow_nan=False)
    except ValueError:
        raise RequestError(
            500, "the model's output is not a finite number; check how the run was trained"
        ) from None
    return Response(content, status, headers, "application/json")


# --- routes ---------------------------------------------------------------------------------------

_ERRORS = {
    400: "the body is not JSON",
    401: "the API key is missing or wrong",
    408: "the body did not arrive in time",
    413: "the body is too large",
    422: "the body does not hold what the endpoint reads, or more than a request can have",
    503: "too many texts are waiting; try again after `Retry-After` seconds",
    504: "no answer in time",
}


def _add_routes(app: FastAPI, service: Service) -> None:
    def post(
        path: str,
        endpoint: Callable[..., Any],
        body: type[BaseModel],
        answer: type[BaseModel],
        summary: str,
    ) -> None:
        """Add an endpoint that reads a body. It parses the body itself; this documents it."""
        named = ["task", "model"] if path != "/v1/predict" else []
        errors = {404: f"unknown {' or '.join(named)}"} if named else {}
        responses: dict[int | str, dict[str, Any]] = {
            status: {"model": bodies.ErrorAnswer, "description": description}
            for status, description in {**_ERRORS, **errors}.items()
        }
        content = {"application/json": {"schema": body.model_json_schema()}}
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            responses={200: {"model": answer}, **responses},
            response_class=Response,
            openapi_extra={"requestBody": {"required": True, "content": content}},
        )

    def get(path: str, endpoint: Callable[..., Any], answer: type[BaseModel], summary: str) -> None:
        app.add_api_route(
            path,
            endpoint,
            summary=summary,
            responses={200: {"model": answer}},
            response_class=Response,
        )

    post("/v1/tasks/{task}", service.predict_task, bodies.TextsBody, bodies.TaskAnswer, "One task")
    post("/v1/predict", service.predict, bodies.PredictBody, bodies.PredictAnswer, "Several tasks")
    post(
        "/v1/embeddings",
        service.embed,
        bodies.EmbeddingsBody,
        bodies.EmbeddingsAnswer,
        "Embeddings, as in the OpenAI API",
    )
    get("/v1/tasks", service.tasks, bodies.TasksAnswer, "The tasks of the run")
    get("/v1/models", service.models, bodies.ModelsAnswer, "Models of /v1/embeddings")
    get("/health", service.health, bodies.StatusAnswer, "Whether the process works")
    get("/ready", service.ready, bodies.StatusAnswer, "Whether requests are accepted")
    app.add_api_route("/metrics", service.prometheus, include_in_schema=False)
    app.add_api_route("/report", service.report, include_in_schema=False)
    for path in PAGE:
        app.add_api_route(path, _page_file(path), include_in_schema=False)


def _page_file(path: str) -> Callable[[], Any]:
    """The endpoint of one of the page's files, which is read once."""
    name, media_type = PAGE[path]
    content = resources.files("comity.serve").joinpath("static", name).read_bytes()

    async def page_file() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return page_file


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return _json(error_body(error.status, error.sentence), error.status, error.headers)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentences = {404: "there is no such path; /openapi.json lists the paths"}
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            sentences[405] = f"this path does not take {request.method}; use {allowed}"
        sentence = sentences.get(error.status_code, str(error.detail))
        return _json(error_body(error.status_code, sentence), error.status_code, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        sentence = "the server failed on this request; its log has the reason"
        return _json(error_body(500, sentence), 500)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, failed)
