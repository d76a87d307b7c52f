"""What was found, planned and reached, as plain dictionaries: for the tables and for `--json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from comity.data.labels import class_counts
from comity.data.splits import Split, TaskData
from comity.data.tokens import token_counts
from comity.plan import StagePlan, memory
from comity.prepare import Prepared
from comity.runs import RunDirectory
from comity.training import Trainer


def data_summary(prepared: Prepared) -> dict[str, Any]:
    """What `check` found, for its table and its JSON."""
    return {
        "encoder": prepared.loaded.source,
        "tasks": {name: _task_summary(data) for name, data in prepared.tasks.items()},
        "notes": [*prepared.notes, *_shared_files(prepared.tasks)],
        "leaks": prepared.leaks,
    }


def _task_summary(data: TaskData) -> dict[str, Any]:
    return {
        "kind": data.task.kind,
        "head": data.task.head_name,
        "views": list(data.task.views),
        "metric": data.task.metric_name,
        "classes": list(data.target.classes),
        "max_length": data.max_length,
        "train": _split_summary(data, data.train),
        "dev": _split_summary(data, data.dev),
        "stages": {path: _split_summary(data, s) for path, s in data.stage_train.items()},
    }


def _split_summary(data: TaskData, split: Split) -> dict[str, Any]:
    lengths = token_counts(split.table, split.rows).sum(axis=1)
    empty = split.empty_lines
    first = [*empty[:1], *([split.first_dropped_line] if split.first_dropped_line else [])]
    summary: dict[str, Any] = {
        "file": str(split.table.path),
        "reading": split.table.reading,
        "rows": len(split),
        "unlabelled": split.unlabelled,
        "empty": len(empty) + split.dropped,
        "first_empty_line": min(first, default=None),
        "dropped": split.dropped,
        "truncated": split.cut(data.task.trained_views, data.max_length),
        "leaked": split.leaked,
        "token_percentiles": _percentiles(lengths),
    }
    if data.target.classes:
        counts = class_counts(data.target, split.targets)
        summary["counts"] = dict(zip(data.target.classes, counts.tolist(), strict=True))
    elif len(split):
        values = split.targets
        summary["scores"] = {
            "min": float(values.min()),
            "mean": float(values.mean()),
            "max": float(values.max()),
        }
    return summary


def _percentiles(lengths: np.ndarray) -> dict[str, int]:
    if not len(lengths):
        return {}
    found = np.percentile(lengths, (50, 95, 100), method="lower")
    return {name: int(v) for name, v in zip(("50", "95", "100"), found, strict=True)}


def _shared_files(tasks: Mapping[str, TaskData]) -> list[str]:
    """For tasks that read one table: how many rows serve several of them, and how many none."""
    by_digest: dict[str, list[TaskData]] = {}
    for data in tasks.values():
        by_digest.setdefault(str(data.train.table.path), []).append(data)
    notes = []
    for path, sharing in by_digest.items():
        if len(sharing) < 2:
            continue
        lines = sharing[0].train.table.lines
        served = [set(d.train.table.lines[d.train.rows].tolist()) for d in sharing]
        split_off = [set(d.dev.table.lines[d.dev.rows].tolist()) for d in sharing]
        used = [
            s | (d if str(t.dev.table.path) == path else set())
            for s, d, t in zip(served, split_off, sharing, strict=True)
        ]
        every = set.intersection(*used)
        neither = sorted(set(lines.tolist()) - set.union(*used))
        names = " and ".join(d.name for d in sharing)
        sentence = f"{path}: {len(every)} rows serve {names}, {len(neither)} serve none of them"
        notes.append(sentence + (f" (the first is line {neither[0]})" if neither else ""))
    return notes


def plan_summary(trainer: Trainer, seconds: float | None) -> dict[str, Any]:
    """The plan before the spend, for its table and its JSON."""
    return {
        "stages": [_stage_summary(plan) for plan in trainer.plans],
        "memory_bytes": memory(trainer.flat, trainer.plans, trainer.settings.watch),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "device": str(trainer.device),
        "notes": _accumulation_notes(trainer.prepared.tasks),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def _accumulation_notes(tasks: Mapping[str, TaskData]) -> list[str]:
    """What a user may expect of accumulation that it does not do."""
    return [
        f"{name}: its objectives compare the rows of one of the {data.task.accumulate} parts of a "
        "batch; accumulation adds no negatives, a larger batch does"
        for name, data in tasks.items()
        if data.task.objectives and data.task.accumulate > 1
    ]


def _stage_summary(plan: StagePlan) -> dict[str, Any]:
    return {
        "name": plan.stage.name,
        "objective": plan.stage.objective,
        "schedule": plan.stage.schedule,
        "balancer": plan.stage.balancer,
        "steps": len(plan.steps),
        "evaluations": len(plan.evaluations),
        "tasks": {
            count.name: {
                "rows": count.rows,
                "turns": count.turns,
                "examples": count.examples,
                "tokens": count.tokens,
                "passes": round(count.passes, 4),
                "repeats_min": count.repeats_min,
                "repeats_max": count.repeats_max,
                "rows_never_seen": count.rows_never_seen,
            }
            for count in plan.counts
        },
    }


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
