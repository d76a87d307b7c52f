"""A trained model: labels and probabilities for new texts, embeddings, and evaluation."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from comity import hardware
from comity.data.packing import PackedRows, Template, TextColumn, pack, packed_lengths, truncated
from comity.data.splits import Split, file_split, split_off
from comity.errors import ComityError, nearest
from comity.evaluation.evaluate import Evaluation, by_length, evaluate_outputs, task_outputs
from comity.files import check_free, path_text, replace_folder
from comity.inference import saved_model
from comity.inference.answers import Answerer
from comity.inference.prediction import MOST_SHOWN, Prediction, predictions
from comity.inference.saved_model import SavedModel
from comity.inference.texts import Texts, shortened
from comity.model.checkpoint import (
    LoadedEncoder,
    find_checkpoint,
    load_as_declared,
    text_encoder,
)
from comity.model.multitask import MultiTaskModel, to_packed
from comity.model.pooling import width_of
from comity.model.tokenizer import Tokenizer
from comity.recipe.recipe import Recipe
from comity.recipe.schema import TaskSection
from comity.runs.directory import RunDirectory
from comity.runs.facts import RunFacts
from comity.tables.frames import frame_columns, frame_path
from comity.tables.parts import table_path
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat, quoted_list
from comity.targets import HeadSpec, Target

Rows: TypeAlias = Iterable[str | Sequence[str] | Mapping[str, Any]] | Any
"""Rows for a model: texts, pairs of texts, or dicts by the recipe's column names, in any iterable;
or a table with these columns: a DataFrame, or a dict from column to texts."""

CHUNK = 1024
"""Rows that are tokenised and sorted by length together."""


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of several tasks; `skipped` says why each of the others has none."""

    tasks: dict[str, Evaluation]
    skipped: dict[str, str]


