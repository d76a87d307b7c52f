"""Invented texts on which an export is compared with the model that it was made from."""

from comity.export.folders import Source

_TEXTS = (
    "A quiet, generous film.",
    "the bus is late again",
    "Is it far from here?",
    "How far is it?",
    "",
    "No.",
    "Zürich, 東京 and São Paulo: 3 cities",
    "UNBELIEVABLY overcomplicated words, aren't they?",
)


def sample_texts(max_length: int) -> list[str]:
    """Texts of very different lengths; the last has more than `max_length` tokens."""
    return [*_TEXTS, "one more word " * max_length]


def sample_rows(source: Source, task: str) -> list[str] | list[tuple[str, str]]:
    """Rows of a task. Of the pairs, some are too long in one text and some in both."""
    texts = sample_texts(source.max_length(task))
    if source.model.text_count(task) == 1:
        return texts
    return [*zip(texts, [*texts[1:], texts[0]], strict=True), (texts[-1], texts[-1])]


def columns_read(source: Source, task: str) -> list[list[str]]:
    """The columns of `sample_rows` that a head with one view reads: one, or both for a pair."""
    rows = sample_rows(source, task)
    (view,) = source.spec(task).views
    if isinstance(rows[0], str):
        return [rows]  # pyright: ignore[reportReturnType]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns if view == "pair" else [columns[("first", "second").index(view)]]
