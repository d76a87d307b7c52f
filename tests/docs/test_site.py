"""The documentation site: every page is in its navigation, and it builds without a warning."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_every_page_is_listed_once():
    """The navigation is made of the links in index.md."""
    text = re.sub(r"<!--.*?-->", "", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.S)
    listed = re.findall(r"^- \[[^]]+\]\(([\w-]+\.\w+)\)", text, flags=re.MULTILINE)
    pages = [p.name for p in (*DOCS.glob("*.md"), *DOCS.glob("*.rst")) if p.name != "index.md"]
    assert sorted(listed) == sorted(pages)


class Loaded(HTMLParser):
    """Collects what a page loads, and the targets of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"script": "src", "img": "src", "link": "href"}.get(tag)
        self.addresses += [value for name, value in attrs if name == wanted and value]


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "site")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.stem: path for path in (tmp_path / "site").glob("*.html")}
    sources = {path.stem for path in (*DOCS.glob("*.md"), *DOCS.glob("*.rst"))}
    assert sources <= set(pages)
    for path in pages.values():
        found = Loaded()
        found.feed(path.read_text(encoding="utf-8"))
        assert found.addresses
        outside = [a for a in found.addresses if re.match(r"(https?:)?//", a)]
        assert not outside, path.name
        files = [a.partition("?")[0].partition("#")[0] for a in found.addresses]
        missing = [f for f in files if not f.startswith("data:") and not (path.parent / f).exists()]
        assert not missing, path.name
    # The search works from a folder: its index is a script, and knows the words of a docstring.
    index = (tmp_path / "site" / "searchindex.js").read_text(encoding="utf-8")
    words = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))
    assert "gramian" in words["terms"]
    api = pages["api"].read_text(encoding="utf-8")
    for name in ("comity.train", "comity.load", "comity.Model.predict", "comity.Recipe.load"):
        assert f'id="{name}"' in api
