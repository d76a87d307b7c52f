"""A sweep: a grid over any keys of a recipe, one run for each point.

OUT/train.lr=1e-05/   one run directory for each point of the grid
    sweep.csv         what each point reached
    sweep.json        the same, with versions and machine
    sweep.png         the scores against the swept key
"""

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.experiments.runner import Series
from comity.recipe.recipe import Recipe
from comity.runs import RunDirectory, is_finished, reached
from comity.terminal.views import tell


@dataclass(frozen=True)
class Point:
    """One point of the grid."""

    name: str
    values: dict[str, Any]  # the swept keys
    recipe: Recipe


def grid(recipe: Path, settings: Sequence[str]) -> list[Point]:
    """Every point that `settings` span over the recipe at the path `recipe`.

    A setting is `KEY=VALUE` or `KEY=VALUE,VALUE,...`; a comma within brackets or quotes belongs to
    its value. The keys with several values are swept, the last one fastest.

    Raises:
        ComityError: with the errors of all points, each once.

    Example:
        grid(Path("recipe.toml"), ["train.lr=1e-5,2e-5", "train.batch_size=8,32"])
    """
    values: dict[str, list[str]] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key.strip() in values:
            raise ComityError(f'--set "{setting}": {key.strip()} is set twice; leave one out')
        values[key.strip()] = split_values(text)
        if "" in (value.strip() for value in values[key.strip()]):
            raise ComityError(
                f'--set "{setting}": a value is missing; write it as train.lr=1e-5,2e-5'
            )
    swept = [key for key, texts in values.items() if len(texts) > 1]
    if not swept:
        raise ComityError(
            "--set: no key has several values; write one as train.lr=1e-5,2e-5, or use comity train"
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
            errors.add(f"--set: {point.name.replace(',', ' ')} stands there twice; leave one out")
        points[point.name] = point
    errors.check()
    return list(points.values())


def split_values(text: str) -> list[str]:
    """A setting's values: cut at the commas that stand within no bracket and no quotes.

    >>> split_values("[0, 5],[0, 4]")
    ['[0, 5]', '[0, 4]']
    """
    parts, start, depth, quote = [], 0, 0, ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _point(recipe: Recipe, swept: Sequence[str]) -> Point:
    """Raises a ComityError for a key whose value another one has taken away."""
    values = {}
    for key in swept:
        try:
            values[key] = _value_at(recipe.to_dict(), key)
        except (KeyError, IndexError):
            raise ComityError(
                f"--set: {key} gives way to another key that is set (steps and epochs, for one, "
                "exclude each other); leave one of the two out"
            ) from None
    name = ",".join(f"{key}={_file_name(value)}" for key, value in values.items())
    return Point(name, values, recipe)


def _value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def _file_name(value: Any) -> str:
    """A value as part of a file name; where signs had to go, a digest keeps names apart."""
    text = value if isinstance(value, str) else json.dumps(value)
    safe = re.sub(r"[^A-Za-z0-9.+_-]+", "-", text)[:60]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


# --- the sweep ------------------------------------------------------------------------------------


class Sweep:
    """A grid over a recipe's keys: validated when made, then planned, trained and read."""

    def __init__(
        self,
        recipe: Path,
        settings: Sequence[str],
        data: Path,
        out: Path,
        drop_leaks: bool = False,
    ):
        self.recipe = recipe
        self.out = out
        self.points = grid(recipe, settings)
        recipes = {point.name: point.recipe for point in self.points}
        self.series = Series(recipes, data, out, drop_leaks)

    def plan(self) -> dict[str, Any]:
        """What is to be trained, for its table and its JSON."""
        self.check()
        return self.series.plan()

    def train(self, quiet: bool = False) -> None:
        """Train the points that are not finished."""
        self.check()
        self.series.train(quiet)

    def check(self) -> None:
        """Refuse a folder with runs of another recipe, encoder or data.

        So is one with a finished run which is no point here: results would leave it out.
        """
        known = {point.name for point in self.points}
        for found in sorted(self.out.glob("*/recipe.toml")):
            if found.parent.name not in known and is_finished(found.parent):
                raise ComityError(
                    f"{found.parent}: holds a run that is no point of this sweep; add its value "
                    "to --set, name another --out, or move that folder away"
                )
        self.series.check()

    def results(self) -> dict[str, Any]:
        """What each finished point reached, in the order of the grid; at least one is finished."""
        finished = {run.name for run in self.series.finished()}
        points = [point for point in self.points if point.name in finished]
        runs = [RunDirectory.open(self.out / point.name) for point in points]
        facts = runs[0].facts()
        return {
            "recipe": str(self.recipe),
            "swept": list(points[0].values),
            **_judged_by([point.recipe for point in points]),
            "machine": facts["machine"],
            "versions": facts["versions"],
            "points": [
                {"run": str(run.path), "values": point.values, **reached(run)}
                for point, run in zip(points, runs, strict=True)
            ],
        }


def _judged_by(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """The score that ranks the points: the task that all recipes select by, else the mean."""
    names = {recipe.train.select_by for recipe in recipes}
    best = names.pop() if len(names) == 1 else "mean"
    lower = best != "mean" and recipes[0].tasks[best].metric_name == "rmse"
    return {"judged_by": best, "lower_is_better": lower}


def write_sweep(results: Mapping[str, Any], out: Path) -> None:
    """Write sweep.json, sweep.csv and, where the plots' library is installed, sweep.png."""
    (out / "sweep.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    swept, points = results["swept"], results["points"]
    tasks = list(points[0]["tasks"])
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*swept, *tasks, "mean", "step", "run"])
        for point in points:
            values = [_cell(value) for value in point["values"].values()]
            scores = [point["tasks"][task] for task in tasks]
            writer.writerow([*values, *scores, point["mean"], point["step"], point["run"]])
    try:
        _plot(results, out / "sweep.png")
    except ComityError as error:
        tell(f"{error}; the rest is written")


def _cell(value: Any) -> Any:
    """Numbers and words as they are, all else (true and false too) as JSON writes it."""
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plain else json.dumps(value)


def _judged(results: Mapping[str, Any], point: Mapping[str, Any]) -> float | None:
    """The score that tells the best point."""
    best = results["judged_by"]
    return point["mean"] if best == "mean" else point["tasks"][best]


def _plot(results: Mapping[str, Any], path: Path) -> None:
    """One key: a line for each task, and the mean of several. Else a line for each other choice."""
    from comity.evaluation.plots import line_plot

    key, *others = results["swept"]
    points = results["points"]
    values = list(dict.fromkeys(_cell(point["values"][key]) for point in points))
    numeric = all(isinstance(value, int | float) for value in values)
    lines: dict[str, list[float | None]] = {}
    for point in points:
        of_all = {"mean": point["mean"]} if len(point["tasks"]) > 1 else {}
        scores = {**point["tasks"], **of_all}
        if others:
            choice = ", ".join(f"{other} {_cell(point['values'][other])}" for other in others)
            scores = {choice: _judged(results, point)}
        place = values.index(_cell(point["values"][key]))
        for name, value in scores.items():  # a point that is not finished stays a gap
            lines.setdefault(name, [None] * len(values))[place] = value
    best = results["judged_by"]
    judged = "mean of the tasks' scores on dev" if best == "mean" else f"score of {best} on dev"
    line_plot(
        path,
        values if numeric else range(1, len(values) + 1),
        lines,
        key if numeric else f"{key}: {', '.join(f'{n} {v}' for n, v in enumerate(values, 1))}",
        judged if others else "score on dev",
        f"Sweep of {key}",
        log_x=key.rpartition(".")[2] in ("lr", "head_lr"),
    )
