"""Several runs in one folder: finished ones are skipped, interrupted ones resumed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from comity.data.folds import Fold
from comity.errors import ComityError, ErrorList
from comity.experiments.jobs import train_at_once
from comity.recipe.differences import first_difference
from comity.recipe.recipe import Recipe
from comity.runs.directory import RunDirectory, clear, has_checkpoint, is_finished
from comity.terminal.progress import JobsDisplay, SeriesDisplay
from comity.training.events import Listener
from comity.training.plan import PlannedRun, SeriesPlan, plan_stages
from comity.training.setup import prepare
from comity.training.train import plan_run, train


@dataclass(frozen=True)
class SeriesRun:
    """One run of a series: its recipe, how much it trains on, and the digests of its inputs."""

    name: str  # of its folder
    recipe: Recipe
    steps: int
    examples: int
    tokens: int
    digests: dict[str, str]  # as `RunInputs.digests`
    fold: Fold | None = None  # of the training rows, which the run leaves out


class Series:
    """Runs that are trained together; all are validated before the first one starts.

    Raises:
        ComityError: with every error in any recipe, encoder or file.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        data: Path,
        out: Path,
        drop_leaks: bool = False,
        command: list[str] | None = None,
        slim: Path | None = None,
        folds: Mapping[str, Fold] = MappingProxyType({}),
    ):
        """Plan the runs.

        Args:
            recipes: by the name of the run's folder in `out`.
            data: the folder where the recipes' relative paths start.
            command: the command line to record in each run.json.
            slim: a folder of slim runs; one with a run's name counts as that run, finished.
            folds: the fold that a run leaves out, by the name of the run.
        """
        check_folder(out)
        self.data = data
        self.out = out
        self.drop_leaks = drop_leaks
        self.command = command
        self.slim = slim
        self.not_needed: set[str] = set()  # names of runs that count as finished
        self._notes: dict[str, str] = {}  # by sentence
        self.runs: list[SeriesRun] = []
        planned: dict[str, SeriesRun | ComityError] = {}
        failed: dict[str, ComityError] = {}
        for name, recipe in recipes.items():
            fold = folds.get(name)
            key = f"{_data_key(recipe)} {fold}"
            if key not in planned:
                try:
                    planned[key] = self._plan(name, recipe, fold)
                except ComityError as error:
                    planned[key] = error
            found = planned[key]
            if isinstance(found, ComityError):
                failed[name] = found
            else:
                self.runs.append(replace(found, name=name, recipe=recipe))
        errors_by_name(failed, len(recipes)).check()

    @property
    def notes(self) -> list[str]:
        """The notes on the data, each sentence once; not of the first run: with the run's name."""
        return list(self._notes.values())

    def _plan(self, name: str, recipe: Recipe, fold: Fold | None) -> SeriesRun:
        prepared = prepare(recipe, self.data, self.drop_leaks, fold=fold)
        # The run on all rows has the same notes, with other counts.
        for sentence in (*prepared.notes, *prepared.leaks) if fold is None else ():
            self._notes.setdefault(sentence, f"{name}: {sentence}" if self.runs else sentence)
        plans = plan_stages(recipe.stages, prepared.tasks, recipe.train)
        counts = [count for plan in plans for count in plan.counts]
        return SeriesRun(
            name,
            recipe,
            sum(len(plan.steps) for plan in plans),
            sum(count.examples for count in counts),
            sum(count.tokens for count in counts),
            prepared.inputs().digests,
            fold,
        )

    def check(self) -> None:
        """Raise a ComityError if a run folder holds a run of another recipe, encoder or data."""
        for run in self.runs:
            for folder in self._folders(run):
                _check_same(folder, run, self.drop_leaks)

    def finished(self) -> list[SeriesRun]:
        """The runs that have reached their end."""
        return [run for run in self.runs if self._is_finished(run)]

    def unfinished(self) -> list[SeriesRun]:
        """The runs to train or to resume."""
        return [run for run in self.runs if not self._is_finished(run)]

    def _is_finished(self, run: SeriesRun) -> bool:
        return run.name in self.not_needed or any(map(is_finished, self._folders(run)))

    def _folders(self, run: SeriesRun) -> list[Path]:
        """Where the run and its slim copy are."""
        return [folder / run.name for folder in (self.out, self.slim) if folder is not None]

    def plan(self) -> SeriesPlan:
        """The runs with their states, and an estimate of the time for the unfinished ones."""
        self.check()
        return SeriesPlan([self._planned(run) for run in self.runs], self._seconds())

    def _planned(self, run: SeriesRun) -> PlannedRun:
        state = "finished" if self._is_finished(run) else _state(self.out / run.name)
        return PlannedRun(run.name, state, run.steps, run.examples, run.tokens)

    def _seconds(self) -> float | None:
        """Time steps of the longest unfinished run, then scale by tokens.

        None if that run is so short that timing it would take as long as running it.
        """
        left = self.unfinished()
        if not left:
            return 0.0
        sample = max(left, key=lambda run: run.steps)
        seconds = plan_run(
            sample.recipe, self.data, drop_leaks=self.drop_leaks, fold=sample.fold
        ).seconds
        if seconds is None:
            return None
        return seconds * sum(run.tokens for run in left) / sample.tokens

    def train(self, quiet: bool = False, jobs: int = 1) -> None:
        """Train the unfinished runs; an interrupted one resumes from its last checkpoint.

        A finished run keeps its best model; its checkpoint is deleted.

        Args:
            quiet: show no progress.
            jobs: how many runs train at once; with more than one, each has a process of its own.

        Raises:
            ComityError: after the last run, with the errors of every run that failed.
        """
        self.check()
        left = self.unfinished()
        planned = [self._planned(run) for run in left]
        # Of all runs, not of those left: a resumed run gets as many threads as it had.
        jobs = min(jobs, len(self.runs))
        if jobs > 1:
            sentences = train_at_once(self._train, left, jobs, JobsDisplay(planned, quiet))
        else:
            sentences = self._train_in_turn(left, SeriesDisplay(planned, quiet))
        for run in self.finished():  # a process may have been killed right after a run's end
            _delete_checkpoints(self.out / run.name)
        errors = ErrorList()
        for sentence in sentences:
            errors.add(sentence)
        errors.check()

    def _train_in_turn(self, runs: Sequence[SeriesRun], display: SeriesDisplay) -> list[str]:
        """Train runs one after another in this process; returns their errors."""
        sentences = []
        with display:
            for index, run in enumerate(runs):
                display.run_begins(index)
                try:
                    self._train(run, display)
                except ComityError as error:  # one learning rate may fail where the next works
                    sentences += [f"{run.name}: {sentence}" for sentence in error.messages]
                    continue
                display.run_ends()
        return sentences

    def _train(self, run: SeriesRun, on_event: Listener) -> None:
        directory = self.out / run.name
        resume = (directory / "run.json").is_file() and has_checkpoint(directory)
        if not resume:
            clear(directory)
        train(
            run.recipe,
            self.data,
            directory,
            resume=resume,
            drop_leaks=self.drop_leaks,
            on_event=on_event,
            command=self.command,
            fold=run.fold,
        )
        _delete_checkpoints(directory)


