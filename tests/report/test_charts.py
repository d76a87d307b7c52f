"""Charts: positions by hand, marks that do not depend on colour, and long or odd names."""

import itertools
import math
import re

import pytest
from tests.report.helpers import Page

from comity.report.charts import (
    Bin,
    Cell,
    Series,
    Whisker,
    bar_chart,
    element,
    fitted,
    heat_map,
    interval_chart,
    line_chart,
    reliability_chart,
    scatter_chart,
    text_width,
    tick_names,
    ticks,
)

LABELS = ("step", "loss")


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def lines_of(page: Page) -> list[dict[str, str]]:
    return [a for a in page.named("path") if a.get("class", "").startswith("line")]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.0134, 0.0219), (-3, 7), (0, 1e9), (5, 5), (-1e-7, 1e-7), (0, 0)]
)
def test_ticks_cover_the_range_with_few_round_numbers(low, high):
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = {b - a for a, b in itertools.pairwise(found)}
    assert max(steps) == pytest.approx(min(steps))
    (digits,) = {f"{max(steps):e}".split("e")[0].rstrip("0").rstrip(".")}
    assert digits in ("1", "2", "2.5", "5")


def test_tick_names_differ():
    for values in ([0.1, 0.15, 0.2], [1e-9, 2e-9], [0, 5e8]):
        assert len(set(tick_names(values))) == len(values)


def test_a_line_is_where_its_values_are():
    line = Series("a", [(0, 0.0), (50, 1.0), (100, 0.5)])
    page = Page(line_chart("k", "title", "description", [line], LABELS))
    (drawn,) = lines_of(page)
    (x0, y0), (x1, y1), (x2, y2) = points_of(drawn["d"])
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.3)  # up is less
    assert "description" in page.text


def test_a_missing_value_is_a_gap():
    line = Series("a", [(0, 0.0), (1, None), (2, 1.0), (3, 2.0)])
    (drawn,) = lines_of(Page(line_chart("k", "t", "d", [line], LABELS)))
    assert drawn["d"].count("M") == 2
    assert drawn["d"].count("L") == 1


def test_lines_differ_without_colour():
    series = [Series(f"line {n}", [(0, n), (1, n + 0.5)]) for n in range(6)]
    page = Page(line_chart("k", "t", "d", series, LABELS))
    assert len({line.get("stroke-dasharray") for line in lines_of(page)}) == 6
    for number in range(6):
        assert f"line {number}" in page.text


def test_names_at_the_ends_do_not_overlap():
    series = [Series(f"name {n}", [(0, n), (1, 1.0)]) for n in range(5)]
    chart = str(line_chart("k", "t", "d", series, LABELS))
    heights = [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>name', chart)]
    assert len(heights) == 5
    gaps = [b - a for a, b in itertools.pairwise(sorted(heights))]
    assert min(gaps) >= 13


def test_long_names_are_in_a_legend():
    series = [Series("a name of many words " + letter, [(0, 1.0), (1, 2.0)]) for letter in "ab"]
    page = Page(line_chart("k", "t", "d", series, LABELS))
    assert len(lines_of(page)) == 4  # two lines and two samples
    assert "a name of many words b" in page.text


@pytest.mark.parametrize("text", ["short", "a much longer name than that", "日本語の名前です"])
def test_a_fitted_text_fits(text):
    found = fitted(text, 60)
    assert text_width(found) <= 60 or found == "…"
    assert found == text or found.endswith("…")


def test_elements_escape_text_and_attributes():
    made = str(element("text", '<a> & "b"', x=1.0, aria_label='"><script>'))
    assert made == (
        '<text x="1" aria-label="&#34;&gt;&lt;script&gt;">&lt;a&gt; &amp; &#34;b&#34;</text>'
    )


def test_negative_cells_are_hatched_and_marked_ones_have_a_border():
    cells = [[Cell(-0.5, "−0.50", True), Cell(0.5, "0.50")], [Cell(None, "–"), Cell(-0.01)]]
    page = Page(heat_map("k", "t", "d", ["a", "b"], [["x"], ["y", "z"]], cells, 1.0))
    classes = [a.get("class") for tag, a in page.tags if tag in ("rect", "path")]
    assert classes.count("hatch") == 1  # not the one that is nearly 0
    assert classes.count("marked") == 1
    assert classes.count("negative") == 2
    shades = [float(a["fill-opacity"]) for a in page.named("rect") if "fill-opacity" in a]
    assert shades == pytest.approx([0.275, 0.275, 0.0055], abs=0.006)


def test_the_hatch_stays_in_its_cell():
    page = Page(heat_map("k", "t", "d", ["a"], [["x"]], [[Cell(-1.0)]], 1.0))
    (box,) = (a for a in page.named("rect") if a.get("class") == "negative")
    (hatch,) = (a for a in page.named("path") if a.get("class") == "hatch")
    x, y, wide, high = (float(box[name]) for name in ("x", "y", "width", "height"))
    for at_x, at_y in points_of(hatch["d"]):
        assert x - 0.1 <= at_x <= x + wide + 0.1
        assert y - 0.1 <= at_y <= y + high + 0.1


def test_whiskers_have_the_width_of_their_interval():
    rows = [Whisker("one", 0.5, 0.4, 0.6, "0.500"), Whisker("two", 0.7, None, None, "0.700")]
    page = Page(interval_chart("k", "t", "d", rows, "accuracy"))
    (line,) = (a for a in page.named("line") if a["class"] == "line s1" and a["x1"] != a["x2"])
    (mark,) = page.named("circle")
    middle = (float(line["x1"]) + float(line["x2"])) / 2
    assert float(mark["cx"]) == pytest.approx(middle, abs=0.1)


def test_bars_are_as_long_as_their_values():
    page = Page(bar_chart("k", "t", "d", [("a", 10.0, "10"), ("b", 5.0, "5"), ("c", 0.0, "0")]))
    first, second, third = (float(bar["width"]) for bar in page.named("rect"))
    assert first == pytest.approx(2 * second, abs=0.2)
    assert third < 1


def test_points_on_the_diagonal_are_on_the_dashed_line():
    page = Page(scatter_chart("k", "t", "d", [(1.0, 1.0), (2.0, 2.0)], [], ("x", "y")))
    (equal,) = (a for a in page.named("line") if a["class"] == "equal")
    x1, y1, x2, y2 = (float(equal[name]) for name in ("x1", "y1", "x2", "y2"))
    (dots,) = (a for a in page.named("path") if a.get("class") == "dots")
    for x, y in points_of(dots["d"]):
        assert (y - y1) * (x2 - x1) == pytest.approx((y2 - y1) * (x - x1), abs=60)


def test_a_calibrated_bin_is_on_the_dashed_line():
    bins = [Bin(0.2, 0.2, 10), Bin(0.8, 0.6, 40)]
    page = Page(reliability_chart("k", "t", "d", bins, ("x", "y")))
    gaps = [a for a in page.named("line") if a["class"] == "gap"]
    lengths = [abs(float(a["y1"]) - float(a["y2"])) for a in gaps]
    assert lengths[0] == 0
    assert lengths[1] > 20
    bars = [float(a["height"]) for a in page.named("rect") if a["class"] == "bar"]
    assert bars[1] == pytest.approx(4 * bars[0], rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1e-12, -1e9, 123456.789])
def test_one_value_makes_a_chart(value):
    chart = str(line_chart("k", "t", "d", [Series("a", [(3, value)])], LABELS, kept=3))
    assert "nan" not in chart
    assert "inf" not in chart
    assert not math.isnan(float(re.findall(r'cx="([-\d.]+)"', chart)[0]))
