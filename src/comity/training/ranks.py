"""Several processes that train one model together, with torch.distributed.

torchrun starts them, and each gets a rank. Every function here is called by all of them, in the
same order. With one process they return what they are given.

Sums over processes are taken in the order of the ranks, so they do not depend on timing or on the
network. torch's own all-reduce adds in another order for each number of processes.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from comity import hardware
from comity.errors import ComityError
from comity.format import plural
from comity.training.launch import Launch, launched

TIMEOUT = 25.0
"""Seconds after which a process that does not answer counts as lost. torchrun gives the others 30
seconds to end, so that all of them have stopped within a minute."""

START = 300.0
"""Seconds that a process waits at the start for the others."""

BLOCK = 1 << 22
"""Numbers that are exchanged at a time."""

_LIMIT = "COMITY_TIMEOUT"
_FAILED = "failed"  # the key of the store with the first error of any process


class ProcessLost(ComityError):
    """Another process has failed, or does not answer."""


class Ranks:
    """The processes of a run; this form has one, so nothing is exchanged."""

    def __init__(self, launch: Launch):
        self.rank = launch.rank
        self.size = launch.size

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run, logs and shows progress."""
        return self.rank == 0

    def part(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows `[B]` that this process computes, cut as micro-batches are; maybe none."""
        return rows if self.size == 1 else np.array_split(rows, self.size)[self.rank]

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over the processes, in place and in the order of their ranks."""

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """The rows `[count, W]` of all processes, of which this one has its `part`.

        For a loss that compares rows. Each process computes the loss of all rows and multiplies it
        by its share of the rows, as it does with a mean over its own rows. The gradient of a row
        goes only to the process that has it, which therefore multiplies it by count / own rows.
        """
        return rows

    def from_first(self, value: Any) -> Any:
        """The first process's value, of numbers, texts, lists and dicts."""
        return value

    def take_first(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process, in place."""

    def highest(self, number: int) -> int:
        """The highest number that any process has."""
        return number

    def wait(self) -> None:
        """Wait until all processes are here, however long their work takes.

        Raises:
            ProcessLost: one of them has failed, or has shown no sign of life for some time.
        """

    def check_same(self, inputs: Mapping[str, str]) -> None:
        """Raise a ComityError if this process has read something else than the first one."""
        first = self.from_first(dict(inputs))
        for name in {**first, **inputs}:
            if first.get(name) != inputs.get(name):
                raise ComityError(
                    f"{name}: differs from what process 0 has read; give every machine the same "
                    "recipe, encoder and files"
                )

    @contextmanager
    def one_on_each_machine_first(self) -> Iterator[None]:
        """One process of each machine runs this block first: it fills the caches for the others."""
        yield


ALONE = Ranks(Launch())
"""One process."""


class _SeveralRanks(Ranks):
    """Two or more processes, with what they tell each other in a store of torch.distributed."""

    def __init__(self, launch: Launch, store: Store, timeout: float):
        super().__init__(launch)
        self._leads = launch.local_rank == 0
        self._store = store
        self._timeout = timeout
        self._waits = 0
        self._exchanges = 0
        self._ended = threading.Event()
        self._signs: dict[int, tuple[bytes, float]] = {}  # of each process the last one, and when
        self._looked = 0.0  # when the signs were read last
        store.set(_sign(self.rank), self._own_sign())
        self._thread = threading.Thread(target=self._show_life, daemon=True)
        self._thread.start()

    def sum(self, tensor: Tensor) -> None:
        for block in tensor.view(-1).split(BLOCK):
            if len(block):
                self._sum(block)

    def _sum(self, block: Tensor) -> None:
        """Each process adds up one part of the block, and sends the sum to the others."""
        length = -(-len(block) // self.size)
        whole = block.new_zeros(self.size * length)
        whole[: len(block)] = block
        received = torch.empty_like(whole)
        self._exchange(dist.all_to_all_single, received, whole)
        total, *others = received.split(length)
        for other in others:
            total.add_(other)
        self._exchange(dist.all_gather, list(whole.split(length)), total)
        block.copy_(whole[: len(block)])

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        sizes = [len(part) for part in np.array_split(np.arange(count), self.size)]
        padded = torch.zeros(max(sizes), rows.shape[1], device=rows.device)
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in sizes]
        self._exchange(dist.all_gather, found, padded)
        whole = torch.cat([each[:size] for each, size in zip(found, sizes, strict=True)])
        start = sum(sizes[: self.rank])
        return _Gathered.apply(rows.float(), whole, start)  # type: ignore[return-value]

    def from_first(self, value: Any) -> Any:
        text = json.dumps(value).encode() if self.is_first else b""
        data = torch.zeros(self.highest(len(text)), dtype=torch.uint8)
        if self.is_first:
            data[:] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.take_first(data)
        return json.loads(data.numpy().tobytes())

    def take_first(self, tensor: Tensor) -> None:
        self._exchange(dist.broadcast, tensor, 0)

    def highest(self, number: int) -> int:
        found = torch.tensor([number])
        self._exchange(dist.all_reduce, found, dist.ReduceOp.MAX)
        return int(found)

    def _exchange(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function of torch.distributed, whose errors mean that a process is lost."""
        self._exchanges += 1
        try:
            function(*arguments)
        except RuntimeError as error:
            raise self._lost(str(error)) from None

    def wait(self) -> None:
        self._waits += 1
        self._exchanges += 1
        self._arrive(f"wait {self._waits}")

    def _arrive(self, key: str, stay: bool = True) -> None:
        """Count this process in the store and, with `stay`, wait until all of them have counted."""
        pause = 0.002
        try:
            self._store.add(key, 1)
            while stay and self._store.add(key, 0) < self.size:
                # One that was here may have stopped since; it counts as failed if others are late.
                failed = self._store.check([_FAILED])
                if failed and self._store.add(key, 0) < self.size:
                    raise self._lost("")
                self._check_signs()
                time.sleep(pause)
                pause = min(2 * pause, 0.2)
        except RuntimeError as error:  # the store is gone
            raise self._lost(str(error)) from None

    @contextmanager
    def one_on_each_machine_first(self) -> Iterator[None]:
        if not self._leads:
            self.wait()
        yield
        if self._leads:
            self.wait()
        self.wait()

    # --- failures -------------------------------------------------------------------------------

    def _own_sign(self) -> str:
        return f"{time.time()} {self._exchanges}"

    def _show_life(self) -> None:
        """Write a sign of life to the store every second; runs in a thread."""
        with suppress(RuntimeError):  # the store is gone
            while not self._ended.wait(1.0):
                self._store.set(_sign(self.rank), self._own_sign())

    def _check_signs(self) -> None:
        """Raise `ProcessLost` if a process shows no sign of life."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        for rank in range(self.size):
            sign = self._store.get(_sign(rank))
            last, since = self._signs.get(rank, (b"", now))
            if sign != last:
                self._signs[rank] = sign, now
            elif now - since > self._timeout:
                raise ProcessLost(self._no_answer(rank))

    def _lost(self, reason: str) -> ProcessLost:
        """What has happened, from the store or else from an error of torch.distributed."""
        try:
            if self._store.check([_FAILED]):
                return ProcessLost(*json.loads(self._store.get(_FAILED)))
            done = [int(self._store.get(_sign(rank)).split()[1]) for rank in range(self.size)]
            if re.search("timed out|operation timeout", reason.lower()):  # of gloo, of NCCL
                return ProcessLost(self._no_answer(done.index(min(done))))
        except RuntimeError:
            pass  # the store is gone, and so is the process that has it
        # gloo begins with the line of its source, and ends with advice.
        cause = re.sub(r"^\[[^]]*\] ", "", reason).partition(". ")[0].partition("\n")[0]
        return ProcessLost(f"another process has ended or cannot be reached ({cause})")

    def _no_answer(self, rank: int) -> str:
        return (
            f"process {rank} of {self.size} has not answered for {self._timeout:.0f} seconds; if "
            f"it is only slow, set the environment variable {_LIMIT} to more seconds"
        )

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process stops, unless one of them was first."""
        if isinstance(error, ProcessLost):
            messages = error.messages
        else:
            of = f"process {self.rank} of {self.size}"
            sentences = error.messages if isinstance(error, ComityError) else [_sentence(error)]
            messages = [f"{of}: {sentence}" for sentence in sentences]
        with suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", json.dumps(messages))

    def finish(self) -> None:
        """Wait for the others if this process may have the store, without which they fail."""
        self._arrive("end", stay=self.is_first)

    def close(self) -> None:
        """End the connections."""
        self._ended.set()
        self._thread.join(timeout=1.0)
        dist.destroy_process_group()


class _Gathered(torch.autograd.Function):
    """The rows of all processes, with a gradient for one's own; see `Ranks.gather_rows`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, whole: Tensor, start: int) -> Tensor:
        ctx.start, ctx.own = start, len(rows)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        own = gradient[ctx.start : ctx.start + ctx.own]
        return own * (len(gradient) / max(ctx.own, 1)), None, None


def _sign(rank: int) -> str:
    """The key of the store with a process's last sign of life."""
    return f"sign of life {rank}"


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# --- start and end ------------------------------------------------------------------------------


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that torchrun has started, or the one process without torchrun.

    Args:
        device: `train.device`; on a machine with GPUs each process gets one.

    Raises:
        ComityError: the processes cannot work together on this device, or do not find each other.
    """
    launch = launched()
    if launch.size == 1:
        yield ALONE
        return
    ranks = _join(launch, _backend(device, launch))
    try:
        yield ranks
        ranks.finish()
    except BaseException as error:
        ranks.fail(error)
        raise
    finally:
        ranks.close()


def _backend(name: str, launch: Launch) -> str:
    """The backend of torch.distributed; chooses the GPU of this process."""
    if name in ("auto", "cuda") and launch.local_rank < torch.cuda.device_count():
        # First: otherwise each process also takes memory of GPU 0.
        torch.cuda.set_device(launch.local_rank)
    device = hardware.choose_device(name)
    if device.type == "cpu":
        return "gloo"
    if device.type != "cuda" or device.index is not None:
        raise ComityError(
            f'train.device: several processes cannot train on "{name}"; use "auto", "cuda" or "cpu"'
        )
    count = torch.cuda.device_count()
    if launch.local_size > count:
        raise ComityError(
            f"train.device: this machine has {plural(count, 'GPU')}, and each process needs one; "
            f'start torchrun with --nproc-per-node {count}, or set train.device to "cpu"'
        )
    # Errors of NCCL become exceptions of the call instead of ending the process.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    return "cpu:gloo,cuda:nccl"


def _join(launch: Launch, backend: str) -> _SeveralRanks:
    timeout = _timeout()
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=START)))
        # A script may train several runs, one after another, with one store.
        store = PrefixStore(f"run {store.add(f'runs of {rank}', 1)}", store)
        started = time.monotonic()
        store.add("started", 1)
        while store.add("started", 0) < size:
            if time.monotonic() - started > START:
                raise ComityError(
                    f"only {store.add('started', 0)} of {size} processes have started after "
                    f"{START:.0f} seconds; start torchrun on every machine"
                )
            time.sleep(0.05)
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        raise ComityError(
            f"the processes cannot connect ({error}); check the arguments of torchrun and the "
            "network"
        ) from None
    return _SeveralRanks(launch, store, timeout)


def _timeout() -> float:
    value = os.environ.get(_LIMIT, str(TIMEOUT))
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ComityError(f'{_LIMIT}="{value}": must be a number of seconds, at least 1')
    return seconds