def errors_by_name(failed: Mapping[str, ComityError], count: int) -> ErrorList:
    """The errors of runs, each message once, with the name of the run.

    A message that all `count` runs have comes without a name.
    """
    named: dict[str, list[str]] = {}
    for name, error in failed.items():
        for message in error.messages:
            named.setdefault(message, []).append(name)
    errors = ErrorList()
    for message, names in named.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        errors.add(message if len(names) == count else f"{names[0]}{more}: {message}")
    return errors


def check_folder(out: Path) -> None:
    """Raise a ComityError if the folder for the runs is a file."""
    if out.exists() and not out.is_dir():
        raise ComityError(
            f"--out: {out} is a file; name a folder, new or written by the same command"
        )


def _state(directory: Path) -> str:
    return "to resume" if has_checkpoint(directory) else "to train"


def _delete_checkpoints(directory: Path) -> None:
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _data_key(recipe: Recipe) -> str:
    """A recipe without the keys that change neither which rows it reads nor how many."""
    values = recipe.to_dict()
    for key in ("seed", "lr", "head_lr", "weight_decay", "max_grad_norm"):
        values.get("train", {}).pop(key, None)
    return json.dumps(values)


def _check_same(directory: Path, run: SeriesRun, drop_leaks: bool) -> None:
    kept = RunDirectory(directory)
    if not (directory / "recipe.toml").is_file():
        return
    difference = first_difference(kept.recipe().to_dict(), run.recipe.to_dict())
    if difference:
        raise ComityError(
            f"{directory}: contains a run of another recipe ({difference}); choose another --out"
        )
    if (directory / "run.json").is_file():
        check_digests(directory, run.digests, drop_leaks)


def check_digests(directory: Path, digests: Mapping[str, str], drop_leaks: bool) -> None:
    """Raise a ComityError if a run has other rows, or an input with another digest."""
    inputs = RunDirectory.open(directory).facts().inputs
    if inputs.drop_leaks != drop_leaks:
        how = "with" if inputs.drop_leaks else "without"
        raise ComityError(
            f"{directory}: was trained {how} --drop-leaks; do the same here, or choose another "
            "--out"
        )
    before = inputs.digests
    for what, digest in digests.items():
        if before.get(what, digest) != digest:
            raise ComityError(
                f"{directory}: the {what} has changed since this run; restore the old one, or "
                "choose another --out"
            )
