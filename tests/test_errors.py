"""Lists of errors: what is shown and what is counted."""

import pytest

from comity.errors import ComityError, ErrorList


def messages(errors: ErrorList) -> list[str]:
    with pytest.raises(ComityError) as caught:
        errors.check()
    return caught.value.messages


def test_errors_past_the_limit_are_counted():
    errors = ErrorList(limit=2)
    errors.check()
    for number in range(4):
        errors.add(f"error {number}")
        errors.add(f"error {number}")  # the same again
    assert messages(errors) == ["error 0", "error 1", "and 2 more errors"]
    errors.skip(3)
    assert messages(errors)[-1] == "and 5 more errors"
    one = ErrorList(limit=1)
    one.add("a")
    one.add("b")
    assert messages(one) == ["a", "and 1 more error"]


def test_many_errors_of_one_kind_do_not_hide_the_others():
    errors = ErrorList(limit=4, limit_of_kind=2)
    for number in range(9):
        errors.add(f"row {number}", kind="row")
    errors.add("the column is missing")
    assert messages(errors) == ["row 0", "row 1", "the column is missing", "and 7 more errors"]


def test_merged_lists_count_the_errors_of_both():
    one, other = ErrorList(limit=2), ErrorList(limit=1)
    one.add("a")
    for name in "abc":
        other.add(name)
    one.merge(other)
    assert one.total == 3
    assert messages(one) == ["a", "and 2 more errors"]
