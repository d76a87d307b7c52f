"""`comity paper`: plans and trains the runs of the tables, in one folder.

OUT/runs/ROW-seedN/      one run directory for each row and seed
    results/             what the page needs: small enough to commit
        options.json     encoder, epochs, overrides, data
        ROW-seedN/       the slim copy of each finished run
    results.json         all results, with run, seed and digests of the weights
    results.md           the page generated from results.json
    figures/             scatter plot and histogram of the similarity task
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from comity.errors import ComityError
from comity.evaluation.floors import untouched_cosine
from comity.experiments.runner import Series, check_digests, check_folder
from comity.experiments.slim import keep_slim_runs
from comity.files import copy_folder, read_record, write_record
from comity.paper.rows import (
    PaperRow,
    all_rows,
    check_tables,
    default_epochs,
    row_recipe,
    runs_of,
    setting,
)
from comity.recipe.differences import first_difference
from comity.recipe.recipe import Recipe
from comity.runs.directory import validated
from comity.training.plan import SeriesPlan
from comity.training.setup import prepare

RESULTS = "results"
"""The folder of the slim runs, in the output folder."""
_OPTIONS = "options.json"


@dataclass(frozen=True)
class Options:
    """The user's options. All runs in one folder have the same encoder, epochs and overrides."""

    data: Path
    out: Path
    encoder: str
    tables: tuple[str, ...]
    epochs: float
    seeds: int
    overrides: tuple[str, ...]
    drop_leaks: bool = False
    earlier: Path | None = None  # a folder of slim runs to continue from

    @property
    def common(self) -> dict[str, Any]:
        """What all runs in the folder have in common."""
        dropped = {"drop-leaks": True} if self.drop_leaks else {}
        kept = {"encoder": self.encoder, "epochs": self.epochs, "set": list(self.overrides)}
        return {**kept, **dropped}


@dataclass(frozen=True)
class Call:
    """The tables and the number of seeds that one call of `comity paper` asked for."""

    tables: tuple[str, ...]
    seeds: int


@dataclass(frozen=True)
class TaskRows:
    """How many rows a task has for training and evaluation."""

    train: int
    dev: int
    left_out: int  # training rows that also appear in a dev set


@dataclass(frozen=True)
class Kept:
    """The content of results/options.json: what the page says about all runs."""

    encoder: str
    epochs: float
    overrides: list[str]
    drop_leaks: bool
    data: dict[str, TaskRows]
    untouched: dict[str, float | None] = field(default_factory=dict)
    """Scores of similarity without training: the cosine of the encoder's embeddings, by metric."""
    calls: list[Call] = field(default_factory=list)
    """What was asked for, in one call or several; none in files of older versions."""

    @property
    def common(self) -> dict[str, Any]:
        """As `Options.common`."""
        dropped = {"drop-leaks": True} if self.drop_leaks else {}
        return {"encoder": self.encoder, "epochs": self.epochs, "set": self.overrides, **dropped}

    def rows(self) -> list[PaperRow]:
        """Every row of the tables, for this encoder and these sizes."""
        counts = {name: rows.train for name, rows in self.data.items()}
        base = base_recipe(self.encoder, self.overrides)
        return all_rows(base, counts, self.epochs)

    def asked(self, calls: Sequence[Call] | None = None) -> set[str]:
        """The names of the runs of some calls, by default of all."""
        rows = self.rows()
        return {
            run_name(row, seed)
            for call in (self.calls if calls is None else calls)
            for row, seed in runs_of(rows, call.tables, call.seeds)
        }

    def after(self, earlier: "Kept") -> "Kept":
        """The same with the calls of an earlier one, unless their runs are asked for here too."""
        runs = self.asked()
        before = [call for call in earlier.calls if not self.asked([call]) <= runs]
        if runs <= self.asked(before):
            return replace(self, calls=before)
        return replace(self, calls=[*before, *self.calls])


_KEPT = TypeAdapter(Kept)


def read_kept(results: Path) -> Kept:
    """Read options.json of a folder of slim runs.

    Raises:
        ComityError: the folder was not written by `comity paper`, or the file is damaged.
    """
    path = results / _OPTIONS
    if not path.is_file():
        what = "has no options.json" if results.is_dir() else "no such folder"
        raise ComityError(f"{results}: {what}; name the folder results/ that comity paper wrote")
    return validated(_KEPT, read_record(path), path)


def base_recipe(encoder: str, overrides: Sequence[str]) -> Recipe:
    """The recipe that every row changes."""
    return Recipe.load(setting(encoder), [*overrides, f"encoder.name={json.dumps(encoder)}"])


