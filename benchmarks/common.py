"""Helpers of the benchmarks: alternating runs in separate processes, medians, tables, results."""

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


def alternate(
    commands: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run each command `rounds` times, in the order A B C A B C ..., and collect its results.

    Alternating spreads slow changes of the machine's speed over all commands. The last line that a
    command prints must be a JSON object.
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
    """Resident memory of this process in bytes: now, and at its peak.

    Read from /proc, because the peak of getrusage includes the parent process. Without /proc both
    numbers are the peak of getrusage.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def median(values: Sequence[float]) -> float:
    """The median of some measurements."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The smallest and the largest value, as text."""
    return f"{min(values):.4g} to {max(values):.4g}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table. The first column is aligned left, the others right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=150).print(table)


def keep(name: str, ratios: Mapping[str, float], details: Mapping[str, Any]) -> Path:
    """Write ratios and details to the file of this processor class in benchmarks/results.

    Ratios go to the top level; details and a description of the machine go under the name of the
    benchmark. Results of earlier runs that this run did not measure again are kept.
    """
    RESULTS.mkdir(exist_ok=True)
    facts = asdict(describe_machine(torch.device("cpu")))
    path = RESULTS / f"{facts['processor_class']}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= {"class": facts["processor_class"], **ratios}
    benchmark = content.setdefault(name, {})
    benchmark["machine"] = facts
    for key, value in details.items():
        benchmark[key] = benchmark.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def precisions() -> list[str]:
    """The precisions to measure on this machine: bf16 only if it is fast here."""
    fast = hardware.fast_bf16(torch.device("cpu"))
    return ["bf16", "float32"] if fast else ["float32"]


def product_rate(
    dtype: Any,
    rows: int = 4096,
    repeats: int = 15,
    device: str = "cpu",
    width: int = 384,
    inner: int = 1536,
) -> float:
    """FLOP/s of `comity.model.matmul.linear` on the shapes of a feed-forward layer (of MiniLM)."""
    import time

    from comity.model.matmul import linear

    left = torch.randn(rows, width).to(device, dtype)
    right = torch.randn(inner, width).to(device, dtype)
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        linear(left, right)
        wait(device)
        times.append(time.perf_counter() - started)
    return 2 * rows * width * inner / statistics.median(times[len(times) // 5 :])


def wait(device: str) -> None:
    """Wait until a GPU has done everything it was given; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()
