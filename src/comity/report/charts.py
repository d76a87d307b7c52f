"""Charts as inline SVG: lines, intervals, bars, heat maps, scatter and reliability diagrams.

Every function returns one `<svg>` with a title and a description for screen readers, and takes a
`key` that is unique in the page. Colours are CSS classes, so that the page can be light or dark.
Series also differ in dashes and marks, and negative cells are hatched: the charts can be read
without colour. Charts are about as wide as a phone; wider ones can be scrolled.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
"""Of most charts, in CSS pixels."""

HATCH = 5.0
"""Distance of the lines that hatch a cell."""

CHARACTER = 6.7
"""Mean width of a character at the size of the charts' text."""

SERIES = 6
"""Colours, marks and dashes; more series than that repeat them."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 1 2", "12 4")
_SHORT_NAME = 14  # characters of a name that fits beside the end of its line
_MOST_MARKS = 12  # on one line

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """A line: its name and its points, from left to right; a value of None is a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, and the text beside it."""

    name: str
    value: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: mean confidence, share of right predictions, rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map: its value for the shade, its text, and whether it has a border."""

    value: float | None
    text: str = ""
    marked: bool = False


# --- elements -------------------------------------------------------------------------------------


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An SVG element; all text but Markup is escaped.

    A `_` in the name of an attribute stands for `-`, except at its end: `class_` is `class`.
    """
    words = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(words), inner)


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def _text(x: float, y: float, words: str, anchor: str = "start", class_: str = "") -> Markup:
    return element("text", words, x=float(x), y=float(y), text_anchor=anchor, class_=class_ or None)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    ends = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", class_=class_, **ends)


def _svg(
    key: str, title: str, description: str, width: float, height: float, parts: Sequence[Markup]
) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *parts,
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
    )


def text_width(text: str) -> float:
    """The approximate width of a text in a chart; East Asian characters count twice."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return CHARACTER * (len(text) + wide)


def fitted(text: str, width: float) -> str:
    """A text that is cut to a width, with an ellipsis."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) + CHARACTER > width:
        text = text[:-1]
    return f"{text}…"


def _mark(number: int, x: float, y: float, size: float = 3.2) -> Markup:
    """The mark of a series: circle, square, triangle, diamond, plus or cross."""
    style, s = f"m{number % SERIES + 1}", size
    shapes = (
        "",
        f"M{x - s:.1f} {y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z",
        f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:.1f} {2 * s:.1f}h{-2.4 * s:.1f}z",
        f"M{x:.1f} {y - 1.4 * s:.1f}l{1.4 * s:.1f} {1.4 * s:.1f}l{-1.4 * s:.1f} {1.4 * s:.1f}"
        f"l{-1.4 * s:.1f} {-1.4 * s:.1f}z",
        f"M{x:.1f} {y - s:.1f}v{2 * s:.1f}M{x - s:.1f} {y:.1f}h{2 * s:.1f}",
        f"M{x - s:.1f} {y - s:.1f}l{2 * s:.1f} {2 * s:.1f}m0 {-2 * s:.1f}l{-2 * s:.1f} {2 * s:.1f}",
    )
    path = shapes[number % SERIES]
    if not path:
        return element("circle", cx=float(x), cy=float(y), r=float(size), class_=style)
    return element("path", d=path, class_=f"{style} open" if number % SERIES > 3 else style)


# --- scales ---------------------------------------------------------------------------------------


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover a range, at most about `count` steps of 1, 2, 2.5 or 5.

    >>> ticks(0, 1, 5), ticks(3, 97, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 25.0, 50.0, 75.0, 100.0])
    """
    span = high - low
    if not span > 0:
        span = abs(high) or 1.0
    exponent = math.floor(math.log10(span / count))
    power = 10**exponent
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 3 - exponent) for number in range(first, last + 1)]


def tick_names(values: Sequence[float]) -> list[str]:
    """The numbers of an axis with as many decimals as they need, and a real minus sign.

    >>> tick_names([-0.5, 0.0, 0.5]), tick_names([0, 1000])
    (['−0.5', '0.0', '0.5'], ['0', '1,000'])
    """
    most = max(abs(value) for value in values)
    for decimals in range(7):
        if all(abs(round(value, decimals) - value) <= 1e-6 * most for value in values):
            return [minus(f"{value:,.{decimals}f}") for value in values]
    return [minus(f"{value:.3g}") for value in values]


