"""The settings of the documentation site, which `make docs` builds."""

import re
from importlib.metadata import version as version_of

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Comity"
author = copyright = "The Comity founders"
release = version_of("comity")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["results", "scores"]
highlight_language = "none"
smartquotes = False  # would turn `--set` outside of code into a dash

html_theme = "furo"
html_title = f"Comity {release}"
html_static_path = ["static"]
html_css_files = ["comity.css"]
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 4

default_role = "code"  # docstrings have single backticks, as in Markdown
autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"exclude-members": "__init__, __new__"}
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

_PAGE = re.compile(r"^- \[([^]]+)\]\(([\w-]+)\.(?:md|rst)\)", re.MULTILINE)
_OUTSIDE = re.compile(r"\[[^]]+\]\(\.\./([^)]+)\)")


def adapt_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Name files outside of docs/ instead of linking them, and add the navigation to index.md."""
    source[0] = _OUTSIDE.sub(r"`\1`", source[0])
    if name == "index":
        source[0] += navigation(source[0])


def navigation(index: str) -> str:
    """The navigation of the site: the lists of links in index.md, each with its heading."""
    parts = re.sub(r"<!--.*?-->", "", index, flags=re.DOTALL).split("\n## ")[1:]
    trees = []
    for part in parts:
        caption, pages = part.partition("\n")[0], _PAGE.findall(part)
        if pages:
            lines = "\n".join(f"{title} <{page}>" for title, page in pages)
            trees.append(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n")
    return "".join(trees)


def adapt_tree(app: Sphinx, page: nodes.document) -> None:
    """Wrap printed messages, but not tables; write a dash between a parameter and its meaning."""
    for block in page.findall(nodes.literal_block):
        if block.get("language") == "text" and "\u2502" not in block.astext():
            block["classes"].append("wrap")
    for text in list(page.findall(nodes.Text)):
        if text == " -- " and text.parent is not None:
            text.parent.replace(text, nodes.Text(": "))


def mark_example(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Show the indented lines below `Example:` in a docstring as code."""
    if "Example:" in lines:
        at = lines.index("Example:")
        lines[at : at + 1] = ["Example::", ""]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", adapt_page)
    app.connect("doctree-read", adapt_tree)
    app.connect("autodoc-process-docstring", mark_example, priority=400)  # before napoleon
