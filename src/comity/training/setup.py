"""From a recipe to everything that training needs: encoder, tasks, model; all errors found here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from comity import hardware
from comity.data.labels import check_trainable, class_counts
from comity.data.leakage import Reading, find_leaks, without
from comity.data.packing import Template
from comity.data.splits import Split, TaskData, load_tasks
from comity.data.token_cache import token_counts
from comity.errors import ComityError, ErrorList
from comity.model.bert import Bert
from comity.model.checkpoint import (
    LoadedEncoder,
    load_as_declared,
    stored_predictions,
    template_of,
    text_encoder,
)
from comity.model.dropout import torch_generator
from comity.model.masked_lm import MaskedLanguageHead, load_predictions
from comity.model.multitask import MultiTaskModel
from comity.recipe.recipe import Recipe
from comity.rng import INITIALISATION, MASKING
from comity.targets import HeadSpec
from comity.training.balancers import check_installed


@dataclass(frozen=True)
class Prepared:
    """A recipe with its encoder and its data, ready to train."""

    recipe: Recipe
    folder: Path  # where the recipe's relative paths start
    loaded: LoadedEncoder
    tasks: dict[str, TaskData]
    notes: list[str]  # sentences that a user should see
    leaks: list[str]  # a sentence for each leak
    drop_leaks: bool = False
    predictions: dict[str, Tensor] | None = None  # the checkpoint's head over words, where needed

    @property
    def encoder(self) -> Bert:
        """The encoder, float32, on the CPU."""
        return self.loaded.encoder

    @property
    def template(self) -> Template:
        """How the encoder wants its texts."""
        return template_of(self.loaded.tokenizer, self.encoder)

    @property
    def masking(self) -> tuple[int, int] | None:
        """The id of [MASK] and the number of tokens, for stages that mask words."""
        tokenizer = self.loaded.tokenizer
        return None if tokenizer.mask_id is None else (tokenizer.mask_id, tokenizer.size)

    def model(self) -> MultiTaskModel:
        """The encoder with a new head for each task."""
        rate = self.encoder.config.hidden_dropout_prob
        chosen = self.recipe.encoder.rates()["hidden_dropout"]
        default = rate if chosen is None else chosen
        tasks = {
            name: HeadSpec(
                data.target,
                data.task.views,
                data.task.pooling,
                default if data.task.head_dropout is None else data.task.head_dropout,
                data.task.interaction,
                data.task.head_layers,
                data.task.add_norm,
                embeds=not data.task.eval_only and data.task.embeds,
            )
            for name, data in self.tasks.items()
        }
        train = self.recipe.train
        learned = train.loss_weighting == "uncertainty"
        return MultiTaskModel(self.encoder, tasks, train.seed, learned, self._masked_head())

    def _masked_head(self) -> MaskedLanguageHead | None:
        """The head over words, the checkpoint's where it has one, if any stage masks words."""
        if self.predictions is None:
            return None
        head = MaskedLanguageHead(self.encoder.config)
        head.initialise(torch_generator(INITIALISATION, self.recipe.train.seed, MASKING))
        try:
            load_predictions(head, self.predictions)
        except ValueError as error:
            raise ComityError(
                f"{self.recipe.encoder.name}: {error}; use the weights and config of one model"
            ) from None
        return head

    def facts(self, specs: Mapping[str, HeadSpec]) -> dict[str, Any]:
        """What a run of this is made of, for run.json: encoder, tasks, digests of the files."""
        splits: dict[str, Split] = {}
        for name, data in self.tasks.items():
            splits |= {f"{name} train": data.train, f"{name} dev": data.dev}
            splits |= {f"{name} {path}": split for path, split in data.stage_train.items()}
        return {
            "data": str(self.folder.resolve()),
            "drop_leaks": self.drop_leaks,
            "encoder": self.loaded.source,
            "tokenizer": self.loaded.tokenizer.fingerprint,
            "tasks": {
                name: {
                    **spec.to_dict(),
                    "metric": self.tasks[name].task.metric_name,
                    "max_length": self.tasks[name].max_length,
                }
                for name, spec in specs.items()
            },
            "files": {role: split.table.digest for role, split in splits.items()},
        }


