"""Start-up time and memory with 10,000, 100,000 and 1,000,000 generated rows.

    python benchmarks/scale.py [--rows 10000 100000 1000000]

The first start reads and tokenises; the second finds everything in the cache. Memory is that of the
second start, a process of its own that prepares and plans the recipe: what it holds afterwards
(freed memory is returned to the system), and its peak.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__)
WORDS = "the river was cold and a train left early while nobody at home heard it go"


def main() -> None:
    """Measure, print a table and write the results."""
    options = _options()
    if options.one is not None:
        print(json.dumps(_start(options.one)))
        return
    from common import keep, show

    rows, details = [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMITY_CACHE"] = str(Path(folder) / "cache")
        for count in options.rows:
            data = Path(folder) / str(count)
            _write(data, count)
            command = [sys.executable, str(HERE), "--one", str(data)]
            starts = [
                json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                for _ in range(2)
            ]
            again = starts[1]
            seconds = [start["seconds"] for start in starts]
            rows.append((f"{count:,} rows", *seconds, again["held_mb"], again["peak_mb"]))
            details[str(count)] = {
                "first_start_seconds": round(starts[0]["seconds"], 2),
                "second_start_seconds": round(starts[1]["seconds"], 2),
                "second_start_held_mb": round(again["held_mb"], 1),
                "second_start_peak_mb": round(again["peak_mb"], 1),
            }
    show("Start-up", ["", "first start s", "second start s", "held MB", "peak MB"], rows)
    measured: dict[str, Any] = {"rows": details}
    if len(options.rows) > 1:
        small, large = details[str(options.rows[0])], details[str(options.rows[-1])]
        grown = large["second_start_held_mb"] - small["second_start_held_mb"]
        per_row = 1e6 * grown / (options.rows[-1] - options.rows[0])
        measured["held_bytes_per_row"] = round(per_row, 1)
        print(f"memory held grows by {per_row:.1f} bytes per row")
    keep("scale", {}, measured)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(folder: Path, count: int) -> None:
    """Sentences of random common words with two labels."""
    folder.mkdir()
    draws = random.Random(0)
    words = WORDS.split()
    with (folder / "rows.csv").open("w") as file:
        file.write("text,label\n")
        for number in range(count):
            text = " ".join(draws.choices(words, k=draws.randint(5, 30)))
            file.write(f"{text} {number},{'yes' if number % 3 else 'no'}\n")


def _start(folder: Path) -> dict[str, float]:
    from common import memory

    from comity import Recipe, hardware
    from comity.training.plan import plan_stage
    from comity.training.setup import prepare

    task = {"kind": "classification", "train": "rows.csv", "dev": 0.01}
    task |= {"text": "text", "label": "label"}
    recipe = Recipe.from_dict({"train": {"steps": 10}, "tasks": {"task": task}})
    started = time.perf_counter()
    prepared = prepare(recipe, folder)
    hardware.keep_freed_memory()  # as a trainer does here
    plan = plan_stage(0, recipe.stages[0], prepared.tasks, recipe.train)
    seconds = time.perf_counter() - started
    hardware.keep_freed_memory()  # returns free memory, which then does not count as held
    held, most = memory()
    assert len(plan.steps) == 10  # in memory until here, and so counted
    return {"seconds": seconds, "held_mb": held / 1e6, "peak_mb": most / 1e6}


if __name__ == "__main__":
    main()