class Model:
    """A trained model with all its heads.

    Create one with `load(run)` or `Model.from_pretrained(folder)`.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        loaded: LoadedEncoder,
        facts: RunFacts | SavedModel,
        recipe: Recipe,
        device: torch.device,
        path: Path,
        weights: Path,
    ):
        self._path = path
        self._weights = weights  # the folder of the float32 weights
        self._model = model
        self._loaded = loaded
        self._facts = facts
        self._recipe = recipe
        self._device = device
        self._template = loaded.template

    def __repr__(self) -> str:
        """The run, what each task predicts, and where the model is."""
        tasks = [f"{name} ({_described(self.target(name))})" for name in self.tasks]
        where = f"{self._facts.precision} on {self._device}"
        return f"<Model of {self._path}: {', '.join(tasks)}; {where}>"

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str = "auto",
        precision: str | None = None,
    ) -> "Model":
        """Load a model that `save_pretrained` or `comity export --to comity` wrote.

        Args:
            name: a folder, or an id of the Hugging Face hub.
            revision: branch, tag or commit on the hub.
            device: as for `load`.
            precision: as for `load`.

        Raises:
            ComityError: there is no such model, or it is damaged.

        Example:
            Model.from_pretrained("export").predict("sentiment", "A quiet, generous film.")
        """
        folder = find_checkpoint(path_text(name), revision, saved_model.FILES)
        if not (folder / saved_model.FILE).is_file():
            is_run = (folder / "run.json").is_file()
            advice = "use load for a run" if is_run else "name a model that comity export wrote"
            raise ComityError(f"{name}: has no {saved_model.FILE}; {advice}")
        saved = saved_model.read_saved_model(folder)
        return _assembled(saved, saved.recipe(), Path(name), folder, device, precision)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, but nothing of the run, to a new or empty folder.

        `Model.from_pretrained` and `load` give the same predictions from it. Weights are written as
        the run keeps them, in float32, whatever precision the model computes in.

        Raises:
            ComityError: the folder is not empty or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        weights, facts, recipe = self._weights, self._facts, self._recipe
        replace_folder(
            folder, lambda new: saved_model.write_saved_model(new, weights, facts, recipe)
        )

    @property
    def facts(self) -> RunFacts | SavedModel:
        """What the run, or the folder that the model was loaded from, records."""
        return self._facts

    @property
    def network(self) -> MultiTaskModel:
        """The encoder and the heads."""
        return self._model

    @property
    def template(self) -> Template:
        """The special tokens and segments of the encoder's input."""
        return self._template

    @property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer."""
        return self._loaded.tokenizer

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self._model.tasks)

    def target(self, task: str) -> Target:
        """What a task predicts: its kind, classes or scale."""
        return self._spec(task).target

    def text_count(self, task: str) -> int:
        """How many texts each row of the task has: 1 or 2."""
        return len(self.section(task).text_columns)

    @overload
    def predict(self, task: str, texts: str) -> Prediction: ...  # pyright: ignore[reportOverlappingOverload]

    @overload
    def predict(self, task: str, texts: Rows) -> list[Prediction]: ...

    def predict(self, task: str, texts: Rows) -> Prediction | list[Prediction]:
        """Predict one task: one prediction for a string, else a list with one for each row.

        Args:
            texts: one text as a string, or an iterable of rows, or a table. A row is a text, a pair
                of texts for a task on pairs, or a dict by the recipe's column names. Of a table (a
                DataFrame, or a dict from column to texts) the columns of that name are read.

        Raises:
            ComityError: an unknown task, or a row that has not the texts that the task reads.

        Example:
            load("runs/first").predict("paraphrase", [("Is it far?", "How far is it?")])
        """
        self.section(task)
        rows = Texts(texts, task)
        found = predictions(self.target(task), self._outputs([task], rows)[task])
        return found[0] if rows.one else found

    def predict_all(self, texts: Rows, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Predict several tasks for the same rows; each task as `predict` does.

        Each row is encoded once for all tasks whose heads read the same views.

        Args:
            texts: as for `predict`.
            tasks: the tasks (default: all). By default a task that reads another number of texts,
                or other columns, is left out with a `UserWarning`.

        Raises:
            ComityError: an unknown task, or a row that has not the texts that a task reads.
        """
        rows = Texts(texts, "predict_all")
        chosen = self._fitting(rows) if tasks is None else self._listed(tasks)
        found = self._outputs(chosen, rows)
        by_task = {task: predictions(self.target(task), out) for task, out in found.items()}
        return {task: own[0] if rows.one else own for task, own in by_task.items()}

    def answerer(self) -> Answerer:
        """What answers many small requests in shared passes of the encoder, as a server does."""
        limits = {task: self._max_length(task) for task in self.tasks}
        return Answerer(self._model, self._loaded.tokenizer, self._template, limits, self._device)

    def count_truncated(self, task: str, texts: Rows) -> int:
        """How many rows have texts that are cut to the task's `max_length`.

        Raises:
            ComityError: an unknown task, or a row that has not the texts that the task reads.
        """
        views, limit = self._spec(task).views, self._max_length(task)
        columns = Texts(texts, task).columns(self.section(task).text_columns)
        count = 0
        for start in range(0, len(columns[0]), CHUNK):
            tokens = [self._tokens(column[start : start + CHUNK]) for column in columns]
            cut = [truncated(_view(tokens, view), limit) for view in views]
            count += int(np.any(cut, axis=0).sum())
        return count

    def _listed(self, tasks: Sequence[str]) -> list[str]:
        if isinstance(tasks, str):
            raise ComityError(f'tasks: expected a list of tasks, got "{tasks}"; write ["{tasks}"]')
        return list(dict.fromkeys(tasks))

    def _fitting(self, rows: Texts) -> list[str]:
        """The tasks that can read these rows; warns of the others."""
        misfits = {task: rows.misfit(self.section(task).text_columns) for task in self.tasks}
        reasons = [f"{task} is left out: {why}" for task, why in misfits.items() if why]
        if len(reasons) == len(misfits):
            raise ComityError(f"predict_all: no task can read these rows ({'; '.join(reasons)})")
        for reason in reasons:
            warnings.warn(f"predict_all: {reason}", stacklevel=3)
        return [task for task, why in misfits.items() if why is None]

    def outputs(self, task: str, texts: Rows) -> NDArray[np.float64]:
        """The raw outputs of a task's head, `[n, outputs]`: logits, or one normalised number.

        With `view = "both"`: those of the head on the pair, then those of the second head.
        """
        self.section(task)
        return self._outputs([task], Texts(texts, task))[task]

    def _outputs(self, tasks: Sequence[str], texts: Texts) -> dict[str, NDArray[np.float64]]:
        columns = {task: texts.columns(self.section(task).text_columns) for task in tasks}
        groups: dict[Any, list[str]] = {}
        for task in tasks:
            named = self.section(task).text_columns if texts.named else self.text_count(task)
            key = (*self._model.reads(task), named, self._max_length(task))
            groups.setdefault(key, []).append(task)
        results: dict[str, NDArray[np.float64]] = {}
        for group in groups.values():
            results |= self._group_outputs(group, columns[group[0]])
        return {task: results[task] for task in tasks}

    def _group_outputs(
        self, tasks: Sequence[str], columns: list[list[str]]
    ) -> dict[str, NDArray[np.float64]]:
        """Outputs of tasks that read the same views; each row is encoded once."""
        spec = self._spec(tasks[0])
        limit = self._max_length(tasks[0])
        rows = len(columns[0])
        results = {t: np.zeros((rows, self._spec(t).target.outputs)) for t in tasks}
        for start in range(0, rows, CHUNK):
            tokens = [self._tokens(column[start : start + CHUNK]) for column in columns]
            views = [_view(tokens, view) for view in spec.views]
            for indices, packed in self._batches(views, limit):
                with torch.inference_mode():
                    found = self._model.shared_outputs(tasks, packed)
                for task, outputs in zip(tasks, found, strict=True):
                    results[task][start + indices] = outputs.cpu().double().numpy()
        return results

    def encode(
        self, texts: Rows, task: str | None = None, raw: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings `[n, W]` of texts, or `[W]` of one string, with the pooling of a task.

        W is the hidden size, or twice that for the pooling "cls+mean".

        Args:
            texts: as for `predict`, but each row is one text. Of a table or of dicts the one text
                column of the recipe that they have is read.
            task: the task that trained the embeddings; optional if only one task trains any.
            raw: allow embeddings that no task has trained, pooled as the encoder was before.

        Raises:
            ComityError: an unknown task, one that trains no embeddings (unless `raw`), or a row
                that is not one text.
        """
        pooling = self._pooling(task, raw)
        rows = Texts(texts, "encode")
        (column,) = rows.columns([self._text_column(rows, task)])
        limit = self._model.encoder.max_length if task is None else self._max_length(task)
        results = self.embeddings(column, pooling, limit)
        return results[0] if rows.one else results

    def embeddings(
        self, column: Sequence[str], pooling: str, max_length: int
    ) -> NDArray[np.float32]:
        """Embeddings `[n, W]` of texts with a pooling as in a recipe; see `encode` for W."""
        width = width_of(pooling, self._model.encoder.width)
        results = np.zeros((len(column), width), dtype=np.float32)
        for start in range(0, len(column), CHUNK):
            tokens = self._tokens(list(column[start : start + CHUNK]))
            for indices, packed in self._batches([(tokens,)], max_length):
                with torch.inference_mode():
                    found = self._model.embed(to_packed(packed, self._device), pooling)
                results[start + indices] = found.float().cpu().numpy()
        return results

    def _text_column(self, rows: Texts, task: str | None) -> str | int:
        """The column to encode; its name has no meaning for rows without names."""
        tasks = self.tasks if task is None else [task]
        names = [name for own in tasks for name in self.section(own).text_columns]
        found = rows.only_column(names)
        if rows.named and found is None:
            raise ComityError(
                f"encode: the rows must have one of the columns {quoted_list(map(str, names))}; "
                "pass the texts alone"
            )
        return names[0] if found is None else found

    def evaluate(self, task: str, data: Any = None) -> Evaluation:
        """Evaluate a task on labelled rows.

        Args:
            data: a file with the columns of the task's own files, a data set of the Hugging Face
                hub as in a recipe, or a DataFrame.
                Without it, the run's own dev rows are evaluated.

        Raises:
            ComityError: an unknown task, an error in the file, or a dev file that has changed.
        """
        section = self.section(task)
        split = self._split(task, self._labelled(data))
        limit = self._max_length(task)
        spec = self._spec(task)
        outputs = task_outputs(self._model, task, split, self._template, limit)
        evaluation = evaluate_outputs(
            task, spec, section.metric_name, split, outputs, intervals=True
        )
        counts = {
            "unlabelled": split.unlabelled,
            "ignored": split.ignored,
            "empty": len(split.empty_lines) + split.dropped,
            "dropped": split.dropped,
            "truncated": split.cut(spec.views, limit),
            "clipped": int(spec.target.clipped(outputs).sum()),
        }
        return replace(evaluation, rows=counts)

    def evaluate_all(self, data: Any = None) -> Evaluations:
        """Evaluate every task whose columns are in a labelled file or DataFrame.

        Without `data`, evaluate the run's own dev rows of every task.

        Raises:
            ComityError: no task has its columns there, or an error as in `evaluate`.
        """
        path = self._labelled(data)
        if path is None:
            return Evaluations({task: self.evaluate(task) for task in self.tasks}, {})
        skipped = {}
        for task, lacking in _lacking(path, self._recipe.tasks).items():
            if lacking:
                columns = "columns" if '", "' in lacking else "column"
                skipped[task] = f"{task}: not evaluated, {path} has no {columns} {lacking}"
        tasks = [task for task in self.tasks if task not in skipped]
        if not tasks:
            raise ComityError(*skipped.values())
        try:
            return Evaluations({task: self.evaluate(task, path) for task in tasks}, skipped)
        except ComityError as error:
            if len(tasks) == 1:
                raise
            hint = f"{path}: has the columns of {', '.join(tasks)}; if it is for one, name the task"
            raise ComityError(*error.messages, hint) from None

    def reading(
        self,
        delimiter: str | None = None,
        quoting: bool | None = None,
        encoding: str | None = None,
    ) -> "Model":
        """The same model, which reads labelled files with these settings; None: the recipe's."""
        given = {"delimiter": delimiter, "quoting": quoting, "encoding": encoding}
        changes = {key: value for key, value in given.items() if value is not None}
        tasks = {name: task.model_copy(update=changes) for name, task in self._recipe.tasks.items()}
        recipe = self._recipe.model_copy(update={"tasks": tasks})
        return Model(
            self._model,
            self._loaded,
            self._facts,
            recipe,
            self._device,
            self._path,
            self._weights,
        )

    def _labelled(self, data: Any) -> Path | None:
        """The path of a labelled file, or of a table in memory."""
        if data is None or isinstance(data, Path):
            return data
        if isinstance(data, str):
            return table_path(data, Path())
        if frame_columns(data) is None:
            raise ComityError(
                f"evaluate: expected a file or a DataFrame, got {shortened(data)}; name a labelled "
                "file"
            )
        return frame_path(data)

    def dev_split(self, task: str) -> Split:
        """The run's own dev rows of a task, with their targets.

        Raises:
            ComityError: an unknown task, or a dev file that is missing or has changed.
        """
        return self._split(task, None)

    def _split(self, task: str, path: Path | None) -> Split:
        target = self.target(task)
        section = self._recipe.task_as_read(task)
        encoder = text_encoder(self._loaded.tokenizer)
        if path is not None:
            # Only the rows that a run leaves out of its own files are listed.
            section = section.model_copy(update={"bad_rows": "error"})
            return file_split(task, section, target, path, encoder)
        if isinstance(self._facts, SavedModel):
            raise ComityError(
                f"{self._path}: an exported model has no dev rows; name a labelled file, or "
                "evaluate the run"
            )
        if f"{task} dev" in self._facts.inputs.in_memory:
            raise ComityError(
                f"{task}: the run was given its dev rows in memory; pass them to evaluate, or name "
                "a labelled file"
            )
        folder = Path(self._facts.inputs.data)
        if isinstance(section.dev, str | tuple):
            split = file_split(task, section, target, table_path(section.dev, folder), encoder)
            _check_unchanged(self._facts, task, "dev", split)
            return split
        whole = file_split(task, section, target, table_path(section.train, folder), encoder)
        _check_unchanged(self._facts, task, "train", whole)
        seed = self._facts.inputs.split_seed
        if seed is None:  # a run of an older version drew its dev rows from the training seed
            seed = self._facts.seed
        return split_off(whole, section.dev, seed, section.split)[1]

    def _max_length(self, task: str) -> int:
        return self._facts.tasks[task].max_length

    def _spec(self, task: str) -> HeadSpec:
        self.section(task)
        return self._model.tasks[task]

    def section(self, task: str) -> TaskSection:
        """The task as the recipe declares it."""
        if not isinstance(task, str):
            raise ComityError(f"expected the name of a task, got {shortened(task)}")
        if task not in self._recipe.tasks:
            known = self._recipe.tasks
            hint = nearest(task, known) or f"; this run has {', '.join(known)}"
            raise ComityError(f'unknown task "{task}"{hint}')
        return self._recipe.tasks[task]

    def _pooling(self, task: str | None, raw: bool) -> str:
        embedding = [name for name, spec in self._model.tasks.items() if spec.embeds]
        if task is not None:
            self.section(task)
        if raw:
            return (
                self._model.encoder.text_pooling
                if task is None
                else self._model.tasks[task].text_pooling
            )
        if task is None and len(embedding) == 1:
            task = embedding[0]
        if task in embedding:
            return self._model.tasks[task].text_pooling
        if task is None and embedding:
            raise ComityError(
                f"embeddings: several tasks train them ({', '.join(embedding)}); name one"
            )
        what = "no task of this run trains them" if task is None else f"{task} does not train them"
        raise ComityError(
            f"embeddings: {what}; train a task with the cosine head, an interaction, "
            'view = "both" or an objective, or pass raw=True'
        )

    def _tokens(self, texts: list[str]) -> TextColumn:
        ids = self._loaded.tokenizer.encode(texts)
        offsets = np.cumsum([0, *map(len, ids)])
        flat = np.fromiter(chain.from_iterable(ids), np.int64, count=int(offsets[-1]))
        return TextColumn(flat, offsets)

    def _batches(
        self, views: Sequence[tuple[TextColumn, ...]], max_length: int
    ) -> Iterator[tuple[NDArray[np.int64], list[PackedRows]]]:
        """Row indices and their packed views, in batches of rows with similar lengths."""
        lengths = np.sum([packed_lengths(view, max_length) for view in views], axis=0)
        for indices in by_length(lengths):
            yield indices, [pack(view, indices, self._template, max_length) for view in views]


def _check_unchanged(facts: RunFacts, task: str, which: str, split: Split) -> None:
    if facts.inputs.files.get(f"{task} {which}") != split.table.digest:
        raise ComityError(
            f"{split.table.path}: has changed since the run, so the run's dev rows are gone; "
            "restore the file, or name another one to evaluate"
        )


def _lacking(path: Path, tasks: Mapping[str, TaskSection]) -> dict[str, str]:
    """The columns of each task that a table lacks, quoted; "" if it has them all.

    A task whose format (such as `encoding`) does not fit the file gets its column names from a
    task whose format fits. Raises `ComityError` if none does.
    """
    names: dict[TableFormat, list[str]] = {}
    errors: list[ComityError] = []
    for format in dict.fromkeys(section.table_format for section in tasks.values()):
        try:
            names[format] = open_table(path, format).names
        except ComityError as error:
            errors.append(error)
    if not names:
        raise errors[0]
    other = next(iter(names.values()))
    return {
        task: quoted_list(_missing(section, names.get(section.table_format, other)))
        for task, section in tasks.items()
    }


def _missing(section: TaskSection, names: Sequence[str]) -> list[str]:
    """The columns of a task that are not among a table's names."""
    return [
        str(column)
        for column in (*section.text_columns, *section.label_columns)
        if (column >= len(names) if isinstance(column, int) else not _leads_to(column, names))
    ]


def _leads_to(column: str, names: Sequence[str]) -> bool:
    """Whether the column is one of the names, or leads into one of them with dots."""
    parts = column.split(".")
    return any(".".join(parts[:count]) in names for count in range(1, len(parts) + 1))


def _view(columns: list[TextColumn], view: str) -> tuple[TextColumn, ...]:
    return tuple(columns) if view == "pair" else (columns[("first", "second").index(view)],)


def _described(target: Target) -> str:
    """What a task predicts, in a few words."""
    if target.classes:
        more = ", ..." if len(target.classes) > MOST_SHOWN else ""
        return f"{target.kind}: {', '.join(target.classes[:MOST_SHOWN])}{more}"
    if target.kind == "similarity":
        return f"similarity from {target.scale[0]:g} to {target.scale[1]:g}"
    return target.kind


def load(
    run: str | Path | RunDirectory, device: str = "auto", precision: str | None = None
) -> Model:
    """Load the best model of a run.

    Args:
        run: a run directory, what `train` returned, or a folder with an exported model.
        device: "auto" takes a GPU if there is one; or "cpu", "cuda", "cuda:1", ...
        precision: "float32" or "bf16" (default: what the run was trained in).

    Raises:
        ComityError: not a run, no model kept yet, damaged files, or an unknown precision.
    """
    if not isinstance(run, (str, Path, RunDirectory)):
        raise ComityError(f"load: expected a run directory, got {shortened(run)}; name one")
    path = run.path if isinstance(run, RunDirectory) else Path(run)
    if (path / saved_model.FILE).is_file():
        return Model.from_pretrained(path, device=device, precision=precision)
    directory = RunDirectory.open(path)
    facts, recipe = directory.kept_facts(), directory.recipe()
    return _assembled(facts, recipe, path, directory.kept_model(), device, precision)


def _assembled(
    facts: RunFacts | SavedModel,
    recipe: Recipe,
    path: Path,
    weights: Path,
    device: str,
    precision: str | None,
) -> Model:
    """The model of the run or folder `path`, whose weights are in the folder `weights`."""
    if unknown := facts.tasks.keys() - recipe.tasks.keys():
        raise ComityError(
            f"{path}: has a head for {min(unknown)}, which its recipe does not declare; the run is "
            "damaged, train it again"
        )
    hardware.keep_freed_memory()
    loaded = load_as_declared(recipe, str(weights / saved_model.ENCODER))
    tasks = {name: task.head for name, task in facts.tasks.items()}
    with torch.device("meta"):  # only shapes: their memory is that of the tensors in the file
        model = MultiTaskModel(loaded.encoder, tasks)
    heads = weights / saved_model.HEADS
    try:
        tensors = load_file(heads)
        for name, head in zip(tasks, model.heads, strict=True):
            own = {k: tensors[f"{name}.{k}"].clone() for k in head.state_dict()}
            head.load_state_dict(own, assign=True)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError):
        raise ComityError(f"{heads}: cannot be read; the run is damaged, train it again") from None
    where = hardware.choose_device(device)
    if precision is not None:
        facts = replace(facts, precision=_dtype_name(precision))
    model = model.to(device=where, dtype=getattr(torch, facts.precision)).eval()
    return Model(model, loaded, facts, recipe, where, path, weights)


def _dtype_name(precision: str) -> str:
    """The name of a precision in run.json."""
    known = {"float32": "float32", "bf16": "bfloat16"}
    if precision not in known:
        raise ComityError(f'precision: expected {" or ".join(known)}, got "{precision}"')
    return known[precision]
