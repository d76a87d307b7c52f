"""A trained run put to use: labels and probabilities of new texts, and embeddings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from comity.model.checkpoint import LoadedEncoder, load_as_declared, template_of, text_encoder
from comity.model.multitask import MultiTaskModel, to_packed
from comity.model.parameters import FlatParameters
from comity.recipe.recipe import Recipe
from comity.recipe.schema import TaskSection
from comity.runs import RunDirectory
from comity.targets import HeadSpec, Target

Text = str | Sequence[str]
CHUNK = 1024
"""Texts that are tokenised and sorted by length together."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one row.

    `label` is a class name, a list of names (multi-label) or a number in the target's unit;
    `probabilities` has one entry a class (or level of the scale), and is empty where the head gives
    a number.
    """

    label: Any
    probabilities: dict[str, float]


class Model:
    """A trained model with all its heads. `load(run)` makes one."""

    def __init__(
        self,
        model: MultiTaskModel,
        loaded: LoadedEncoder,
        facts: dict[str, Any],
        recipe: Recipe,
        device: torch.device,
    ):
        self._model = model
        self._loaded = loaded
        self._facts = facts
        self._recipe = recipe
        self._device = device
        self._template = template_of(loaded.tokenizer, loaded.encoder)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self._model.tasks)

    def target(self, task: str) -> Target:
        """What a task predicts."""
        return self._spec(task).target

    def text_count(self, task: str) -> int:
        """How many texts a row of the task has."""
        return len(self.section(task).text_columns)

    def predict(self, task: str, texts: Sequence[Text]) -> list[Prediction]:
        """Label and probabilities of each text (or pair of texts) by one task's head.

        Raises:
            ComityError: an unknown task, or rows that have another number of texts than the task.

        Example:
            load("runs/first").predict("paraphrase", [("Is it far?", "How far is it?")])
        """
        outputs = self.outputs(task, texts)
        return predictions(self.target(task), outputs)

    def predict_all(
        self, texts: Sequence[Text], tasks: Sequence[str] | None = None
    ) -> dict[str, list[Prediction]]:
        """Predictions of several tasks (all, unless named) for the same rows.

        Tasks whose heads read the same views share one encoding of each row.

        Raises:
            ComityError: an unknown task, or rows that have another number of texts than a task.
        """
        outputs = self._outputs(tasks or self.tasks, texts)
        return {task: predictions(self.target(task), found) for task, found in outputs.items()}

    def outputs(self, task: str, texts: Sequence[Text]) -> NDArray[np.float64]:
        """The head's raw outputs `[n, outputs]`: logits, or one normalised number."""
        return self._outputs([task], texts)[task]

    def _outputs(
        self, tasks: Sequence[str], texts: Sequence[Text]
    ) -> dict[str, NDArray[np.float64]]:
        alike: dict[Any, list[str]] = {}
        for task in tasks:
            self.section(task)
            limit = self._facts["tasks"][task]["max_length"]
            key = (*self._model.reads(task), self.text_count(task), limit)
            alike.setdefault(key, []).append(task)
        results: dict[str, NDArray[np.float64]] = {}
        for group in alike.values():
            results |= self._outputs_alike(group, texts)
        return {task: results[task] for task in tasks}

    def _outputs_alike(
        self, tasks: Sequence[str], texts: Sequence[Text]
    ) -> dict[str, NDArray[np.float64]]:
        """Outputs of tasks that read the same views, each row encoded once."""
        spec = self._spec(tasks[0])
        columns = self._columns(tasks[0], texts)
        limit = self._facts["tasks"][tasks[0]]["max_length"]
        results = {t: np.zeros((len(texts), self._spec(t).target.outputs)) for t in tasks}
        for start in range(0, len(texts), CHUNK):
            tokens = [self._tokens(column[start : start + CHUNK]) for column in columns]
            views = [_view(tokens, view) for view in spec.views]
            for places, packed in self._batches(views, limit):
                with torch.inference_mode():
                    found = self._model.heads_together(tasks, packed, len(places))
                for task, of_task in zip(tasks, found, strict=True):
                    results[task][start + places] = of_task.cpu().double().numpy()
        return results

    def encode(
        self, texts: Sequence[str], task: str | None = None, raw: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings `[n, H]` of texts, pooled as the task that trained them pools.

        Args:
            task: the task whose embedding is meant; may be left out where only one trains any.
            raw: give mean-pooled hidden states although no task has trained them as embeddings.

        Raises:
            ComityError: no view was trained for embeddings (unless `raw`), or the task is unknown.
        """
        if isinstance(texts, str):
            raise ComityError("encode: give a list of texts, not one text; write [text]")
        pooling = self._pooling(task, raw)
        results = np.zeros((len(texts), self._model.encoder.width), dtype=np.float32)
        longest = self._model.encoder.max_length
        if task is not None:
            longest = self._facts["tasks"][task]["max_length"]
        for start in range(0, len(texts), CHUNK):
            tokens = self._tokens(list(texts[start : start + CHUNK]))
            for places, packed in self._batches([(tokens,)], longest):
                with torch.inference_mode():
                    found = self._model.embed(packed, pooling)
                results[start + places] = found.float().cpu().numpy()
        return results

    def evaluate(self, task: str, path: str | Path | None = None) -> Evaluation:
        """Judge a task on a labelled file that has the columns of the task's own files.

        Without `path` the run's own dev rows are judged again.
        """
        section = self.section(task)
        split = self._split(task, path)
        limit = self._facts["tasks"][task]["max_length"]
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
        folder = Path(self._facts["data"])
        if isinstance(section.dev, str):
            split = file_split(task, section, target, folder / section.dev, encoder)
            self._check_unchanged(task, "dev", split)
            return split
        whole = file_split(task, section, target, folder / section.train, encoder)
        self._check_unchanged(task, "train", whole)
        return split_off(whole, section.dev, self._facts["seed"])[1]

    def _check_unchanged(self, task: str, which: str, split: Split) -> None:
        if self._facts["files"].get(f"{task} {which}") != split.table.digest:
            raise ComityError(
                f"{split.table.path}: has changed since the run, so its dev rows are others now; "
                "name a file to judge with --file"
            )

    def _spec(self, task: str) -> HeadSpec:
        self.section(task)
        return self._model.tasks[task]

    def section(self, task: str) -> TaskSection:
        """The task as the recipe declares it."""
        if task not in self._recipe.tasks:
            known = ", ".join(self._recipe.tasks)
            hint = nearest(task, self._recipe.tasks)
            raise ComityError(f'"{task}" is no task of this run{hint}; it has {known}')
        return self._recipe.tasks[task]

    def _pooling(self, task: str | None, raw: bool) -> str:
        embedding = [name for name, spec in self._model.tasks.items() if spec.embeds]
        if task is not None:
            self.section(task)
        if raw:
            return "mean" if task is None else self._model.tasks[task].pooling
        if task is None and len(embedding) == 1:
            task = embedding[0]
        if task in embedding:
            return self._model.tasks[task].pooling
        if task is None and embedding:
            raise ComityError(f"several tasks train embeddings ({', '.join(embedding)}); name one")
        what = "no task of this run" if task is None else f"the task {task} does not train any"
        raise ComityError(
            f"embeddings: {what + ' trains any' if task is None else what}, since its heads read "
            "texts in one sequence; train a task with the cosine head, an interaction or an "
            "objective, or insist with raw=True"
        )

    def _columns(self, task: str, texts: Sequence[Text]) -> list[list[str]]:
        count = self.text_count(task)
        if isinstance(texts, str):
            raise ComityError(f"{task}: give a list of rows, not one text; write [text]")
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        for number, row in enumerate(rows):
            if len(row) != count or not all(isinstance(text, str) for text in row):
                wanted = "one text" if count == 1 else "a pair of texts"
                raise ComityError(f"{task}: row {number} must be {wanted}, got {texts[number]!r}")
        return [[row[column] for row in rows] for column in range(count)]

    def _tokens(self, texts: list[str]) -> TextColumn:
        ids = self._loaded.tokenizer.encode(texts)
        offsets = np.cumsum([0, *(len(of_text) for of_text in ids)])
        flat = np.fromiter(
            (i for of_text in ids for i in of_text), np.int64, count=int(offsets[-1])
        )
        return TextColumn(flat, offsets)

    def _batches(self, views: Sequence[tuple[TextColumn, ...]], max_length: int) -> Iterator[Any]:
        """Places and their packed views, rows of like lengths together."""
        lengths = np.sum([packed_lengths(view, max_length) for view in views], axis=0)
        for places in by_length(lengths):
            parts: list[PackedRows] = [
                pack(view, places, self._template, max_length) for view in views
            ]
            yield places, to_packed(parts, self._device)


def _view(columns: list[TextColumn], view: str) -> tuple[TextColumn, ...]:
    return tuple(columns) if view == "pair" else (columns[("first", "second").index(view)],)


def predictions(target: Target, outputs: NDArray[np.float64]) -> list[Prediction]:
    """Outputs as labels and named probabilities."""
    labels = target.predictions(outputs)
    probabilities = target.probabilities(outputs)
    names = probability_names(target)
    found = []
    for place in range(len(outputs)):
        row = {} if probabilities is None else dict(zip(names, probabilities[place], strict=True))
        found.append(Prediction(target.label(labels[place]), {k: float(v) for k, v in row.items()}))
    return found


def load(run: str | Path, device: str = "auto") -> Model:
    """The best model of a run, in the dtype that the run computed in.

    Raises:
        ComityError: not a run, or one that has kept no model yet, or damaged files.
    """
    hardware.keep_freed_memory()
    directory = RunDirectory.open(Path(run))
    facts, recipe, best = directory.facts(), directory.recipe(), directory.best()
    folder = directory.path / best["folder"]
    loaded = load_as_declared(recipe, str(folder / "encoder"))
    tasks = {name: HeadSpec.from_dict(of_task) for name, of_task in facts["tasks"].items()}
    model = MultiTaskModel(loaded.encoder, tasks)
    heads = folder / "heads.safetensors"
    try:
        tensors = load_file(heads)
        for name, head in zip(tasks, model.heads, strict=True):
            own = {k: tensors[f"{name}.{k}"] for k in head.state_dict()}
            head.load_state_dict(own)
    except (OSError, KeyError, RuntimeError, ValueError):
        raise ComityError(f"{heads}: cannot be read; the run is damaged") from None
    where = hardware.choose_device(device)
    model = model.to(where)
    FlatParameters(model.owned_parameters(), getattr(torch, facts["precision"]), where)
    model.eval()
    return Model(model, loaded, facts, recipe, where)
