"""Run directories as a comparison reads them, written without training."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tests.helpers import run_facts, two_tasks

from comity.runs.directory import RunDirectory
from comity.runs.entries import BestModel, RecordedScore
from comity.targets import HeadSpec, Target

MOOD = Target("classification", "linear", classes=("down", "up"))
ALIKE = Target("similarity", "regression", scale=(0.0, 5.0))
STEP = 7


def write_run(
    path: Path,
    mood: np.ndarray | None = None,
    alike: np.ndarray | None = None,
    seed: int = 0,
    metric: str = "pearson",
    file: str = "abc",
    lr: float = 1e-3,
    weights: str = "def",
    eval_only: tuple[str, ...] = (),
) -> Path:
    """A run directory with the files that a comparison reads.

    `mood: [n]` is the probability of "up" of each row, `alike: [n]` its score. The gold of mood is
    "up" in every other row, that of alike 0, 1, 2, 3, 4, 5, 0, ...
    """
    directory = RunDirectory.create(path)
    untrained = {f"tasks__{task}__eval_only": True for task in eval_only}
    directory.write_recipe(two_tasks(Path("encoder"), train__seed=seed, train__lr=lr, **untrained))
    heads = {}
    if mood is not None:
        heads["mood"] = HeadSpec(MOOD, ("first",))
        rows = [
            (("down", "up")[n % 2], ("down", "up")[int(p > 0.5)], 1 - p, p)
            for n, p in enumerate(mood)
        ]
        write_csv(path, "mood", ["gold", "prediction", "p_down", "p_up"], rows)
    if alike is not None:
        heads["alike"] = HeadSpec(ALIKE, ("pair",))
        rows = [(float(n % 6), score) for n, score in enumerate(alike)]
        write_csv(path, "alike", ["gold", "prediction"], rows)
    metrics = {"mood": "accuracy", "alike": metric}
    directory.write_facts(run_facts(heads, metrics, seed, weights, file))
    best = BestModel("best-000007", STEP, "mean", RecordedScore("mean", 0.0), {})
    (path / "best.json").write_text(json.dumps(asdict(best)))
    return path


def write_csv(run: Path, task: str, header: list[str], rows: list) -> None:
    path = run / "predictions" / f"{STEP:06d}" / f"{task}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["line", *header])
        writer.writerows((line, *row) for line, row in enumerate(rows, start=2))


def mood(right: int, count: int = 200, sure: float = 0.9) -> np.ndarray:
    """Probabilities of "up" that are right in the first `right` rows."""
    ups = np.arange(count) % 2 == 1
    predicted = np.where(np.arange(count) < right, ups, ~ups)
    return np.where(predicted, sure, 1 - sure)


def alike(noise: float, seed: int = 0, count: int = 200) -> np.ndarray:
    return np.arange(count) % 6 + noise * np.random.default_rng(seed).normal(size=count)


def seeds(folder: Path, rights: tuple[int, ...], **options: Any) -> list[Path]:
    """Runs of one recipe, with this number of right rows each."""
    return [
        write_run(folder / str(seed), mood(right), seed=seed, **options)
        for seed, right in enumerate(rights)
    ]
