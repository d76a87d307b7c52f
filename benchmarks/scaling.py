"""Speed of one, two and four processes that train together, and what to expect of 64 GPUs.

    python benchmarks/scaling.py --data DIR [--rounds 3] [--steps 30] [--batch 32]
    python benchmarks/scaling.py --compute [--rate 400] [--network 50] [--gpus 64]

The first command trains recipes/cs224n.toml for some steps, in processes of one thread each and in
one process with more threads, and measures examples per second without the first five steps. The
second one measures nothing: it computes, for a GPU that does `--rate` TFLOP/s and a network that
moves `--network` GB/s to and from each GPU, when sending gradients takes as long as computing them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comity import Recipe, train
from comity.training.events import Event, StepDone
from comity.training.launch import launched

HERE = Path(__file__)
SETTINGS = {
    "one process, one thread": (1, 1),
    "one process, two threads": (1, 2),
    "two processes, one thread each": (2, 1),
    "four processes, one thread each": (4, 1),
}
WARM = 5
TASKS = 3
SHAPES = {"MiniLM": (6, 384, 1536, 30_522), "BERT-base": (12, 768, 3072, 30_522)}
"""Layers, width, inner width and vocabulary."""


def main() -> None:
    """Measure or compute."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compute", action="store_true")
    parser.add_argument("--rate", type=float, default=400, help="TFLOP/s of a GPU (default: 400)")
    parser.add_argument("--network", type=float, default=50, help="GB/s of a GPU (default: 50)")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compute:
        compute(options)
    elif options.data is None:
        parser.error("--data is missing")
    elif options.one:
        one(options)
    else:
        measure(options)


def one(options: argparse.Namespace) -> None:
    """Train for some steps, alone or as one of the processes that torchrun has started."""
    values = Recipe.load(HERE.parents[1] / "recipes" / "cs224n.toml").to_dict()
    del values["train"]["epochs"]
    values["train"] |= {"steps": options.steps, "batch_size": options.batch, "device": "cpu"}
    values["train"] |= {"eval_train_rows": 0, "conflict_every": 0}
    recipe = Recipe.from_dict(values)
    done: list[StepDone] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            done.append(event)

    with tempfile.TemporaryDirectory() as out:
        shared = os.environ.get("SCALING_OUT", out)
        train(recipe, data=options.data, out=Path(shared) / "run", on_event=listen, quiet=True)
    if launched().is_first:
        counted = done[WARM:]
        seconds = sum(step.seconds for step in counted)
        print(json.dumps({"speed": sum(step.examples for step in counted) / seconds}))


def measure(options: argparse.Namespace) -> None:
    """Alternate the settings, print and keep the medians."""
    from common import keep, show, spread

    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(options.rounds):
        for name, (processes, threads) in SETTINGS.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(_run(options, processes, threads))
    rows = [(name, statistics.median(values), spread(values)) for name, values in found.items()]
    show(f"recipes/cs224n.toml, batch {options.batch}", ["", "examples/s", "spread"], rows)
    keep("scaling", {}, {"examples_per_second": found, "batch": {"size": options.batch}})


def _run(options: argparse.Namespace, processes: int, threads: int) -> float:
    own = [str(HERE), "--one", "--data", str(options.data)]
    own += ["--steps", str(options.steps), "--batch", str(options.batch)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *own]
    with tempfile.TemporaryDirectory() as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "SCALING_OUT": out}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return float(json.loads(lines[-1])["speed"])


def compute(options: argparse.Namespace) -> None:
    """Print what is computed, with the formulas."""
    from common import show

    print(
        f"Computed, not measured: {options.gpus} GPUs of {options.rate:g} TFLOP/s, each with "
        f"{options.network:g} GB/s; {TASKS} tasks; float32 gradients in a ring (2 (N - 1) / N "
        "times their size); no overlap of sending and computing."
    )
    columns = ["", "sent, GB", "takes, ms", "tokens of a GPU", "memory, GB", "10^9 pairs, min"]
    show("", columns, list(_computed(options)))


def _computed(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    rate, network, gpus = options.rate * 1e12, options.network * 1e9, options.gpus
    for shape, (layers, width, inner, vocabulary) in SHAPES.items():
        dense = layers * (4 * width**2 + 2 * width * inner)
        weights = dense + vocabulary * width
        for balancer, rows in (("sum", 1), ("pcgrad", TASKS)):
            sent = 2 * (gpus - 1) / gpus * 4 * rows * dense
            seconds = sent / network
            # Forward and backward pass: 6 FLOP for each weight and token.
            tokens = seconds * rate / (6 * dense)
            # Masters, bf16 copy, both moments, and the gradients that are kept apart.
            memory = 14 * weights + 4 * rows * dense
            # A pair has 30 tokens; a step takes twice the time of sending.
            minutes = 30e9 / (gpus * tokens) * 2 * seconds / 60
            numbers = (sent / 1e9, 1000 * seconds, tokens, memory / 1e9, minutes)
            yield (
                f"{shape}, {balancer}",
                *(f"{number:,.0f}" if number >= 100 else f"{number:.2g}" for number in numbers),
            )


if __name__ == "__main__":
    main()
