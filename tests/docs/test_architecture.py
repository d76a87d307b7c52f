"""docs/architecture.md: the picture is up to date, packages are complete, and paths exist."""

import re
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "comity"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "data-flow.svg"


def packages():
    """The package directories of the project that have at least one module."""
    folders = (path.parent for path in SOURCES.rglob("*.py") if path.name != "__init__.py")
    return {folder.name for folder in folders if folder != SOURCES}


def section(title):
    """The text of one section of the page."""
    return PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_picture_is_what_the_script_draws(docs_script):
    written = PICTURE.read_text(encoding="utf-8")
    assert written == docs_script("draw_architecture").picture(), (
        "run: python docs/draw_architecture.py"
    )


def test_the_picture_names_packages_that_exist():
    texts = [element.text or "" for element in ElementTree.parse(PICTURE).iter()]
    named = {text.removesuffix("/") for text in texts if text.endswith("/")}
    assert len(named) > 5
    assert named <= packages()


def test_the_table_of_packages_is_complete():
    first_cells = [line.split("|")[1] for line in section("Packages").splitlines() if "|" in line]
    named = re.findall(r"`(\w+)/`", "".join(first_cells))
    assert sorted(named) == sorted(packages())


def test_every_path_on_the_page_exists():
    text = PAGE.read_text(encoding="utf-8")
    links = [PAGE.parent / target for target in re.findall(r"\]\(([^)#:]+)\)", text)]
    names = re.findall(r"`([\w./-]+(?:\.py|\.md|/))`", text)
    assert len(names) > 30
    missing = [str(link) for link in links if not link.exists()]
    missing += [name for name in names if not ((SOURCES / name).exists() or (ROOT / name).exists())]
    assert not missing
