"""Loads everything a recipe needs (encoder, tasks, model) and reports every error at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity import hardware
from comity.data.folds import Fold, without_fold
from comity.data.labels import check_trainable, fit_target
from comity.data.leakage import Reading, find_leaks, without
from comity.data.notes import task_notes
from comity.data.packing import Template
from comity.data.splits import Split, TaskData, TaskTables, read_tasks
from comity.errors import ComityError, ErrorList
from comity.format import plural
from comity.model.checkpoint import (
    LoadedEncoder,
    load_as_declared,
    local_checkpoint,
    masked_lm_tensors,
    text_encoder,
)
from comity.model.dropout import drops, torch_generator
from comity.model.encoder import Encoder
from comity.model.masked_lm import MaskedLanguageHead
from comity.model.multitask import MultiTaskModel
from comity.recipe.recipe import Recipe
from comity.recipe.schema import TaskSection
from comity.rng import INITIALISATION, MASKING
from comity.runs.facts import (
    EncoderFacts,
    FoldFacts,
    HubFacts,
    Machine,
    PartFacts,
    RunInputs,
    TaskFacts,
    TeacherFacts,
)
from comity.tables.hub import HubPath
from comity.tables.locations import FramePath, PartsPath
from comity.targets import HeadSpec
from comity.track.trackers import check_installed as check_trackers
from comity.training.balancers import check_installed
from comity.training.teachers import Teacher, find_teachers, teacher_notes


@dataclass(frozen=True)
class Prepared:
    """A recipe with its encoder and its data, ready for training."""

    recipe: Recipe
    folder: Path  # where the recipe's relative paths start
    loaded: LoadedEncoder
    tasks: dict[str, TaskData]
    notes: list[str]  # sentences that the user should see
    leaks: list[str]  # one sentence per leak
    drop_leaks: bool = False
    predictions: dict[str, Tensor] | None = None  # the checkpoint's masked-language head, if needed
    fold: FoldFacts | None = None  # of the training rows, which are left out
    teachers: Mapping[str, list[Teacher]] = field(default_factory=dict)  # of the tasks with any

    @property
    def encoder(self) -> Encoder:
        """The encoder, float32, on the CPU."""
        return self.loaded.encoder

    @property
    def template(self) -> Template:
        """The encoder's special tokens and segments."""
        return self.loaded.template

    @property
    def masking(self) -> tuple[int, int] | None:
        """The id of [MASK] and the vocabulary size, for stages that mask words."""
        tokenizer = self.loaded.tokenizer
        return None if tokenizer.mask_id is None else (tokenizer.mask_id, tokenizer.size)

    def model(self) -> MultiTaskModel:
        """The encoder with a new head for each task."""
        tasks = {name: head_spec(data, self.encoder) for name, data in self.tasks.items()}
        train = self.recipe.train
        learned = train.loss_weighting == "uncertainty"
        return MultiTaskModel(self.encoder, tasks, train.seed, learned, self._masked_head())

    def _masked_head(self) -> MaskedLanguageHead | None:
        """The masked-language head if any stage masks words, initialised from the checkpoint."""
        if self.predictions is None:
            return None
        head = self.encoder.masked_lm_head()
        head.initialise(torch_generator(INITIALISATION, self.recipe.train.seed, MASKING))
        try:
            head.load_tensors(self.predictions)
        except ValueError as error:
            raise ComityError(
                f"{self.recipe.encoder.name}: {error}; use weights and config of the same model"
            ) from None
        return head

    def skipped_rows(self) -> list[Path]:
        """The lists of the rows that are left out because they cannot be used; see `SkippedRows`.

        The list of a file that a task reads twice is given once.
        """
        splits = [split for data in self.tasks.values() for split in data.splits.values()]
        lists = {split.skipped.digest: split.skipped.entries for split in splits}
        return [path for path in lists.values() if path is not None]

    def inputs(self) -> RunInputs:
        """The encoder and files of this run, with their digests, for run.json."""
        splits: dict[str, Split] = {}
        for name, data in self.tasks.items():
            splits |= {f"{name} {which}": split for which, split in data.splits.items()}
        paths = {role: split.table.path for role, split in splits.items()}
        return RunInputs(
            data=str(self.folder.resolve()),
            drop_leaks=self.drop_leaks,
            encoder=EncoderFacts(**self.loaded.source),
            tokenizer=self.loaded.tokenizer.fingerprint,
            files={role: split.table.digest for role, split in splits.items()},
            split_seed=self.recipe.train.split_seed,
            in_memory=[role for role, path in paths.items() if type(path) is FramePath],
            hub={
                role: HubFacts(str(path), path.loaded.revision, path.loaded.fingerprint)
                for role, path in paths.items()
                if isinstance(path, HubPath)
            },
            fold=self.fold,
            parts={
                role: _part_facts(path, split.table.part_digests)
                for (role, split), path in zip(splits.items(), paths.values(), strict=True)
                if isinstance(path, PartsPath)
            },
            teachers={
                name: [TeacherFacts(teacher.path, teacher.sha256) for teacher in own]
                for name, own in self.teachers.items()
            },
        )

    def task_facts(self, heads: Mapping[str, HeadSpec]) -> dict[str, TaskFacts]:
        """The tasks of this run with their heads, for run.json."""
        return {
            name: TaskFacts(head, self.tasks[name].task.metric_name, self.tasks[name].max_length)
            for name, head in heads.items()
        }

    def check_unchanged(self, recorded: RunInputs) -> None:
        """Raise a ComityError if the encoder or a file differs from what a run recorded."""
        now = self.inputs()
        shares = any(isinstance(data.task.dev, float) for data in self.tasks.values())
        if recorded.split_seed is None and shares and self.recipe.train.seed != now.split_seed:
            raise ComityError(
                "the run was started by an older version, which drew the dev rows from train.seed; "
                "start a new run"
            )
        if (recorded.encoder.sha256, recorded.tokenizer) != (now.encoder.sha256, now.tokenizer):
            raise ComityError(
                f"{self.recipe.encoder.name}: the encoder or its tokenizer has changed since the "
                "run was started; restore the old one, or start a new run"
            )
        if recorded.fold != now.fold:
            raise ComityError(
                f"{self.folder}: the training rows that the run leaves out have changed since it "
                "was started; start a new run"
            )
        for name in {**now.teachers, **recorded.teachers}:
            before, after = (
                [teacher.sha256 for teacher in inputs.teachers.get(name, [])]
                for inputs in (recorded, now)
            )
            if before != after:
                raise ComityError(
                    f"tasks.{name}.teacher: a teacher has changed since the run was started; "
                    "restore the old one, or start a new run"
                )
        for role, digest in now.files.items():
            if recorded.files.get(role) != digest:
                name, _, which = role.partition(" ")
                path = self.tasks[name].splits[which].table.path
                what = _changed(path, recorded.parts.get(role, []), now.parts.get(role, []))
                raise ComityError(f"{what}; restore the old data, or start a new run")


