"""Numbers and durations as text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def or_dash(value: float | None, form: str = ".4f") -> str:
    """A number as `form` has it, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def clock(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> clock(75), clock(3.2), clock(7300)
    ('1 min 15 s', '3 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
