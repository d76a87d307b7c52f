"""What share of a training step the dropout masks take: three tasks, `recipes/cs224n.toml`.

python benchmarks/dropout.py --data DIR
"""

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from comity import Recipe, hardware
from comity.model import encoder_pass
from comity.training.setup import prepare
from comity.training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "cs224n.toml"


@hardware.flushed_denormals()
def main() -> None:
    """Time steps, and within them the functions that make masks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the class's files")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    recipe = Recipe.load(RECIPE, [f"train.precision={options.precision}"])
    trainer = Trainer(prepare(recipe, options.data))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    trainer.step(plan, plan.steps[0])  # fills caches
    spent = 0.0

    def timed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            result = function(*arguments)
            spent += time.perf_counter() - started
            return result

        return call

    masks = {name: timed(getattr(encoder_pass, name)) for name in ("keep_mask", "attention_mask")}
    started = time.perf_counter()
    with patch.multiple(encoder_pass, **masks):
        for planned in plan.steps[1 : 1 + options.steps]:
            trainer.step(plan, planned)
    total = time.perf_counter() - started
    print(
        f"{hardware.processor_class()}, {trainer.dtype}: {1e3 * total / options.steps:.0f} ms a "
        f"step, {1e3 * spent / options.steps:.1f} ms for masks ({spent / total:.1%})"
    )


if __name__ == "__main__":
    main()
