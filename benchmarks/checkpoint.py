"""How long a checkpoint stops training, against copying the flat vectors and against writing them.

    python benchmarks/checkpoint.py [--encoder minilm] [--rounds 10] [--folder FOLDER]

Training waits while `CheckpointWriter.start` copies the state; a thread then writes the copy.
`--folder` is on the disk to write to.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import keep, show

from comity import Recipe
from comity.demo.files import write_files
from comity.runs.directory import RunDirectory
from comity.training.checkpoint import CheckpointWriter
from comity.training.setup import prepare
from comity.training.trainer import Trainer


def timed(function: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Measure, print and keep the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    copied, paused, written = [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_files(folder)
        recipe = Recipe.load(folder / "recipe.toml", [f"encoder.name={options.encoder}"])
        trainer = Trainer(prepare(recipe, folder))
        vectors = [trainer.flat.masters, trainer.optimizer.first, trainer.optimizer.second]
        directory = RunDirectory.create(folder / "run")
        directory.write_facts(trainer._facts(None))
        checkpoints = CheckpointWriter(directory, keep=2)
        state = (trainer.progress, trainer.flat, trainer.optimizer, trainer.average, {})
        for number in range(options.rounds):
            trainer.progress.step = number + 1
            copied.append(timed(lambda: [vector.clone() for vector in vectors]))
            paused.append(timed(lambda: checkpoints.start(*state)))
            written.append(timed(checkpoints.wait))
        checkpoints.close()
    numbers = sum(map(torch.numel, vectors))
    rows = [
        ("copying the vectors", statistics.median(copied)),
        ("training waits", statistics.median(paused)),
        ("then written by the thread", statistics.median(written)),
    ]
    show(f"A checkpoint of {4 * numbers / 1e6:.0f} MB, milliseconds", ["", "median"], rows)
    keep("checkpoint", {}, {"milliseconds": dict(rows), "megabytes": round(4 * numbers / 1e6)})


if __name__ == "__main__":
    main()
