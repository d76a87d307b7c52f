"""A sweep: a grid over any keys of a recipe, one run per point.

OUT/train.lr=1e-05/   one run directory per point of the grid
    sweep.csv         the scores of each run
    sweep.json        the same, with means over seeds, versions and machine
    sweep.png         the scores against the swept key

Points that differ only in `train.seed` count as one, with means over seeds. It is the winner if it
scores better than every other one, each with p < 0.05 by the rule of `comity.evaluation.seeds`. No
correction is needed, although the best of several is tested: if two or more are equally good, one
of them beats all others in at most 5% of sweeps, since it has to beat its equals too (an
intersection-union test, Berger 1982). That takes at least two seeds of each.
"""

import csv
import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.evaluation.compare import LEVEL, MEAN, score_tables
from comity.evaluation.metrics import higher_is_better
from comity.evaluation.plots import line_plot
from comity.evaluation.seeds import Estimate
from comity.experiments.runner import Series, errors_by_name
from comity.files import path_of, path_text
from comity.format import or_dash
from comity.recipe.recipe import Recipe
from comity.runs.directory import RunDirectory, is_finished
from comity.runs.facts import Machine
from comity.runs.summary import Reached, reached
from comity.terminal.views import tell
from comity.training.plan import SeriesPlan

SEED = "train.seed"


@dataclass(frozen=True)
class Point:
    """One point of the grid."""

    name: str
    values: dict[str, Any]  # the swept keys
    recipe: Recipe


def grid(recipe: Path, settings: Sequence[str]) -> list[Point]:
    """Every point of the grid that `settings` span over the recipe at the path `recipe`.

    A setting is `KEY=VALUE` or `KEY=VALUE,VALUE,...`; a comma within brackets or quotes belongs to
    its value. Keys with several values are swept, the last one fastest.

    Raises:
        ComityError: with the errors of all points, each once; see `errors_by_name`.

    Example:
        grid(Path("recipe.toml"), ["train.lr=1e-5,2e-5", "train.batch_size=8,32"])
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key.strip() in values:
            raise ComityError(f'--set "{setting}": {key.strip()} is set twice; remove one of them')
        values[key.strip()] = split_values(text)
        if "" in (value.strip() for value in values[key.strip()]):
            raise ComityError(f'--set "{setting}": a value is missing; write train.lr=1e-5,2e-5')
    swept = [key for key, texts in values.items() if len(texts) > 1]
    if not swept:
        raise ComityError(
            "--set: no key has several values; write train.lr=1e-5,2e-5, or use comity train"
        )
    points: dict[str, Point] = {}
    twice: list[str] = []
    failed: dict[str, ComityError] = {}
    combinations = list(itertools.product(*values.values()))
    for chosen in combinations:
        overrides = {key: f"{key}={text}" for key, text in zip(values, chosen, strict=True)}
        try:
            point = _point(Recipe.load(recipe, list(overrides.values())), swept)
        except ComityError as error:
            failed[",".join(overrides[key] for key in swept)] = error
            continue
        if point.name in points:
            twice.append(point.name.replace(",", " "))
        points[point.name] = point
    errors = errors_by_name(failed, len(combinations))
    for name in twice:
        errors.add(f"--set: {name} is given twice; remove one of them")
    errors.check()
    return list(points.values())


def split_values(text: str) -> list[str]:
    """A setting's values: split at commas outside brackets and quotes.

    >>> split_values("[0, 5],[0, 4]")
    ['[0, 5]', '[0, 4]']
    """
    parts, start, depth, quote = [], 0, 0, ""
    for index, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _point(recipe: Recipe, swept: Sequence[str]) -> Point:
    """Raises a ComityError for a swept key that another setting has removed."""
    values = {}
    for key in swept:
        try:
            values[key] = _value_at(recipe.to_dict(), key)
        except (KeyError, IndexError):
            raise ComityError(
                f"--set: another setting replaces {key} (steps and epochs, for example, exclude "
                "each other); remove one of the two"
            ) from None
    name = ",".join(f"{key}={_file_name(value)}" for key, value in values.items())
    return Point(name, values, recipe)


def _value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def _file_name(value: Any) -> str:
    """A value as part of a file name; a digest replaces characters that a name cannot contain."""
    text = value if isinstance(value, str) else json.dumps(value)
    safe = re.sub(r"[^A-Za-z0-9.+_-]+", "-", text)[:60]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


# --- the sweep ------------------------------------------------------------------------------------


class Sweep:
    """A grid over a recipe's keys. Every point is validated on construction."""

    def __init__(
        self,
        recipe: Path,
        settings: Sequence[str],
        data: Path,
        out: Path,
        drop_leaks: bool = False,
        command: list[str] | None = None,
    ):
        self.recipe = recipe
        self.out = out
        self.points = grid(recipe, settings)
        recipes = {point.name: point.recipe for point in self.points}
        self.series = Series(recipes, data, out, drop_leaks, command)

    def plan(self) -> SeriesPlan:
        """The runs with their states, and an estimate of the time for the unfinished ones."""
        self.check()
        return self.series.plan()

    def train(self, quiet: bool = False, jobs: int = 1) -> None:
        """Train the unfinished points, `jobs` at a time."""
        self.check()
        self.series.train(quiet, jobs)

    def check(self) -> None:
        """Raise a ComityError if the folder has runs of another recipe, encoder or data.

        A finished run that is not a point of this grid is an error too: results would omit it.
        """
        known = {point.name for point in self.points}
        for found in sorted(self.out.glob("*/recipe.toml")):
            if found.parent.name not in known and is_finished(found.parent):
                raise ComityError(
                    f"{found.parent}: contains a run that is not a point of this sweep; keep "
                    "its keys and values in --set, or choose another --out"
                )
        self.series.check()

    def results(self) -> "SweepResults":
        """The scores of each finished point, in the order of the grid; at least one is finished."""
        finished = {run.name for run in self.series.finished()}
        points = [point for point in self.points if point.name in finished]
        runs = [RunDirectory.open(self.out / point.name) for point in points]
        facts = runs[0].facts()
        ranked_by, lower_is_better = _ranking([point.recipe for point in points])
        results = [
            PointResult(path_text(run.path), point.values, reached(run))
            for point, run in zip(points, runs, strict=True)
        ]
        means = _means(results)
        winner, note = _winner(means, ranked_by, lower_is_better)
        return SweepResults(
            recipe=str(self.recipe),
            swept=list(points[0].values),
            ranked_by=ranked_by,
            lower_is_better=lower_is_better,
            machine=facts.machine,
            versions=facts.versions,
            points=results,
            means=means,
            winner=winner,
            note=note,
        )