def prepare(recipe: Recipe, folder: Path, drop_leaks: bool = False) -> Prepared:
    """Load the encoder, read and check every file.

    Raises:
        ComityError: with everything that is wrong with the checkpoint or any file.
    """
    for stage in recipe.stages:
        check_installed(stage.balancer)
    loaded = load_as_declared(recipe, recipe.encoder.name, recipe.encoder.revision)
    hardware.choose_device(recipe.train.device)
    _check_freeze(recipe, loaded.encoder)
    masked = any(stage.train_on != "labels" for stage in recipe.stages)
    if masked and loaded.tokenizer.mask_id is None:
        raise ComityError(
            f"{recipe.encoder.name}: the tokenizer has no token [MASK], which a stage with masked "
            "words needs; take another encoder or drop that stage"
        )
    encoder = text_encoder(loaded.tokenizer)
    tasks = load_tasks(recipe, folder, encoder, loaded.encoder.max_length, recipe.train.seed)
    leaks, masks = find_leaks(_training_rows(tasks), _dev_rows(tasks))
    if drop_leaks:
        tasks = _without_leaks(tasks, masks)
    notes = [*loaded.notes]
    predictions = None
    if masked:
        predictions = stored_predictions(recipe.encoder.name, recipe.encoder.revision)
    if masked and not predictions:
        notes.append(f"{recipe.encoder.name} has no head over words; it starts at random")
    for data in tasks.values():
        notes.extend(_notes(data))
    return Prepared(
        recipe,
        folder,
        loaded,
        tasks,
        notes,
        [leak.sentence for leak in leaks],
        drop_leaks,
        predictions,
    )


def _check_freeze(recipe: Recipe, encoder: Bert) -> None:
    layers = encoder.config.num_hidden_layers
    for stage in recipe.stages:
        if stage.freeze == layers and stage.train_on != "labels":
            raise ComityError(
                f"freeze: with all {layers} layers frozen masked words train nothing; lower it"
            )
        cosine = [name for name in stage.tasks if recipe.tasks[name].head_name == "cosine"]
        if stage.freeze == layers and cosine:
            raise ComityError(
                f"freeze: with all {layers} layers frozen nothing is left to train for the cosine "
                f"head of {cosine[0]}; lower it"
            )
        if isinstance(stage.freeze, int) and stage.freeze > layers:
            raise ComityError(
                f"freeze: {stage.freeze} layers cannot be frozen, {recipe.encoder.name} has "
                f'{layers}; lower it, or write "encoder" to freeze all'
            )


def _read_columns(data: TaskData) -> tuple[int, ...]:
    """Which text columns the views of a task read."""
    columns = {"first": (0,), "second": (1,), "pair": (0, 1)}
    views = data.task.trained_views
    return tuple(sorted({column for view in views for column in columns[view]}))


def _training_rows(tasks: Mapping[str, TaskData]) -> dict[str, Reading]:
    """Every training split, a stage's own file under the task's name and the file's."""
    rows: dict[str, Reading] = {}
    for name, data in tasks.items():
        if data.task.eval_only:
            continue
        rows[name] = (data.train, _read_columns(data))
        for path, split in data.stage_train.items():
            rows[f"{name} ({path})"] = (split, _read_columns(data))
    return rows


def _dev_rows(tasks: Mapping[str, TaskData]) -> dict[str, Reading]:
    return {name: (data.dev, _read_columns(data)) for name, data in tasks.items()}


def _without_leaks(
    tasks: Mapping[str, TaskData], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, TaskData]:
    errors = ErrorList()
    kept = {}
    for name, data in tasks.items():
        if data.task.eval_only:
            kept[name] = data
            continue
        own = {p: without(s, masks[f"{name} ({p})"]) for p, s in data.stage_train.items()}
        kept[name] = replace(data, train=without(data.train, masks[name]), stage_train=own)
        for split in (kept[name].train, *own.values()):
            path = split.table.path
            check_trainable(f"{name} without leaks", data.target, path, split.targets, errors)
    errors.check()
    return kept


def _notes(data: TaskData) -> list[str]:
    """What was counted while reading, in sentences: nothing is dropped or cut in silence."""
    notes = []
    for split, name in ((data.train, "training"), (data.dev, "dev")):
        notes.extend(split_notes(data, split, name))
    for split in data.stage_train.values():
        notes.extend(split_notes(data, split, "training"))
    value = data.dev.targets
    if data.task.kind in ("similarity", "regression") and data.task.metric_name == "pearson":
        if len(value) == 1:
            notes.append(f"{data.name}: Pearson has no value on dev (one row); add dev rows")
        elif len(value) and value.min() == value.max():
            notes.append(
                f"{data.name}: Pearson has no value on dev (all {len(value)} gold scores are "
                f"{value[0]}); add dev rows with other scores"
            )
    return notes


