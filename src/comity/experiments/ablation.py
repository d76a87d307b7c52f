"""An ablation: a recipe, and the recipe without each of its parts in turn.

OUT/ablation.json               what each part is worth
    runs/whole-seed0/           one run directory for each seed
    runs/without-balancer-seed0/
    results/                    the slim copy of each finished run

A part is a key of the recipe that changes how the model learns, in all tables that set it: the
balancer, the pooling of every task, or the stages. Without it, the key has its default value, and
every other key that loses its effect is left out too.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError, nearest
from comity.evaluation.compare import Comparison, Verdict, compare_groups
from comity.experiments.runner import Series
from comity.experiments.slim import keep_slim_runs
from comity.files import write_atomically
from comity.format import or_dash, p_value
from comity.recipe.recipe import Recipe
from comity.runs.directory import is_finished
from comity.training.plan import SeriesPlan

WHOLE = "whole"

PARTS = {
    "encoder": (
        "dropout", "embedding_dropout", "hidden_dropout", "attention_dropout",
    ),
    "train": (
        "task_sampling", "balancer", "warmup", "lr_schedule", "lr_layer_decay", "freeze",
        "head_lr", "loss_weighting", "weight_decay", "max_grad_norm", "average",
    ),
    "tasks": (
        "head", "loss", "view", "interaction", "head_layers", "pooling", "embedding_pooling",
        "head_dropout", "objectives", "consistency", "teacher", "head_lr", "loss_weight",
        "sampling_weight", "class_weights",
    ),
}  # fmt: skip
"""The keys that count as parts, by table. Keys of the data and of the budget do not."""

STAGES = "stages"


@dataclass(frozen=True)
class PartResult:
    """What a part of the recipe is worth: the scores of the whole recipe minus those without it."""

    part: str
    worth: dict[str, Verdict]  # by task, and of "mean" where there are several


@dataclass(frozen=True)
class AblationResults:
    """The finished runs of an ablation, compared with the whole recipe."""

    recipe: str
    parts: list[PartResult]
    comparison: Comparison | None  # of the runs without a part with the whole recipe

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def columns(self) -> list[str]:
        """The header of the table on the terminal: a column for each score, and two for the last.

        The last score is the mean or, of one task, that task's.
        """
        return [*self._scores(), "95% interval", "p", "verdict"]

    def rows(self) -> list[list[str]]:
        """The table on the terminal: the part, then the cells of `columns`."""
        return [[result.part, *self._cells(result)] for result in self.parts]

    def _scores(self) -> list[str]:
        return list(dict.fromkeys(name for result in self.parts for name in result.worth))

    def _cells(self, result: PartResult) -> list[str]:
        verdicts = [result.worth.get(name) for name in self._scores()]
        cells = [or_dash(verdict and verdict.difference, "+.4f") for verdict in verdicts]
        last = verdicts[-1]
        if last is None or last.low is None or last.high is None:
            return [*cells, "-", "-", "-"]
        between = f"{last.low:+.4f} to {last.high:+.4f}"
        return [*cells, between, p_value(last.p), last.verdict or "-"]


class Ablation:
    """The runs of an ablation; every one is validated on construction.

    Raises:
        ComityError: with every error in the recipe, its files or the encoder; an unknown part, or
            a recipe that has none; a number of seeds that is too small.
    """

    def __init__(
        self,
        recipe: Path,
        data: Path,
        out: Path,
        overrides: Sequence[str] = (),
        parts: Sequence[str] = (),
        seeds: int = 3,
        drop_leaks: bool = False,
        command: list[str] | None = None,
    ):
        """Plan the runs.

        Args:
            recipe: the path of the recipe.
            data: the folder where the recipe's relative paths start.
            out: the folder for everything that is written.
            overrides: changes of the recipe's keys, such as "train.lr=1e-5".
            parts: names of parts; default: all of the recipe.
            seeds: runs of each variant; the first has the recipe's seed s, the next one s + 1.
            drop_leaks: leave out training rows that also appear in a dev set.
            command: the command line to record in each run.json.
        """
        if seeds < 1:
            raise ComityError(f"--seeds must be at least 1, got {seeds}")
        self.path = recipe
        self.out = out
        whole = Recipe.load(recipe, overrides)
        self.parts = _chosen(parts_of(whole), parts, recipe)
        first = whole.train.seed
        self.seeds = range(first, first + seeds)
        variants = {WHOLE: whole}
        variants |= {f"without-{part}": without_part(whole, part) for part in self.parts}
        recipes = {
            _run_name(name, seed): _with_seed(variant, seed)
            for name, variant in variants.items()
            for seed in self.seeds
        }
        self.variants = list(variants)
        self.series = Series(recipes, data, out / "runs", drop_leaks, command, self.results_folder)

    @property
    def results_folder(self) -> Path:
        """The folder of the slim runs."""
        return self.out / "results"

    def check(self) -> None:
        """Raise a ComityError if the folder has runs of another recipe, encoder or data."""
        self.series.check()

    def plan(self) -> SeriesPlan:
        """The runs with their states, and an estimate of the time for the unfinished ones."""
        return self.series.plan()

    def train(self, quiet: bool = False, jobs: int = 1) -> None:
        """Train the unfinished runs, `jobs` at a time, and keep a slim copy of each.

        Raises:
            ComityError: after the last run, with the errors of every run that failed.
        """
        self.check()
        try:
            self.series.train(quiet, jobs)
        finally:
            names = [run.name for run in self.series.runs]
            keep_slim_runs(names, self.series.out, self.results_folder)

    def results(self) -> AblationResults:
        """What each part is worth, as far as its runs are finished."""
        finished = {name: self._finished(name) for name in self.variants}
        groups = {name: runs for name, runs in finished.items() if runs}
        if WHOLE not in groups or len(groups) < 2:
            return AblationResults(str(self.path), [], None)
        names = [name.replace("without-", "without ", 1) for name in groups]
        comparison = compare_groups(*groups.values(), names=names)
        parts = [name.removeprefix("without-") for name in groups if name != WHOLE]
        found = [
            PartResult(part, _worth(comparison, index)) for index, part in enumerate(parts, start=1)
        ]
        return AblationResults(str(self.path), found, comparison)

    def _finished(self, variant: str) -> list[Path]:
        folders = [self.results_folder / _run_name(variant, seed) for seed in self.seeds]
        return [folder for folder in folders if is_finished(folder)]


def parts_of(recipe: Recipe) -> list[str]:
    """The parts of a recipe, whose removal gives a different recipe that is valid."""
    values = recipe.to_dict()
    tables = {"encoder": [values.get("encoder", {})], "train": [values.get("train", {})]}
    tables["tasks"] = list(values["tasks"].values())
    tables["train"] += values.get(STAGES, []) if recipe.stages_declared else []
    found = [
        key
        for table, keys in PARTS.items()
        for key in keys
        if any(key in section for section in tables[table])
    ]
    found += [STAGES] if recipe.stages_declared else []
    return [part for part in dict.fromkeys(found) if _can_go(recipe, part)]


def _can_go(recipe: Recipe, part: str) -> bool:
    try:
        return without_part(recipe, part).model_dump() != recipe.model_dump()
    except ComityError:  # what is left needs the key
        return False


def without_part(recipe: Recipe, part: str) -> Recipe:
    """A recipe in which a part has its default.

    Raises:
        ComityError: what is left of the recipe is not valid.
    """
    values = recipe.to_dict()
    if part == STAGES:
        values.pop(STAGES)
    sections = [values.get("encoder", {}), values.get("train", {})]
    for section in (*sections, *values.get(STAGES, []), *values["tasks"].values()):
        section.pop(part, None)
    return Recipe.from_dict(values, f"without {part}", drop_unused=True)


def _chosen(known: Sequence[str], wanted: Sequence[str], recipe: Path) -> list[str]:
    """The parts to take out: those wanted, or all."""
    if not known:
        raise ComityError(
            f"{recipe}: has no part to take out (every key that changes how the model learns has "
            "its default)"
        )
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"; the parts of {recipe} are {', '.join(known)}"
            raise ComityError(f'--parts: "{name}" is not a part{hint}')
    return list(dict.fromkeys(wanted)) or list(known)


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    values = recipe.to_dict()
    values.setdefault("train", {})["seed"] = seed
    return Recipe.from_dict(values)


def _run_name(variant: str, seed: int) -> str:
    return f"{variant}-seed{seed}"


def _worth(comparison: Comparison, index: int) -> dict[str, Verdict]:
    """The verdicts on one variant, turned round: how much higher the whole recipe scores."""
    tables = [*comparison.tasks, *([comparison.mean] if comparison.mean else [])]
    found = {}
    for table in tables:
        verdict = table.entries[index].verdict
        if verdict is not None:
            better = verdict.verdict == ("lower" if table.higher_is_better else "higher")
            found[table.task] = Verdict(
                _negative(verdict.difference),
                _negative(verdict.high),
                _negative(verdict.low),
                verdict.p,
                _word(verdict.verdict, better),
            )
    return found


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _word(verdict: str | None, better: bool) -> str | None:
    if verdict in (None, "undecided"):
        return verdict
    return "helps" if better else "hurts"


def write_ablation(results: AblationResults, out: Path) -> None:
    """Write ablation.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "ablation.json", json.dumps(results.to_dict(), indent=2) + "\n")
