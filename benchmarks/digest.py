"""SHA-256 of the first losses and weights of a recipe: equal digests mean that nothing changed.

    python benchmarks/digest.py --data DIR

Compare digests only between runs on one machine with one number of threads, since products round
differently on others.
"""

import argparse
import hashlib
import struct
from pathlib import Path

import torch

from comity import Recipe, hardware
from comity.training.setup import prepare
from comity.training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "cs224n.toml"


@hardware.flushed_denormals()
def main() -> None:
    """Take the first steps of the recipe's first stage and print the digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recipe's files")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=["train.precision=float32"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe.load(options.recipe, options.set)
    trainer = Trainer(prepare(recipe, options.data))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    losses: list[float] = []
    for planned in plan.steps[: options.steps]:
        done = trainer.step(plan, planned)
        losses.extend(loss for _, loss in done.losses)
        trainer.progress.stage_step += 1
        trainer.progress.step += 1
    packed = struct.pack(f"{len(losses)}d", *losses)
    weights = trainer.flat.masters.cpu().numpy().tobytes()
    print(f"{options.steps} steps, {' '.join(options.set)}, {options.threads} threads")
    print("losses ", hashlib.sha256(packed).hexdigest()[:16])
    print("weights", hashlib.sha256(weights).hexdigest()[:16])


if __name__ == "__main__":
    main()
