"""`comity paper`: which runs make the tables, trained in one process and kept in one folder.

OUT/options.json      what the runs have in common: encoder, epochs, overrides
    runs/ROW-seedN/   one run directory for each row and seed
    paper.json        every figure, with run, seed and digests of the weights
    paper.md          the page made of it
    figures/          the scatter and histogram of the similarity task
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.experiments.runner import Series, check_digests, check_folder, first_difference
from comity.files import write_atomically
from comity.paper.rows import (
    Row,
    all_rows,
    check_tables,
    default_epochs,
    row_recipe,
    runs_of,
    setting,
)
from comity.recipe.recipe import Recipe
from comity.training.plan import SeriesPlan
from comity.training.setup import prepare


@dataclass(frozen=True)
class Options:
    """What the user asked for. All runs in one folder have encoder, epochs and overrides alike."""

    data: Path
    out: Path
    encoder: str
    tables: tuple[str, ...]
    epochs: float
    seeds: int
    overrides: tuple[str, ...]
    drop_leaks: bool = False

    @property
    def common(self) -> dict[str, Any]:
        """What options.json keeps."""
        dropped = {"drop-leaks": True} if self.drop_leaks else {}
        kept = {"encoder": self.encoder, "epochs": self.epochs, "set": list(self.overrides)}
        return {**kept, **dropped}


def check_options(
    data: Path,
    out: Path,
    encoder: str = "minilm",
    tables: Sequence[str] = (),
    epochs: float | None = None,
    seeds: int = 2,
    overrides: Sequence[str] = (),
    drop_leaks: bool = False,
) -> Options:
    """Options with what was left out filled in.

    Raises:
        ComityError: an unknown table, no seed or epoch, a file for a folder, or one made with other
            options.
    """
    check_folder(out)
    if seeds < 1:
        raise ComityError(f"--seeds: {seeds} leaves nothing to train; name 1 or more")
    epochs = default_epochs(encoder) if epochs is None else epochs
    if not 0 < epochs < float("inf"):
        raise ComityError(f"--epochs: {epochs:g} leaves nothing to train; name a number above 0")
    found = check_tables(tables)
    options = Options(data, out, encoder, found, epochs, seeds, tuple(overrides), drop_leaks)
    _check_folder(options)
    return options


def _check_folder(options: Options) -> None:
    out, path = options.out, options.out / "options.json"
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ComityError(
                f"{out}: is not empty and no folder of comity paper; name another --out"
            )
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ComityError(f"{path}: cannot be read; name another --out") from None
    difference = first_difference(kept, options.common)
    if difference:
        raise ComityError(
            f"{out}: was made with other options (--{difference}); repeat those or name another "
            "--out"
        )


class Paper:
    """The rows for the user's data, and the runs that were asked for; validated when made.

    Raises:
        ComityError: with all that is wrong with the data, the encoder or an override, or for a
            run in the folder, of whatever row, that was made of others.
    """

    def __init__(self, options: Options, command: list[str] | None = None):
        self.options = options
        recipe = self._base()
        tasks = prepare(recipe, options.data, options.drop_leaks).tasks
        self.data_rows = {
            name: {"train": len(task.train), "dev": len(task.dev)} for name, task in tasks.items()
        }
        counts = {name: rows["train"] for name, rows in self.data_rows.items()}
        self.rows = all_rows(recipe, counts, options.epochs)
        recipes = {
            run_name(row, seed): row_recipe(options.encoder, row, seed, options.overrides)
            for row, seed in runs_of(self.rows, options.tables, options.seeds)
        }
        self.series = Series(recipes, options.data, self.runs, options.drop_leaks, command)
        self._check_earlier()

    def _check_earlier(self) -> None:
        """The page shows every run of the folder as one on this data; so each has to be."""
        digests: dict[str, str] = {}
        for run in self.series.runs:
            digests |= run.digests
        for path in sorted(self.runs.glob("*/run.json")):
            check_digests(path.parent, digests, self.options.drop_leaks)

    def _base(self) -> Recipe:
        encoder = f"encoder.name={json.dumps(self.options.encoder)}"
        return Recipe.load(setting(self.options.encoder), [*self.options.overrides, encoder])

    @property
    def runs(self) -> Path:
        """Where the run directories stand."""
        return self.options.out / "runs"

    def check(self) -> None:
        """Refuse a folder whose runs have another recipe, encoder or data."""
        self.series.check()

    def plan(self) -> SeriesPlan:
        """What is to be trained, for its table and its JSON."""
        return self.series.plan()

    def train(self, quiet: bool = False) -> None:
        """Train what is not finished."""
        self.check()
        self.options.out.mkdir(parents=True, exist_ok=True)
        path, text = self.options.out / "options.json", json.dumps(self.options.common, indent=2)
        if not path.is_file() or path.read_text(encoding="utf-8") != text + "\n":
            write_atomically(path, text + "\n")
        self.series.train(quiet)


def run_name(row: Row, seed: int) -> str:
    """The name of a run's folder."""
    return f"{row.name}-seed{seed}"
