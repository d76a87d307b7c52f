"""Several runs in one process: planned together, skipped where finished, gone on with where not."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.recipe.recipe import Recipe
from comity.runs import RunDirectory, has_checkpoint, is_finished
from comity.terminal.progress import SeriesDisplay
from comity.training.plan import plan_stage
from comity.training.setup import prepare
from comity.training.trainer import Trainer, train

_NAMES = r"recipe\.toml|run\.json|metrics\.jsonl|best\.json"
_OF_A_RUN = re.compile(rf"({_NAMES})|\.({_NAMES})\.new|predictions|\.?(best|checkpoint)-.*")
"""What a run writes into its directory."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of several: its recipe, how much it will see, and what it is made of."""

    name: str  # of its folder
    recipe: Recipe
    steps: int
    examples: int
    tokens: int
    made_of: dict[str, Any]  # digests of encoder, tokenizer and files, as run.json has them


class Series:
    """Runs that are trained one after another in one process; all are validated before the first.

    Raises:
        ComityError: with everything that is wrong with any recipe, the encoder or any file.
    """

    def __init__(
        self, recipes: Mapping[str, Recipe], data: Path, out: Path, drop_leaks: bool = False
    ):
        """`recipes` by the name of the run's folder in `out`; their paths start at `data`."""
        check_folder(out)
        self.data = data
        self.out = out
        self.drop_leaks = drop_leaks
        self.notes: list[str] = []  # what a user should see about the data, each sentence once
        self.runs: list[PlannedRun] = []
        planned: dict[str, PlannedRun] = {}
        errors = ErrorList()
        for name, recipe in recipes.items():
            alike = _what_is_read(recipe)
            if alike not in planned:
                try:
                    planned[alike] = self._plan(name, recipe)
                except ComityError as error:
                    errors.extend(error)
                    continue
            found = planned[alike]
            self.runs.append(
                PlannedRun(name, recipe, found.steps, found.examples, found.tokens, found.made_of)
            )
        errors.check()

    def _plan(self, name: str, recipe: Recipe) -> PlannedRun:
        prepared = prepare(recipe, self.data, self.drop_leaks)
        new = (s for s in (*prepared.notes, *prepared.leaks) if s not in self.notes)
        self.notes.extend(dict.fromkeys(new))
        plans = [
            plan_stage(number, stage, prepared.tasks, recipe.train)
            for number, stage in enumerate(recipe.stages)
        ]
        counts = [count for plan in plans for count in plan.counts]
        return PlannedRun(
            name,
            recipe,
            sum(len(plan.steps) for plan in plans),
            sum(count.examples for count in counts),
            sum(count.tokens for count in counts),
            _made_of(prepared.facts({})),
        )

    def check(self) -> None:
        """Refuse a folder whose runs of these names have another recipe, encoder or data."""
        for run in self.runs:
            _check_same(self.out / run.name, run, self.drop_leaks)

    def finished(self) -> list[PlannedRun]:
        """The runs that came to their end."""
        return [run for run in self.runs if is_finished(self.out / run.name)]

    def unfinished(self) -> list[PlannedRun]:
        """The runs that are still to be trained, or to be gone on with."""
        return [run for run in self.runs if not is_finished(self.out / run.name)]

    def plan(self) -> dict[str, Any]:
        """What is to be trained, and how long that would take, for its table and its JSON."""
        self.check()
        return {
            "runs": [
                {
                    "name": run.name,
                    "state": _state(self.out / run.name),
                    "steps": run.steps,
                    "examples": run.examples,
                    "tokens": run.tokens,
                }
                for run in self.runs
            ],
            "seconds": self.seconds(),
        }

    def seconds(self) -> float | None:
        """What the unfinished runs will take: timed steps of the longest, scaled by tokens.

        None where that run is so short that timing it would cost as much as running it.
        """
        left = self.unfinished()
        if not left:
            return 0.0
        sample = max(left, key=lambda run: run.steps)
        seconds = Trainer(prepare(sample.recipe, self.data, self.drop_leaks)).time_left()
        if seconds is None:
            return None
        return seconds * sum(run.tokens for run in left) / sample.tokens

    def train(self, quiet: bool = False) -> None:
        """Train what is not finished; an interrupted run goes on from its last checkpoint.

        A finished run keeps its best model; its checkpoint, of no more use, is deleted.

        Raises:
            ComityError: after the last run, with what stopped any of them; each says its run.
        """
        self.check()
        left = self.unfinished()
        errors = ErrorList()
        display = SeriesDisplay(left, quiet)
        with display:
            for run in left:
                display.begins(run)
                try:
                    self._train(run, display)
                except ComityError as error:  # a learning rate may fail where the next does not
                    for sentence in error.messages:
                        errors.add(f"{run.name}: {sentence}")
                    continue
                display.ends(run)
        for run in self.finished():  # one may have been stopped just after its end
            _drop_checkpoints(self.out / run.name)
        errors.check()

    def _train(self, run: PlannedRun, display: "SeriesDisplay") -> None:
        directory = self.out / run.name
        resume = (directory / "run.json").is_file() and has_checkpoint(directory)
        if not resume:
            _clear(directory)
        train(
            run.recipe,
            self.data,
            directory,
            resume=resume,
            drop_leaks=self.drop_leaks,
            listener=display,
        )
        _drop_checkpoints(directory)


