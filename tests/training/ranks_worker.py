"""What several processes do in test_ranks.py: all configurations in one launch.

torchrun ... -m tests.training.ranks_worker CHECKPOINT FOLDER
"""

import copy
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.helpers import ADJECTIVES, NOUNS, mood_rows, two_tasks, write_csv, write_two_tasks
from torch import Tensor

from comity import ComityError, Recipe
from comity.data.task_sampling import SAMPLINGS
from comity.training.balancers import BALANCERS
from comity.training.events import Event, StepDone
from comity.training.interrupts import Interrupted
from comity.training.ranks import ALONE, Ranks, joined
from comity.training.setup import prepare
from comity.training.train import train
from comity.training.trainer import Trainer

STEPS = 20
COMPARED = 6
"""Steps whose gradients are compared; among them are the last, smaller batches of a pass."""

TOPICS = ["home", "art", "way"]


def write_files(folder: Path) -> None:
    """Four tasks; with batches of 7 rows the last batch of `mood` has one row."""
    write_two_tasks(folder)
    topics = [
        (f"the {NOUNS[n % 10]} {n} is {list(ADJECTIVES)[n % 6]}", TOPICS[n % 10 % 3])
        for n in range(31)
    ]
    write_csv(folder / "topic.csv", ["text", "topic"], topics)
    tags = [(text, n % 2, int(mood == "up")) for n, (text, mood) in enumerate(mood_rows(200, 25))]
    write_csv(folder / "tags.csv", ["text", "even", "up"], tags)


TOPIC = {
    "kind": "classification",
    "train": "topic.csv",
    "dev": "topic.csv",
    "text": "text",
    "label": "topic",
}
TAGS = {
    "kind": "multi-label",
    "train": "tags.csv",
    "dev": "tags.csv",
    "text": "text",
    "labels": ["even", "up"],
}
OBJECTIVES = [
    {"loss": "ranking", "symmetric": True},
    {"loss": "contrastive", "weight": 2.0},
    {"loss": "cosent", "weight": 0.5},
]
R_DROP = {"kind": "r-drop", "weight": 0.5}


def _mixed() -> dict[str, dict[str, Any]]:
    """Every balancer and every sampling once, each with one of the other."""
    samplings = list(SAMPLINGS)
    cases = {}
    for number, balancer in enumerate(BALANCERS):
        sampling = samplings[number % len(samplings)]
        batches = {} if sampling == "round-robin" else {"train__batches_per_step": 3}
        if sampling == "annealed":
            batches |= {"train__steps": ..., "train__epochs": 5}
        cases[f"{balancer}, {sampling}"] = {
            "train__balancer": balancer,
            "train__task_sampling": sampling,
            "tasks__topic": TOPIC,
            "tasks__mood__class_weights": "balanced",
            **batches,
        }
    return cases


CASES: dict[str, dict[str, Any]] = {
    **_mixed(),
    # In the step with the last batch of `mood`, all processes but one have no rows at all.
    "one batch in a step": {"train__task_sampling": "sequential"},
    "two heads, two draws, teachers": {
        "train__balancer": "pcgrad",
        "tasks__mood__consistency": R_DROP,
        "tasks__mood__teacher": "mood.labels",
        "tasks__alike__view": "both",
        "tasks__alike__consistency": R_DROP,
        "tasks__topic": {**TOPIC, "loss": "one-vs-all"},
        "tasks__tags": TAGS,
        "train__average": "ema",
    },
    "learned weights, interaction": {
        "train__balancer": "mean",
        "train__loss_weighting": "uncertainty",
        "tasks__alike__interaction": True,
        "encoder__hidden_dropout": 0.3,
    },
    "masked words": {"train__steps": 1, "stages": [{"train_on": "masked-words", "steps": 20}, {}]},
}
"""Losses that do not compare rows: the same bits as one process with as many micro-batches."""

COMPARING: dict[str, dict[str, Any]] = {
    "objectives beside a pair": {
        "train__balancer": "pcgrad",
        "tasks__alike__objectives": OBJECTIVES,
        "tasks__alike__embedding_pooling": "cls+mean",
    },
    "objectives of texts apart": {
        "train__balancer": "sum",
        "train__loss_weighting": "uncertainty",
        "tasks__alike__objectives": OBJECTIVES,
        "tasks__alike__interaction": True,
    },
    "objectives within micro-batches": {
        "tasks__alike__objectives": OBJECTIVES,
        "tasks__alike__view": "both",
        "tasks__alike__micro_batches": 2,
        "tasks__mood__micro_batches": 3,
    },
}
"""Losses that compare the rows of a batch."""


def recipe_of(checkpoint: Path, **changes: Any) -> Recipe:
    """A recipe of 20 steps with batches of 7 rows and dropout."""
    settings = {"train__batch_size": 7, "train__epochs": ..., "train__steps": STEPS}
    return two_tasks(checkpoint, **copy.deepcopy({**settings, **changes}))


