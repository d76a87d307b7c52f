"""Draws docs/images/data-flow.svg, the picture in docs/architecture.md.

python docs/draw_architecture.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import svg
from svg import INK

OUTPUT = Path(__file__).parent / "images" / "data-flow.svg"

WIDTH, HEIGHT = 1100, 500
COLUMNS = (20, 286, 552, 818)  # left edges
BOX_WIDTH = 170
SHORT, TALL = 76, 196  # heights: one row, and two rows with the gap between them
ROWS = (24, 144, 280, 400)  # top edges
MIDDLE = SHORT // 2
LINE = 17  # distance of text lines

# Files differ from packages by their dashed border, so the picture does not depend on colour.
PACKAGE, FILE = "#dde5ec", "#ffffff"
SANS, MONOSPACE = "sans-serif", "monospace"


@dataclass(frozen=True)
class Box:
    """A package, or a file outside the program."""

    title: str
    lines: tuple[str, ...]
    column: int
    row: int
    height: int = SHORT
    is_file: bool = False


BOXES = (
    Box("recipe.toml", ("encoder, tasks, stages",), 0, 0, is_file=True),
    Box("your files", ("CSV, TSV, JSON Lines,", "Parquet"), 0, 1, is_file=True),
    Box("recipe/", ("parse and check,", "before files are read"), 1, 0),
    Box("tables/", ("typed columns;", "errors with file and line"), 1, 1),
    Box(
        "data/",
        (
            "token ids on disk",
            "labels",
            "dev splits, leaks",
            "task sampling",
            "packing",
        ),
        2,
        0,
        TALL,
    ),
    Box("model/", ("one encoder,", "one head per task"), 3, 0),
    Box("losses/", ("head loss, objectives",), 3, 1),
    Box(
        "training/",
        (
            "task gradients J [K, S]",
            "Gramian J Jᵀ [K, K]",
            "balancer weights w [K]",
            "g = wᵀ J",
            "clip g",
            "AdamW step",
        ),
        3,
        2,
        TALL,
    ),
    Box(
        "run directory",
        (
            "written and read by",
            "runs/",
            "",
            "recipe, run facts",
            "metrics, predictions",
            "checkpoint, best model",
        ),
        2,
        2,
        TALL,
        is_file=True,
    ),
    Box("evaluation/", ("metrics, intervals,", "comparison of runs"), 1, 2),
    Box("inference/", ("load a run, predict",), 1, 3),
    Box("scores", ("with intervals, per task",), 0, 2, is_file=True),
    Box("predictions", ("for new texts and files",), 0, 3, is_file=True),
)


def text(x: float, y: float, content: str, size: int) -> str:
    """One line of text, centred at x."""
    return svg.text(x, y, content, size, anchor="middle")


def draw_box(box: Box) -> list[str]:
    """The rectangle of a box, its title and its lines."""
    x, y = COLUMNS[box.column], ROWS[box.row]
    fill, dashes = (FILE, ' stroke-dasharray="6 4"') if box.is_file else (PACKAGE, "")
    centre = x + BOX_WIDTH / 2
    top = y + (box.height - LINE * len(box.lines)) / 2 + 4
    font = SANS if " " in box.title or box.title.isalpha() else MONOSPACE
    parts = [
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{box.height}" rx="6" '
        f'fill="{fill}" stroke="{INK}"{dashes}/>',
        svg.text(centre, top, box.title, 15, bold=True, anchor="middle", font=font),
    ]
    parts += [
        text(centre, top + LINE * number, line, 12)
        for number, line in enumerate(box.lines, start=1)
        if line
    ]
    return parts


def arrow(points: Sequence[tuple[float, float]], label: str, x: float, y: float) -> list[str]:
    """A line through the points with an arrow head at its end, and its label (lines apart by |)."""
    path = " ".join(f"{px:g},{py:g}" for px, py in points)
    line = (
        f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )
    labels = label.split("|")
    return [line, *(text(x, y + 14 * number, part, 11) for number, part in enumerate(labels))]


def across(left: int, y: float, label: str, backwards: bool = False) -> list[str]:
    """A horizontal arrow between column `left` and the next one."""
    ends = [(COLUMNS[left] + BOX_WIDTH + 3, y), (COLUMNS[left + 1] - 3, y)]
    centre = (ends[0][0] + ends[1][0]) / 2
    above = y - 9 - 14 * label.count("|")
    return arrow(ends[::-1] if backwards else ends, label, centre, above)


def picture() -> str:
    """The SVG document."""
    right, centre = COLUMNS[3] + BOX_WIDTH, COLUMNS[3] + BOX_WIDTH / 2
    rows = [top + MIDDLE for top in ROWS]
    side = right + 40
    parts = [
        *across(0, rows[0], ""),
        *across(0, rows[1], ""),
        *across(1, rows[0], "settings"),
        *across(1, rows[1], "rows"),
        *across(2, rows[0], "batches:|ids [N],|offsets [B+1]"),
        *arrow(
            [(centre, ROWS[0] + SHORT + 3), (centre, ROWS[1] - 3)],
            "outputs|[B, outputs]",
            centre + 44,
            ROWS[0] + SHORT + 19,
        ),
        *arrow(
            [(centre, ROWS[1] + SHORT + 3), (centre, ROWS[2] - 3)],
            "one loss|per task",
            centre + 34,
            ROWS[1] + SHORT + 27,
        ),
        *arrow(
            [
                (right + 3, ROWS[2] + TALL / 2),
                (side, ROWS[2] + TALL / 2),
                (side, rows[0]),
                (right + 3, rows[0]),
            ],
            "updated|weights",
            side + 34,
            rows[1] + 40,
        ),
        *across(2, rows[2], "metrics,|checkpoints", backwards=True),
        *across(1, rows[2], "predictions", backwards=True),
        *across(1, rows[3], "best model", backwards=True),
        *across(0, rows[2], "", backwards=True),
        *across(0, rows[3], "", backwards=True),
        *(part for box in BOXES for part in draw_box(box)),
    ]
    heads = [svg.arrow_head("head", INK)]
    return svg.document(WIDTH, HEIGHT, "Data flow in Comity", parts, heads)


if __name__ == "__main__":
    OUTPUT.write_text(picture(), encoding="utf-8")