def _ranking(recipes: Sequence[Recipe]) -> tuple[str, bool]:
    """The score that ranks the points, and whether lower is better.

    It is the task that all recipes select by, or the only task, or else the mean.
    """
    names = {recipe.train.select_by for recipe in recipes}
    tasks = {task for recipe in recipes for task in recipe.tasks}
    names = tasks if len(tasks) == 1 else names
    if len(names) > 1 or names == {MEAN}:
        return MEAN, False
    (task,) = names
    return task, not higher_is_better(recipes[0].tasks[task].metric_name)


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointResult:
    """One point of a sweep and the scores of its kept model."""

    run: str  # directory
    values: dict[str, Any]  # of the swept keys
    reached: Reached

    @property
    def scores(self) -> dict[str, float | None]:
        """The score of each task and, if there are several, their mean."""
        mean = {MEAN: self.reached.mean} if len(self.reached.tasks) > 1 else {}
        return {**self.reached.tasks, **mean}


@dataclass(frozen=True)
class Spread:
    """A score over the seeds of a point: both are None if a seed has no score."""

    mean: float | None
    deviation: float | None  # sample standard deviation; None for one seed


@dataclass(frozen=True)
class PointMean:
    """The mean of the points that differ only in the seed."""

    values: dict[str, Any]  # of the swept keys, without the seed
    runs: list[str]
    steps: list[int]  # of the kept models
    scores: dict[str, Spread]


@dataclass(frozen=True)
class SweepResults:
    """The finished points of a sweep."""

    recipe: str
    swept: list[str]  # keys
    ranked_by: str  # "mean" or a task
    lower_is_better: bool
    machine: Machine
    versions: dict[str, str]
    points: list[PointResult]
    means: list[PointMean]
    winner: int | None  # index in `means`
    note: str  # why there is a winner, or none

    @property
    def columns_of_scores(self) -> list[str]:
        """The tasks of any point, and the mean if a point has one."""
        names = dict.fromkeys(name for mean in self.means for name in mean.scores)
        return [*(name for name in names if name != MEAN), *([MEAN] if MEAN in names else [])]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = [
            {"run": point.run, "values": point.values, **asdict(point.reached)}
            for point in self.points
        ]
        return {**asdict(self), "points": points}

    def columns(self) -> list[str]:
        """The header of the table on the terminal."""
        seeds = ["seeds"] if self.repeated else []
        return [*self.means[0].values, *seeds, *self.columns_of_scores, "at step"]

    @property
    def repeated(self) -> bool:
        """Whether a point has several seeds."""
        return any(len(mean.runs) > 1 for mean in self.means)

    def rows(self) -> list[list[str]]:
        """The table on the terminal, one row per point; a star marks the winner."""
        return [self._row(index, mean) for index, mean in enumerate(self.means)]

    def _row(self, index: int, mean: PointMean) -> list[str]:
        shown = dict.fromkeys(self.columns_of_scores, "-")
        for name, score in mean.scores.items():
            spread = "" if score.deviation is None else f" ± {score.deviation:.4f}"
            shown[name] = or_dash(score.mean) + spread
        if index == self.winner:
            shown[self.ranked_by] += " *"
        values = [str(_cell(value)) for value in mean.values.values()]
        seeds = [str(len(mean.runs))] if self.repeated else []
        first, last = min(mean.steps), max(mean.steps)
        steps = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        return [*values, *seeds, *shown.values(), steps]


