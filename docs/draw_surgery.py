"""Draws docs/images/surgery.svg, the picture in docs/surgery.md.

python docs/draw_surgery.py
"""

from dataclasses import dataclass
from pathlib import Path

import svg
from svg import INK, PALE, STRONG

OUTPUT = Path(__file__).parent / "images" / "surgery.svg"

Vector = tuple[float, float]

FIRST: Vector = (4, 2)
SECOND: Vector = (-2, 1)
"""The two task gradients of the example; the text of the page uses the same numbers."""

UNIT = 46  # pixels for a length of 1
WIDTH, HEIGHT = 1110, 360
ORIGIN_Y = 312
ORIGINS_X = (126, 456, 856)  # of the three panels
LINE = 17  # distance of text lines

# Arrows differ by their width and dashes and have labels, so the picture does not depend on colour.
HEADS = {INK: "ink", PALE: "pale", STRONG: "strong"}
"""The arrow head of each colour."""


def inner(one: Vector, other: Vector) -> float:
    """The inner product."""
    return one[0] * other[0] + one[1] * other[1]


def added(one: Vector, other: Vector) -> Vector:
    """The sum."""
    return one[0] + other[0], one[1] + other[1]


def projected(own: Vector, other: Vector) -> Vector:
    """`own` projected onto the normal plane of `other`."""
    share = inner(own, other) / inner(other, other)
    return own[0] - share * other[0], own[1] - share * other[1]


@dataclass(frozen=True)
class Panel:
    """A part of the picture, with its own origin."""

    x: int

    def at(self, point: Vector) -> Vector:
        """A point in pixels; y points up in the example and down in SVG."""
        return round(self.x + UNIT * point[0], 1), round(ORIGIN_Y - UNIT * point[1], 1)

    def arrow(self, end: Vector, colour: str = INK, width: float = 2.5, dashes: str = "") -> str:
        """An arrow from the origin."""
        return self.line((0, 0), end, colour, width, dashes, head=True)

    def line(
        self,
        start: Vector,
        end: Vector,
        colour: str,
        width: float,
        dashes: str = "",
        head: bool = False,
    ) -> str:
        """A line between two points, with an arrow head at its end."""
        (x1, y1), (x2, y2) = self.at(start), self.at(end)
        more = f' stroke-dasharray="{dashes}"' if dashes else ""
        more += f' marker-end="url(#{HEADS[colour]})"' if head else ""
        return (
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" '
            f'stroke-width="{width}"{more}/>'
        )

    def label(self, point: Vector, text: str, dx: int, dy: int, bold: bool = False) -> str:
        """A text beside a point, `dx` and `dy` pixels away."""
        x, y = self.at(point)
        return svg.text(x + dx, y + dy, text, 15, bold=bold)

    def right_angle(self, along: Vector, other: Vector) -> str:
        """The sign of a right angle between two directions at the origin."""
        one, two = (tuple(c * 0.25 / inner(v, v) ** 0.5 for c in v) for v in (along, other))
        corner = added((one[0], one[1]), (two[0], two[1]))
        points = " ".join(f"{x:g},{y:g}" for x, y in map(self.at, (one, corner, two)))
        return f'<polyline points="{points}" fill="none" stroke="{INK}"/>'


def heading(x: int, title: str, *lines: str) -> list[str]:
    """The title of a panel and the text below it."""
    below = [svg.text(x, 34 + LINE * n, line, 13) for n, line in enumerate(lines, start=1)]
    return [svg.text(x, 34, title, 15, bold=True), *below]


def conflict() -> list[str]:
    """The two task gradients."""
    panel = Panel(ORIGINS_X[0])
    return [
        *heading(24, "1. Two task gradients", "The angle is above 90°:", "the tasks conflict."),
        panel.arrow(FIRST),
        panel.arrow(SECOND),
        panel.label(FIRST, "g₁", 6, 4, bold=True),
        panel.label(SECOND, "g₂", -16, -8, bold=True),
    ]


def projections() -> list[str]:
    """Each gradient, and its projection onto the normal plane of the other one."""
    panel = Panel(ORIGINS_X[1])
    first, second = projected(FIRST, SECOND), projected(SECOND, FIRST)
    return [
        *heading(
            354,
            "2. Each is projected",
            "onto the normal plane of the other:",
            "the dashed part is removed.",
        ),
        panel.arrow(FIRST, PALE, 1.5),
        panel.arrow(SECOND, PALE, 1.5),
        panel.line(FIRST, first, PALE, 1.5, "5 4"),
        panel.line(SECOND, second, PALE, 1.5, "5 4"),
        panel.right_angle(first, SECOND),
        panel.arrow(first),
        panel.arrow(second),
        panel.label(FIRST, "g₁", 6, 4),
        panel.label(SECOND, "g₂", -16, -8),
        panel.label(first, "g₁′", 4, -8, bold=True),
        panel.label(second, "g₂′", -10, -10, bold=True),
    ]


def sums() -> list[str]:
    """The sum of the gradients, and the sum of their projections."""
    panel = Panel(ORIGINS_X[2])
    plain = added(FIRST, SECOND)
    first, second = projected(FIRST, SECOND), projected(SECOND, FIRST)
    surgery = added(first, second)
    return [
        *heading(
            684,
            "3. The results are added",
            "The plain sum conflicts",
            "with g₂, the new sum",
            "with neither.",
        ),
        panel.arrow(FIRST, PALE, 1.5),
        panel.arrow(SECOND, PALE, 1.5),
        panel.line(first, surgery, PALE, 1.5, "2 3"),
        panel.line(second, surgery, PALE, 1.5, "2 3"),
        panel.arrow(first, PALE, 1.5),
        panel.arrow(second, PALE, 1.5),
        panel.arrow(plain, INK, 2.5, "8 4"),
        panel.arrow(surgery, STRONG, 4),
        panel.label(FIRST, "g₁", 6, 4),
        panel.label(SECOND, "g₂", -16, -8),
        panel.label(plain, "g₁ + g₂", 8, 0),
        panel.label(surgery, "g₁′ + g₂′", 10, -2, bold=True),
    ]


def picture() -> str:
    """The SVG document."""
    heads = [svg.arrow_head(name, colour) for colour, name in HEADS.items()]
    parts = [*conflict(), *projections(), *sums()]
    return svg.document(WIDTH, HEIGHT, "Gradient surgery of two task gradients", parts, heads)


if __name__ == "__main__":
    OUTPUT.write_text(picture(), encoding="utf-8")
