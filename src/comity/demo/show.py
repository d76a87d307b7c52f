"""The demo: train three small tasks, show dev scores before and after, and a few predictions."""

import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation
from comity.evaluation.floors import untouched_cosine
from comity.evaluation.metrics import Score
from comity.format import clock, or_dash
from comity.inference.model import load
from comity.inference.prediction import Prediction
from comity.recipe.recipe import Recipe
from comity.runs.directory import RunDirectory
from comity.terminal.progress import Display
from comity.terminal.views import console, show_scores, tell
from comity.training.setup import prepare
from comity.training.train import evaluate_untrained, plan_run, train

HERE = Path(__file__).parent

OUT = Path("demo-run")
"""The run directory, in the working directory."""

SECONDS = 100.0
"""The longest estimated time of training; with the rest, the demo takes about two minutes."""

FEWEST_EPOCHS = 0.5

INTRODUCTION = """\
Three tasks, one encoder ({encoder}):
  sentiment   is a sentence negative, mixed or positive?
  paraphrase  do two questions ask the same?
  similarity  how similar are two sentences, from 0 to 5?"""

# None of these sentences is in the corpus.
REVIEWS = (
    "I expected a dull afternoon, and the museum proved me wrong.",
    "The soup was good, but the waiter was rude.",
    "Nobody in our group would call the ferry comfortable.",
)
QUESTIONS = (
    ("How do I get from Paris to Rome?", "How do I get from Rome to Paris?"),
    ("How do I get from Paris to Rome?", "What is the way to Rome when I start in Paris?"),
)
EVENTS = (
    ("The baker bought bread at the market.", "Bread was bought by the baker at the market."),
    ("The baker bought bread at the market.", "The sailor painted a fence at the harbour."),
)


TEXTS: Mapping[str, Sequence[str | tuple[str, str]]] = {
    "sentiment": REVIEWS,
    "paraphrase": QUESTIONS,
    "similarity": EVENTS,
}
"""New texts for each task."""


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    encoder: str
    run: str  # the run directory
    before: dict[str, Evaluation]  # of the dev sets, with untrained heads
    after: dict[str, Evaluation]
    untouched: dict[str, Score]  # of similarity by metric, see `untouched_cosine`
    predictions: dict[str, list[Prediction]]  # for `TEXTS`
    seconds: float  # of training

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "encoder": self.encoder,
            "run": self.run,
            "untrained": {task: found.to_dict() for task, found in self.before.items()},
            "trained": {task: found.to_dict() for task, found in self.after.items()},
            "untouched": {name: score.value for name, score in self.untouched.items()},
            "predictions": {
                task: [
                    {"text": text, **asdict(prediction)}
                    for text, prediction in zip(TEXTS[task], found, strict=True)
                ]
                for task, found in self.predictions.items()
            },
            "seconds": round(self.seconds, 1),
        }


def run_demo(
    out: Path | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
    command: list[str] | None = None,
) -> Demo:
    """Train the demo's recipe, for fewer epochs on a slow machine.

    Args:
        out: the run directory (default: `OUT`, where the run of an earlier demo is replaced).
        overrides: changed keys of the recipe, as for `--set`.
        quiet: show no progress.
        command: the command line to record in run.json.

    Raises:
        ComityError: the run directory cannot be used, or an override is wrong.
    """
    recipe = Recipe.load(HERE / "demo.toml", overrides)
    data = HERE / "corpus"
    directory = OUT if out is None else out
    again = out is None and _is_demo(OUT)
    RunDirectory.check_new(directory, again)
    if not quiet:
        tell(INTRODUCTION.format(encoder=recipe.encoder.name))
    prepared = prepare(recipe, data)
    pairs = prepared.tasks["similarity"]
    untouched = untouched_cosine(prepared.loaded, pairs.dev, pairs.max_length)
    before = evaluate_untrained(recipe, data)
    if not any(value.startswith(("train.epochs=", "train.steps=")) for value in overrides):
        recipe = _shortened(recipe, data)
    with Display(quiet) as display:
        run = train(
            recipe,
            data,
            directory,
            overwrite=again,
            estimate_time=not quiet,
            on_event=display,
            command=command,
        )
    model = load(run.path)
    return Demo(
        encoder=recipe.encoder.name,
        run=str(directory),
        before=before,
        after={name: model.evaluate(name) for name in model.tasks},
        untouched=untouched,
        predictions={task: model.predict(task, texts) for task, texts in TEXTS.items()},
        seconds=display.elapsed,
    )


def _is_demo(path: Path) -> bool:
    """Whether a directory has a run of the demo."""
    try:
        command = RunDirectory.open(path).facts().command
    except ComityError:
        return False
    return command is not None and command[:2] == ["comity", "demo"]


def _shortened(recipe: Recipe, data: Path) -> Recipe:
    """The recipe, with fewer epochs if training would take longer than `SECONDS`."""
    seconds, whole = plan_run(recipe, data).seconds, recipe.train.epochs
    if seconds is None or whole is None or seconds <= SECONDS:
        return recipe
    epochs = max(FEWEST_EPOCHS, math.floor(10 * whole * SECONDS / seconds) / 10)
    tell(
        f"{whole:g} epochs would take {clock(seconds)} on this machine, so the demo "
        f"trains for {epochs:g}; comity demo --set train.epochs={whole:g} trains for "
        "all of them"
    )
    values = recipe.to_dict()
    values["train"]["epochs"] = epochs
    return Recipe.from_dict(values, source="demo.toml")


def show_demo(demo: Demo) -> None:
    """Print the scores, some predictions, and what to do next."""
    show_scores(
        "Dev scores of one encoder with three heads",
        {"untrained heads": demo.before, "trained": demo.after},
    )
    scores = " and ".join(f"{s.name} {or_dash(s.value)}" for s in demo.untouched.values())
    tell(
        f"Without heads or training, the cosine of {demo.encoder}'s embeddings gives similarity "
        f"{scores}."
    )
    out = console()
    out.print("Some predictions of the trained model:")
    for task, found in demo.predictions.items():
        for texts, prediction in zip(TEXTS[task], found, strict=True):
            shown = texts if isinstance(texts, str) else " / ".join(texts)
            out.print(f"  {task:11} {_label(prediction)}: {shown}")
    tell(f"trained in {clock(demo.seconds)}; the run is in {demo.run}")
    out.print("Next:")
    for line in next_commands(demo.run):
        out.print(f"  {line}", highlight=False, soft_wrap=True)


def next_commands(run: str) -> list[str]:
    """Three commands to copy, with the `comity` that is running."""
    comity, run = shlex.quote(_program()), shlex.quote(run)
    return [
        f"{comity} info {run}",
        f"printf 'text\\nThe train was late again.\\n' | {comity} predict {run} "
        "--task sentiment --input - --output - --format csv",
        f"{comity} report {run}",
    ]


def _program() -> str:
    """How to run the command: its name if the shell finds it, else its path."""
    if shutil.which("comity"):
        return "comity"
    path = Path(sys.argv[0])
    if not os.access(path, os.X_OK) or path.suffix == ".py":
        return "comity"
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _label(found: Prediction) -> str:
    if not found.probabilities:
        return f"{found.label:.1f} of 5"
    return f"{found.label} ({found.probabilities[found.label]:.0%})"
