"""What a GPU computes, compared with the CPU, and how fast it trains: all in under six minutes.

    make gpu        # or: python benchmarks/gpu.py [--only CHECK ...] [--out FILE]
    python benchmarks/gpu.py --device cpu --quick    # the same code at a tiny size, without a GPU

The data is the demo's corpus. Encoders have random weights and the sizes of MiniLM and BERT-base.
Each check has a limit of time and prints one line for each comparison: what was compared, what was
found, the bar, and whether it was met. The exit code is 1 if a bar was missed or a check failed.
Everything goes to benchmarks/results/NAME.json, where NAME is that of the GPU.
"""

import argparse
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

SECONDS = 320.0
"""The time for all checks; the rest of the six minutes is for the set-up."""


class TimeIsUp(Exception):
    """A check has taken too long."""


def main() -> int:
    """Run the checks, print and write what they find, and return the exit code."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no GPU, so nothing was run.")
        return 0
    # These imports need the packages, and the sentence above does not.
    from gpu_checks import CHECKS, Finding, Setting

    names = options.only or list(CHECKS)
    if unknown := [name for name in names if name not in CHECKS]:
        raise SystemExit(f"--only {unknown[0]}: unknown check; choose from {', '.join(CHECKS)}")
    content: dict[str, Any] = {"machine": machine(options.device), "checks": {}}
    ends = time.monotonic() + SECONDS
    missed = 0
    with tempfile.TemporaryDirectory(prefix="comity-gpu-") as folder:
        setting = Setting(options.device, options.quick, Path(folder))
        for name in names:
            check, limit = CHECKS[name]
            if options.quick:  # a test, which may share its machine
                limit = ends = math.inf
            started = time.monotonic()
            found: list[Finding] = []
            record: dict[str, Any] = {}
            try:
                with limited(min(limit, ends - started)):
                    for finding in check(setting):
                        found.append(finding)
                        print(finding.line(name), flush=True)
            except Exception as error:
                record["traceback"] = traceback.format_exc()
                print(f"failed  {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                missed += 1
            missed += sum(finding.ok is False for finding in found)
            record["seconds"] = round(time.monotonic() - started, 1)
            content["checks"][name] = record | {"found": [asdict(f) | {"ok": f.ok} for f in found]}
    content["missed"] = missed
    _write(content, options)
    print(f"{missed} missed or failed" if missed else "all bars met")
    return int(missed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test this script")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="run only these checks")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/NAME.json")
    return parser.parse_args()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in this block after some seconds."""

    def stop(number: int, frame: Any) -> None:
        raise TimeIsUp(f"not done after {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, min(max(seconds, 0.001), 1e6))  # 0 would be no limit
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(device: str) -> dict[str, Any]:
    """The machine, the versions and the commit."""
    from comity.runs.facts import current_commit, versions
    from comity.training.setup import describe_machine

    facts = asdict(describe_machine(torch.device(device)))
    facts |= {"versions": versions(), "commit": current_commit()}
    if device == "cuda":
        facts |= {
            "cuda": torch.version.cuda,
            "driver": _driver(),
            "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        }
    return facts


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _write(content: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the results. Without a GPU they say nothing, so they are only written if asked for."""
    from common import RESULTS

    path = options.out
    if path is None:
        if options.device == "cpu":
            return
        name = re.sub(r"[^A-Za-z0-9]+", "-", content["machine"]["card"]).strip("-")
        path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