def minus(text: str) -> str:
    """Numbers with a real minus sign, which a zero does not have.

    >>> minus("-0.12"), minus("-0.00"), minus("-7 to -1.9")
    ('−0.12', '0.00', '−7 to −1.9')
    """
    return re.sub(r"-(?=0(\.0*)?(?![\d.]))", "", text).replace("-", "−")


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float  # pixel of `low`
    stop: float  # pixel of `high`

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


@dataclass(frozen=True)
class _Axes:
    """The area of a plot with its two scales, and the drawn axes."""

    x: _Scale
    y: _Scale
    parts: list[Markup]


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    labels: tuple[str, str],
    width: float = WIDTH,
    height: float = HEIGHT,
    top: float = 0,
    right: float = 10,
    whole_x: bool = False,
    steps: int = 4,
) -> _Axes:
    """Axes with few grid lines; the name of the vertical axis is above it, not turned.

    Args:
        x_range: lowest and highest value; the axis ends there.
        y_range: the same; the axis ends at the next ticks.
        labels: the names of the axes with their units, x first.
        top: room above the name of the vertical axis.
        right: room on the right.
        whole_x: whether values on x are whole numbers.
        steps: between the ticks of an axis, about.
    """
    y_ticks = ticks(*y_range, steps)
    names = tick_names(y_ticks)
    left = max(map(text_width, names)) + 10
    x_ticks = [tick for tick in ticks(*x_range, steps) if x_range[0] <= tick <= x_range[1]]
    if whole_x:
        x_ticks = [tick for tick in x_ticks if tick == int(tick)]
    x = _Scale(*x_range, left, width - right)
    y = _Scale(y_ticks[0], y_ticks[-1], height - 36, top + 24)
    parts = [_text(0, top + 12, labels[1], class_="axis")]
    for tick, name in zip(y_ticks, names, strict=True):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 6, y(tick) + 4, name, "end", "tick"))
    parts.append(_line(left, height - 36, width - right, height - 36, "frame"))
    for tick, name in zip(x_ticks, tick_names(x_ticks), strict=True):
        parts.append(_line(x(tick), height - 36, x(tick), height - 32, "frame"))
        anchor = "end" if x(tick) + text_width(name) / 2 > width else "middle"
        parts.append(_text(x(tick), height - 20, name, anchor, "tick"))
    parts.append(_text((left + width - right) / 2, height - 5, labels[0], "middle", "axis"))
    return _Axes(x, y, parts)


# --- lines ----------------------------------------------------------------------------------------


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    labels: tuple[str, str],
    kept: float | None = None,
    zero: bool = False,
) -> Markup:
    """Lines over steps, each named at its end or, where names are long, in a legend above.

    Args:
        key: of the chart in the page.
        title: what it shows.
        description: the same at more length.
        series: at least one, with at least one value.
        labels: the names of the axes with their units, x first.
        kept: the step of the kept model, shown as a vertical line.
        zero: whether to draw a line at 0.
    """
    known = [(x, y) for line in series for x, y in line.points if y is not None]
    steps = [x for x, _ in known] + ([kept] if kept is not None else [])
    low, high = min(y for _, y in known), max(y for _, y in known)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    first, last = min(steps), max(steps)
    span = (min(0, first), max(last, 1))
    beside = len(series) > 1 and max(len(line.name) for line in series) <= _SHORT_NAME
    above = len(series) > 1 and not beside
    right = 18 + max(text_width(line.name) for line in series) if beside else 10
    top = 17 * len(series) + 4 if above else 0
    height = HEIGHT + top
    axes = _axes(span, (low, high), labels, height=height, top=top, right=right, whole_x=True)
    parts = list(axes.parts)
    if zero:
        parts.append(_line(axes.x.start, axes.y(0), axes.x.stop, axes.y(0), "zero"))
    if kept is not None:
        parts.append(_line(axes.x(kept), axes.y.start, axes.x(kept), axes.y.stop, "kept"))
        left = axes.x(kept) > (axes.x.start + axes.x.stop) / 2
        x = axes.x(kept) + (-4 if left else 4)
        parts.append(_text(x, top + 12, "kept model", "end" if left else "start", "tick"))
    for number, line in enumerate(series):
        parts.extend(_drawn(number, line, axes))
    if above:
        for number, line in enumerate(series):
            y = 17 * number + 12
            parts.append(_sample(number, 0, y - 4))
            parts.append(_text(36, y, fitted(line.name, WIDTH - 36)))
    if beside:
        parts.extend(_end_names(series, axes))
    return _svg(key, title, description, WIDTH, height, parts)


