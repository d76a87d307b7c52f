"""Numbers, counts, durations and Markdown tables as text."""

import re
from collections.abc import Iterable, Sequence


def or_dash(value: float | None, form: str = ".4f") -> str:
    """A number in the format `form`, or a dash for None."""
    return "-" if value is None else format(value, form)


def p_value(p: float | None) -> str:
    """A p-value with three decimals, or a dash for None.

    >>> p_value(0.0312), p_value(0.0004)
    ('0.031', '<0.001')
    """
    return "<0.001" if p is not None and p < 0.0005 else or_dash(p, ".3f")


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun; `plural_noun` is needed only where adding "s" is wrong.

    >>> plural(1, "evaluation"), plural(2000, "row"), plural(2, "class", "classes")
    ('1 evaluation', '2,000 rows', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def some(items: Iterable[object], total: int, most: int = 10) -> str:
    """The first items of `total` as a list in a sentence.

    >>> some([2, 5, 9], 3), some([2, 5, 9], 7, most=2), some(["a"], 1)
    ('2, 5 and 9', '2, 5 and 5 more', 'a')
    """
    shown = [str(item) for item in items][:most]
    last = f"{total - len(shown):,} more" if total > len(shown) else shown.pop()
    return " and ".join(filter(None, (", ".join(shown), last)))


def missing_extra(needing: str, packages: Sequence[str], extra: str) -> str:
    """The sentence about packages of an extra that are not installed.

    >>> missing_extra("plots need", ["matplotlib"], "plots")
    'plots need matplotlib, which is not installed; run pip install "comity[plots]"'
    >>> missing_extra("the export needs", ["onnx", "onnxscript"], "onnx")
    'the export needs onnx and onnxscript, which are not installed; run pip install "comity[onnx]"'
    """
    verb = "is" if len(packages) == 1 else "are"
    return (
        f"{needing} {some(packages, len(packages))}, which {verb} not installed; "
        f'run pip install "comity[{extra}]"'
    )


def clock(seconds: float) -> str:
    """A duration in seconds, as a person reads it.

    >>> clock(75), clock(3.2), clock(7300)
    ('1 min 15 s', '3 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def precision_name(dtype: str) -> str:
    """A precision as recipes spell it.

    >>> precision_name("bfloat16"), precision_name("float32")
    ('bf16', 'float32')
    """
    return "bf16" if dtype == "bfloat16" else dtype


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], align: str = ""
) -> list[str]:
    """The lines of a Markdown table; cells are Markdown and are not escaped.

    `align` has one letter per column, "l" for left or "r" for right (all left if empty).

    >>> markdown_table(["task", "rows"], [["mood", "12"]], "lr")
    ['| task | rows |', '|---|--:|', '| mood | 12 |']
    """
    rules = {"l": "---|", "r": "--:|"}
    rule = "|" + "".join(rules[letter] for letter in align or "l" * len(header))
    return [_markdown_row(header), rule, *(_markdown_row(row) for row in rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def markdown_text(text: str) -> str:
    r"""A user's text on one line, with every character that Markdown would interpret escaped.

    >>> markdown_text("a_b | <c>")
    'a\\_b \\| \\<c\\>'
    """
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(text.split()))
