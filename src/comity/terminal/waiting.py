"""A spinner for jobs that report no progress."""

import sys
import threading
from typing import Any, Self

QUICK = 2.0
"""Seconds after which a long job shows that it is running."""


class Waiting:
    """Shows on a terminal that a job is running, and for how long, if it takes over two seconds.

    >>> with Waiting("reading the data"):
    ...     pass
    """

    def __init__(self, job: str, quiet: bool = False):
        self.job = job
        self.spinner: Any = None
        self.timer = threading.Timer(QUICK, self._show)
        self.timer.daemon = True
        self.shown = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Self:
        if self.shown:
            self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the spinner."""
        if not self.shown:
            return
        self.timer.cancel()
        self.timer.join()
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None

    def _show(self) -> None:
        # Imported here: most jobs are over before rich would be loaded.
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from comity.terminal.views import console

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        spinner = Progress(
            *columns, TimeElapsedColumn(), console=console(stderr=True), transient=True
        )
        spinner.add_task(self.job, total=None)
        spinner.start()
        self.spinner = spinner
