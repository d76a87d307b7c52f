"""Writes the files of a run, and keeps what cannot be written until it can."""

from collections.abc import Callable

from comity.files import WriteError
from comity.training.events import Listener, SavingFailed, SavingWorks

Write = Callable[[], None]


class Saving:
    """Training continues where a file cannot be written, as on a full disk.

    The first failure is told. What failed is tried again, and written in full once that works.
    """

    def __init__(self, on_event: Listener):
        self._on_event = on_event
        self._waiting: dict[str, Write] = {}  # by what it writes, in the order of the failures
        self._error: OSError | WriteError | None = None

    @property
    def complete(self) -> bool:
        """Whether everything has been written."""
        return not self._waiting

    def write(self, what: str, write: Write, later: Callable[[], Write] | None = None) -> None:
        """Write something, in place of an earlier `what` that is waiting.

        Args:
            what: the name of what is written.
            write: writes it; may be called several times.
            later: what `write` reads may change, so after a failure this returns what to try
                later, with copies.
        """
        self._waiting.pop(what, None)
        try:
            write()
        except (OSError, WriteError) as error:
            self._waiting[what] = later() if later else write
            self.failed(error)

    def failed(self, error: OSError | WriteError) -> None:
        """Note a failure, and tell it unless an earlier one has been told."""
        if self._error is None:
            self._on_event(SavingFailed(*_reason_of(error)))
        self._error = error

    def retry(self) -> bool:
        """Try again what could not be written; returns whether everything is written now."""
        for what in list(self._waiting):
            self.write(what, self._waiting[what])
        return self.complete

    def worked(self) -> None:
        """Note that everything is saved; tell it after a failure."""
        if self._error is not None:
            self._error = None
            self._on_event(SavingWorks())

    def finish(self) -> None:
        """Try again what could not be written.

        Raises:
            OSError, WriteError: something still cannot be written.
        """
        if not self.retry() and self._error is not None:
            raise self._error


def _reason_of(error: OSError | WriteError) -> tuple[str, str]:
    """What could not be written, and why."""
    if isinstance(error, WriteError):
        return str(error.where), error.reason
    return str(error.filename or "the run"), error.strerror or str(error)
