"""Recipes that cover every pair of training features."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comity import Recipe
from tests.helpers import two_tasks

TEACHER = "teacher"
"""A run in the folder of the data files, which teaches the task `mood`."""

STAGE = {"epochs": 0.8}  # about 3 steps
STAGES: dict[str, list[dict[str, Any]]] = {
    "one": [{"epochs": 1.6}],
    "two": [STAGE, {**STAGE, "lr": 5e-4}],
    "kept state": [STAGE, {**STAGE, "keep_optimizer_state": True}],
    "frozen": [STAGE, {**STAGE, "freeze": "encoder"}],
    "long": [{"steps": 40}],
    "masked words": [{**STAGE, "train_on": "masked-words"}, STAGE],
}
FEATURES: dict[str, list[Any]] = {
    "sampling": ["round-robin", "sequential", "proportional", "temperature", "annealed"],
    "balancer": ["sum", "mean", "pcgrad", "gradvac", "mgda", "imtl-g", "cagrad", "upgrad"],
    "stages": [name for name in STAGES if name != "long"],
    "objective": ["none", "ranking", "contrastive", "cosent"],
    "average": ["none", "ema", "last-evaluations"],
    "precision": ["float32", "bf16"],
    "micro-batches": [1, 2],
    "teacher": [False, True],
    "r-drop": [False, True],
    "loss weights": ["fixed", "uncertainty"],
    "view": ["pair", "both"],
}
"""The values of each feature. A feature that keeps state between steps is the one to test."""

Choice = dict[str, Any]


def cover(features: Mapping[str, list[Any]] = FEATURES) -> list[Choice]:
    """Choices such that every two values of two features occur together in one of them.

    Greedy: each choice takes, feature by feature, the value with the most pairs that are new.
    """
    missing = set(pairs_of(features))
    chosen: list[Choice] = []
    while missing:
        # A pair that is missing starts the choice, so that each one adds something.
        (first, one), (second, other) = min(missing, key=str)
        choice = {first: one, second: other}
        for feature, values in features.items():
            if feature not in choice:
                choice[feature] = max(
                    values, key=lambda value: len(_pairs({**choice, feature: value}) & missing)
                )
        chosen.append(choice)
        missing -= _pairs(choice)
    return chosen


def pairs_of(features: Mapping[str, list[Any]]) -> Iterator[Any]:
    """Every two values of two features."""
    for (first, ones), (second, others) in itertools.combinations(sorted(features.items()), 2):
        yield from (((first, one), (second, other)) for one in ones for other in others)


def _pairs(choice: Choice) -> set[Any]:
    return set(itertools.combinations(sorted(choice.items()), 2))


def recipe_of(choice: Choice, encoder: Path, data: Path) -> Recipe:
    """The recipe of a choice: about 6 steps, a checkpoint after each, few evaluations."""
    alike: Choice = {"tasks__alike__micro_batches": choice["micro-batches"]}
    if choice["objective"] != "none":
        alike["tasks__alike__objectives"] = [{"loss": choice["objective"]}]
    if choice["view"] == "both":
        alike["tasks__alike__view"] = "both"
    mood: Choice = {"tasks__mood__micro_batches": choice["micro-batches"]}
    if choice["sampling"] != "round-robin":
        mood["train__batches_per_step"] = 2  # balancers need two
    if choice["teacher"]:
        mood["tasks__mood__teacher"] = str(data / TEACHER)
    if choice["r-drop"]:
        mood["tasks__mood__consistency"] = {"kind": "r-drop"}
    return two_tasks(
        encoder,
        train__epochs=...,
        train__task_sampling=choice["sampling"],
        train__balancer=choice["balancer"],
        train__average=choice["average"],
        train__precision=choice["precision"],
        train__loss_weighting=choice["loss weights"],
        train__evaluate_every=2,
        train__checkpoint_every=1,
        train__conflict_every=2,
        stages=STAGES[choice["stages"]],
        **mood,
        **alike,
    )