def split_notes(data: TaskData, split: Split, name: str) -> list[str]:
    """What was left out, kept although empty, or cut in one split."""
    path, notes = split.table.path, []
    if split.unlabelled:
        notes.append(
            f"{data.name}: {split.unlabelled} rows of {path} have no label and are left out"
        )
    if split.dropped:
        notes.append(
            f"{data.name}: {split.dropped} {name} rows have an empty text and are left out "
            f"(the first is {path}:{split.first_dropped_line})"
        )
    empty = split.empty_lines
    if empty:
        notes.append(
            f"{data.name}: {len(empty)} {name} rows have an empty text and are kept "
            f"(the first is {path}:{empty[0]})"
        )
    cut = split.cut(data.task.trained_views, data.max_length)
    if cut:
        notes.append(
            f"{data.name}: {cut} {name} rows of {path} are longer than {data.max_length} tokens "
            "and are cut"
        )
    if split.leaked:
        notes.append(
            f"{data.name}: {split.leaked} training rows stand in a dev split and are left out"
        )
    return notes


def data_summary(prepared: Prepared) -> dict[str, Any]:
    """What `check` found, for its table and its JSON."""
    return {
        "encoder": prepared.loaded.source,
        "tasks": {name: _task_summary(data) for name, data in prepared.tasks.items()},
        "notes": [*prepared.notes, *_shared_files(prepared.tasks)],
        "leaks": prepared.leaks,
    }


def _task_summary(data: TaskData) -> dict[str, Any]:
    return {
        "kind": data.task.kind,
        "head": data.task.head_name,
        "views": list(data.task.views),
        "metric": data.task.metric_name,
        "classes": list(data.target.classes),
        "max_length": data.max_length,
        "train": _split_summary(data, data.train),
        "dev": _split_summary(data, data.dev),
        "stages": {path: _split_summary(data, s) for path, s in data.stage_train.items()},
    }


def _split_summary(data: TaskData, split: Split) -> dict[str, Any]:
    lengths = token_counts(split.table, split.rows).sum(axis=1)
    empty = split.empty_lines
    first = [*empty[:1], *([split.first_dropped_line] if split.first_dropped_line else [])]
    summary: dict[str, Any] = {
        "file": str(split.table.path),
        "reading": split.table.reading,
        "rows": len(split),
        "unlabelled": split.unlabelled,
        "empty": len(empty) + split.dropped,
        "first_empty_line": min(first, default=None),
        "dropped": split.dropped,
        "truncated": split.cut(data.task.trained_views, data.max_length),
        "leaked": split.leaked,
        "token_percentiles": _percentiles(lengths),
    }
    if data.target.classes:
        counts = class_counts(data.target, split.targets)
        summary["counts"] = dict(zip(data.target.classes, counts.tolist(), strict=True))
    elif len(split):
        values = split.targets
        summary["scores"] = {
            "min": float(values.min()),
            "mean": float(values.mean()),
            "max": float(values.max()),
        }
    return summary


def _percentiles(lengths: np.ndarray) -> dict[str, int]:
    if not len(lengths):
        return {}
    found = np.percentile(lengths, (50, 95, 100), method="lower")
    return {name: int(v) for name, v in zip(("50", "95", "100"), found, strict=True)}


def _shared_files(tasks: Mapping[str, TaskData]) -> list[str]:
    """For tasks that read one table: how many rows serve several of them, and how many none."""
    by_digest: dict[str, list[TaskData]] = {}
    for data in tasks.values():
        by_digest.setdefault(str(data.train.table.path), []).append(data)
    notes = []
    for path, sharing in by_digest.items():
        if len(sharing) < 2:
            continue
        lines = sharing[0].train.table.lines
        served = [set(d.train.table.lines[d.train.rows].tolist()) for d in sharing]
        split_off = [set(d.dev.table.lines[d.dev.rows].tolist()) for d in sharing]
        used = [
            s | (d if str(t.dev.table.path) == path else set())
            for s, d, t in zip(served, split_off, sharing, strict=True)
        ]
        every = set.intersection(*used)
        neither = sorted(set(lines.tolist()) - set.union(*used))
        names = " and ".join(d.name for d in sharing)
        sentence = f"{path}: {len(every)} rows serve {names}, {len(neither)} serve none of them"
        notes.append(sentence + (f" (the first is line {neither[0]})" if neither else ""))
    return notes
