"""Numbers, counts and durations as text."""

import pytest

from comity.format import clock, or_dash, plural


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12345, "12,345 rows")],
)
def test_a_noun_agrees_with_its_count(count, text):
    assert plural(count, "row") == text


def test_an_irregular_plural():
    assert [plural(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


def test_a_missing_number_is_a_dash():
    assert (or_dash(None), or_dash(0.0), or_dash(1234, ",")) == ("-", "0.0000", "1,234")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3661, "1 h 01 min"),
    ],
)
def test_durations(seconds, text):
    assert clock(seconds) == text
