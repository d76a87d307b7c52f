"""A trained model: labels and probabilities for new texts, embeddings, and evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from comity import hardware
from comity.data.packing import PackedRows, TextColumn, pack, packed_lengths
from comity.data.splits import Split, file_split, split_off
from comity.errors import ComityError, nearest
from comity.evaluation.evaluate import Evaluation, by_length, evaluate_outputs, task_outputs
from comity.evaluation.predictions import probability_names
from comity.model.checkpoint import LoadedEncoder, load_as_declared, text_encoder
from comity.model.multitask import MultiTaskModel, to_packed
from comity.model.pooling import width_of
from comity.recipe.recipe import Recipe
from comity.recipe.schema import TaskSection
from comity.runs import RunDirectory, RunFacts
from comity.targets import HeadSpec, Target

Text = str | Sequence[str]
CHUNK = 1024
"""Rows that are tokenised and sorted by length together."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one row.

    `label` is a class name, a list of names (multi-label) or a number in the target's unit.
    `probabilities` has one entry per class (or level of the scale); it is empty if the head
    predicts a number.
    """

    label: Any
    probabilities: dict[str, float]


class Model:
    """A trained model with all its heads. Create one with `load(run)`."""

    def __init__(
        self,
        model: MultiTaskModel,
        loaded: LoadedEncoder,
        facts: RunFacts,
        recipe: Recipe,
        device: torch.device,
    ):
        self._model = model
        self._loaded = loaded
        self._facts = facts
        self._recipe = recipe
        self._device = device
        self._template = loaded.template

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

    def predict(self, task: str, texts: Sequence[Text]) -> list[Prediction]:
        """Predict one task for each text, or for each pair of texts.

        Raises:
            ComityError: an unknown task, or a row with the wrong number of texts.

        Example:
            load("runs/first").predict("paraphrase", [("Is it far?", "How far is it?")])
        """
        outputs = self.outputs(task, texts)
        return predictions(self.target(task), outputs)

    def predict_all(
        self, texts: Sequence[Text], tasks: Sequence[str] | None = None
    ) -> dict[str, list[Prediction]]:
        """Predict several tasks (by default all) for the same rows.

        Each row is encoded once for all tasks whose heads read the same views.

        Raises:
            ComityError: an unknown task, or a row with the wrong number of texts for a task.
        """
        outputs = self._outputs(tasks or self.tasks, texts)
        return {task: predictions(self.target(task), found) for task, found in outputs.items()}

    def outputs(self, task: str, texts: Sequence[Text]) -> NDArray[np.float64]:
        """The raw outputs of a task's head, `[n, outputs]`: logits, or one normalised number."""
        return self._outputs([task], texts)[task]

    def _outputs(
        self, tasks: Sequence[str], texts: Sequence[Text]
    ) -> dict[str, NDArray[np.float64]]:
        groups: dict[Any, list[str]] = {}
        for task in tasks:
            self.section(task)
            key = (*self._model.reads(task), self.text_count(task), self._max_length(task))
            groups.setdefault(key, []).append(task)
        results: dict[str, NDArray[np.float64]] = {}
        for group in groups.values():
            results |= self._group_outputs(group, texts)
        return {task: results[task] for task in tasks}

    def _group_outputs(
        self, tasks: Sequence[str], texts: Sequence[Text]
    ) -> dict[str, NDArray[np.float64]]:
        """Outputs of tasks that read the same views; each row is encoded once."""
        spec = self._spec(tasks[0])
        columns = self._columns(tasks[0], texts)
        limit = self._max_length(tasks[0])
        results = {t: np.zeros((len(texts), self._spec(t).target.outputs)) for t in tasks}
        for start in range(0, len(texts), CHUNK):
            tokens = [self._tokens(column[start : start + CHUNK]) for column in columns]
            views = [_view(tokens, view) for view in spec.views]
            for indices, packed in self._batches(views, limit):
                with torch.inference_mode():
                    found = self._model.shared_outputs(tasks, packed, len(indices))
                for task, outputs in zip(tasks, found, strict=True):
                    results[task][start + indices] = outputs.cpu().double().numpy()
        return results

    def encode(
        self, texts: Sequence[str], task: str | None = None, raw: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings `[n, W]` of texts, with the pooling that a task was trained with.

        W is the hidden size, or twice that for the pooling "cls+mean".

        Args:
            task: the task that trained the embeddings; optional if only one task trains any.
            raw: allow embeddings that no task has trained, pooled as the encoder was before.

        Raises:
            ComityError: an unknown task, or one that trains no embeddings (unless `raw`).
        """
        if isinstance(texts, str):
            raise ComityError("encode: expected a list of texts, got one text; write [text]")
        pooling = self._pooling(task, raw)
        width = width_of(pooling, self._model.encoder.width)
        results = np.zeros((len(texts), width), dtype=np.float32)
        limit = self._model.encoder.max_length if task is None else self._max_length(task)
        for start in range(0, len(texts), CHUNK):
            tokens = self._tokens(list(texts[start : start + CHUNK]))
            for indices, packed in self._batches([(tokens,)], limit):
                with torch.inference_mode():
                    found = self._model.embed(packed, pooling)
                results[start + indices] = found.float().cpu().numpy()
        return results

    def evaluate(self, task: str, path: str | Path | None = None) -> Evaluation:
        """Evaluate a task on a labelled file with the same columns as the task's own files.

        Without `path`, evaluate the run's own dev rows.

        Raises:
            ComityError: an unknown task, an error in the file, or a dev file that has changed.
        """
        section = self.section(task)
        split = self._split(task, path)
        limit = self._max_length(task)
        spec = self._spec(task)
        outputs = task_outputs(self._model, task, split, self._template, limit)
        evaluation = evaluate_outputs(
            task, spec, section.metric_name, split, outputs, intervals=True
        )
        counts = {
            "unlabelled": split.unlabelled,
            "empty": len(split.empty_lines) + split.dropped,
            "dropped": split.dropped,
            "truncated": split.cut(spec.views, limit),
        }
        return replace(evaluation, rows=counts)

    def _split(self, task: str, path: str | Path | None) -> Split:
        section, target = self.section(task), self.target(task)
        encoder = text_encoder(self._loaded.tokenizer)
        if path is not None:
            return file_split(task, section, target, Path(path), encoder)
        folder = Path(self._facts.inputs.data)
        if isinstance(section.dev, str):
            split = file_split(task, section, target, folder / section.dev, encoder)
            self._check_unchanged(task, "dev", split)
            return split
        whole = file_split(task, section, target, folder / section.train, encoder)
        self._check_unchanged(task, "train", whole)
        return split_off(whole, section.dev, self._facts.seed)[1]

    def _check_unchanged(self, task: str, which: str, split: Split) -> None:
        if self._facts.inputs.files.get(f"{task} {which}") != split.table.digest:
            raise ComityError(
                f"{split.table.path}: has changed since the run, so the run's dev rows are gone; "
                "restore the file, or evaluate another one with --file"
            )

    def _max_length(self, task: str) -> int:
        return self._facts.tasks[task].max_length

    def _spec(self, task: str) -> HeadSpec:
        self.section(task)
        return self._model.tasks[task]

    def section(self, task: str) -> TaskSection:
        """The task as the recipe declares it."""
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
            f"embeddings: {what}; train a task with the cosine head, an interaction or an "
            "objective, or pass raw=True"
        )

    def _columns(self, task: str, texts: Sequence[Text]) -> list[list[str]]:
        count = self.text_count(task)
        if isinstance(texts, str):
            raise ComityError(f"{task}: expected a list of rows, got one text; write [text]")
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        for number, row in enumerate(rows):
            if len(row) != count or not all(isinstance(text, str) for text in row):
                wanted = "one text" if count == 1 else "a pair of texts"
                raise ComityError(f"{task}: row {number} must be {wanted}, got {texts[number]!r}")
        return [[row[column] for row in rows] for column in range(count)]

    def _tokens(self, texts: list[str]) -> TextColumn:
        ids = self._loaded.tokenizer.encode(texts)
        offsets = np.cumsum([0, *map(len, ids)])
        flat = np.fromiter(chain.from_iterable(ids), np.int64, count=int(offsets[-1]))
        return TextColumn(flat, offsets)

    def _batches(self, views: Sequence[tuple[TextColumn, ...]], max_length: int) -> Iterator[Any]:
        """Row indices and their packed views, in batches of rows with similar lengths."""
        lengths = np.sum([packed_lengths(view, max_length) for view in views], axis=0)
        for indices in by_length(lengths):
            packed: list[PackedRows] = [
                pack(view, indices, self._template, max_length) for view in views
            ]
            yield indices, to_packed(packed, self._device)


def _view(columns: list[TextColumn], view: str) -> tuple[TextColumn, ...]:
    return tuple(columns) if view == "pair" else (columns[("first", "second").index(view)],)


def predictions(target: Target, outputs: NDArray[np.float64]) -> list[Prediction]:
    """Raw outputs `[n, outputs]` as labels and probabilities by name."""
    labels = target.predictions(outputs)
    probabilities = target.probabilities(outputs)
    names = probability_names(target)
    found = []
    for index, label in enumerate(labels):
        row = [] if probabilities is None else zip(names, probabilities[index], strict=True)
        found.append(Prediction(target.label(label), {name: float(p) for name, p in row}))
    return found


def load(run: str | Path, device: str = "auto") -> Model:
    """Load the best model of a run, in the dtype that the run was trained in.

    Args:
        run: a run directory.
        device: "auto" takes a GPU if there is one; or "cpu", "cuda", "cuda:1", ...

    Raises:
        ComityError: not a run, no model kept yet, or damaged files.
    """
    hardware.keep_freed_memory()
    directory = RunDirectory.open(Path(run))
    facts, recipe, best = directory.facts(), directory.recipe(), directory.best()
    folder = directory.path / best.folder
    loaded = load_as_declared(recipe, str(folder / "encoder"))
    tasks = {name: task.head for name, task in facts.tasks.items()}
    model = MultiTaskModel(loaded.encoder, tasks)
    heads = folder / "heads.safetensors"
    try:
        tensors = load_file(heads)
        for name, head in zip(tasks, model.heads, strict=True):
            own = {k: tensors[f"{name}.{k}"] for k in head.state_dict()}
            head.load_state_dict(own)
    except (OSError, KeyError, RuntimeError, ValueError):
        raise ComityError(f"{heads}: cannot be read; the run is damaged, train it again") from None
    where = hardware.choose_device(device)
    model = model.to(device=where, dtype=getattr(torch, facts.precision)).eval()
    return Model(model, loaded, facts, recipe, where)
