"""A trained model in a folder of its own, with nothing of the run.

FOLDER/comity.json          SavedModel: the tasks and how their files are read
    encoder/                as in a run, in float32
    heads.safetensors       as in a run, in float32

It has no texts, no scores, no state of the training, and no paths of the machine.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from comity.errors import ComityError
from comity.files import (
    copy_folder,
    files_in,
    give_same_permissions,
    is_file,
    is_inside,
    read_record,
    sha256_of,
    write_record,
)
from comity.model.checkpoint import DOWNLOADED
from comity.recipe.recipe import Recipe
from comity.runs.facts import EncoderFacts, Precision, RunFacts, TaskFacts, TaskName, versions

FILE = "comity.json"
ENCODER = "encoder"
HEADS = "heads.safetensors"
FILES = [FILE, HEADS, *(f"{ENCODER}/{pattern}" for pattern in DOWNLOADED)]
"""Patterns of the files to download from the hub."""

FORMAT = 1
LOCAL = "a local checkpoint"

READING = {
    "kind", "text", "texts", "label", "labels", "delimiter", "header", "quoting", "encoding",
    "decimal_mark", "separator", "missing_labels", "ignore_labels", "match_labels", "empty_texts",
    "scale", "metric",
}  # fmt: skip
"""The keys of a task in a recipe that say how labelled and unlabelled files are read."""


@dataclass(frozen=True)
class SavedModel:
    """The contents of comity.json."""

    precision: Precision  # what the model computes in
    encoder: EncoderFacts  # the pretrained encoder, without its folder
    tasks: dict[TaskName, TaskFacts]
    columns: dict[str, dict[str, Any]]  # by task: the keys READING of its recipe
    files: dict[str, str]  # SHA-256 of the other files
    versions: dict[str, str]  # by package
    format: int = FORMAT

    def recipe(self) -> Recipe:
        """The tasks as a recipe declares them, without their files."""
        no_files = {"train": "", "dev": ""}
        return Recipe.model_validate(
            {"tasks": {task: no_files | keys for task, keys in self.columns.items()}}
        )


_SAVED = TypeAdapter(SavedModel)
_COPY_AGAIN = "copy or download the folder again, or export the run again"


def write_saved_model(
    folder: Path, weights: Path, facts: "RunFacts | SavedModel", recipe: Recipe
) -> None:
    """Write a model to an empty folder.

    Args:
        folder: the folder, which exists.
        weights: the folder with the float32 weights: `encoder/` and `heads.safetensors`.
        facts: the facts of the run or of the saved model that the weights belong to.
        recipe: the recipe of the run.

    Raises:
        ComityError: the weights are no longer there.
    """
    if not (weights / HEADS).is_file():
        raise ComityError(f"{weights}: the weights are no longer there; load the run again")
    copy_folder(weights / ENCODER, folder / ENCODER)
    shutil.copy(weights / HEADS, folder)
    encoder = facts.inputs.encoder if isinstance(facts, RunFacts) else facts.encoder
    saved = SavedModel(
        precision=facts.precision,
        encoder=public_encoder(encoder),
        tasks=facts.tasks,
        columns={
            name: section.model_dump(mode="json", include=READING, exclude_none=True)
            for name, section in recipe.tasks.items()
        },
        files={file.relative_to(folder).as_posix(): sha256_of(file) for file in files_in(folder)},
        versions={key: value for key, value in versions().items() if key != "platform"},
    )
    write_record(folder / FILE, asdict(saved))
    give_same_permissions(folder, FILE)


def read_saved_model(folder: Path) -> SavedModel:
    """Read comity.json and check the other files against it.

    Raises:
        ComityError: a file is missing or has changed, or another version of comity wrote it.
    """
    path = folder / FILE
    damaged = ComityError(f"{path}: is damaged; {_COPY_AGAIN}")
    try:
        values = read_record(path)
    except ComityError:
        raise damaged from None
    if isinstance(values, Mapping) and values.get("format") != FORMAT:
        raise ComityError(
            f"{folder}: was written by another version of comity; export the run again"
        )
    try:
        saved = _SAVED.validate_python(values)
        saved.recipe()
    except (ValidationError, UnicodeEncodeError):  # the second for half of a surrogate pair
        raise damaged from None
    for name, digest in saved.files.items():
        file = folder / name
        if not is_inside(name):
            raise ComityError(f'{path}: names "{name}", which is not in the folder; {_COPY_AGAIN}')
        if not is_file(file) or sha256_of(file) != digest:
            what = "has changed since it was written" if is_file(file) else "is missing"
            raise ComityError(f"{file}: {what}; {_COPY_AGAIN}")
    return saved


def public_encoder(encoder: EncoderFacts) -> EncoderFacts:
    """Facts about a pretrained encoder without a path of the machine."""
    local = encoder.hub is None and encoder.name != "minilm"
    return replace(encoder, folder=None, name=LOCAL if local else encoder.name)
