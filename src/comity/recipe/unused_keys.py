"""Reports keys that a user set although they have no effect."""

from collections.abc import Callable, Iterable

from comity.recipe.schema import Section

Report = Callable[[str, str], None]
"""Takes the full key, such as "tasks.mood.label", and what is wrong with it."""

Unused = Iterable[tuple[str, bool, str]]
"""Keys of one table: key, whether it would have no effect, and why."""

NO_EFFECT = "has no effect here"
"""How each problem begins that `report_no_effect` reports."""


def report_unused(section: Section, path: str, table: Unused, report: Report) -> None:
    """Report each key of `table` that the user set although it has no effect."""
    for key, reason in {key: reason for key, unused, reason in table if unused}.items():
        if section.sets(key):
            report_no_effect(f"{path}.{key}", reason, report)


def report_no_effect(key: str, reason: str, report: Report) -> None:
    """Report one key, given in full."""
    report(key, f"{NO_EFFECT} ({reason}); remove it")
