"""From a recipe to everything that training needs: encoder, tasks, model; all faults found here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from comity.data.batches import Template
from comity.data.leaks import drop, find_leaks, sentences
from comity.data.splits import Split, TaskData, load_tasks
from comity.data.tokens import TextEncoder
from comity.errors import ComityError
from comity.model.bert import Bert
from comity.model.multitask import MultiTaskModel, TaskModel
from comity.model.tokenizer import Tokenizer
from comity.model.weights import LoadedEncoder, load_encoder
from comity.recipe import Recipe


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

    @property
    def encoder(self) -> Bert:
        """The encoder, float32, on the CPU."""
        return self.loaded.encoder

    @property
    def template(self) -> Template:
        """How the encoder wants its texts."""
        return template_of(self.loaded.tokenizer, self.encoder)

    def model(self) -> MultiTaskModel:
        """The encoder with a new head for each task."""
        rate = self.encoder.config.hidden_dropout_prob
        chosen = self.recipe.encoder.rates()["hidden_dropout"]
        default = rate if chosen is None else chosen
        tasks = {
            name: TaskModel(
                data.target,
                data.task.views,
                data.task.pooling,
                default if data.task.dropout is None else data.task.dropout,
            )
            for name, data in self.tasks.items()
        }
        return MultiTaskModel(self.encoder, tasks, self.recipe.train.seed)

    def facts(self, specs: Mapping[str, TaskModel]) -> dict[str, Any]:
        """What a run of this is made of, for run.json: encoder, tasks, digests of the files."""
        splits = [
            split
            for data in self.tasks.values()
            for split in (data.train, data.dev, *data.stage_train.values())
        ]
        return {
            "data": str(self.folder.resolve()),
            "drop_leaks": self.drop_leaks,
            "encoder": self.loaded.source,
            "tasks": {
                name: {
                    "target": spec.target.to_dict(),
                    "views": list(spec.views),
                    "pooling": spec.pooling,
                    "dropout": spec.dropout,
                    "metric": self.tasks[name].task.metric_name,
                    "max_length": self.tasks[name].max_length,
                }
                for name, spec in specs.items()
            },
            "files": {str(split.table.path): split.table.digest for split in splits},
        }


def load_as_declared(recipe: Recipe, name: str, revision: str | None = None) -> LoadedEncoder:
    """An encoder with the recipe's dropout rates and seed."""
    rates = recipe.encoder.rates()
    return load_encoder(
        name,
        revision=revision,
        seed=recipe.train.seed,
        embedding_dropout=rates["embedding_dropout"],
        hidden_dropout=rates["hidden_dropout"],
        attention_dropout=rates["attention_dropout"],
    )


def template_of(tokenizer: Tokenizer, encoder: Bert) -> Template:
    """The special tokens and segments of an encoder."""
    return Template(tokenizer.cls_id, tokenizer.sep_id, encoder.segment_types)


def text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """The tokenizer as the data rooms see it."""
    return TextEncoder(tokenizer.encode, tokenizer.size, tokenizer.fingerprint)


def prepare(recipe: Recipe, folder: Path, drop_leaks: bool = False) -> Prepared:
    """Load the encoder, read and check every file.

    Raises:
        ComityError: with everything that is wrong with the checkpoint or any file.
    """
    loaded = load_as_declared(recipe, recipe.encoder.name, recipe.encoder.revision)
    encoder = text_encoder(loaded.tokenizer)
    tasks = load_tasks(recipe, folder, encoder, loaded.encoder.max_length, recipe.train.seed)
    train = {name: data.train for name, data in tasks.items()}
    dev = {name: data.dev for name, data in tasks.items()}
    leaks, masks = find_leaks(train, dev)
    leak_sentences = sentences(leaks, train, dev)
    if drop_leaks:
        train = drop(train, masks)
        tasks = {name: replace(data, train=train[name]) for name, data in tasks.items()}
        _check_left(tasks)
    notes = [*loaded.notes]
    for data in tasks.values():
        notes.extend(_notes(data))
    return Prepared(recipe, folder, loaded, tasks, notes, leak_sentences, drop_leaks)


def _check_left(tasks: dict[str, TaskData]) -> None:
    empty = [name for name, data in tasks.items() if not len(data.train)]
    if empty:
        raise ComityError(
            f"{tasks[empty[0]].train.table.path}: every training row of {empty[0]} stands in a dev "
            "split, so --drop-leaks leaves none; use other dev rows"
        )


def _notes(data: TaskData) -> list[str]:
    """What was counted while reading, in sentences: nothing is dropped or cut in silence."""
    notes = []
    for split, name in ((data.train, "training"), (data.dev, "dev")):
        notes.extend(_split_notes(data, split, name))
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


def _split_notes(data: TaskData, split: Split, name: str) -> list[str]:
    path, notes = split.table.path, []
    if split.unlabelled:
        notes.append(
            f"{data.name}: {split.unlabelled} rows of {path} have no label and are left out"
        )
    if split.empty:
        what = "are left out" if split.dropped else "are kept"
        notes.append(
            f"{data.name}: {split.empty} {name} rows have an empty text and {what} "
            f"(the first is {path}:{split.first_empty_line})"
        )
    cut = split.cut(data.task.views, data.max_length)
    if cut:
        notes.append(
            f"{data.name}: {cut} {name} rows are longer than {data.max_length} tokens and are cut"
        )
    if split.leaked:
        notes.append(
            f"{data.name}: {split.leaked} training rows stand in a dev split and are left out"
        )
    return notes
