"""Fixtures of the tests of the documentation."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def docs_script(monkeypatch) -> Callable[[str], ModuleType]:
    """Imports a script of docs/, which imports its neighbours as if it were run."""
    monkeypatch.syspath_prepend(str(DOCS))

    def load(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load
