"""Errors that the user can fix, collected and reported together."""

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn


class ComityError(Exception):
    """One or more errors that the user can fix.

    Each of `messages` is one sentence: what is wrong, where, and what to do. The command line
    prints them without a traceback.
    """

    def __init__(self, *messages: str):
        super().__init__("\n".join(messages))
        self.messages = list(messages)


class ErrorList:
    """Collects errors so that the user sees all of them (up to `limit`), not only the first.

    >>> errors = ErrorList(limit=2)
    >>> for line in (2, 5, 9):
    ...     errors.add(f"data.csv:{line}: the label is empty; fill it in")
    >>> errors.total
    3
    """

    def __init__(self, limit: int = 20, limit_of_kind: int = 5):
        self.limit = limit
        self.limit_of_kind = limit_of_kind
        self._messages: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._seen: set[int] = set()  # hashes: messages past the limit are counted once too
        self._skipped = 0

    @property
    def total(self) -> int:
        """The number of different errors, including those past the limit."""
        return len(self._seen) + self._skipped

    def __bool__(self) -> bool:
        return self.total > 0

    def add(self, message: str, kind: str | None = None) -> None:
        """Add one error; past the limit it is only counted.

        Errors of one `kind`, such as rows that all lack a field, have a lower limit, so that they
        do not hide other errors.
        """
        if hash(message) in self._seen:
            return
        self._seen.add(hash(message))
        if kind is not None:
            self._kinds[kind] += 1
            if self._kinds[kind] > self.limit_of_kind:
                return
        if len(self._messages) < self.limit:
            self._messages.append(message)

    def skip(self, count: int) -> None:
        """Count errors past the limit whose messages would take long to write."""
        self._skipped += count

    def extend(self, error: ComityError) -> None:
        """Add the messages of an error that was raised elsewhere."""
        for message in error.messages:
            self.add(message)

    def merge(self, other: "ErrorList") -> None:
        """Add the errors of another list; those past its limit are counted."""
        for message in other._messages:
            self.add(message)
        self._seen |= other._seen
        self._skipped += other._skipped

    def stop(self) -> NoReturn:
        """Raise all errors as one `ComityError`."""
        hidden = self.total - len(self._messages)
        more = [f"and {hidden:,} more {'error' if hidden == 1 else 'errors'}"] if hidden else []
        raise ComityError(*self._messages, *more)

    def check(self) -> None:
        """Raise all errors as one `ComityError`, if there are any."""
        if self:
            self.stop()


def nearest(word: Any, known: Iterable[Any]) -> str:
    """A suggestion that ends a message, or "" if no known name is close.

    >>> nearest("trian", ["train", "dev"])
    '; did you mean "train"?'
    >>> nearest("pgrad", ["pcgrad", "upgrad", "mgda"])  # both are as close
    '; did you mean "pcgrad" or "upgrad"?'
    >>> nearest("zebra", ["train", "dev"])
    ''
    """
    names = {str(name).casefold(): str(name) for name in known}
    close = difflib.get_close_matches(str(word).casefold(), names, n=2, cutoff=0.6)
    if not close:
        return ""
    best, *others = close
    tied = [name for name in others if _likeness(name, word) == _likeness(best, word)]
    return did_you_mean([names[name] for name in sorted([best, *tied])])


def did_you_mean(names: Iterable[str]) -> str:
    """A suggestion that ends a message.

    >>> did_you_mean(["macro_f1", "micro_f1"])
    '; did you mean "macro_f1" or "micro_f1"?'
    """
    quoted = [f'"{name}"' for name in names]
    return f"; did you mean {' or '.join(quoted)}?"


def _likeness(name: str, word: Any) -> float:
    return difflib.SequenceMatcher(None, name, str(word).casefold()).ratio()
