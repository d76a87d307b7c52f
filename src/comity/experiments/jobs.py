"""Several runs that train at once, each in a process of its own.

Threads would share random generators, torch's number of threads, and signals.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
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
    workers: list[_Worker] = []
    errors: dict[int, tuple[str, ...]] = {}
    stopping = False
    with display, Interrupts(display.stop_requested) as interrupts:
        try:
            while workers or (waiting and interrupts.received is None):
                while waiting and len(workers) < jobs and interrupts.received is None:
                    index = waiting.popleft()
                    display.run_begins(index)
                    workers.append(_Worker(index, train, runs[index], threads))
                if interrupts.received is not None and not stopping:
                    stopping = True
                    for worker in workers:
                        worker.process.terminate()
                for worker in _ready(workers):
                    message = worker.message()
                    if not isinstance(message, _Ended):
                        display.event(worker.index, message)
                        continue
                    workers.remove(worker)
                    worker.process.join()
                    errors[worker.index] = message.errors
                    how = ("stopped" if stopping else "failed") if message.errors else "finished"
                    display.run_ends(worker.index, how)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()
    if interrupts.received is not None:
        raise Interrupted("stopped", interrupts.received)
    return [f"{runs[n].name}: {sentence}" for n in sorted(errors) for sentence in errors[n]]


class _Worker:
    """A process that trains one run, and the connection on which it sends messages."""

    def __init__(self, index: int, train: Callable[[Run, Listener], None], run: Run, threads: int):
        self.index = index
        context = multiprocessing.get_context("spawn")  # forking a process with threads is not safe
        self.connection, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(train, run, threads, sender))
        with _blocked(FOR_THE_PARENT):
            self.process.start()
        sender.close()  # so that the connection ends with the process

    def message(self) -> Event | _Ended:
        """The next message. If the process has ended without a last one, it was killed."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
        code = self.process.exitcode or 0
        how, advice = f"ended with exit code {code}", ""
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
            advice = ", with fewer --jobs if the memory was full"
        return _Ended((f"its process {how}; repeat the command to resume it{advice}",))


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """The workers with a message; waits a moment if there are none."""
    ready = wait([worker.connection for worker in workers], POLL)
    return [worker for worker in workers if worker.connection in ready]


@contextlib.contextmanager
def _blocked(names: Sequence[str]) -> Iterator[None]:
    """Processes that are started inside this context never receive these signals."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    resource_tracker.ensure_running()  # its start, with the first process, would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in names])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        reason = error.strerror or error
        send(_Ended((f"{where}{reason}; free some space or choose another --out",)))
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
