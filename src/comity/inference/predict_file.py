"""Predicts a file: reads rows, predicts them in chunks, writes them with the input's columns."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.evaluation.predictions import cell, probability_names
from comity.format import plural, some
from comity.inference.model import Model
from comity.inference.prediction import Prediction
from comity.tables.findings import finding_notes
from comity.tables.reader import check_format, open_table
from comity.tables.rows import (
    CHUNK,
    DELIMITED,
    PARQUET,
    Row,
    Table,
    TableFormat,
    WholeRow,
    free_name,
    name_key,
    row_texts,
)
from comity.tables.writer import Writer, cell_text, check_output, new_file, table_writer
from comity.targets import Target

# The course's own column names, with its spelling.
LEADERBOARD = {
    ("classification", 1): "Predicted_Sentiment",
    ("classification", 2): "Predicted_Is_Paraphrase",
    ("similarity", 2): "Predicted_Similiary",
}

Column = str | int


@dataclass(frozen=True)
class PredictOptions:
    """What `predict_file` predicts, and how it reads and writes.

    Where `delimiter`, `header`, `quoting` and `encoding` are None, the recipe's settings apply if
    all tasks whose columns the file has agree on them; else the reader finds out.
    """

    task: str | None = None  # None: all tasks whose columns the file has
    text: Sequence[Column] = ()  # the file's text columns; by default those of the recipe
    delimiter: str | None = None
    header: bool | None = None
    quoting: bool | None = None
    encoding: str | None = None
    input_extension: str | None = None  # by default that of the file, like the next one
    output_extension: str | None = None
    leaderboard: bool = False  # write the course's leaderboard format
    raw_csv: bool = False  # do not protect cells that a spreadsheet would run
    overwrite: bool = False


@dataclass(frozen=True)
class PredictReport:
    """What was read and written."""

    output: str
    rows: int
    columns: dict[str, list[str]]  # the new columns of each task
    truncated: dict[str, int]  # rows of each task whose texts were cut to its max_length
    clipped: dict[str, int]  # scores of each similarity task that were beyond its scale
    empty: int  # rows with an empty text
    skipped: dict[str, str]  # why each other task was not predicted
    reading: dict[str, Any]  # how the file was read, see `Table.describe`
    notes: list[str] = field(default_factory=list)


def predict_file(
    model: Model, source: Path, destination: Path, options: PredictOptions = PredictOptions()
) -> PredictReport:
    """Predict every row of a file; write predictions, probabilities and the input's columns.

    If the run has several tasks and `options` names none, all tasks whose columns the file has are
    predicted at once, and the new columns begin with the task's name.

    Args:
        source: CSV, TSV, JSON or Parquet with the tasks' text columns; labels are not needed.
        destination: the output file; its extension sets the format. In the leaderboard format it
            holds the lines `id, Predicted_...`, with ids from the input's column `id`.

    Raises:
        ComityError: every error of the input; no output is left then.
    """
    columns, skipped = _text_columns(model, options)
    leaderboard = _leaderboard_name(model, columns) if options.leaderboard else None
    any_extension = options.leaderboard or options.output_extension is not None
    check_output(source, destination, any_extension)
    if destination.exists() and not options.overwrite:
        raise ComityError(
            f"{destination}: already exists; use --overwrite to replace it, or name another file"
        )
    table, groups = _open(model, source, columns, skipped, options)
    if leaderboard is not None and "id" not in table.names:
        raise ComityError(f'{source}: the cs224n format needs a column "id"; add one')

    extension = options.output_extension or destination.suffix.lower()
    used = list(table.names)
    tasks = [task for group in groups for task in group.tasks]
    prefixed = options.task is None and len(model.tasks) > 1
    added = {
        task: PredictionColumns(
            model.target(task),
            model.section(task).separator,
            used,
            extension,
            f"{task}_" if prefixed else "",
        )
        for task in model.tasks
        if task in tasks
    }
    with new_file(destination) as partial:
        if leaderboard is not None:
            writer: Writer = LeaderboardWriter(partial, leaderboard, added[tasks[0]].label)
        else:
            names = [*table.names, *(name for task in added.values() for name in task.names)]
            types, metadata = {}, {}
            if extension in PARQUET:
                types = table.arrow_types()
                for task in added.values():
                    types |= task.arrow_types()
                metadata = table.arrow_metadata()
            writer = table_writer(partial, extension, names, types, metadata, options.raw_csv)
        try:
            counts = _predict_rows(model, table, groups, added, writer, leaderboard is not None)
        finally:
            writer.close()
    return PredictReport(
        output=str(destination),
        rows=counts.rows,
        columns={task: found.names for task, found in added.items()},
        truncated=counts.truncated,
        clipped=counts.clipped,
        empty=counts.empty,
        skipped=skipped,
        reading=table.describe(),
        notes=_notes(table, counts, skipped),
    )


# --- what is predicted from what ------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Tasks that read the same columns, and where their values are in a row."""

    tasks: list[str]
    values: slice


def _text_columns(
    model: Model, options: PredictOptions
) -> tuple[dict[str, tuple[Column, ...]], dict[str, str]]:
    """The text columns of each task to predict, and why the other tasks are skipped."""
    tasks = model.tasks if options.task is None else [options.task]
    columns: dict[str, tuple[Column, ...]] = {}
    skipped: dict[str, str] = {}
    for task in tasks:
        declared = model.section(task).text_columns
        if options.text and len(options.text) != len(declared):
            skipped[task] = (
                f"it reads {_texts(len(declared))}, but --text names {len(options.text)}"
            )
        else:
            columns[task] = tuple(options.text) or declared
    if not columns:
        raise ComityError(*[f"{task}: {why}; name as many" for task, why in skipped.items()])
    return columns, {task: f"{why}; {_options(model, task)}" for task, why in skipped.items()}


def _options(model: Model, task: str) -> str:
    """What to do where a task is skipped: the options that name its columns."""
    columns = " ".join(["COLUMN"] * model.text_count(task))
    return f"to predict it, use --task {shlex.quote(task)} --text {columns}"


def _why_skipped(model: Model, task: str, table: Table, absent: Sequence[Column]) -> str:
    """Why a task is skipped whose columns `absent` are not found in the table."""
    if {name_key(column) for column in absent} & {name_key(name) for name in table.names}:
        return table.missing[0]  # the file has such a column, but twice
    names = some([f'"{column}"' for column in absent], len(absent))
    noun = "column" if len(absent) == 1 else "columns"
    return f"{table.path} has no {noun} {names}; {_options(model, task)}"


def _texts(count: int) -> str:
    return "one text" if count == 1 else "two texts"


def _leaderboard_name(model: Model, tasks: Mapping[str, Any]) -> str:
    if len(tasks) > 1:
        raise ComityError("--format cs224n holds one task; name it with --task")
    (task,) = tasks
    kind, texts = model.target(task).kind, model.text_count(task)
    if (kind, texts) not in LEADERBOARD:
        raise ComityError(
            f"--format cs224n: the course has no leaderboard for {kind} with {_texts(texts)}; "
            "leave --format out"
        )
    return LEADERBOARD[kind, texts]


