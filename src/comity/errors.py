"""Errors that a user can fix: one sentence each, all of them together."""

import difflib
from collections.abc import Iterable
from typing import Any, NoReturn


class ComityError(Exception):
    """One or more errors that the user can fix, one sentence each: what, where, and what to do.

    The command line prints them without a traceback; `messages` holds them one by one.
    """

    def __init__(self, *messages: str):
        super().__init__("\n".join(messages))
        self.messages = list(messages)


class ErrorList:
    """Gathers errors so that a user sees all of them (up to `limit`), not the first alone.

    >>> errors = ErrorList(limit=2)
    >>> for line in (2, 5, 9):
    ...     errors.add(f"data.csv:{line}: the label is empty; fill it in")
    >>> errors.total
    3
    """

    def __init__(self, limit: int = 20):
        self.limit = limit
        self._sentences: list[str] = []
        self._seen: set[int] = set()  # hashes, so that hidden ones are not counted twice either

    @property
    def total(self) -> int:
        """How many were added, the hidden ones too; what is said twice counts once."""
        return len(self._seen)

    def __bool__(self) -> bool:
        return self.total > 0

    def add(self, sentence: str) -> None:
        """Keep one sentence; past the limit it is only counted."""
        if hash(sentence) in self._seen:
            return
        self._seen.add(hash(sentence))
        if len(self._sentences) < self.limit:
            self._sentences.append(sentence)

    def extend(self, error: ComityError) -> None:
        """Take over the errors of an error that was raised elsewhere."""
        for sentence in error.messages:
            self.add(sentence)

    def merge(self, other: "ErrorList") -> None:
        """Take over what another list gathered, its hidden ones counted."""
        for sentence in other._sentences:
            self.add(sentence)
        self._seen |= other._seen

    def stop(self) -> NoReturn:
        """Raise everything gathered so far as one `ComityError`."""
        hidden = self.total - len(self._sentences)
        more = [f"and {hidden:,} more errors like these"] if hidden else []
        raise ComityError(*self._sentences, *more)

    def check(self) -> None:
        """Raise if anything was gathered."""
        if self:
            self.stop()


def nearest(word: Any, known: Iterable[Any]) -> str:
    """A suggestion to append to a sentence, or nothing.

    >>> nearest("trian", ["train", "dev"])
    ', did you mean "train"?'
    >>> nearest("zebra", ["train", "dev"])
    ''
    """
    names = {str(name).casefold(): str(name) for name in known}
    close = difflib.get_close_matches(str(word).casefold(), names, n=1, cutoff=0.6)
    return f', did you mean "{names[close[0]]}"?' if close else ""
