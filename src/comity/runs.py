"""The run directory: what stands where, written so that a crash leaves the last good state.

RUN/recipe.toml          what the user declared, overrides applied
    run.json             versions, seed, machine, encoder, tasks, digests of the files
    metrics.jsonl        one JSON object a line: train, conflict, evaluation, end
    predictions/000300/sentiment.csv
    best.json            which folder holds the best model, and its scores
    best-000300/         that model: encoder/ (Hugging Face names), heads.safetensors
    checkpoint-000300/   the last evaluation's state, for --resume
"""

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tokenizers
import tomli_w
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import comity
from comity.errors import ComityError
from comity.files import is_complete, write_atomically, write_folder
from comity.model.parameters import FlatParameters
from comity.recipe.recipe import Recipe
from comity.training.optim import FlatAdamW

FORMAT = 2
"""Of run.json and the model's files; a run of another one is not read."""


class RunDirectory:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        self.path = path

    @staticmethod
    def check_new(path: Path) -> None:
        """Refuse a folder that holds another run's files: nothing is ever overwritten."""
        if path.is_dir() and any(path.iterdir()):
            raise ComityError(
                f"{path}: the run directory is not empty; name another with --out, or go on "
                f"with that run by --resume {path}"
            )

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """A new run, in a folder that is new or empty."""
        cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ComityError(
                f"{path}: cannot be made a run directory ({error.strerror}); name another"
            ) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """A run that exists."""
        if not (path / "run.json").is_file():
            what = "no such directory" if not path.exists() else "not a run (it has no run.json)"
            raise ComityError(f"{path}: {what}; name a directory that comity train wrote")
        found = cls(path)
        if found.facts().get("format") != FORMAT:
            raise ComityError(f"{path}: was written by another version of comity; train it anew")
        return found

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep what the user declared."""
        write_atomically(self.path / "recipe.toml", tomli_w.dumps(recipe.to_dict()))

    def recipe(self) -> Recipe:
        """The run's recipe."""
        return Recipe.load(self.path / "recipe.toml")

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Keep what the run is made of."""
        write_atomically(self.path / "run.json", json.dumps(facts, indent=2) + "\n")

    def facts(self) -> dict[str, Any]:
        """What the run is made of."""
        return _read_json(self.path / "run.json")

    def log(self, kind: str, **values: Any) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps({"type": kind, **values}, allow_nan=False)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl; a last line cut short by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def forget_after(self, step: int) -> None:
        """Take back the metrics of steps that a resumed run will do again."""
        kept = [entry for entry in self.metrics() if entry.get("step", 0) <= step]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_atomically(self.path / "metrics.jsonl", text)

    def write_best(self, step: int, save: Any, about: dict[str, Any]) -> None:
        """Keep a model as the best: its folder first, then the pointer, then the old one goes."""
        name = f"best-{step:06d}"
        write_folder(self.path / name, save)
        write_atomically(
            self.path / "best.json", json.dumps({"folder": name, "step": step, **about}) + "\n"
        )
        for old in self.path.glob("best-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def best(self) -> dict[str, Any]:
        """Which folder holds the best model, and its scores."""
        path = self.path / "best.json"
        if not path.is_file():
            raise ComityError(
                f"{self.path}: the run has kept no model yet; go on with it by --resume {self.path}"
            )
        return _read_json(path)

    def write_checkpoint(
        self,
        step: int,
        flat: FlatParameters,
        optimizer: FlatAdamW,
        balancer: Mapping[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Keep all that a resumed run needs; the checkpoint before it goes when this one stands."""
        tensors = {
            **{f"balancer.{name}": tensor for name, tensor in balancer.items()},
            "masters": flat.masters,
            "first_moments": optimizer.first,
            "second_moments": optimizer.second,
        }
        counts = [segment.step for segment in flat.segments]

        def save(folder: Path) -> None:
            save_file({k: v.cpu() for k, v in tensors.items()}, folder / "state.safetensors")
            text = json.dumps({**state, "step": step, "segment_steps": counts})
            (folder / "state.json").write_text(text)

        folder = self.path / f"checkpoint-{step:06d}"
        write_folder(folder, save)
        for old in self.path.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed write left behind."""
        for pattern in (".best-*", ".checkpoint-*"):
            for left in self.path.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)

    def read_checkpoint(
        self, flat: FlatParameters, optimizer: FlatAdamW
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Restore the newest complete checkpoint into `flat` and `optimizer`.

        Gives its state and the balancer's tensors.
        """
        found = sorted(self.path.glob("checkpoint-*"), key=_step_of, reverse=True)
        for folder in found:
            if not is_complete(folder):
                continue
            state = _read_json(folder / "state.json")
            tensors = load_file(folder / "state.safetensors")
            if tensors["masters"].shape != flat.masters.shape:
                raise ComityError(
                    f"{folder}: holds {len(tensors['masters'])} numbers, the recipe's model has "
                    f"{len(flat.masters)}; resume with the recipe that the run was started with"
                )
            flat.masters.copy_(tensors["masters"])
            flat.refresh(0, len(flat.masters))
            optimizer.first.copy_(tensors["first_moments"])
            optimizer.second.copy_(tensors["second_moments"])
            for segment, step in zip(flat.segments, state["segment_steps"], strict=True):
                segment.step = step
            mark = "balancer."
            kept = {k.removeprefix(mark): v for k, v in tensors.items() if k.startswith(mark)}
            return state, kept
        raise ComityError(
            f"{self.path}: has no complete checkpoint (the first is written at the first "
            "evaluation); start the run anew in another directory"
        )