def _sample(number: int, x: float, y: float) -> Markup:
    line = element(
        "path",
        d=f"M{x:.1f} {y:.1f}h30",
        class_=f"line s{number % SERIES + 1}",
        stroke_dasharray=_DASHES[number % SERIES] or None,
    )
    return line + _mark(number, x + 15, y)


def _drawn(number: int, line: Series, axes: _Axes) -> list[Markup]:
    words, pen_up = [], True
    known = []
    for x, y in line.points:
        if y is None:
            pen_up = True
            continue
        known.append((axes.x(x), axes.y(y)))
        words.append(f"{'M' if pen_up else 'L'}{axes.x(x):.1f} {axes.y(y):.1f}")
        pen_up = False
    path = element(
        "path",
        d="".join(words),
        class_=f"line s{number % SERIES + 1}",
        stroke_dasharray=_DASHES[number % SERIES] or None,
    )
    every = -(-len(known) // _MOST_MARKS)
    return [path, *(_mark(number, x, y) for x, y in known[:: max(every, 1)])]


def _end_names(series: Sequence[Series], axes: _Axes) -> list[Markup]:
    """The names at the ends of the lines, moved apart where they would overlap."""
    ends = []
    for number, line in enumerate(series):
        values = [y for _, y in line.points if y is not None]
        if values:
            ends.append((axes.y(values[-1]), number, line.name))
    ends.sort()
    at, parts = -math.inf, []
    room = len(ends)
    for y, number, name in ends:
        room -= 1
        at = max(at + 14, min(y, axes.y.start - 14 * room))
        if at - y > 5:  # too far from its line to be read as its name
            parts.append(_mark(number, axes.x.stop + 9, at))
        parts.append(_text(axes.x.stop + 16, at + 4, name))
    return parts


# --- intervals and bars ---------------------------------------------------------------------------


def interval_chart(
    key: str, title: str, description: str, rows: Sequence[Whisker], label: str
) -> Markup:
    """One row for each value: its name above, then a mark with its interval and its text."""
    ends = [e for r in rows for e in (r.value, r.low, r.high) if e is not None]
    scale_ticks = ticks(min(ends), max(ends), 4)
    height = 36 * len(rows) + 42
    x = _Scale(scale_ticks[0], scale_ticks[-1], 8, WIDTH - 16)
    parts = [_line(x(tick), 6, x(tick), height - 36, "grid") for tick in scale_ticks]
    for number, row in enumerate(rows):
        y = 36 * number + 28
        parts.append(_text(0, y - 14, fitted(row.name, WIDTH - text_width(row.text) - 12)))
        parts.append(_text(WIDTH, y - 14, row.text, "end", "number"))
        if row.low is not None and row.high is not None:
            parts.append(_line(x(row.low), y, x(row.high), y, f"line s{number % SERIES + 1}"))
            for end in (row.low, row.high):
                parts.append(_line(x(end), y - 4, x(end), y + 4, f"line s{number % SERIES + 1}"))
        parts.append(_mark(number, x(row.value), y, 4))
    parts.append(_line(x.start, height - 36, x.stop, height - 36, "frame"))
    for tick, name in zip(scale_ticks, tick_names(scale_ticks), strict=True):
        anchor = {scale_ticks[0]: "start", scale_ticks[-1]: "end"}.get(tick, "middle")
        parts.append(_text(x(tick), height - 20, name, anchor, "tick"))
    parts.append(_text(WIDTH / 2, height - 5, label, "middle", "axis"))
    return _svg(key, title, description, WIDTH, height, parts)


def bar_chart(
    key: str, title: str, description: str, bars: Sequence[tuple[str, float, str]]
) -> Markup:
    """Horizontal bars from 0: name, value and the text behind the bar."""
    names = min(max(text_width(name) for name, _, _ in bars), 130)
    behind = max(text_width(text) for _, _, text in bars)
    most = max(value for _, value, _ in bars) or 1.0
    left, width = names + 10, WIDTH - names - behind - 24
    parts = []
    for number, (name, value, text) in enumerate(bars):
        y = 20 * number + 4
        parts.append(_text(names, y + 11, fitted(name, names), "end"))
        length = width * value / most
        parts.append(
            element("rect", x=left, y=float(y), width=max(length, 0.5), height=14.0, class_="bar")
        )
        parts.append(_text(left + length + 5, y + 11, text, class_="number"))
    return _svg(key, title, description, WIDTH, 20 * len(bars) + 6, parts)


# --- heat maps ------------------------------------------------------------------------------------


def heat_map(
    key: str,
    title: str,
    description: str,
    rows: Sequence[str],
    columns: Sequence[Sequence[str]],
    cells: Sequence[Sequence[Cell]],
    limit: float,
    labels: tuple[str, str] = ("", ""),
    cell: tuple[float, float] = (56, 22),
) -> Markup:
    """Cells shaded by value; negative ones have another colour and are hatched.

    Args:
        key: of the chart in the page.
        title: what it shows.
        description: the same at more length.
        rows: names, from the top.
        columns: for each column the lines of its name.
        cells: `[rows][columns]`.
        limit: the absolute value with the darkest shade.
        labels: what rows and columns are.
        cell: width and height of a cell.
    """
    wide, high = cell
    left = max(row_names(rows), text_width(labels[0]) + 8)
    lines = max(map(len, columns))
    top = 14 * lines + 8 + (16 if labels[1] else 0)
    width = max(left + wide * len(columns) + 2, left + text_width(labels[1]))
    parts = []
    if labels[1]:
        parts.append(_text(left, 12, labels[1], class_="axis"))
    if labels[0]:
        parts.append(_text(left - 8, top - 8, labels[0], "end", "axis"))
    for number, column in enumerate(columns):
        x = left + wide * (number + 0.5)
        for depth, line in enumerate(column):
            y = top - 8 - 14 * (len(column) - 1 - depth)
            parts.append(_text(x, y, fitted(line, wide - 2), "middle", "tick"))
    for number, (name, row) in enumerate(zip(rows, cells, strict=True)):
        y = top + high * number
        if name:
            parts.append(_text(left - 8, y + high / 2 + 4, fitted(name, left - 8), "end"))
        for column, one in enumerate(row):
            parts.extend(_drawn_cell(one, left + wide * column, y, wide, high, limit))
    return _svg(key, title, description, width, top + high * len(rows) + 2, parts)


def row_names(names: Sequence[str]) -> float:
    """The width of the names of a heat map's rows; longer ones are cut."""
    return min(max(map(text_width, names)), 130) + 8


def _hatch(x: float, y: float, wide: float, high: float) -> Markup:
    """Diagonal lines over a box. A pattern would make files of printed pages large."""
    words, at = [], HATCH / 2
    while at < wide + high:
        start, stop = (min(at, wide), max(0.0, at - wide)), (max(0.0, at - high), min(at, high))
        words.append(f"M{x + start[0]:.1f} {y + start[1]:.1f}L{x + stop[0]:.1f} {y + stop[1]:.1f}")
        at += HATCH
    return element("path", d="".join(words), class_="hatch")


def _drawn_cell(
    one: Cell, x: float, y: float, wide: float, high: float, limit: float
) -> list[Markup]:
    box = {"x": x + 1.0, "y": y + 1.0, "width": wide - 2.0, "height": high - 2.0}
    parts = [element("rect", class_="cell", **box)]
    if one.value is not None:
        shade = 0.55 * min(abs(one.value) / limit, 1.0) if limit else 0.0
        sign = "negative" if one.value < 0 else "positive"
        parts.append(element("rect", class_=sign, fill_opacity=f"{shade:.2f}", **box))
        if one.value < 0 and shade > 0.02:
            parts.append(_hatch(x + 1, y + 1, wide - 2, high - 2))
    if one.marked:
        parts.append(element("rect", class_="marked", **box))
    if one.text:
        middle = x + wide / 2, y + high / 2 + 4
        halo = element(
            "text", one.text, x=middle[0], y=middle[1], text_anchor="middle", class_="halo"
        )
        parts.append(halo)
    return parts


# --- predictions against truth --------------------------------------------------------------------


def scatter_chart(
    key: str,
    title: str,
    description: str,
    points: Sequence[tuple[float, float]],
    means: Sequence[tuple[float, float]],
    labels: tuple[str, str],
) -> Markup:
    """True values against predicted ones, the line where they are equal, and means of bands."""
    values = [value for point in (*points, *means) for value in point]
    scale_ticks = ticks(min(values), max(values), 5)
    span = scale_ticks[0], scale_ticks[-1]
    axes = _axes(span, span, labels, height=WIDTH, right=14, steps=5)
    x, y = axes.x, axes.y
    equal = _line(x(span[0]), y(span[0]), x(span[1]), y(span[1]), "equal")
    dots = "".join(f"M{x(gold):.1f} {y(found):.1f}h0" for gold, found in points)
    opacity = min(max(300 / len(points), 0.15), 0.8)  # points that overlap show their density
    marks = [_mark(3, x(gold), y(found), 4.5) for gold, found in means]
    note = _text(x(span[1]) - 4, y(span[0]) - 8, "dashed: predicted = true", "end", "tick")
    drawn = element("path", d=dots, class_="dots", stroke_opacity=f"{opacity:.2f}")
    parts = [*axes.parts, equal, drawn, *marks, note]
    return _svg(key, title, description, WIDTH, WIDTH, parts)


def band_chart(
    key: str,
    title: str,
    description: str,
    bands: Sequence[tuple[str, tuple[float, float], Sequence[int]]],
    edges: Sequence[float],
    label: str,
) -> Markup:
    """A histogram of predictions for each band of true values, one above another.

    Args:
        key: of the chart in the page.
        title: what it shows.
        description: the same at more length.
        bands: from the top: its name, where it starts and ends, and the rows in each bin.
        edges: of the bins, one more than bins.
        label: of the horizontal axis.
    """
    left = max(text_width(name) for name, _, _ in bands) + 10
    high, height = 40, 40 * len(bands) + 40
    x = _Scale(edges[0], edges[-1], left, WIDTH - 10)
    parts = []
    for number, (name, (low, top), counts) in enumerate(bands):
        base = high * (number + 1)
        box = {"x": x(low), "y": base - high + 6.0, "width": x(top) - x(low), "height": high - 6.0}
        parts.append(element("rect", class_="shade", **box))
        most = max(counts) or 1
        for (start, stop), count in zip(itertools.pairwise(edges), counts, strict=True):
            tall = (high - 10) * count / most
            if count:
                wide = max(x(stop) - x(start) - 0.6, 0.6)
                parts.append(
                    element(
                        "rect", x=x(start), y=base - tall, width=wide, height=tall, class_="bar"
                    )
                )
        parts.append(_line(left, base, WIDTH - 10, base, "frame"))
        parts.append(_text(left - 8, base - 8, name, "end"))
    scale_ticks = [t for t in ticks(edges[0], edges[-1], 5) if edges[0] <= t <= edges[-1]]
    for tick, name in zip(scale_ticks, tick_names(scale_ticks), strict=True):
        parts.append(_text(x(tick), height - 22, name, "middle", "tick"))
    parts.append(_text((left + WIDTH - 10) / 2, height - 6, label, "middle", "axis"))
    return _svg(key, title, description, WIDTH, height, parts)


def reliability_chart(
    key: str, title: str, description: str, bins: Sequence[Bin], labels: tuple[str, str]
) -> Markup:
    """Share of right predictions over confidence, and below it the rows of each bin."""
    strip = 46
    axes = _axes((0, 1), (0, 1), labels, height=300, right=14)
    x, y = axes.x, axes.y
    parts = [*axes.parts, _line(x(0), y(0), x(1), y(1), "equal")]
    for one in bins:
        at = x(one.confidence)
        parts.append(_line(at, y(one.confidence), at, y(one.accuracy), "gap"))
    path = "L".join(f"{x(b.confidence):.1f} {y(b.accuracy):.1f}" for b in bins)
    parts.append(element("path", d=f"M{path}", class_="line s1"))
    parts.extend(_mark(0, x(b.confidence), y(b.accuracy), 4) for b in bins)
    parts.append(_text(x(1) - 2, y(0) - 8, "dashed: calibrated", "end", "tick"))
    base, most = 300 + strip + 6, max(b.rows for b in bins)
    for one in bins:
        tall = max(strip * 0.75 * one.rows / most, 1.0)
        parts.append(
            element(
                "rect", x=x(one.confidence) - 5, y=base - tall, width=10.0, height=tall,
                class_="bar",
            )
        )  # fmt: skip
    parts.append(_line(x(0), base, x(1), base, "frame"))
    parts.append(_text(0, base - strip + 6, f"rows in each bin (most: {most:,})", class_="axis"))
    return _svg(key, title, description, WIDTH, base + 4, parts)
