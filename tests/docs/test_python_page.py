"""docs/python.md: every block of code runs, in the order of the page, on a part of the demo."""

import re
import runpy
from pathlib import Path

import pytest
from tests.helpers import write_small_demo

import comity
from comity import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_every_block_runs(tmp_path, tiny_checkpoint, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    write_small_demo(tmp_path, tiny_checkpoint)
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks()), encoding="utf-8")
    with pytest.warns(UserWarning, match="sentiment is left out: it reads one text per row"):
        names = runpy.run_path(str(script))
    # What the comments on the page say.
    assert set(names["found"].tasks) == {"paraphrase"}
    assert Recipe.load("runs/two-tasks/recipe.toml").tasks.keys() == {"sentiment", "paraphrase"}
    with pytest.raises(comity.ComityError) as error:
        names["model"].predict("sentiment", ["Never again.", None])
    assert str(error.value.messages) in blocks()[-1]


def test_the_page_shows_every_public_name():
    code = "\n".join(blocks())
    methods = ("predict", "predict_all", "encode", "evaluate", "evaluate_all")
    for name in (*(set(comity.__all__) - {"Model"}), *methods):
        assert re.search(rf"\b{name}\b", code), name
    assert len(blocks()) > 5
