"""The JSON bodies of requests and answers, and the sentences about wrong ones.

The server parses requests with these classes. Answers are written as plain dicts, because that is
faster; their classes describe them in the OpenAPI document, and a test compares the two.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from comity.errors import nearest
from comity.serve.limits import Limits, RequestError
from comity.tables.rows import shortened

Pair = tuple[str, str]
Texts = Annotated[list[str], Field(fail_fast=True)]
Pairs = Annotated[list[Annotated[Pair, Field(fail_fast=True)]], Field(fail_fast=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextsBody(_Body):
    """One text, several texts, one pair of texts or several pairs: exactly one of the four."""

    text: str | None = Field(None, examples=["A quiet, generous film."])
    texts: Texts | None = None
    pair: Pair | None = None
    pairs: Pairs | None = None

    def rows(self, limits: Limits) -> list[tuple[str, ...]]:
        """The rows: tuples of one text, or of two.

        Raises:
            RequestError: none or several of the four keys, no rows, too many, or a long text.
        """
        given = [key for key in _KEYS if getattr(self, key) is not None]
        if len(given) != 1:
            what = " and ".join(f'"{key}"' for key in given) or "none of them"
            raise RequestError(
                422, f'give exactly one of "text", "texts", "pair" and "pairs", got {what}'
            )
        (key,) = given
        value = getattr(self, key)
        rows = [value] if key in ("text", "pair") else value
        check_rows(key, len(rows), limits)
        if key.startswith("text"):
            rows = [(text,) for text in rows]
        check_lengths(key, rows, limits)
        return rows


_KEYS = ("text", "texts", "pair", "pairs")


class PredictBody(TextsBody):
    """As for one task, and optionally the names of the tasks."""

    tasks: Texts | None = None


class EmbeddingsBody(_Body):
    """What clients of the OpenAI API send."""

    input: Annotated[str | Texts, Field(examples=["A quiet, generous film."])]
    model: str = "comity"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Any = None
    user: Any = None

    def rows(self, limits: Limits) -> list[tuple[str]]:
        """The texts.

        Raises:
            RequestError: no texts, too many, a long text, or `dimensions`, which is not offered.
        """
        if self.dimensions is not None:
            raise RequestError(
                422, '"dimensions" is not offered: embeddings have one size; leave it out'
            )
        texts = [self.input] if isinstance(self.input, str) else self.input
        check_rows("input", len(texts), limits)
        rows = [(text,) for text in texts]
        check_lengths("input", rows, limits)
        return rows


def check_rows(key: str, count: int, limits: Limits) -> None:
    """Raise `RequestError` if a request has no rows, or too many."""
    if count == 0:
        raise RequestError(422, f'"{key}" is empty; give at least one text')
    if count > limits.texts:
        raise RequestError(
            422,
            f'"{key}" has {count:,} rows, and a request can have {limits.texts:,}; send several '
            "requests",
        )


def check_lengths(key: str, rows: list[tuple[str, ...]] | list[tuple[str]], limits: Limits) -> None:
    """Raise `RequestError` if a text is too long."""
    for number, row in enumerate(rows):
        longest = max(map(len, row))
        if longest > limits.characters:
            raise RequestError(
                422,
                f'"{key}"[{number}] has {longest:,} characters, and a text can have '
                f"{limits.characters:,}; shorten it",
            )


BodyClass = TypeVar("BodyClass", bound=_Body)


def parse(content: bytes, body_class: type[BodyClass]) -> BodyClass:
    """The body of a request.

    Raises:
        RequestError: it is not JSON (status 400), or not what the class declares (422).
    """
    try:
        value = from_json(content)
    except ValueError as error:
        raise RequestError(400, f"the body is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise RequestError(422, 'the body must be a JSON object, such as {"text": "..."}')
    known = body_class.model_fields
    for key in value:  # pydantic would make an error of every unknown key, which may be many
        if key not in known:
            hint = nearest(shortened(key), known) or f"; the keys are {', '.join(known)}"
            raise RequestError(422, f'unknown key "{shortened(key)}"{hint}')
    try:
        return body_class.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise RequestError(422, _sentence(first)) from None


_SENTENCES = {
    "string_type": "must be a string",
    "list_type": "must be a list of strings",
    "tuple_type": "must be a list of two strings",
    "too_long": "must be a list of two strings",
    "missing": "is missing",
    "literal_error": 'must be "float" or "base64"',
}
"""What is wrong with a value, by pydantic's type of error."""

_LISTS = ("list_type", "tuple_type", "too_long")


def _sentence(error: ErrorDetails) -> str:
    """What is wrong with one value."""
    kind, place = error["type"], list(error["loc"])
    if place[0] == "input" and kind != "missing":
        return '"input" must be a string or a list of strings; token ids are not accepted'
    if kind == "missing" and len(place) > 1:  # the second text of a pair
        place, kind = place[:-1], "tuple_type"
    name = f'"{place[0]}"' + "".join(f"[{index}]" for index in place[1:])
    what = _SENTENCES.get(kind) or f"is not accepted ({error['msg']})"
    got = f", got {_kind(error['input'])}" if kind in ("string_type", *_LISTS) else ""
    return f"{name} {what}{got}"


def _kind(value: Any) -> str:
    """What a JSON value is, without its content: a request may be private."""
    kinds = {
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        dict: "an object",
    }
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "null" if value is None else kinds.get(type(value), "another value")


# --- answers --------------------------------------------------------------------------------------


class PredictionAnswer(BaseModel):
    """The prediction for one row."""

    label: str | list[str] | float = Field(
        description="a class, a list of classes (multi-label) or a number in the label's unit"
    )
    probabilities: dict[str, float] = Field(description="empty for a head that predicts a number")
    clipped: bool = Field(description="a similarity was beyond its scale and is now its end")
    truncated: bool = Field(description="the row was longer than the task's max_length and was cut")


class TaskAnswer(BaseModel):
    """One task's predictions, in the order of the rows."""

    task: str
    predictions: list[PredictionAnswer]


class PredictAnswer(BaseModel):
    """Several tasks' predictions for the same rows."""

    tasks: dict[str, list[PredictionAnswer]]


class TaskDescription(BaseModel):
    """What a task reads and predicts."""

    name: str
    kind: str
    texts: int = Field(description="1: a text; 2: a pair of texts")
    columns: list[str] = Field(description="what the recipe calls the texts")
    classes: list[str]
    scale: list[float] | None = Field(description="lowest and highest similarity")
    max_length: int = Field(description="tokens that are read of a row, with special tokens")


class TasksAnswer(BaseModel):
    """The run and its tasks."""

    run: str
    tasks: list[TaskDescription]
    report: bool = Field(description="whether /report has a report of the run")
    limits: dict[str, float]


class EmbeddingEntry(BaseModel):
    """The embedding of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(
        description="numbers, or little-endian float32 in base64, as `encoding_format` says"
    )
    truncated: bool


class Usage(BaseModel):
    """Tokens that the encoder has read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings as in the OpenAI API."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: Usage


class ModelEntry(BaseModel):
    """A name that /v1/embeddings takes as `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    trained: bool = Field(description="whether a task of the run has trained these embeddings")


class ModelsAnswer(BaseModel):
    """The names that /v1/embeddings takes as `model`."""

    object: Literal["list"]
    data: list[ModelEntry]


class ErrorDetail(BaseModel):
    """One sentence about what is wrong and what to do."""

    message: str
    type: str


class ErrorAnswer(BaseModel):
    """An error, as in the OpenAI API."""

    error: ErrorDetail


class StatusAnswer(BaseModel):
    """Whether the server works."""

    status: str
