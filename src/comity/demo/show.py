"""The demo: train three small tasks, show dev scores before and after, and a few predictions."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from comity.training.train import evaluate_untrained, train

HERE = Path(__file__).parent

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
    run: str | None  # the run directory, if it is kept
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
    out: Path | None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
    command: list[str] | None = None,
) -> Demo:
    """Train the demo's recipe; `out` is a temporary folder if None."""
    recipe = Recipe.load(HERE / "demo.toml", overrides)
    data = HERE / "corpus"
    if out is not None:
        RunDirectory.check_new(out)
    with tempfile.TemporaryDirectory(prefix="comity-demo-") as temporary:
        prepared = prepare(recipe, data)
        pairs = prepared.tasks["similarity"]
        untouched = untouched_cosine(prepared.loaded, pairs.dev, pairs.max_length)
        before = evaluate_untrained(recipe, data)
        with Display(quiet) as display:
            directory = train(
                recipe,
                data,
                out or Path(temporary) / "run",
                estimate_time=not quiet,
                on_event=display,
                command=command,
            )
        model = load(directory.path)
        return Demo(
            encoder=recipe.encoder.name,
            run=None if out is None else str(out),
            before=before,
            after={name: model.evaluate(name) for name in model.tasks},
            untouched=untouched,
            predictions={task: model.predict(task, texts) for task, texts in TEXTS.items()},
            seconds=display.elapsed,
        )


def show_demo(demo: Demo) -> None:
    """Print the scores and the predictions."""
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
    tell(f"trained in {clock(demo.seconds)}")
    if demo.run is not None:
        print(f"The run is in {demo.run}; comity info {demo.run} shows its scores.")


def _label(found: Prediction) -> str:
    if not found.probabilities:
        return f"{found.label:.1f} of 5"
    return f"{found.label} ({found.probabilities[found.label]:.0%})"