def versions() -> dict[str, str]:
    """The versions that a run records."""
    return {
        "comity": comity.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "platform": platform.platform(),
    }


def _step_of(folder: Path) -> int:
    tail = folder.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ComityError(f"{path}: cannot be read; the run is damaged, train it anew") from None


def is_finished(directory: Path) -> bool:
    """Whether a run directory holds a run that came to its end."""
    return any(entry["type"] == "end" for entry in RunDirectory(directory).metrics())


def has_checkpoint(directory: Path) -> bool:
    """Whether a run can be gone on with."""
    return any(directory.glob("checkpoint-*"))


def reached(directory: RunDirectory) -> dict[str, Any]:
    """What a run's kept model scored on dev: its step, the mean, and each task's value.

    The mean is None where any task has no value: without the worst one it would look the best.
    """
    summary = run_summary(directory)
    step = summary["best"]["step"]
    kept = next(entry for entry in summary["evaluations"] if entry["step"] == step)
    tasks = {name: score["value"] for name, score in summary["best"]["tasks"].items()}
    mean = None if None in tasks.values() else kept["mean"]
    return {"step": step, "mean": mean, "tasks": tasks}


def run_summary(directory: RunDirectory) -> dict[str, Any]:
    """What a run is, its best model's scores, each task's own best, and the conflict it saw."""
    facts = directory.facts()
    metrics = directory.metrics()
    best = directory.best()
    evaluations = [entry for entry in metrics if entry["type"] == "evaluation"]
    conflicts = [entry for entry in metrics if entry["type"] == "conflict"]
    ends = [entry for entry in metrics if entry["type"] == "end"]
    best_of_task: dict[str, Any] = {}
    for entry in evaluations:
        for task, found in entry["tasks"].items():
            _keep_better(best_of_task, task, found, entry["step"])
    return {
        "run": str(directory.path),
        "finished": bool(ends),
        "encoder": facts["encoder"]["name"],
        "precision": facts["precision"],
        "seed": facts["seed"],
        "machine": facts["machine"],
        "versions": facts["versions"],
        "best": best,
        "best_of_task": best_of_task,
        "evaluations": [
            {"step": e["step"], "mean": e["mean"], "tasks": e["tasks"], "train": e["train"]}
            for e in evaluations
        ],
        "conflict": conflicts[-1] if conflicts else None,
        "skipped": ends[-1]["skipped"] if ends else None,
    }


def _keep_better(best: dict[str, Any], task: str, found: dict[str, Any], step: int) -> None:
    value = found["value"]
    if value is None:
        return
    known = best.get(task)
    lower = found["metric"] == "rmse"
    if known is None or (value < known["value"] if lower else value > known["value"]):
        best[task] = {"metric": found["metric"], "value": value, "step": step}