def check_options(
    data: Path,
    out: Path,
    encoder: str = "minilm",
    tables: Sequence[str] = (),
    epochs: float | None = None,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    drop_leaks: bool = False,
    earlier: Path | None = None,
) -> Options:
    """Check the options and fill in defaults.

    Raises:
        ComityError: an unknown table, a number of seeds or epochs that is not positive, or an `out`
            that is a file, or a folder with other content or of other options.
    """
    check_folder(out)
    if seeds < 1:
        raise ComityError(f"--seeds must be at least 1, got {seeds}")
    epochs = default_epochs(encoder) if epochs is None else epochs
    if not 0 < epochs < float("inf"):
        raise ComityError(f"--epochs must be a finite number above 0, got {epochs:g}")
    found = check_tables(tables)
    options = Options(
        data, out, encoder, found, epochs, seeds, tuple(overrides), drop_leaks, earlier
    )
    if (out / RESULTS / _OPTIONS).is_file():
        _check_same(out / RESULTS, options)
    elif out.is_dir() and any(out.iterdir()):
        raise ComityError(
            f"{out}: is not empty and was not made by comity paper; name another --out"
        )
    if earlier is not None:
        _check_same(earlier, options)
    return options


def _check_same(results: Path, options: Options) -> None:
    difference = first_difference(read_kept(results).common, options.common)
    if difference:
        raise ComityError(
            f"{results}: was made with other options (--{difference}); use the same or name "
            "another folder"
        )


class Paper:
    """The table rows for the user's data, and the requested runs; checked on construction.

    Raises:
        ComityError: all errors in the data, the encoder and the overrides, or a run in the folder
            that was trained on other data or with another encoder.
    """

    def __init__(self, options: Options, command: list[str] | None = None):
        self.options = options
        recipe = base_recipe(options.encoder, options.overrides)
        prepared = prepare(recipe, options.data, options.drop_leaks)
        tasks = prepared.tasks
        similarity = tasks["similarity"]
        floor = untouched_cosine(prepared.loaded, similarity.dev, similarity.max_length)
        sizes = {
            name: TaskRows(len(task.train), len(task.dev), task.train.leaked)
            for name, task in tasks.items()
        }
        self.kept = Kept(
            options.encoder,
            options.epochs,
            list(options.overrides),
            options.drop_leaks,
            sizes,
            {name: score.value for name, score in floor.items()},
            [Call(options.tables, options.seeds)],
        )
        recipes = {
            run_name(row, seed): row_recipe(options.encoder, row, seed, options.overrides)
            for row, seed in runs_of(self.kept.rows(), options.tables, options.seeds)
        }
        slim = self.results if options.earlier is None else options.earlier
        for folder in dict.fromkeys((self.results, slim)):
            if (folder / _OPTIONS).is_file():
                self.kept = self.kept.after(read_kept(folder))
        self.series = Series(
            recipes, options.data, self.runs, options.drop_leaks, command, slim=slim
        )
        self._check_earlier()

    def _check_earlier(self) -> None:
        """Check that every run in the folder is of this data, since the page shows all of them."""
        digests: dict[str, str] = {}
        for run in self.series.runs:
            digests |= run.digests
        folders = [self.runs, self.results, self.options.earlier]
        for folder in filter(None, folders):
            for path in sorted(folder.glob("*/run.json")):
                check_digests(path.parent, digests, self.options.drop_leaks)

    @property
    def runs(self) -> Path:
        """The folder of the run directories."""
        return self.options.out / "runs"

    @property
    def results(self) -> Path:
        """The folder of the slim runs."""
        return self.options.out / RESULTS

    def check(self) -> None:
        """Check that runs in the folder have the same recipe, encoder and data."""
        self.series.check()

    def plan(self) -> SeriesPlan:
        """The runs to train."""
        return self.series.plan()

    def train(self, quiet: bool = False, jobs: int = 1) -> None:
        """Train the unfinished runs, `jobs` at a time; keep a slim copy of every finished one."""
        self.check()
        self._take_earlier()
        self.results.mkdir(parents=True, exist_ok=True)
        if not (self.results / _OPTIONS).is_file() or read_kept(self.results) != self.kept:
            write_record(self.results / _OPTIONS, asdict(self.kept))
        try:
            self.series.train(quiet, jobs)
        finally:
            names = sorted(path.parent.name for path in self.runs.glob("*/run.json"))
            keep_slim_runs(names, self.runs, self.results)

    def _take_earlier(self) -> None:
        """Copy the slim runs to continue from into the results."""
        earlier = self.options.earlier
        for run in sorted(earlier.glob("*/run.json")) if earlier else ():
            target = self.results / run.parent.name
            if not target.exists():
                copy_folder(run.parent, target)
        self.series.slim = self.results


def run_name(row: PaperRow, seed: int) -> str:
    """The folder name of a run."""
    return f"{row.name}-seed{seed}"
