"""docs/surgery.md: the picture is up to date, and its numbers are those of the balancer."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from comity.training.balancers import pcgrad

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "surgery.md").read_text(encoding="utf-8")


@pytest.fixture
def drawing(docs_script) -> ModuleType:
    """The script that draws the picture."""
    return docs_script("draw_surgery")


def numbers(sentence: str) -> list[float]:
    """The numbers in the words of a sentence that the page has, whatever its line breaks."""
    pattern = r"\s+".join(
        re.escape(word).replace("\\#", r"(-?[\d.]*\d)") for word in sentence.split()
    )
    found = re.search(pattern, PAGE)
    assert found is not None, sentence
    return [float(number) for number in found.groups()]


def test_the_picture_is_what_the_script_draws(drawing):
    written = (DOCS / "images" / "surgery.svg").read_text(encoding="utf-8")
    assert written == drawing.picture(), "run: python docs/draw_surgery.py"


def test_the_picture_and_the_page_show_what_pcgrad_does(drawing):
    first, second = drawing.FIRST, drawing.SECOND
    assert numbers("g₁ = (#, #) and g₂ = (#, #), with an inner product of #.") == [
        *first,
        *second,
        drawing.inner(first, second),
    ]
    gradients = torch.tensor([first, second], dtype=torch.float64)
    weights, _ = pcgrad(gradients @ gradients.T, [[1], [0]], {})
    result = weights @ gradients
    drawn = drawing.added(drawing.projected(first, second), drawing.projected(second, first))
    assert result.tolist() == pytest.approx(drawn)
    plain = gradients.sum(0)
    assert [*plain.tolist(), float(plain @ gradients[1])] == pytest.approx(
        numbers("Their sum (#, #) has the inner product # with g₂")
    )
    assert [*result.tolist(), *(gradients @ result).tolist()] == pytest.approx(
        numbers("the sum is (#, #), whose inner products with g₁ and g₂ are # and #.")
    )


def test_projections_are_at_right_angles(drawing):
    first, second = drawing.FIRST, drawing.SECOND
    assert drawing.inner(drawing.projected(first, second), second) == pytest.approx(0)
    assert drawing.inner(drawing.projected(second, first), first) == pytest.approx(0)
