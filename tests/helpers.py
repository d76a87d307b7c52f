"""Small data files, recipes, listeners and records that several tests use."""

import csv
import json
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import comity
from comity import Recipe
from comity.data.soft_labels import SoftLabels
from comity.runs.directory import RunDirectory
from comity.runs.entries import EndEntry, EvaluationEntry
from comity.runs.facts import EncoderFacts, Machine, RunFacts, RunInputs, TaskFacts
from comity.targets import HeadSpec
from comity.training.events import Evaluated, Event, Listener, StepDone

ADJECTIVES = {
    "good": "up",
    "great": "up",
    "best": "up",
    "bad": "down",
    "poor": "down",
    "worst": "down",
}
NOUNS = ["house", "book", "film", "train", "street", "garden", "tea", "song", "river", "car"]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """A CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def mood_rows(start: int, count: int) -> list[tuple[str, str]]:
    """Texts whose one adjective decides the label; each number gives another text."""
    rows = []
    for number in range(start, start + count):
        adjective = list(ADJECTIVES)[number % 6]
        noun = NOUNS[number // 6 % 10]
        rows.append((f"the {noun} number {number} is {adjective}", ADJECTIVES[adjective]))
    return rows


def alike_rows(start: int, count: int) -> list[tuple[str, str, float]]:
    """Pairs whose score is 4 where the nouns agree and 1.5 where they do not."""
    rows = []
    for number in range(start, start + count):
        first, second = NOUNS[number % 10], NOUNS[(number + number % 2) % 10]
        score = 4.0 if first == second else 1.5
        rows.append((f"a {first} {number}", f"the old {second} {number}", score))
    return rows


def write_two_tasks(folder: Path, mood: int = 36, alike: int = 20) -> None:
    """Training and dev files of the two tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "mood.csv", ["text", "mood"], mood_rows(0, mood))
    write_csv(folder / "mood-dev.csv", ["text", "mood"], mood_rows(1000, 12))
    write_csv(folder / "alike.csv", ["a", "b", "score"], alike_rows(0, alike))
    write_csv(folder / "alike-dev.csv", ["a", "b", "score"], alike_rows(1000, 10))


def two_tasks(encoder: Path, **changes: Any) -> Recipe:
    """A recipe over `write_two_tasks`; changes are `train__lr=...` or `tasks__mood__head=...`."""
    recipe: dict[str, Any] = {
        "encoder": {"name": str(encoder), "dropout": 0.1},
        "train": {"precision": "float32", "batch_size": 8, "epochs": 1, "lr": 1e-3},
        "tasks": {
            "mood": {
                "kind": "classification",
                "train": "mood.csv",
                "dev": "mood-dev.csv",
                "text": "text",
                "label": "mood",
            },
            "alike": {
                "kind": "similarity",
                "head": "regression",
                "train": "alike.csv",
                "dev": "alike-dev.csv",
                "texts": ["a", "b"],
                "label": "score",
            },
        },
    }
    for path, value in changes.items():
        table = recipe
        *parents, last = path.split("__")
        for parent in parents:
            table = table.setdefault(parent, {})
        if value is ...:
            table.pop(last, None)
        else:
            table[last] = value
    return Recipe.from_dict(recipe)


def stop_after_step(step: int) -> Listener:
    """A listener that breaks a run off after a step, without a checkpoint."""

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise KeyboardInterrupt

    return listen


def signal_after_step(step: int, number: signal.Signals = signal.SIGTERM) -> Listener:
    """A listener that sends this process a signal after a step."""

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), number)

    return listen


def stop_at_evaluation(number: int) -> Listener:
    """A listener that breaks a run off after an evaluation, counted from 1."""
    seen: list[Evaluated] = []

    def listen(event: Event) -> None:
        if isinstance(event, Evaluated):
            seen.append(event)
            if len(seen) == number:
                raise KeyboardInterrupt

    return listen


def end_entry(step: int) -> EndEntry:
    """The last entry of a run that was never trained."""
    return EndEntry(
        step=step,
        examples=8 * step,
        skipped=0,
        stopped_early=False,
    )


def run_facts(
    heads: Mapping[str, HeadSpec] = MappingProxyType({}),
    metrics: Mapping[str, str] = MappingProxyType({}),
    seed: int = 0,
    weights: str = "weights",
    file: str = "file",
) -> RunFacts:
    """The facts of a run that was never trained: `weights` and `file` are its digests."""
    return RunFacts(
        seed=seed,
        precision="float32",
        inputs=RunInputs(
            data="data",
            drop_leaks=False,
            encoder=EncoderFacts("encoder", {"model.safetensors": weights}),
            tokenizer="tokenizer",
            files={f"{task} dev": file for task in heads},
        ),
        tasks={task: TaskFacts(head, metrics[task], 128) for task, head in heads.items()},
        machine=Machine("cpu", "processor", "other", 1),
        versions={},
    )


def number(value: float | None) -> float:
    """A score or loss that must have a value."""
    assert value is not None
    return value


def dev_scores(run: RunDirectory, task: str) -> dict[int, float]:
    """A task's dev score at each evaluation of a run, by step."""
    return {e.step: number(e.tasks[task].value) for e in run.entries(EvaluationEntry)}


def write_small_demo(folder: Path, checkpoint: Path, rows: int = 24) -> None:
    """The demo's recipe with a tiny encoder, as recipe.toml, and its first rows in data/."""
    demo = Path(comity.__file__).parent / "demo"
    (folder / "data").mkdir()
    for file in (demo / "corpus").glob("*.csv"):
        lines = file.read_text(encoding="utf-8").splitlines()[: rows + 1]
        (folder / "data" / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = (demo / "demo.toml").read_text(encoding="utf-8")
    text = text.replace('"minilm"', f'"{checkpoint}"').replace("epochs = 3", "epochs = 0.5")
    (folder / "recipe.toml").write_text(text, encoding="utf-8")


def three_soft_labels() -> SoftLabels:
    """Soft labels of two classes, for three rows."""
    return SoftLabels(
        task="mood",
        kind="classification",
        classes=("down", "up"),
        rows=np.array([0, 2, 3]),
        keys=np.array([[2**64 - 1], [7], [9]], dtype=np.uint64),
        folds=np.array([1, 2, 1], dtype=np.int32),
        values=np.array([[0.1, 0.9], [0.5, 0.5], [0.75, 0.25]]),
        logits=np.array([[0.0, 2.2], [0.0, 0.0], [0.0, -1.1]]),
        count=2,
        seed=3,
        file="abc",
        weights=({"heads.safetensors": "1"}, {"heads.safetensors": "2"}),
        recipe={"train": {"lr": 1e-5}},
        digests={"encoder": "e"},
        drop_leaks=True,
    )
