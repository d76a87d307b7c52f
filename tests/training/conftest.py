"""Data that most tests of training use."""

from pathlib import Path

import pytest
from tests.helpers import write_two_tasks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of two small tasks; see `write_two_tasks`."""
    folder = tmp_path_factory.mktemp("data")
    write_two_tasks(folder)
    return folder
