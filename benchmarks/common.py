"""What the benchmarks share: runs in turn in processes of their own, medians, tables, JSON."""

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from comity import hardware
from comity.training.setup import describe_machine

RESULTS = Path(__file__).parent / "results"


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run each command `rounds` times, A B C A B C ..., so that a drift of the machine hits all.

    Each command prints one JSON object as its last line.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                raise SystemExit(f"{name} failed")
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found


def memory() -> tuple[int, int]:
    """Bytes that this process holds now and held at most; without /proc the latter is both.

    From the kernel's own marks where it has them, since getrusage takes over the parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most, most
    marks = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    held, most = (int(marks[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return held, most


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Smallest to largest."""
    return f"{min(values):.4g} to {max(values):.4g}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table, its numbers to the right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=150).print(table)


def keep(name: str, ratios: Mapping[str, float], details: Mapping[str, Any]) -> Path:
    """Write what was measured, with the machine, to benchmarks/results: a file for each class.

    Ratios stand at the top, details under the benchmark's name. What an earlier run measured and
    this one did not is kept.
    """
    RESULTS.mkdir(exist_ok=True)
    facts = asdict(describe_machine(torch.device("cpu")))
    path = RESULTS / f"{facts['processor_class']}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= {"class": facts["processor_class"], **ratios}
    of_name = content.setdefault(name, {})
    of_name["machine"] = facts
    for key, value in details.items():
        of_name[key] = of_name.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def precisions() -> list[str]:
    """What is measured here: bf16 only where products in it are fast."""
    fast = hardware.fast_bf16(torch.device("cpu"))
    return ["bf16", "float32"] if fast else ["float32"]


def product_rate(dtype: Any, rows: int = 4096, repeats: int = 15) -> float:
    """FLOP/s of a product of the shapes that MiniLM's feed-forward has, by the faster library."""
    import time

    from comity.model.matmul import product

    left = torch.randn(rows, 384).to(dtype)
    right = torch.randn(1536, 384).to(dtype)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        product(left, right)
        times.append(time.perf_counter() - started)
    return 2 * rows * 384 * 1536 / statistics.median(times[3:])
