"""A baseline: every task of a recipe trained alone, and scores that need no training.

OUT/baseline.json                    the table
    runs/mood-seed0/                 one run directory for each task and seed
    runs/mood-seed0-fold1of5/        the same without a fold of the training rows
    teachers/mood-seed0.safetensors  soft labels: what these runs predict for their folds
    results/mood-seed0/              the slim copy of each finished run on all rows
    results/floors.json              scores that need no training

A task alone has the recipe that `comity train --only TASK` trains, without teachers: the same
encoder and keys, and as many epochs over its own rows (or as many steps). So the runs of all tasks
see as many examples together as one run of the whole recipe. Once results/ and teachers/ are
complete, runs/ is not needed any more.
"""

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from comity.data.folds import Fold, fold_of_rows
from comity.data.soft_labels import SoftLabels, read_soft_labels, soft_values, write_soft_labels
from comity.errors import ComityError, ErrorList
from comity.evaluation.compare import Comparison, compare_with_alone, same_recipes
from comity.evaluation.evaluate import task_outputs
from comity.evaluation.floors import Floor, majority_floor, untouched_floor
from comity.evaluation.metrics import higher_is_better
from comity.experiments.runner import Series, SeriesRun, check_digests, check_folder
from comity.experiments.slim import keep_slim_runs
from comity.files import read_record, write_atomically, write_record
from comity.format import or_dash, plural
from comity.inference.model import load
from comity.recipe.differences import first_difference
from comity.recipe.recipe import Recipe
from comity.runs.directory import RunDirectory, digests_of_weights, is_finished, validated
from comity.runs.summary import reached
from comity.terminal.waiting import Waiting
from comity.training.plan import SeriesPlan
from comity.training.setup import Prepared, prepare


@dataclass(frozen=True)
class Floors:
    """The scores of a task that need no training."""

    of: str  # SHA-256 of the recipe without its seed, and of its inputs
    constant: Floor
    untouched: Floor


_FLOORS = TypeAdapter(Floors)