def check_folder(out: Path) -> None:
    """Refuse a file where the folder of the runs is to stand."""
    if out.exists() and not out.is_dir():
        raise ComityError(f"--out: {out} is a file; name a folder, new or of the same command")


def _state(directory: Path) -> str:
    if is_finished(directory):
        return "finished"
    return "to be gone on with" if has_checkpoint(directory) else "to be trained"


def _drop_checkpoints(directory: Path) -> None:
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first key in which two nested tables differ, as part of a sentence.

    >>> first_difference({"train": {"lr": 1e-5}}, {"train": {"lr": 2e-5}})
    'train.lr is 1e-05 there and 2e-05 here'
    """
    one, other = _flat(there), _flat(here)
    for key in {**other, **one}:
        if one.get(key) != other.get(key):
            before, now = (_shown(values.get(key)) for values in (one, other))
            return f"{key} is {before} there and {now} here"
    return None


def _flat(values: Any, place: str = "") -> dict[str, Any]:
    """Nested tables and lists of tables as one, each value under its key with dots."""
    if isinstance(values, Mapping):
        items: Any = values.items()
    elif isinstance(values, list) and any(isinstance(entry, Mapping) for entry in values):
        items = enumerate(values)
    else:
        return {place: values}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= _flat(value, f"{place}.{key}" if place else str(key))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _what_is_read(recipe: Recipe) -> str:
    """A recipe without the keys that change neither the rows that it reads nor how many."""
    values = recipe.to_dict()
    for key in ("seed", "lr", "head_lr", "weight_decay", "max_grad_norm"):
        values.get("train", {}).pop(key, None)
    return json.dumps(values)


def _made_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What must not have changed where a run is taken over: the weights and files behind it."""
    files = {f"file of {role}": digest for role, digest in facts["files"].items()}
    return {"encoder": facts["encoder"]["sha256"], "tokenizer": facts["tokenizer"], **files}


def _check_same(directory: Path, run: PlannedRun, drop_leaks: bool) -> None:
    kept = RunDirectory(directory)
    if not (directory / "recipe.toml").is_file():
        return
    difference = first_difference(kept.recipe().to_dict(), run.recipe.to_dict())
    if difference:
        raise ComityError(
            f"{directory}: holds a run of another recipe ({difference}); name another --out"
        )
    if (directory / "run.json").is_file():
        check_made_of(directory, run.made_of, drop_leaks)


def check_made_of(directory: Path, made_of: Mapping[str, Any], drop_leaks: bool) -> None:
    """Refuse a run of other rows, encoder or files, as far as it has those of `made_of`."""
    facts = RunDirectory.open(directory).facts()
    if facts["drop_leaks"] != drop_leaks:
        how = "with" if facts["drop_leaks"] else "without"
        raise ComityError(
            f"{directory}: was trained {how} --drop-leaks; do the same here, or name another --out"
        )
    before = _made_of(facts)
    for what, digest in made_of.items():
        if before.get(what, digest) != digest:
            raise ComityError(
                f"{directory}: the {what} has changed since this run; put the old one back, or "
                "name another --out"
            )


def _clear(directory: Path) -> None:
    """Remove what a run left that was stopped before its first checkpoint, and nothing else."""
    left = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in left:
        if not _OF_A_RUN.fullmatch(path.name):
            raise ComityError(
                f"{path}: is no file of a run; move it away, so that the run can start here"
            )
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
