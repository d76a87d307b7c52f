"""`comity paper`: plans and trains the runs of the tables, in one process and one folder.

OUT/options.json      the options common to all runs: encoder, epochs, overrides
    runs/ROW-seedN/   one run directory for each row and seed
    paper.json        all results, with run, seed and digests of the weights
    paper.md          the page generated from paper.json
    figures/          scatter plot and histogram of the similarity task
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
    PaperRow,
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
    """The user's options. All runs in one folder have the same encoder, epochs and overrides."""

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
        """The content of options.json."""
        dropped = {"drop-leaks": True} if self.drop_leaks else {}
        kept = {"encoder": self.encoder, "epochs": self.epochs, "set": list(self.overrides)}
        return {**kept, **dropped}


def check_options(
    data: Path,
    out: Path,
    encoder: str = "minilm",
    tables: Sequence[str] = (),
    epochs: float | None = None,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    drop_leaks: bool = False,
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
    options = Options(data, out, encoder, found, epochs, seeds, tuple(overrides), drop_leaks)
    _check_folder(options)
    return options


def _check_folder(options: Options) -> None:
    out, path = options.out, options.out / "options.json"
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ComityError(
                f"{out}: is not empty and was not made by comity paper; name another --out"
            )
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ComityError(f"{path}: cannot be read; name another --out") from None
    difference = first_difference(kept, options.common)
    if difference:
        raise ComityError(
            f"{out}: was made with other options (--{difference}); use the same or name another "
            "--out"
        )


class Paper:
    """The table rows for the user's data, and the requested runs; checked on construction.

    Raises:
        ComityError: all errors in the data, the encoder and the overrides, or a run in the folder
            that was trained on other data or with another encoder.
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
        """Check that every run in the folder is of this data, since the page shows all of them."""
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
        """The folder of the run directories."""
        return self.options.out / "runs"

    def check(self) -> None:
        """Check that runs in the folder have the same recipe, encoder and data."""
        self.series.check()

    def plan(self) -> SeriesPlan:
        """The runs to train."""
        return self.series.plan()

    def train(self, quiet: bool = False) -> None:
        """Train the runs that are not finished."""
        self.check()
        self.options.out.mkdir(parents=True, exist_ok=True)
        path, text = self.options.out / "options.json", json.dumps(self.options.common, indent=2)
        if not path.is_file() or path.read_text(encoding="utf-8") != text + "\n":
            write_atomically(path, text + "\n")
        self.series.train(quiet)


def run_name(row: PaperRow, seed: int) -> str:
    """The folder name of a run."""
    return f"{row.name}-seed{seed}"
