"""Numbers, counts and durations as text."""


def or_dash(value: float | None, form: str = ".4f") -> str:
    """The number in the format `form`, or a dash for None."""
    return "-" if value is None else format(value, form)


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun; `plural_noun` is needed only where adding "s" is wrong.

    >>> plural(1, "evaluation"), plural(2000, "row"), plural(2, "class", "classes")
    ('1 evaluation', '2,000 rows', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def clock(seconds: float) -> str:
    """A duration as people write it.

    >>> clock(75), clock(3.2), clock(7300)
    ('1 min 15 s', '3 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
