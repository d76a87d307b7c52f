"""Cells that a spreadsheet would run: which are protected, and that any text is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.tables.spreadsheets import protected, unprotected


@pytest.mark.parametrize("text", ["=1+2", "+44 is", "-5 degrees", "@home", "\t=2", "\rx", "-", "+"])
def test_formulas_are_protected(text: str):
    assert protected(text) == "'" + text


@pytest.mark.parametrize(
    "text",
    ["", "a=b", "'quoted", "-5", "+5", "-0.25", "-.5", "-5.", "-3,5", "+1e-05", "-inf", "-nan"],
)
def test_numbers_and_other_texts_are_not(text: str):
    assert protected(text) == text
    assert unprotected(text) == text


@pytest.mark.parametrize("text", ["-5\n", "-5 ", "--5", "-1-1", "-5;=1", "-1.2.3", "+1e", "-１"])
def test_what_only_begins_like_a_number_is_protected(text: str):
    assert protected(text) == "'" + text


@given(st.text(st.sampled_from("'=+-@\t\r\n1.,ea ")) | st.text())
def test_any_text_is_read_back(text: str):
    cell = protected(text)
    assert unprotected(cell) == text
    if cell[:1] in tuple("=+-@\t\r"):
        float(cell.replace(",", "."))  # a number


def test_a_text_that_looks_protected_is_read_back():
    for text in ("'=1+2", "''=1+2", "'@sum", "'quoted", "'-5"):
        assert unprotected(protected(text)) == text
    assert protected("'=1+2") == "''=1+2"
