"""Slim runs: what comparisons need of a finished run, small enough to commit.

FOLDER/recipe.toml          as in the run
    run.json                without the paths and the command line of the machine
    metrics.jsonl           without the training averages and earlier summaries of conflict
    best.json               as in the run
    predictions/000300/...  of the kept model, without probabilities
    weights.json            SHA-256 of each file of the kept model

A slim run has no weights and no texts. `comity compare`, `comity info` and `comity paper` read it
like a run.
"""

import csv
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from comity.evaluation.predictions import PREDICTION_COLUMNS
from comity.files import read_record, write_folder, write_record
from comity.runs.directory import SLIM_WEIGHTS, RunDirectory, digests_of_weights, is_finished
from comity.runs.entries import StageConflictEntry, TrainEntry
from comity.runs.facts import RunFacts
from comity.runs.summary import stage_conflicts


def keep_slim_runs(names: Iterable[str], runs: Path, slim: Path) -> None:
    """Write the slim copy of each finished run in the folder `runs` that `slim` lacks."""
    for name in names:
        if is_finished(runs / name) and not is_finished(slim / name):
            write_slim_run(runs / name, slim / name)


def write_slim_run(run: Path, folder: Path) -> None:
    """Write the slim copy of a finished run to `folder`, which replaces an earlier one.

    Raises:
        ComityError: not a run, or a file of it is damaged.
    """
    directory = RunDirectory.open(run)
    run_id = directory.facts().id
    write_folder(folder, lambda building: _fill(directory, RunDirectory(building)), run_id)


def _fill(directory: RunDirectory, slim: RunDirectory) -> None:
    best = directory.best()
    slim.write_recipe(directory.recipe())
    slim.write_facts(_without_paths(directory.facts()))
    last = stage_conflicts(directory)
    for entry in directory.metrics():
        earlier = isinstance(entry, StageConflictEntry) and entry not in last
        if not earlier and not isinstance(entry, TrainEntry):
            slim.log(entry)
    shutil.copy(directory.path / "best.json", slim.path)
    slim.write_predictions(best.step, lambda folder: _copy_predictions(directory, folder))
    write_record(slim.path / SLIM_WEIGHTS, digests_of_weights(directory.kept_model()))


def _without_paths(facts: RunFacts) -> RunFacts:
    encoder = replace(facts.inputs.encoder, folder=None)
    inputs = replace(facts.inputs, data=".", encoder=encoder)
    soup = [replace(member, run=Path(member.run).name) for member in facts.soup]
    return replace(facts, inputs=inputs, soup=soup, command=None)


def _copy_predictions(directory: RunDirectory, folder: Path) -> None:
    step = directory.best().step
    for task in directory.facts().tasks:
        _copy_columns(directory.predictions(step, task), folder / f"{task}.csv")


def _copy_columns(source: Path, target: Path) -> None:
    with (
        source.open(newline="", encoding="utf-8") as read,
        target.open("w", newline="", encoding="utf-8") as written,
    ):
        writer = csv.writer(written)
        for row in csv.reader(read):
            writer.writerow(row[: len(PREDICTION_COLUMNS)])


def weight_digests(slim: Path) -> dict[str, str]:
    """SHA-256 of each weight file of a slim run's kept model, by its path in the model's folder.

    Raises:
        ComityError: the file is missing or damaged.
    """
    return read_record(slim / SLIM_WEIGHTS)
