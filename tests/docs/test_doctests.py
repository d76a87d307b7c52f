"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import comity

PACKAGE = Path(comity.__file__).parent


def modules_with_examples() -> list[str]:
    paths = (p for p in PACKAGE.rglob("*.py") if ">>> " in p.read_text(encoding="utf-8"))
    return sorted(".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in paths)


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0  # the output above shows what differs


def test_there_are_examples():
    assert len(modules_with_examples()) > 10
