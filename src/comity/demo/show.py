"""The demo: train three small tasks, show dev scores before and after, and a few predictions."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from comity.evaluation.floors import untouched_cosine
from comity.format import clock, or_dash
from comity.inference.model import Model, load
from comity.recipe.recipe import Recipe
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


def run_demo(
    out: Path | None, overrides: Sequence[str] = (), command: list[str] | None = None
) -> None:
    """Train the demo's recipe and print the results; `out` is a temporary folder if None."""
    recipe = Recipe.load(HERE / "demo.toml", overrides)
    data = HERE / "corpus"
    with tempfile.TemporaryDirectory(prefix="comity-demo-") as temporary:
        prepared = prepare(recipe, data)
        pairs = prepared.tasks["similarity"]
        floor = untouched_cosine(prepared.loaded, pairs.dev, pairs.max_length)
        before = evaluate_untrained(recipe, data)
        with Display() as display:
            directory = train(
                recipe,
                data,
                out or Path(temporary) / "run",
                estimate_time=True,
                on_event=display,
                command=command,
            )
        model = load(directory.path)
        after = {name: model.evaluate(name) for name in model.tasks}
        show_scores(
            "Dev scores of one encoder with three heads",
            {"untrained heads": before, "trained": after},
        )
        tell(
            f"Without heads or training, the cosine of {recipe.encoder.name}'s embeddings gives "
            f"similarity {' and '.join(f'{s.name} {or_dash(s.value)}' for s in floor.values())}."
        )
        _show_predictions(model)
        tell(f"trained in {clock(display.elapsed)}")
        if out is not None:
            print(f"The run is in {out}; comity info {out} shows its scores.")


def _show_predictions(model: Model) -> None:
    out = console()
    out.print("Some predictions of the trained model:")
    for text, found in zip(REVIEWS, model.predict("sentiment", REVIEWS), strict=True):
        probability = found.probabilities[found.label]
        out.print(f"  sentiment   {found.label} ({probability:.0%}): {text}")
    for pair, found in zip(QUESTIONS, model.predict("paraphrase", QUESTIONS), strict=True):
        probability = found.probabilities[found.label]
        out.print(f"  paraphrase  {found.label} ({probability:.0%}): {pair[0]} / {pair[1]}")
    for pair, found in zip(EVENTS, model.predict("similarity", EVENTS), strict=True):
        out.print(f"  similarity  {found.label:.1f} of 5: {pair[0]} / {pair[1]}")