def observed(recipe: Recipe, folder: Path, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Dev outputs and gradients before training; rows, losses and weights of at most 20 steps."""
    trainer = Trainer(prepare(recipe, folder), ranks=ranks)
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    found: dict[str, Tensor] = {}
    _, outputs = trainer.evaluate({name: data.dev for name, data in trainer.prepared.tasks.items()})
    found |= {f"outputs of {name}": torch.from_numpy(values) for name, values in outputs.items()}
    if plan.is_probed(trainer.settings.conflict_every):
        products, norms, others = trainer._measure(plan)
        found |= {"probe products": products, "probe norms": norms, "other norms": others}
    for step, planned in enumerate(plan.steps[:COMPARED]):
        losses, _, gramian = trainer._fill(plan, trainer._batches(plan, planned), step)
        gradients = trainer.gradients
        found[f"losses of {step}"] = torch.tensor(losses)
        found[f"J {step}"] = gradients.rows[: gradients.used].clone()
        found[f"words {step}"] = torch.from_numpy(gradients.words.copy())
        found[f"J of words {step}"] = gradients.word_rows.clone()
        found[f"heads {step}"] = gradients.heads.clone()
        found[f"Gramian {step}"] = gramian
    for step, planned in enumerate(plan.steps[:STEPS]):
        batches = trainer._batches(plan, planned)
        for number, batch in enumerate(batches):
            for part, own in enumerate(batch.own):
                found[f"rows {step} {number} {part}"] = torch.from_numpy(own.indices.copy())
        done = trainer.step(plan, planned)
        trainer.progress.stage_step += 1
        trainer.progress.step += 1
        found[f"losses {step}"] = torch.tensor([loss for _, loss in done.losses])
        found[f"counts {step}"] = torch.tensor([done.examples, done.tokens])
    segments = trainer.flat.segments
    found["updates"] = torch.tensor([segment.step for segment in segments])
    found["weights"] = trainer.flat.masters.clone()
    found |= {f"average {name}": value for name, value in trainer.average.tensors().items()}
    trainer.flat.masters += 1e-6 * trainer.ranks.rank  # as if the processors were different
    trainer._align()
    found["weights of the first"] = trainer.flat.masters.clone()
    return found


STAGES = [{"steps": 6, "balancer": "gradvac"}, {"steps": 8, "lr": 5e-4}]
STOP = 9
"""The step after which a run is stopped, by a signal to one of its processes."""


def run_recipe(checkpoint: Path) -> Recipe:
    """Two stages that are evaluated, probed and averaged, with calibration and patience."""
    return recipe_of(
        checkpoint,
        train__steps=...,
        train__evaluate_every=3,
        train__patience=3,
        train__average="last-evaluations",
        train__conflict_every=4,
        tasks__mood__calibrate=True,
        tasks__topic=TOPIC,
        stages=STAGES,
    )


def signal_at(step: int, rank: int) -> Any:
    """A `Trainer.step` after which one process gets SIGTERM, between two steps."""
    whole_step = Trainer.step

    def patched(trainer: Trainer, *arguments: Any) -> StepDone:
        done = whole_step(trainer, *arguments)
        if done.step == step and trainer.ranks.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    return patched


def errors_of(work: Callable[[Ranks], None]) -> list[str]:
    """The errors that this process gets from what all of them do."""
    try:
        with joined("cpu") as ranks:
            work(ranks)
    except ComityError as error:
        return error.messages
    return []


def after_failure(work: Callable[[Ranks], None]) -> list[str]:
    """The errors of all processes if the second one cannot read a file."""

    def fail_or_work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise ComityError("mood.csv: no such file")
        work(ranks)

    return errors_of(fail_or_work)


def main() -> None:
    """Write what this process observes to a file of its own; train and resume runs."""
    checkpoint, folder = map(Path, sys.argv[1:3])
    torch.set_num_threads(1)
    found: dict[str, Tensor] = {}
    with joined("cpu") as ranks:
        for name, changes in {**CASES, **COMPARING}.items():
            seen = observed(recipe_of(checkpoint, **changes), folder, ranks)
            found |= {f"{name}: {what}": tensor for what, tensor in seen.items()}
        size, rank = ranks.size, ranks.rank
    found = {name: tensor.contiguous() for name, tensor in found.items()}
    save_file(found, folder / f"seen-{size}-{rank}.safetensors")
    events: list[Event] = []
    recipe, runs = run_recipe(checkpoint), folder / f"runs-{size}"
    train(recipe, folder, runs / "whole", on_event=events.append)
    train(recipe, folder, runs / "resumed", resume=True, on_event=events.append)
    plain, Trainer.step = Trainer.step, signal_at(STOP, rank=size - 1)
    try:
        train(recipe, folder, runs / "stopped")
        raise AssertionError("the signal had no effect")
    except Interrupted as stop:
        sentence = str(stop)
    Trainer.step = plain
    about = {
        "events": len(events),
        "stopped": sentence,
        "failed in a sum": after_failure(lambda ranks: ranks.sum(torch.zeros(3))),
        "failed while others wait": after_failure(lambda ranks: ranks.wait()),
        "other data": errors_of(lambda ranks: ranks.check_same({"mood train": str(ranks.rank)})),
    }
    (folder / f"about-{size}-{rank}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