def _part_facts(path: PartsPath, digests: Sequence[str]) -> list[PartFacts]:
    return [PartFacts(name, own) for name, own in zip(path.names, digests, strict=True)]


def _changed(path: Path, before: Sequence[PartFacts], after: Sequence[PartFacts]) -> str:
    """What has changed in data that has other digests than before: of several files, the first."""
    old, new = ({part.name: part.sha256 for part in parts} for parts in (before, after))
    for name in [*old, *new] if old and new else []:
        if name not in new:
            return f"{path}: the part {name} of the started run is missing"
        if name not in old:
            return f"{path}: the part {name} was not there when the run was started"
        if old[name] != new[name]:
            return f"{path}: the part {name} has changed since the run was started"
    return f"{path}: has changed since the run was started"


def head_spec(data: TaskData, encoder: Encoder) -> HeadSpec:
    """The head of a task on an encoder, with every default resolved."""
    task = data.task
    default = encoder.text_pooling if task.apart else encoder.pooling
    return HeadSpec(
        target=data.target,
        views=task.views,
        pooling=task.pooling or default,
        embedding_pooling=task.embedding_pooling or task.pooling or encoder.text_pooling,
        dropout=_head_dropout(task, encoder),
        interaction=task.interaction and not task.both,
        layers=task.head_layers,
        add_norm=task.add_norm,
        embeds=not task.eval_only and task.embeds,
    )