class Baseline:
    """The runs of a baseline; every one is validated on construction.

    Raises:
        ComityError: with every error in the recipe, its files or the encoder, a number of seeds or
            folds that is too small, or a run to compare with that has none of the tasks.
    """

    def __init__(
        self,
        recipe: Path,
        data: Path,
        out: Path,
        overrides: Sequence[str] = (),
        seeds: int = 3,
        folds: int | None = None,
        compare: Sequence[Path] = (),
        drop_leaks: bool = False,
        command: list[str] | None = None,
    ):
        """Plan the runs.

        Args:
            recipe: the path of the recipe of all tasks.
            data: the folder where the recipe's relative paths start.
            out: the folder for everything that is written.
            overrides: changes of the recipe's keys, such as "train.lr=1e-5".
            seeds: runs of each task; the first has the recipe's seed s, the next one s + 1.
            folds: also train without each of this many folds, for soft labels.
            compare: runs of several tasks to compare with.
            drop_leaks: leave out training rows that also appear in a dev set.
            command: the command line to record in each run.json.
        """
        if seeds < 1:
            raise ComityError(f"--seeds must be at least 1, got {seeds}")
        if folds is not None and folds < 2:
            raise ComityError(f"--folds must be at least 2, got {folds}")
        check_folder(out)
        self.path = recipe
        self.overrides = list(overrides)
        self.out = out
        self.drop_leaks = drop_leaks
        loaded = Recipe.load(recipe, self.overrides)
        self._taught = [name for name, task in loaded.tasks.items() if task.teachers]
        self.whole = loaded.without_teachers()
        first = self.whole.train.seed
        self.seeds = range(first, first + seeds)
        self.tasks = [name for name, task in self.whole.tasks.items() if not task.eval_only]
        self.folds = [Fold(number, folds) for number in range(1, folds + 1)] if folds else []
        self.others = same_recipes(compare)
        _check_tasks(self.others, self.tasks)
        self._unequal = self._check_data(data)
        alone = {name: self._recipe(task, seed) for name, task, seed in self._runs()}
        recipes, left_out = dict(alone), {}
        for name, recipe_alone in alone.items():
            for fold in self.folds:
                recipes[_fold_name(name, fold)] = recipe_alone
                left_out[_fold_name(name, fold)] = fold
        self.series = Series(
            recipes, data, out / "runs", drop_leaks, command, self.results_folder, left_out
        )
        self._by_name = {run.name: run for run in self.series.runs}
        self._leave_out_labelled()

    def _recipe(self, task: str, seed: int) -> Recipe:
        """The recipe of a task alone."""
        recipe = Recipe.load(self.path, [*self.overrides, f"train.seed={seed}"])
        return recipe.without_teachers().only([task])

    def _runs(self) -> list[tuple[str, str, int]]:
        """Name, task and seed of each run on all rows."""
        return [(f"{task}-seed{seed}", task, seed) for task in self.tasks for seed in self.seeds]

    @property
    def results_folder(self) -> Path:
        """The folder of the slim runs."""
        return self.out / "results"

    def _check_data(self, data: Path) -> list[str]:
        """A sentence for each task whose folds are of unequal size.

        Errors of the files come from here, before each is found again in every run.
        """
        prepared = prepare(self.whole, data, self.drop_leaks)
        sentences = []
        for task in self.tasks if self.folds else ():
            split, count = prepared.tasks[task].train, len(self.folds)
            seed = self._recipe(task, self.seeds[0]).train.split_seed
            largest = int(np.bincount(fold_of_rows(split, count, seed)).max())
            if largest * count > 2 * len(split):
                sentences.append(
                    f"{task}: one of {count} folds has {largest:,} of "
                    f"{plural(len(split), 'training row')}, because texts in common link them; its "
                    "teacher trains on the others alone"
                )
        return sentences

    @property
    def notes(self) -> list[str]:
        """Sentences on the data, on tasks that are left out, and on folds of unequal size."""
        names = [name for name in self.whole.tasks if name not in self.tasks]
        left_out = [f"{name}: is left out, since eval_only is set" for name in names]
        left_out += [f"{name}: is trained without its teacher here" for name in self._taught]
        return [*self.series.notes, *left_out, *self._unequal]

    @property
    def budget(self) -> str:
        """How much each run trains on, as a sentence."""
        return (
            "Each task alone is the recipe with --only: as many epochs over its own rows, or as "
            "many steps, as the recipe has."
        )

    def check(self) -> None:
        """Raise a ComityError if the folder has runs of another recipe, encoder or data."""
        self.series.check()

    def plan(self) -> SeriesPlan:
        """The runs with their states, and an estimate of the time for the unfinished ones."""
        return self.series.plan()

    def train(self, quiet: bool = False, jobs: int = 1) -> None:
        """Train the unfinished runs, `jobs` at a time; keep their results and soft labels.

        Raises:
            ComityError: after the last run, with the errors of every run that failed.
        """
        self.check()
        with Waiting("scoring the untouched encoder", quiet):
            for task in self.tasks:
                self._floors(task)
        errors = ErrorList()
        try:
            self.series.train(quiet, jobs)
        except ComityError as error:
            errors.extend(error)
        finally:
            names = [name for name, _, _ in self._runs()]
            keep_slim_runs(names, self.series.out, self.results_folder)
        with Waiting("predicting the folds", quiet):
            for name, task, seed in self._runs():
                self._write_teacher(name, task, seed)
        errors.check()

    # --- floors -----------------------------------------------------------------------------------

    def _floors(self, task: str) -> Floors:
        """The scores that need no training, as they were kept, or computed now."""
        path = self.results_folder / "floors.json"
        kept: dict[str, Any] = read_record(path) if path.is_file() else {}
        run = self._by_name[f"{task}-seed{self.seeds[0]}"]
        of = self._key(run)
        if task in kept:
            floors = validated(_FLOORS, kept[task], path)
            if floors.of == of:
                return floors
        prepared = prepare(run.recipe, self.series.data, self.drop_leaks)
        data = prepared.tasks[task]
        floors = Floors(of, majority_floor(data), untouched_floor(prepared.loaded, data))
        self.results_folder.mkdir(parents=True, exist_ok=True)
        write_record(path, {**kept, task: asdict(floors)})
        return floors

    def _key(self, run: SeriesRun) -> str:
        values = run.recipe.to_dict()
        values["train"].pop("seed")
        key = json.dumps([values, run.digests, self.drop_leaks], sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()

    # --- soft labels ------------------------------------------------------------------------------

    def teacher(self, name: str) -> Path:
        """The file of soft labels of a task and seed."""
        return self.out / "teachers" / f"{name}.safetensors"

    def _leave_out_labelled(self) -> None:
        """Runs whose soft labels are written need not be trained."""
        for name, _, _ in self._runs() if self.folds else ():
            path = self.teacher(name)
            if path.is_file():
                self._check_teacher(path, self._by_name[name])
                self.series.not_needed |= {_fold_name(name, fold) for fold in self.folds}

    def _check_teacher(self, path: Path, run: SeriesRun) -> None:
        """Raise a ComityError if soft labels are of another recipe, other inputs or other folds."""
        labels = read_soft_labels(path)
        difference = first_difference(labels.recipe, run.recipe.to_dict())
        if labels.count != len(self.folds):
            difference = f"--folds is {labels.count} there and {len(self.folds)} here"
        elif labels.drop_leaks != self.drop_leaks:
            difference = "--drop-leaks is not the same"
        elif labels.digests != run.digests:
            difference = "the encoder or the data"
        if difference:
            raise ComityError(
                f"{path}: holds soft labels of other runs ({difference}); use the same, or choose "
                "another --out"
            )

    def _write_teacher(self, name: str, task: str, seed: int) -> None:
        """Write the soft labels of a task and seed, if all its runs without a fold are finished."""
        path = self.teacher(name)
        names = [_fold_name(name, fold) for fold in self.folds]
        folders = [self.series.out / fold_name for fold_name in names]
        if not folders or path.is_file() or not all(map(is_finished, folders)):
            return
        run = self._by_name[name]
        for fold_name, folder in zip(names, folders, strict=True):
            check_digests(folder, self._by_name[fold_name].digests, self.drop_leaks)
        prepared = prepare(run.recipe, self.series.data, self.drop_leaks)
        data = prepared.tasks[task]
        folds = fold_of_rows(data.train, len(self.folds), run.recipe.train.split_seed)
        values, logits = _out_of_fold(prepared, task, folds, folders)
        kept = [RunDirectory(folder).kept_model() for folder in folders]
        labels = SoftLabels(
            task=task,
            kind=data.target.kind,
            classes=data.target.classes,
            rows=data.train.rows.astype(np.int64),
            keys=np.asarray(data.train.table.keys)[data.train.rows],
            folds=folds,
            values=values,
            logits=logits,
            count=len(self.folds),
            seed=seed,
            file=data.train.table.digest,
            weights=tuple(map(digests_of_weights, kept)),
            recipe=run.recipe.to_dict(),
            digests=run.digests,
            drop_leaks=self.drop_leaks,
        )
        write_soft_labels(path, labels)

    # --- results ----------------------------------------------------------------------------------

    def results(self) -> "BaselineResults":
        """The table, and the comparison with other runs; of unfinished runs there are no scores.

        Raises:
            ComityError: runs to compare with have other dev rows.
        """
        finished = {
            task: [
                self.results_folder / name
                for name, of_run, _ in self._runs()
                if of_run == task and is_finished(self.results_folder / name)
            ]
            for task in self.tasks
        }
        comparison = None
        if self.others:
            alone = {task: runs for task, runs in finished.items() if runs}
            comparison = compare_with_alone(alone, *self.others) if alone else None
        teachers = [self.teacher(name) for name, _, _ in self._runs()]
        return BaselineResults(
            recipe=str(self.path),
            budget=self.budget,
            tasks=[self._result(task, runs) for task, runs in finished.items()],
            comparison=comparison,
            teachers=[str(path) for path in teachers if self.folds and path.is_file()],
        )

    def _result(self, task: str, runs: Sequence[Path]) -> "TaskResult":
        floors = self._floors(task)
        scores = [reached(RunDirectory.open(run)).tasks[task] for run in runs]
        known = [score for score in scores if score is not None]
        complete = len(known) == len(scores)
        metric = self.whole.tasks[task].metric_name
        return TaskResult(
            task=task,
            metric=metric,
            higher_is_better=higher_is_better(metric),
            examples=self._by_name[f"{task}-seed{self.seeds[0]}"].examples,
            constant=floors.constant,
            untouched=floors.untouched,
            runs=[str(run) for run in runs],
            scores=scores,
            mean=statistics.fmean(known) if known and complete else None,
            deviation=statistics.stdev(known) if len(known) > 1 and complete else None,
        )


def _out_of_fold(
    prepared: Prepared, task: str, folds: NDArray[np.int32], runs: Sequence[Path]
) -> tuple[NDArray, NDArray | None]:
    """`SoftLabels.values` and `SoftLabels.logits` of a task's training rows.

    `folds [n]` are the folds of the rows; fold k was left out by the k-th of the runs.
    """
    data = prepared.tasks[task]
    order, values, logits = [], [], []
    for number, run in enumerate(runs, start=1):
        model = load(run)
        rows = np.flatnonzero(folds == number)
        outputs = task_outputs(
            model.network, task, data.train.take(rows), prepared.template, data.max_length
        )
        # A regression has the run's own mean and deviation.
        found, found_logits = soft_values(model.target(task), outputs)
        if not np.isfinite(found).all():
            raise ComityError(
                f"{run}: predicts numbers that are not finite; lower the learning rate"
            )
        order.append(rows)
        values.append(found)
        if found_logits is not None:
            logits.append(found_logits)
    back = np.argsort(np.concatenate(order))
    return np.concatenate(values)[back], np.concatenate(logits)[back] if logits else None


def _fold_name(name: str, fold: Fold) -> str:
    """The folder name of a run without a fold."""
    return f"{name}-fold{fold.number}of{fold.count}"


def _check_tasks(groups: Sequence[Sequence[Path]], tasks: Sequence[str]) -> None:
    """Raise a ComityError for a run to compare with that has none of the tasks."""
    for group in groups:
        if not set(RunDirectory.open(group[0]).facts().tasks) & set(tasks):
            raise ComityError(
                f"{group[0]}: has none of the tasks {', '.join(tasks)}; name a run of the same "
                "tasks"
            )


@dataclass(frozen=True)
class TaskResult:
    """One task of a baseline; all scores are on dev."""

    task: str
    metric: str
    higher_is_better: bool
    examples: int  # that each run trains on
    constant: Floor  # the same prediction for every row
    untouched: Floor  # of the encoder before training
    runs: list[str]  # slim copies of the finished runs, by seed
    scores: list[float | None]  # of each run
    mean: float | None
    deviation: float | None  # sample standard deviation over the runs


@dataclass(frozen=True)
class BaselineResults:
    """A baseline's table, and its comparison with other runs."""

    recipe: str
    budget: str  # a sentence
    tasks: list[TaskResult]
    comparison: Comparison | None
    teachers: list[str]  # files of soft labels

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def columns(self) -> list[str]:
        """The header of the table on the terminal."""
        return ["best constant", "untouched encoder", "alone", "seeds", "examples"]

    def rows(self) -> list[list[str]]:
        """The table on the terminal: task with its metric, then the cells of `columns`."""
        return [
            [
                f"{task.task} ({task.metric})",
                _with_model(task.constant),
                _with_model(task.untouched),
                or_dash(task.mean) + ("" if task.deviation is None else f" ± {task.deviation:.4f}"),
                str(len(task.runs)),
                f"{task.examples:,}",
            ]
            for task in self.tasks
        ]


def _with_model(floor: Floor) -> str:
    return f"{or_dash(floor.score.value)} ({floor.model})"


def write_baseline(results: BaselineResults, out: Path) -> None:
    """Write baseline.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "baseline.json", json.dumps(results.to_dict(), indent=2) + "\n")