def _means(points: Sequence[PointResult]) -> list[PointMean]:
    """The points without their seeds, in the order of the grid."""
    groups: dict[str, list[PointResult]] = {}
    for point in points:
        groups.setdefault(json.dumps(_without_seed(point.values)), []).append(point)
    return [
        PointMean(
            _without_seed(group[0].values),
            [point.run for point in group],
            [point.reached.step for point in group],
            {
                name: _spread([point.scores.get(name) for point in group])
                for name in dict.fromkeys(name for point in group for name in point.scores)
            },
        )
        for group in groups.values()
    ]


def _without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != SEED}


def _spread(scores: Sequence[float | None]) -> Spread:
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _winner(
    means: Sequence[PointMean], ranked_by: str, lower_is_better: bool
) -> tuple[int | None, str]:
    """The index of the point that beats all others, if there is one, and a sentence about it."""
    if len(means) < 2:
        return None, "Mean over seeds ± sample standard deviation."
    if any(len(mean.runs) < 2 for mean in means):
        return None, (
            "One seed says little, so no point is marked as the best. To compare the points, add "
            f"{SEED}=0,1,2 to --set and name another --out."
        )
    scores = {
        index: score.mean
        for index, mean in enumerate(means)
        if (score := mean.scores.get(ranked_by)) and score.mean is not None
    }
    if len(scores) < 2:
        return None, f"Fewer than two points have a score to compare ({ranked_by})."
    best = (min if lower_is_better else max)(scores, key=lambda index: scores[index])
    try:
        gains = _gains(means, [best, *(index for index in scores if index != best)], ranked_by)
    except ComityError as error:  # the dev rows may be swept too
        return None, f"The points cannot be compared: {error}"
    sign = -1 if lower_is_better else 1
    if all(e and e.p is not None and e.p < LEVEL and sign * e.value > 0 for e in gains):
        return best, "* better than every other point (p < 0.05, over seeds and dev rows)"
    return None, "No point is better than all others beyond chance (p < 0.05)."


def _gains(
    means: Sequence[PointMean], indices: Sequence[int], ranked_by: str
) -> list[Estimate | None]:
    """How much higher the first of these points scores than each of the others.

    Raises:
        ComityError: the points have different dev rows.
    """
    tables = score_tables([[path_of(run) for run in means[index].runs] for index in indices])
    counted = [table for table in tables if table.higher_is_better]
    # A mean in which one task counts is the score of that task.
    name = counted[0].task if ranked_by == MEAN and len(counted) == 1 else ranked_by
    (table,) = (table for table in tables if table.task == name)
    return [table.difference(other, 0) for other in range(1, len(indices))]


def write_sweep(results: SweepResults, out: Path) -> None:
    """Write sweep.json, sweep.csv and, if matplotlib is installed, sweep.png."""
    text = json.dumps(results.to_dict(), indent=2) + "\n"
    (out / "sweep.json").write_text(text, encoding="utf-8")
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        tasks = [name for name in results.columns_of_scores if name != MEAN]
        writer.writerow([*results.swept, *tasks, MEAN, "step", "run"])
        for point in results.points:
            values = [_cell(value) for value in point.values.values()]
            reached = point.reached
            scores = [reached.tasks.get(task) for task in tasks]
            writer.writerow([*values, *scores, reached.mean, reached.step, point.run])
    try:
        _plot(results, out / "sweep.png")
    except ComityError as error:
        tell(f"{error}; the other files are written")


def _cell(value: Any) -> Any:
    """Numbers and strings unchanged, everything else (true and false too) as JSON."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plain else json.dumps(value)


def _plot(results: SweepResults, path: Path) -> None:
    """Plot the scores of the points against the first swept key; nothing if only seeds differ.

    With one swept key there is a line for each task and for the mean; with several, one line of the
    ranking score for each combination of the other keys.
    """
    key, *others = results.means[0].values or [""]
    if not key:
        return
    values = list(dict.fromkeys(_cell(mean.values[key]) for mean in results.means))
    numeric = all(isinstance(value, int | float) for value in values)
    lines: dict[str, list[float | None]] = {}
    deviations: dict[str, list[float | None]] = {}
    for mean in results.means:
        scores = mean.scores
        if others:
            choice = ", ".join(f"{other} {_cell(mean.values[other])}" for other in others)
            scores = {choice: scores.get(results.ranked_by, Spread(None, None))}
        index = values.index(_cell(mean.values[key]))
        for name, score in scores.items():  # an unfinished point stays a gap
            lines.setdefault(name, [None] * len(values))[index] = score.mean
            deviations.setdefault(name, [None] * len(values))[index] = score.deviation
    seeds = SEED in results.swept
    ranked_by = results.ranked_by
    rank = "mean of the tasks' scores" if ranked_by == MEAN else f"score of {ranked_by}"
    line_plot(
        path,
        values if numeric else range(1, len(values) + 1),
        lines,
        key if numeric else f"{key}: {', '.join(f'{n} {v}' for n, v in enumerate(values, 1))}",
        f"{rank} on dev" if others else "score on dev",
        f"Sweep of {key}" + (", mean over seeds ± sample standard deviation" if seeds else ""),
        log_x=key.rpartition(".")[2] in ("lr", "head_lr"),
        deviations=deviations if seeds else None,
    )
