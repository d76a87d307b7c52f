"""The page: it parses, loads nothing, and shows what the data says as text."""

import re

import pytest
from tests.report.conftest import ATTACKS, CLASSES, FOLDER, STAGE
from tests.report.helpers import Page

from comity.report.figures import visible
from comity.report.write import write_report

TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "nav", "section", "footer",
    "h1", "h2", "h3", "p", "ul", "li", "a", "strong", "figure", "figcaption", "details", "summary",
    "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "pre", "code", "dl", "dt", "dd",
    "svg", "desc", "text", "path", "line", "rect", "circle",
}  # fmt: skip
"""Every element that a page may have: there is no script, picture, form or frame."""


@pytest.fixture(scope="module")
def html(every_run, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("page")
    write_report([every_run.path], out)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_has_only_known_elements(page):
    assert {tag for tag, _ in page.tags} == TAGS - {"strong"}  # there is no warning
    handlers = [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert not handlers
    assert not [1 for _, attributes in page.tags if "style" in attributes]
    assert len(page.named("h1")) == 1


def test_nothing_is_loaded(html, page):
    links = [a["href"] for _, a in page.tags if "href" in a]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(links) > 5
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not [1 for _, a in page.tags if {"src", "srcset", "data", "action"} & set(a)]
    (style,) = re.findall(r"<style>(.*?)</style>", html, flags=re.S)
    assert "url(" not in style
    assert "@import" not in style
    policies = [a["content"] for a in page.named("meta") if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_chart_is_described(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    charts = page.named("svg")
    assert len(charts) > 20
    for chart in charts:
        assert chart["role"] == "img"
        assert set(chart["aria-labelledby"].split()) <= set(ids)
    assert len(page.named("figure")) == len(page.named("details")) == len(charts)


@pytest.mark.parametrize("text", [*ATTACKS, *CLASSES, STAGE])
def test_what_the_data_says_is_text(page, text):
    assert " ".join(visible(text).split()) in page.text


def test_names_of_files_and_folders_are_text(page):
    assert "train <u>&.csv" in page.text
    assert FOLDER in page.text


def test_control_and_direction_characters_are_escapes(html, page):
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "colour \\x1b[31mred\\x1b[0m bell \\x07" in page.text
    assert "right to left \\u202e evil" in page.text
    assert "\U0001f468\u200d\U0001f469" in page.text  # a joiner is part of an emoji


def test_texts_have_a_direction_of_their_own(page):
    cells = page.named("td")
    assert cells
    assert all(cell.get("dir") == "auto" for cell in cells)


def test_light_dark_print_and_phones(html):
    for rule in (
        "@media screen and (prefers-color-scheme: dark)",
        "@media print",
        "@media (max-width: 40rem)",
    ):
        assert rule in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_enough_contrast(html):
    """WCAG 2.1, level AA: 4.5 for text, 3 for what charts are drawn with."""
    palettes = re.findall(r":root \{(.*?)\}", html, flags=re.S)
    assert len(palettes) == 2
    for palette in palettes:
        colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", palette))

        def contrast(name: str, behind: str, colours=colours) -> float:
            pair = sorted(luminance(colours[each]) for each in (name, behind))
            return (pair[1] + 0.05) / (pair[0] + 0.05)

        for name in ("ink", "quiet", "link", "warn"):
            assert contrast(name, "page") >= 4.5, name
        assert contrast("ink", "panel") >= 4.5
        for number in range(1, 7):
            assert contrast(f"s{number}", "page") >= 3
