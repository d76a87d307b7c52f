"""Lets a signal stop training at a safe point: between two steps, after a checkpoint."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, the stop of a service or batch system, and a closed terminal."""

REPEATED = 1.0
"""Seconds within which the same stop may arrive twice: from the terminal and from a wrapper."""


class Interrupted(KeyboardInterrupt):
    """A signal has stopped training."""

    def __init__(self, sentence: str, number: int):
        super().__init__(sentence)
        self.exit_code = 128 + number
        """The exit code of a process that the signal ends, as shells report it."""


class Interrupts:
    """While it is entered, the first signal is only recorded and a second one stops at once.

    Signals that the process ignores or handles itself are left alone, and so is everything outside
    the main thread, which alone receives signals.
    """

    def __init__(self, on_first: Callable[[str], None]):
        """`on_first` is called with the name of the first signal, between two instructions."""
        self.received: int | None = None
        self._on_first = on_first
        self._at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                default = (signal.SIG_DFL, signal.default_int_handler)
                if number is not None and signal.getsignal(number) in default:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._on_first(name)
        elif time.monotonic() - self._at > REPEATED:
            raise Interrupted(f"stopped by a second {name}", number)
