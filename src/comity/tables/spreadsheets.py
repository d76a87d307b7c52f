"""Protects cells of delimited text that a spreadsheet would run as a formula, and reads them back.

A cell that begins with =, +, -, @, a tab or a carriage return gets an apostrophe in front (OWASP,
"CSV Injection"), unless it is a plain number. A text that already looks like a protected cell gets
one more, so that reading removes exactly what writing added.
"""

import re

MARK = "'"

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?\Z|[+-]?(?i:inf|infinity|nan)\Z"
)


def protected(text: str) -> str:
    """A text as a cell that no spreadsheet runs.

    >>> protected("=1+2"), protected("-0.25"), protected("'=1+2"), protected("'quoted")
    ("'=1+2", '-0.25', "''=1+2", "'quoted")
    """
    return MARK + text if _is_formula(text) else text


def unprotected(cell: str) -> str:
    """The text that `protected` was given.

    >>> unprotected("'=1+2"), unprotected("''=1+2"), unprotected("'quoted")
    ('=1+2', "'=1+2", "'quoted")
    """
    return cell[1:] if cell[:1] == MARK and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return bool(_FORMULA.match(text)) and not _NUMBER.match(text.lstrip(MARK))
