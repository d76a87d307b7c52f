"""docs/export.md: every command and every block of code runs, on a part of the demo."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.export import hub
from tests.helpers import write_small_demo

from comity.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "export.md"


def blocks() -> list[tuple[str, str]]:
    """The language and the content of each block, in the order of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines]
    assert all(line[0] == "comity" for line in words)
    return [line[1:] for line in words]


@pytest.fixture
def folder(tmp_path, tiny_checkpoint, monkeypatch) -> Path:
    """The working directory of a reader: a recipe, its data, and a file with new texts."""
    monkeypatch.chdir(tmp_path)
    write_small_demo(tmp_path, tiny_checkpoint)
    (tmp_path / "new.csv").write_text("text\nNever again.\n", encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_every_block_runs(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        for number, (language, block) in enumerate(blocks()):
            if language == "sh":
                for command in commands(block):
                    assert main(command) == 0, command
            else:
                script = folder / f"block-{number}.py"
                script.write_text(block, encoding="utf-8")
                runpy.run_path(str(script))
    # What the page says.
    assert server.created[0] == {"name": "model", "organization": "name", "visibility": "private"}
    assert server.branches == ["second-try"]
    cards = {path.name for path in (folder / "exported" / "comity").iterdir()}
    assert cards - {path.name for path in (folder / "exported" / "from-python").iterdir()} == {
        "README.md",
        "export.json",
    }


def test_there_are_blocks():
    assert len(blocks()) > 6