def _open(
    model: Model,
    source: Path,
    columns: Mapping[str, tuple[Column, ...]],
    skipped: dict[str, str],
    options: PredictOptions,
) -> tuple[Table, list[_Group]]:
    """The table with the columns of all tasks that it has, and these tasks by columns.

    Tasks whose columns the file lacks are added to `skipped`. It is an error if all lack some.
    """
    by_columns: dict[tuple[Column, ...], list[str]] = {}
    for task, chosen in columns.items():
        by_columns.setdefault(chosen, []).append(task)
    format = _format(source, _formats_that_fit(model, source, by_columns, options), options)

    def opened(chosen: Sequence[Column]) -> Table:
        return open_table(source, format, chosen, options.input_extension)

    missing: list[str] = []
    if len(by_columns) > 1:
        for chosen, tasks in list(by_columns.items()):
            whole = opened(chosen)
            if whole.missing:
                missing += whole.missing
                del by_columns[chosen]
                absent = [column for column in chosen if opened([column]).missing]
                for task in tasks:
                    skipped[task] = _why_skipped(model, task, whole, absent)
        if not by_columns:
            raise ComityError(*dict.fromkeys(missing))
    table = opened([column for chosen in by_columns for column in chosen])
    if table.missing:
        errors = ErrorList()
        for _ in table.rows(errors):  # adds the errors of all rows
            pass
        errors.check()
    groups, start = [], 0
    for chosen, tasks in by_columns.items():
        groups.append(_Group(tasks, slice(start, start + len(chosen))))
        start += len(chosen)
    return table, groups


def _formats_that_fit(
    model: Model,
    source: Path,
    by_columns: Mapping[tuple[Column, ...], Sequence[str]],
    options: PredictOptions,
) -> list[TableFormat]:
    """The formats of the tasks whose columns are found with their own format; all if there is none.

    A file for one task is read with the format of this task, whatever the others have.
    """
    formats = {
        chosen: [model.section(task).table_format for task in tasks]
        for chosen, tasks in by_columns.items()
    }
    every = [format for group in formats.values() for format in group]
    if len(set(every)) == 1:
        return every
    fit = []
    for chosen, own in formats.items():
        format = _format(source, own, options)
        try:
            found = not open_table(source, format, chosen, options.input_extension).missing
        except ComityError:  # not readable with this format
            continue
        fit += own if found else []
    return fit or every


def _format(source: Path, formats: Sequence[TableFormat], options: PredictOptions) -> TableFormat:
    """How the file is read: as `options` say, else as all `formats` say."""
    set_here = {
        field.name: value
        for field in fields(TableFormat)
        if (value := getattr(options, field.name)) is not None
    }
    check_format(source, replace(TableFormat(), **set_here), options.input_extension)
    agreed = {
        field.name: getattr(formats[0], field.name)
        for field in fields(TableFormat)
        if len({getattr(format, field.name) for format in formats}) == 1
    }
    return TableFormat(**(agreed | set_here))


# --- rows -----------------------------------------------------------------------------------------


@dataclass
class _Counts:
    truncated: dict[str, int]
    clipped: dict[str, int]
    rows: int = 0
    empty: int = 0
    first_empty: int = 0  # its line


def _predict_rows(
    model: Model,
    table: Table,
    groups: Sequence[_Group],
    columns: Mapping[str, "PredictionColumns"],
    writer: Writer,
    needs_id: bool,
) -> _Counts:
    """Write all rows with their predictions.

    Raises `ComityError` with every error of the table; nothing is predicted after the first.
    """
    errors = ErrorList()
    counts = _Counts(dict.fromkeys(columns, 0), dict.fromkeys(columns, 0))
    rows = table.whole_rows(errors)
    while chunk := list(islice(rows, CHUNK)):
        texts = [row_texts(table.path, row, errors) for row, _ in chunk]
        if needs_id:
            _check_ids(table.path, chunk, errors)
        if errors:
            continue  # read on to find the other errors
        written = [own for _, own in chunk]
        for group in groups:
            own_texts = [row[group.values] for row in texts]
            found = model.predict_all(own_texts, group.tasks)
            for task in group.tasks:
                counts.truncated[task] += model.count_truncated(task, own_texts)
                counts.clipped[task] += sum(prediction.clipped for prediction in found[task])
                add = columns[task].values
                written = [
                    own | add(prediction)
                    for own, prediction in zip(written, found[task], strict=True)
                ]
        writer.write(written)
        _count_empty(counts, chunk, texts)
        counts.rows += len(chunk)
    errors.check()
    return counts


