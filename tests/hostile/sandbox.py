"""Runs a function in a process with little memory and time."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from comity.errors import ComityError

ENDED = "ended without an error"


def outcome(function: Callable[[], object], megabytes: int = 1024, seconds: int = 60) -> str:
    """How a function ends in a child process: the sentence of its ComityError, or what happened.

    Args:
        function: what to run.
        megabytes: the memory that it may take, besides what this process has already.
        seconds: after which the child is killed.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        _limit(megabytes, seconds)
        os.write(sender, _ending(function).encode("utf-8", "replace")[:60_000])
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        ending = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return ending


def _limit(megabytes: int, seconds: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the libraries in Rust write their panics
    limit_memory(megabytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def limit_memory(megabytes: int) -> None:
    """Let this process take no more memory than this, besides what it has already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _ending(function: Callable[[], object]) -> str:
    try:
        function()
    except ComityError as error:
        return f"ComityError: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ENDED
