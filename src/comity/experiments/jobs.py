"""Several runs that train at once, each in a process of its own.

A process and not a thread: random generators, the number of threads and signals belong to one.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol, TypeVar

import torch

from comity.errors import ComityError
from comity.terminal.progress import JobsDisplay
from comity.training.events import Event, Listener
from comity.training.interrupts import Interrupted, Interrupts

POLL = 0.2
"""Seconds between two looks whether a signal has arrived."""

FOR_THE_PARENT = ("SIGINT", "SIGHUP")
"""Signals that a terminal sends to all processes of a command; the parent passes on one SIGTERM."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Run = TypeVar("Run", bound=_Named)


@dataclass(frozen=True)
class _Ended:
    """The last message of a process: its run is finished, or why it is not."""

    errors: tuple[str, ...] = ()


def train_at_once(
    train: Callable[[Run, Listener], None], runs: Sequence[Run], jobs: int, display: JobsDisplay
) -> list[str]:
    """Call `train` for every run in a new process, for up to `jobs` of them at a time.

    The threads that torch would use are divided among them. A run that fails does not stop the
    others. The first signal stops all of them, each with a checkpoint, and a second one kills them.

    Args:
        train: trains a run and sends its events to the listener; it is sent to the processes.
        runs: as the display has them.
        jobs: at least 1.
        display: shows the events.

    Returns:
        The errors in the order of the runs, each with the run's name.

    Raises:
        Interrupted: a signal has arrived.
    """
    threads = max(torch.get_num_threads() // jobs, 1)
    waiting = deque(range(len(runs)))
    training: dict[Connection, tuple[int, SpawnProcess]] = {}
    errors: dict[int, tuple[str, ...]] = {}
    told_to_stop = False
    with display, Interrupts(display.stop_requested) as interrupts:
        try:
            while training or (waiting and interrupts.received is None):
                while waiting and len(training) < jobs and interrupts.received is None:
                    index = waiting.popleft()
                    display.run_begins(index)
                    connection, process = _start(train, runs[index], threads)
                    training[connection] = index, process
                if interrupts.received is not None and not told_to_stop:
                    told_to_stop = True
                    for _, process in training.values():
                        process.terminate()
                for connection in wait(list(training), POLL):
                    index, process = training[connection]  # pyright: ignore[reportArgumentType]
                    message = _received(connection, process)
                    if not isinstance(message, _Ended):
                        display.event(index, message)
                        continue
                    process.join()
                    del training[connection]
                    how = "finished"
                    if message.errors:
                        how = "stopped" if told_to_stop else "failed"
                        errors[index] = message.errors
                    display.run_ends(index, how)
        finally:
            for _, process in training.values():
                process.kill()
                process.join()
    if interrupts.received is not None:
        raise Interrupted("stopped", interrupts.received)
    return [f"{runs[n].name}: {sentence}" for n in sorted(errors) for sentence in errors[n]]


def _start(
    train: Callable[[Run, Listener], None], run: Run, threads: int
) -> tuple[Connection, SpawnProcess]:
    """A new process, and the connection on which it sends events and then `_Ended`."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads is not safe
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(train, run, threads, sender))
    with _blocked(FOR_THE_PARENT):
        process.start()
    sender.close()  # so that the connection ends with the process
    return receiver, process


@contextlib.contextmanager
def _blocked(names: Sequence[str]) -> Iterator[None]:
    """Processes that are started inside this context never receive these signals."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in names])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(connection: Connection, process: SpawnProcess) -> Event | _Ended:
    """The next message of a process. If the process has ended without one, it was killed."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        process.join()
    code = process.exitcode or 0
    if code >= 0:
        return _Ended((f"its process ended with exit code {code}; repeat the command to resume it",))
    return _Ended(
        (
            f"its process was ended by {signal.Signals(-code).name}; repeat the command to resume "
            "it, with fewer --jobs if the memory was full",
        )
    )


# --- in the new process ---------------------------------------------------------------------------


def _work(
    train: Callable[[Run, Listener], None], run: Run, threads: int, sender: Connection
) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    def send(message: Event | _Ended) -> None:
        with contextlib.suppress(OSError):  # the parent was killed
            sender.send(message)

    try:
        train(run, send)
    except ComityError as error:
        send(_Ended(tuple(error.messages)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        send(_Ended((f"{where}{error.strerror or error}; free some space or choose another --out",)))
    except KeyboardInterrupt as stop:
        send(_Ended((f"{stop}; repeat the command to resume it",)))
    else:
        send(_Ended())


def _stop_with_parent() -> None:
    """Stop this process, with a checkpoint, if its parent ends first."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