def describe_machine(device: torch.device) -> Machine:
    """The hardware that this process runs on."""
    return Machine(
        device=str(device),
        processor=hardware.processor_name(),
        processor_class=hardware.processor_class(),
        threads=torch.get_num_threads(),
        card=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def prepare(
    recipe: Recipe,
    folder: Path,
    drop_leaks: bool = False,
    frames: Mapping[str, Any] = MappingProxyType({}),
    fold: Fold | None = None,
) -> Prepared:
    """Read and check every file, then load the encoder.

    Args:
        folder: where the recipe's relative paths start.
        drop_leaks: leave out training rows whose texts also appear in a dev set.
        frames: tables in memory, by what the recipe has in place of a file.
        fold: leave out this fold of the training rows; the recipe has one task.

    Raises:
        ComityError: with every error in the files, or else in the checkpoint.
    """
    for stage in recipe.stages:
        check_installed(stage.balancer)
    check_trackers(recipe.track.to)
    tables = _read_tables(recipe, folder, frames)
    loaded = load_as_declared(recipe, recipe.encoder.name, recipe.encoder.revision)
    hardware.choose_device(recipe.train.device)
    _check_freeze(recipe, loaded.encoder)
    _check_consistency(recipe, loaded.encoder)
    masked = any(stage.train_on != "labels" for stage in recipe.stages)
    if masked and loaded.tokenizer.mask_id is None:
        raise ComityError(
            f"{recipe.encoder.name}: the tokenizer has no token [MASK], which a stage with masked "
            "words needs; choose another encoder or remove that stage"
        )
    tasks = tables.tokenised(text_encoder(loaded.tokenizer), loaded.encoder.max_length)
    leaks, masks = find_leaks(_training_rows(tasks), _dev_rows(tasks))
    if drop_leaks:
        tasks = _without_leaks(tasks, masks)
    fold_facts = None
    if fold is not None:
        ((name, data),) = tasks.items()
        tasks[name], digest = without_fold(data, fold, recipe.train.split_seed)
        rows = len(data.train) - len(tasks[name].train)
        fold_facts = FoldFacts(fold.number, fold.count, rows, digest)
    teachers = find_teachers(tasks, folder)
    notes = [*recipe.notes(), *loaded.notes, *_untrained_pooler(tasks, loaded)]
    notes += teacher_notes(tasks, teachers)
    predictions = None
    if masked:
        predictions = masked_lm_tensors(recipe.encoder.name, recipe.encoder.revision)
    if masked and not predictions:
        notes.append(
            f"{recipe.encoder.name} has no masked-language head; training starts from a random one"
        )
    for data in tasks.values():
        notes.extend(task_notes(data, loaded.tokenizer.unk_id))
    return Prepared(
        recipe,
        folder,
        loaded,
        tasks,
        notes,
        [leak.sentence(drop_leaks) for leak in leaks],
        drop_leaks,
        predictions,
        fold_facts,
        teachers,
    )


def _read_tables(recipe: Recipe, folder: Path, frames: Mapping[str, Any]) -> TaskTables:
    """The tasks without token ids; with errors of files comes that of an encoder's path."""
    try:
        return read_tasks(recipe, folder, frames)
    except ComityError as error:
        raise ComityError(*_path_errors(recipe), *error.messages) from None


def _path_errors(recipe: Recipe) -> list[str]:
    try:
        local_checkpoint(recipe.encoder.name, recipe.encoder.revision)
    except ComityError as error:
        return error.messages
    return []


def _check_freeze(recipe: Recipe, encoder: Encoder) -> None:
    layers = encoder.depth
    for stage in recipe.stages:
        if stage.freeze == layers and stage.train_on != "labels":
            raise ComityError(
                f"freeze: with all {layers} layers frozen, a stage on masked words has nothing to "
                "train; freeze fewer layers"
            )
        cosine = [name for name in stage.tasks if recipe.tasks[name].head_name == "cosine"]
        if stage.freeze == layers and cosine:
            raise ComityError(
                f"freeze: with all {layers} layers frozen, the cosine head of {cosine[0]} has "
                "nothing to train; freeze fewer layers"
            )
        if isinstance(stage.freeze, int) and stage.freeze > layers:
            raise ComityError(
                f"freeze: cannot freeze {plural(stage.freeze, 'layer')}, {recipe.encoder.name} has "
                f'only {layers}; freeze fewer, or write "encoder" to freeze all'
            )


def _check_consistency(recipe: Recipe, encoder: Encoder) -> None:
    """Two dropout draws are the same where nothing is dropped; a frozen encoder drops nothing."""
    errors = ErrorList()
    for name, task in recipe.tasks.items():
        stages = [s for s in recipe.stages if name in s.tasks and s.train_on == "labels"]
        frozen = all(stage.freeze == "encoder" for stage in stages)
        rates = [] if frozen else [*encoder.dropout_rates]
        if task.head_name != "cosine":  # which has no dropout of its own
            rates.append(_head_dropout(task, encoder))
        if task.consistency is not None and not any(map(drops, rates)):
            reason, advice = "all dropout rates are 0", "raise one"
            if frozen:
                reason = "a frozen encoder has no dropout, and that of the head is 0"
                advice = "raise head_dropout"
            errors.add(
                f"tasks.{name}.consistency: has no effect here ({reason}); {advice}, or remove it"
            )
    errors.check()


def _head_dropout(task: TaskSection, encoder: Encoder) -> float:
    return encoder.hidden_dropout if task.head_dropout is None else task.head_dropout


def _untrained_pooler(tasks: Mapping[str, TaskData], loaded: LoadedEncoder) -> list[str]:
    """A sentence on the tasks that read the pooler of an encoder that was trained without it."""
    encoder, reading = loaded.encoder, []
    for name, data in tasks.items():
        spec = head_spec(data, encoder)
        embeddings = [spec.embedding_pooling] * len(data.task.objectives)
        pooler = "pooler" in (*spec.poolings, *embeddings)
        if pooler and encoder.pooling != "pooler":
            reading.append(name)
    if not reading:
        return []
    verb = "reads" if len(reading) == 1 else "read"
    return [
        f"{', '.join(reading)}: {verb} the pooler, which {loaded.source['name']} was not trained "
        f'with; without pooling = "pooler" a head reads "{encoder.pooling}"'
    ]


def _training_rows(tasks: Mapping[str, TaskData]) -> dict[str, Reading]:
    """Every training split by task, and by "TASK (FILE)" or "TASK (unlabelled)" for the others."""
    rows: dict[str, Reading] = {}
    for name, data in tasks.items():
        if data.task.eval_only:
            continue
        rows[name] = (data.train, data.read_columns)
        for path, split in data.stage_train.items():
            rows[f"{name} ({path})"] = (split, data.read_columns)
        if data.unlabelled is not None:
            rows[f"{name} (unlabelled)"] = (data.unlabelled, data.read_columns)
    return rows


def _dev_rows(tasks: Mapping[str, TaskData]) -> dict[str, Reading]:
    return {name: (data.dev, data.read_columns) for name, data in tasks.items()}


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
        train = without(data.train, masks[name])
        kept[name] = replace(data, train=train, stage_train=own)
        if data.unlabelled is not None:
            rest = without(data.unlabelled, masks[f"{name} (unlabelled)"])
            kept[name] = replace(kept[name], unlabelled=rest)
            if not len(rest):
                errors.add(
                    f"{rest.table.path}: each row of this file is also in a dev set; name other "
                    f"rows in tasks.{name}.unlabelled"
                )
        for split in (kept[name].train, *own.values()):
            path = split.table.path
            check_trainable(f"{name} without leaks", data.target, path, split.targets, errors)
    errors.check()
    return {
        name: replace(data, target=fit_target(data.target, data.train.targets))
        for name, data in kept.items()
    }
