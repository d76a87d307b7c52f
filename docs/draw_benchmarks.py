"""Draws docs/images/benchmarks.svg, the figure of the README, from the results of the benchmarks.

python docs/draw_benchmarks.py
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import svg

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results" / "AVX512-bf16.json"
OUTPUT = DOCS / "images" / "benchmarks.svg"

WIDTH = 1100
BARS_X, BARS_WIDTH = 400, 610  # left edge of the bars, and the length of the longest
BAR, GAP, HEADING, MARGIN = 20, 6, 34, 18


@dataclass(frozen=True)
class Group:
    """Rates of several programs at one job; the first is ours."""

    title: str
    unit: str
    rates: dict[str, float]


def groups(results: dict[str, Any]) -> list[Group]:
    """The jobs of the figure, from a file of benchmarks/results."""
    trained = results["train-batch32"]["examples_per_second"]
    steps = results["surgery"]["steps"]
    served = results["serve"]["measurements"]

    def examples(name: str) -> float:
        return statistics.median(trained[f"{name} bf16"])

    def surgery(name: str) -> float:
        milliseconds = statistics.median(steps[f"{name} K=3 batch=32"]["milliseconds"])
        return 3 * 32 * 1000 / milliseconds

    def requests(name: str) -> float:
        return statistics.median(
            run["requests_per_second"] for run in served[f"bf16 predict {name} 64"]
        )

    return [
        Group(
            "Train one model on three tasks",
            "examples per second",
            {
                "Comity, with gradient surgery": examples("comity-three"),
                "sentence-transformers' trainer": examples("sentence-transformers"),
            },
        ),
        Group(
            "Gradient surgery (PCGrad), three tasks",
            "examples per second",
            {
                "Comity": surgery("comity pcgrad"),
                "optimizer wrapper on transformers' BERT": surgery("wrapper"),
                "TorchJD on transformers' BERT": surgery("torchjd"),
            },
        ),
        Group(
            "Serve three tasks to 64 clients",
            "requests per second",
            {
                "Comity, one model with three heads": requests("comity"),
                "FastAPI, three models of transformers": requests("peer"),
            },
        ),
    ]


def draw_group(group: Group, top: float) -> list[str]:
    """The heading of a group and its bars, longest for the highest rate."""
    parts = [
        svg.text(24, top + 20, group.title, 16, bold=True),
        svg.text(BARS_X, top + 20, group.unit, 14),
    ]
    for number, (name, rate) in enumerate(group.rates.items()):
        y = top + HEADING + number * (BAR + GAP)
        length = max(1.0, round(BARS_WIDTH * rate / max(group.rates.values()), 1))
        colour, ours = (svg.STRONG, True) if number == 0 else (svg.PALE, False)
        parts += [
            svg.text(BARS_X - 12, y + 15, name, 14, bold=ours, anchor="end"),
            f'<rect x="{BARS_X}" y="{y:g}" width="{length:g}" height="{BAR}" fill="{colour}"/>',
            svg.text(BARS_X + length + 8, y + 15, f"{rate:.0f}", 14, bold=ours),
        ]
    return parts


def picture() -> str:
    """The SVG document."""
    parts: list[str] = []
    top = MARGIN / 2
    for group in groups(json.loads(RESULTS.read_text(encoding="utf-8"))):
        parts += draw_group(group, top)
        top += HEADING + len(group.rates) * (BAR + GAP) + MARGIN
    title = "Comity compared with other programs: training, gradient surgery and serving"
    return svg.document(WIDTH, round(top), title, parts)


if __name__ == "__main__":
    OUTPUT.write_text(picture(), encoding="utf-8")
