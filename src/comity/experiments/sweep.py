"""A sweep: a grid over any keys of a recipe, one run per point.

OUT/train.lr=1e-05/   one run directory per point of the grid
    sweep.csv         the scores of each point
    sweep.json        the same, with versions and machine
    sweep.png         the scores against the swept key
"""

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.evaluation.metrics import higher_is_better
from comity.evaluation.plots import line_plot
from comity.experiments.runner import Series
from comity.format import or_dash
from comity.recipe.recipe import Recipe
from comity.runs import Machine, Reached, RunDirectory, is_finished, reached
from comity.terminal.views import tell
from comity.training.plan import SeriesPlan


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
        ComityError: with the errors of all points, each once.

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
    errors = ErrorList()
    for chosen in itertools.product(*values.values()):
        overrides = [f"{key}={text}" for key, text in zip(values, chosen, strict=True)]
        try:
            point = _point(Recipe.load(recipe, overrides), swept)
        except ComityError as error:
            errors.extend(error)
            continue
        if point.name in points:
            errors.add(f"--set: {point.name.replace(',', ' ')} is given twice; remove one of them")
        points[point.name] = point
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

    def train(self, quiet: bool = False) -> None:
        """Train the unfinished points."""
        self.check()
        self.series.train(quiet)

    def check(self) -> None:
        """Raise a ComityError if the folder has runs of another recipe, encoder or data.

        A finished run that is not a point of this grid is an error too: results would omit it.
        """
        known = {point.name for point in self.points}
        for found in sorted(self.out.glob("*/recipe.toml")):
            if found.parent.name not in known and is_finished(found.parent):
                raise ComityError(
                    f"{found.parent}: contains a run that is not a point of this sweep; add its "
                    "value to --set, choose another --out, or move that folder away"
                )
        self.series.check()

    def results(self) -> "SweepResults":
        """The scores of each finished point, in the order of the grid; at least one is finished."""
        finished = {run.name for run in self.series.finished()}
        points = [point for point in self.points if point.name in finished]
        runs = [RunDirectory.open(self.out / point.name) for point in points]
        facts = runs[0].facts()
        ranked_by, lower_is_better = _ranking([point.recipe for point in points])
        return SweepResults(
            recipe=str(self.recipe),
            swept=list(points[0].values),
            ranked_by=ranked_by,
            lower_is_better=lower_is_better,
            machine=facts.machine,
            versions=facts.versions,
            points=[
                PointResult(str(run.path), point.values, reached(run))
                for point, run in zip(points, runs, strict=True)
            ],
        )


def _ranking(recipes: Sequence[Recipe]) -> tuple[str, bool]:
    """The score that ranks the points (the task that all recipes select by, else the mean).

    The flag tells whether lower is better.
    """
    names = {recipe.train.select_by for recipe in recipes}
    if len(names) > 1 or names == {"mean"}:
        return "mean", False
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
        mean = {"mean": self.reached.mean} if len(self.reached.tasks) > 1 else {}
        return {**self.reached.tasks, **mean}


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

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self.points[0].reached.tasks)

    def rank_score(self, point: PointResult) -> float | None:
        """The score that ranks a point."""
        reached = point.reached
        return reached.mean if self.ranked_by == "mean" else reached.tasks[self.ranked_by]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = [
            {"run": point.run, "values": point.values, **asdict(point.reached)}
            for point in self.points
        ]
        return {**asdict(self), "points": points}

    def columns(self) -> list[str]:
        """The header of the table on the terminal."""
        return [*self.swept, *self.points[0].scores, "at step"]

    def rows(self) -> list[list[str]]:
        """The table on the terminal; a star marks the best ranking score."""
        known = [score for point in self.points if (score := self.rank_score(point)) is not None]
        best = (min if self.lower_is_better else max)(known, default=None)
        rows = []
        for point in self.points:
            shown = {name: or_dash(score) for name, score in point.scores.items()}
            if best is not None and self.rank_score(point) == best:
                marked = self.ranked_by if self.ranked_by in shown else self.tasks[0]
                shown[marked] += " *"
            values = [str(_cell(value)) for value in point.values.values()]
            rows.append([*values, *shown.values(), f"{point.reached.step:,}"])
        return rows


def write_sweep(results: SweepResults, out: Path) -> None:
    """Write sweep.json, sweep.csv and, if matplotlib is installed, sweep.png."""
    text = json.dumps(results.to_dict(), indent=2) + "\n"
    (out / "sweep.json").write_text(text, encoding="utf-8")
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*results.swept, *results.tasks, "mean", "step", "run"])
        for point in results.points:
            values = [_cell(value) for value in point.values.values()]
            reached = point.reached
            writer.writerow(
                [*values, *reached.tasks.values(), reached.mean, reached.step, point.run]
            )
    try:
        _plot(results, out / "sweep.png")
    except ComityError as error:
        tell(f"{error}; the other files are written")


def _cell(value: Any) -> Any:
    """Numbers and strings unchanged, everything else (true and false too) as JSON."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plain else json.dumps(value)


def _plot(results: SweepResults, path: Path) -> None:
    """Plot the scores against the first swept key.

    With one swept key there is a line for each task and for the mean; with several, one line of the
    ranking score for each combination of the other keys.
    """
    key, *others = results.swept
    values = list(dict.fromkeys(_cell(point.values[key]) for point in results.points))
    numeric = all(isinstance(value, int | float) for value in values)
    lines: dict[str, list[float | None]] = {}
    for point in results.points:
        scores = point.scores
        if others:
            choice = ", ".join(f"{other} {_cell(point.values[other])}" for other in others)
            scores = {choice: results.rank_score(point)}
        index = values.index(_cell(point.values[key]))
        for name, value in scores.items():  # an unfinished point stays a gap
            lines.setdefault(name, [None] * len(values))[index] = value
    ranked_by = results.ranked_by
    rank = "mean of the tasks' scores" if ranked_by == "mean" else f"score of {ranked_by}"
    line_plot(
        path,
        values if numeric else range(1, len(values) + 1),
        lines,
        key if numeric else f"{key}: {', '.join(f'{n} {v}' for n, v in enumerate(values, 1))}",
        f"{rank} on dev" if others else "score on dev",
        f"Sweep of {key}",
        log_x=key.rpartition(".")[2] in ("lr", "head_lr"),
    )
