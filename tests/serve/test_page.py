"""The page in a browser: every task answers, errors are sentences, nothing is run or loaded."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serve.helpers import running

from comity.serve.app import create_app
from comity.serve.limits import Limits
from comity.tables.spreadsheets import protected

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ATTACK = '<img src=x onerror="document.title=1">'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running_playwright:
        browser = running_playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(model, run) -> Iterator[str]:
    """A server whose requests may have 3 rows."""
    limits = Limits(texts=3, characters=2000)
    with running(create_app(model, run, limits), limits) as client:
        yield f"http://127.0.0.1:{client.port}/"


@pytest.fixture
def page(browser, url) -> Iterator[Any]:
    """The page; fails on an error in its console and on a request to another site."""
    context = browser.new_context(viewport={"width": 1100, "height": 800}, accept_downloads=True)
    page = context.new_page()
    faults: list[str] = []

    def note(kind: str, text: str) -> None:
        """A browser also logs each refused request, which some tests send on purpose."""
        if kind == "error" and "server responded with a status of 422" not in text:
            faults.append(text)

    def note_foreign(address: str) -> None:
        if not address.startswith((url, "blob:")):
            faults.append(address)

    page.on("console", lambda line: note(line.type, line.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: note_foreign(request.url))
    page.goto(url)
    page.wait_for_selector("#answers .card")
    yield page
    context.close()
    assert not faults


def cards(page: Any) -> dict[str, str]:
    """What each card shows, by the name of its task."""
    found = {}
    for card in page.query_selector_all("#answers .card"):
        name, _, rest = card.inner_text().partition("\n")
        found[name] = rest
    return found


def predict(page: Any, first: str, second: str = "") -> dict[str, str]:
    page.fill("#first", first)
    page.fill("#second", second)
    page.click("#predict-button")
    page.wait_for_selector("#answers .card:not(.waiting)")
    return cards(page)


def test_every_task_answers(page, model):
    assert page.title() == "six-tasks · Comity"
    assert list(cards(page)) == model.tasks
    texts = ["the film is good", "the book is bad"]
    found = predict(page, *texts)
    assert page.query_selector(".waiting") is None
    for task in model.tasks:
        rows = texts if model.text_count(task) == 1 else [tuple(texts)]
        for prediction in model.predict(task, rows):
            for name, probability in prediction.probabilities.items():
                if task != "topic":  # shows the six highest alone
                    assert name in found[task]
                    assert f"{100 * probability:.1f}%" in found[task]
            if isinstance(prediction.label, float):
                assert f"{prediction.label:.2f}" in found[task]
    said = page.inner_text("#status")
    assert said.startswith("mood: ")
    assert "; close: " in said
    bars = "[...document.querySelectorAll('.bars .track > span')]"
    widths = page.evaluate(f"{bars}.map(bar => parseFloat(bar.style.width))")
    probabilities = model.predict("mood", "the film is good").probabilities.values()
    assert widths[:2] == pytest.approx([100 * p for p in probabilities], rel=0, abs=0.051)


def test_one_text_leaves_the_tasks_on_pairs_waiting(page):
    found = predict(page, "the film is good")
    assert "Needs a second text" in found["alike"]
    assert "Needs a second text" in found["close"]
    assert "%" in found["mood"]


def test_all_classes_can_be_shown(page):
    found = predict(page, "the film is good")
    assert found["topic"].count("%") == 6
    page.click("text=Show all 12")
    assert cards(page)["topic"].count("%") == 12


def test_what_comes_from_data_is_text(page):
    """The run has a label <b>two</b>; the text is an attack."""
    found = predict(page, ATTACK, ATTACK)
    assert "<b>two</b>" in found["tags"]
    assert page.query_selector("#answers b") is None
    page.click("#tab-rows")
    page.fill("#lines", ATTACK)
    page.click("#rows-button")
    page.wait_for_selector("#table-part:not([hidden])")
    assert page.inner_text("#table tbody td") == ATTACK
    assert page.query_selector("#table img") is None
    assert page.title() == "six-tasks · Comity"


def test_errors_are_sentences(page):
    page.click("#predict-button")
    assert page.inner_text("#predict-error") == "Type a text first."
    assert page.evaluate("document.activeElement.id") == "first"
    page.fill("#first", "a" * 2001)
    page.click("#predict-button")
    page.wait_for_selector("#predict-error:not([hidden])")
    page.wait_for_function("document.getElementById('predict-error').textContent.includes('2,000')")
    assert "has 2,001 characters, and a text can have 2,000; shorten it." in page.inner_text(
        "#predict-error"
    )


def test_errors_about_rows_name_the_line(page):
    page.click("#tab-rows")
    page.click("#rows-button")
    assert page.inner_text("#rows-error") == "There are no rows. Paste or type one per line."
    page.check('input[name="shape"][value="2"]')
    page.fill("#lines", "a\tb\n\nonly one\n")
    page.click("#rows-button")
    assert page.inner_text("#rows-error").startswith("Line 3 has one text.")
    assert page.is_hidden("#table-part")


def test_a_table_of_many_rows_and_its_downloads(page, model):
    texts = ["the film is good", "=1+2", "-0.5", "'=x", 'a "quoted", text', "soup", "the tea"]
    page.click("#tab-rows")
    page.fill("#lines", "\n\n".join(texts))
    page.click("#rows-button")  # three requests of at most three rows
    page.wait_for_selector("#table-part:not([hidden])")
    assert page.inner_text("#table-title") == "7 rows"
    assert len(page.query_selector_all("#table tbody tr")) == 7

    with page.expect_download() as download:
        page.click("#csv-button")
    content = Path(download.value.path()).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert [row["text"] for row in rows] == [protected(text) for text in texts]
    moods = model.predict("mood", texts)
    assert [row["mood_prediction"] for row in rows] == [mood.label for mood in moods]
    for row, mood in zip(rows, moods, strict=True):
        assert float(row["mood_p_up"]) == pytest.approx(mood.probabilities["up"], abs=1.1e-6)

    with page.expect_download() as download:
        page.click("#json-button")
    records = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [record["text"] for record in records] == texts
    assert [record["topic_prediction"] for record in records] == [
        topic.label for topic in model.predict("topic", texts)
    ]


def test_pairs_from_two_columns(page, model):
    pairs = [("a house", "the old house"), ("a song", "a river")]
    page.click("#tab-rows")
    page.check('input[name="shape"][value="2"]')
    page.fill("#lines", "a house\tthe old house\na song | a river")
    page.click("#rows-button")
    page.wait_for_selector("#table-part:not([hidden])")
    cells = [cell.inner_text() for cell in page.query_selector_all("#table tbody td")]
    scores = [f"{found.label:.4f}" for found in model.predict("alike", pairs)]
    assert cells[:3] == [*pairs[0], scores[0]]
    assert scores[1] in cells


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-predict"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-rows"
    assert page.is_visible("#lines")
    page.keyboard.press("ArrowRight")  # past the last one
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "first"
    page.keyboard.type("the film is good")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answers .card:not(.waiting)")


def test_every_field_has_a_label_and_the_page_fits_a_phone(browser, url):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#answers .card")
    predict(page, "the film is good", "a book")
    for tab in ("#tab-predict", "#tab-rows"):
        page.click(tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('textarea, input')].filter(f => !f.labels.length).length"
    )
    assert unlabelled == 0
    context.close()


def test_the_report_has_a_tab_if_there_is_one(page, run, url):
    assert page.is_hidden("#tab-report")
    (run / "report.html").write_text("<h1>Scores</h1><style>h1 {color: red}</style>")
    try:
        page.goto(url + "#report")
        page.reload()
        page.wait_for_selector("iframe")
        frame = page.frame_locator("iframe")
        assert frame.locator("h1").inner_text() == "Scores"
    finally:
        (run / "report.html").unlink()


def test_a_server_that_is_gone_is_a_sentence(browser, model, run):
    context = browser.new_context()
    page = context.new_page()
    with running(create_app(model, run)) as client:
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.wait_for_selector("#answers .card")
    page.fill("#first", "the film is good")
    page.click("#predict-button")
    page.wait_for_selector("#predict-error:not([hidden])")
    sentence = "The server does not answer. Check that comity serve is running."
    assert page.inner_text("#predict-error") == sentence
    context.close()