def _count_empty(
    counts: _Counts,
    rows: Sequence[tuple[Row, WholeRow]],
    texts: Sequence[tuple[str, ...]],
) -> None:
    for (row, _), own_texts in zip(rows, texts, strict=True):
        if not all(text.strip() for text in own_texts):
            counts.empty += 1
            counts.first_empty = counts.first_empty or row.line


def _check_ids(source: Path, rows: Sequence[tuple[Row, WholeRow]], errors: ErrorList) -> None:
    for row, own in rows:
        if not cell_text(own.get("id")):
            errors.add(
                f"{source}:{row.line}: the id is missing, which the cs224n format needs; add it",
                kind="id",
            )


def _notes(table: Table, counts: _Counts, skipped: Mapping[str, str]) -> list[str]:
    notes = [f"{task} is skipped: {reason}" for task, reason in skipped.items()]
    if counts.empty:
        notes.append(
            f"{table.path}: {plural(counts.empty, 'row')} with an empty text (first: line "
            f"{counts.first_empty})"
        )
    notes += [
        f"{table.path}: {plural(count, 'row')} cut to the max_length of {task}"
        for task, count in counts.truncated.items()
        if count
    ]
    notes += [
        f"{plural(count, 'score')} of {task} beyond its scale, clipped to its end"
        for task, count in counts.clipped.items()
        if count
    ]
    return notes + finding_notes(table.path, table.findings())


class PredictionColumns:
    """The columns that a prediction adds to the input's: `prediction`, and `p_CLASS` by class."""

    def __init__(
        self,
        target: Target,
        separator: str | None,
        used: list[str],
        extension: str,
        prefix: str = "",
    ):
        """A name in `used` gets "_" added, and the new names are added to `used`."""
        self._target = target
        # A list of labels is one cell of delimited text.
        self._joins_labels = extension in DELIMITED
        self._separator = separator
        self.label = _new_name(f"{prefix}prediction", used)
        self._probabilities: dict[str, str] = {}  # the column of each class or level
        for name in probability_names(target):
            self._probabilities[name] = _new_name(f"{prefix}p_{name}", used)

    @property
    def names(self) -> list[str]:
        """All column names."""
        return [self.label, *self._probabilities.values()]

    def values(self, prediction: Prediction) -> WholeRow:
        """The values of one row by column name; probabilities are rounded to 6 digits."""
        label = prediction.label
        if isinstance(label, list) and self._joins_labels:
            label = cell(label, self._separator)
        row = {self.label: label}
        for name, probability in prediction.probabilities.items():
            row[self._probabilities[name]] = round(probability, 6)
        return row

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow types of the columns."""
        import pyarrow

        types: dict[str, Any] = dict.fromkeys(self.names, pyarrow.float64())
        if self._target.kind == "classification":
            types[self.label] = pyarrow.string()
        elif self._target.kind == "multi-label":
            types[self.label] = pyarrow.list_(pyarrow.string())
        return types


def _new_name(name: str, used: list[str]) -> str:
    name = free_name(name, used)
    used.append(name)
    return name


class LeaderboardWriter:
    """Writes the course's leaderboard file: `id, Predicted_...`, one row per line."""

    def __init__(self, path: Path, header: str, label: str):
        """`label` is the column of the predictions."""
        self.label = label
        self.file = path.open("w", newline="", encoding="utf-8")
        self.file.write(f"id, {header}\n")

    def write(self, rows: Sequence[WholeRow]) -> None:
        """Add rows; ids and labels with a comma are quoted."""
        for row in rows:
            self.file.write(f"{_field(cell_text(row['id']))}, {_field(str(row[self.label]))}\n")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def _field(text: str | None) -> str:
    """A field of comma-separated text, in quotes where it needs them."""
    text = text or ""
    if text == text.strip() and not any(c in text for c in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'
