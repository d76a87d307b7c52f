"""What the scripts that draw pictures share: colours, text and the document."""

from collections.abc import Sequence
from html import escape

# A solid light background keeps the pictures readable on dark pages.
BACKGROUND, INK, PALE, STRONG = "#f6f6f3", "#22262b", "#8b9299", "#14506e"


def text(
    x: float,
    y: float,
    content: str,
    size: int,
    *,
    bold: bool = False,
    anchor: str = "start",
    font: str = "sans-serif",
) -> str:
    """One line of text. `anchor` says which part of it is at x: "start", "middle" or "end"."""
    more = "" if anchor == "start" else f' text-anchor="{anchor}"'
    more += ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{font}" font-size="{size}" fill="{INK}"{more}>'
        f"{escape(content)}</text>"
    )


def arrow_head(name: str, colour: str) -> str:
    """The marker at the end of an arrow; lines name it as `url(#name)`."""
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="10" '
        'markerHeight="10" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0,0 L10,5 L0,10 z" fill="{colour}"/></marker>'
    )


def document(
    width: int, height: int, title: str, parts: Sequence[str], definitions: Sequence[str] = ()
) -> str:
    """The SVG document."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            *(["<defs>", *definitions, "</defs>"] if definitions else []),
            f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )
