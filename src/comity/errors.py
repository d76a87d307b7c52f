"""What a user is told when something is wrong: one sentence per fault, all faults together."""

import difflib
from collections.abc import Iterable
from typing import Any, NoReturn


class ComityError(Exception):
    """Faults that the user can mend, each one sentence: what, where, and what to do.

    The command line prints them without a traceback; `faults` holds them one by one.
    """

    def __init__(self, *faults: str):
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Faults:
    """Gathers faults so that a user sees all of them (up to `limit`), not the first alone.

    >>> faults = Faults(limit=2)
    >>> for line in (2, 5, 9):
    ...     faults.add(f"data.csv:{line}: the label is empty; fill it in")
    >>> faults.total
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
        """Take over the faults of an error that was raised elsewhere."""
        for sentence in error.faults:
            self.add(sentence)

    def merge(self, other: "Faults") -> None:
        """Take over what another list gathered, its hidden ones counted."""
        for sentence in other._sentences:
            self.add(sentence)
        self._seen |= other._seen

    def stop(self) -> NoReturn:
        """Raise everything gathered so far as one `ComityError`."""
        hidden = self.total - len(self._sentences)
        more = [f"and {hidden:,} more faults like these"] if hidden else []
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
