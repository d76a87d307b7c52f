"""The demo: trains three small tasks, shows scores before and after, and some predictions."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from comity.format import clock
from comity.inference.model import Model, load
from comity.recipe.recipe import Recipe
from comity.runs import RunDirectory
from comity.terminal.progress import Display
from comity.terminal.views import console, show_plan, show_scores, tell
from comity.training.plan import plan_summary
from comity.training.setup import prepare
from comity.training.trainer import Trainer

HERE = Path(__file__).parent

# None of these sentences occurs in the corpus.
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


def run_demo(out: Path | None, overrides: Sequence[str]) -> None:
    """Train the demo's recipe, print its scores and a few predictions.

    The run is kept in `out`, or in a temporary folder if that is None.
    """
    recipe = Recipe.load(HERE / "demo.toml", overrides)
    with tempfile.TemporaryDirectory(prefix="comity-demo-") as temporary:
        prepared = prepare(recipe, HERE / "corpus")
        with Display() as display:
            trainer = Trainer(prepared, display)
            directory = RunDirectory.create(out or Path(temporary) / "run")
            show_plan(plan_summary(trainer, trainer.time_left()))
            dev = {name: data.dev for name, data in prepared.tasks.items()}
            before, _ = trainer.evaluate(dev)
            trainer.run(directory)
        model = load(directory.path)
        after = {name: model.evaluate(name) for name in model.tasks}
        show_scores("One encoder, three tasks, on dev", {"before": before, "after": after})
        _show_predictions(model)
        tell(f"trained in {clock(display.elapsed)}")
        if out is not None:
            print(f"The run is in {out}. For details: comity info {out}")


def _show_predictions(model: Model) -> None:
    out = console()
    out.print("A few predictions of this one model:")
    for text, found in zip(REVIEWS, model.predict("sentiment", REVIEWS), strict=True):
        probability = found.probabilities[found.label]
        out.print(f"  sentiment   {found.label} ({probability:.0%}): {text}")
    for pair, found in zip(QUESTIONS, model.predict("paraphrase", QUESTIONS), strict=True):
        probability = found.probabilities[found.label]
        out.print(f"  paraphrase  {found.label} ({probability:.0%}): {pair[0]} / {pair[1]}")
    for pair, found in zip(EVENTS, model.predict("similarity", EVENTS), strict=True):
        out.print(f"  similarity  {found.label:.1f} of 5: {pair[0]} / {pair[1]}")
