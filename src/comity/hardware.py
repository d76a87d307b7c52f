"""The machine: device, processor class, compute dtype, and settings of the process."""

import ctypes
import errno
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from comity.errors import ComityError


def choose_device(name: str) -> torch.device:
    """The torch device for `train.device`; "auto" is a GPU if there is one, otherwise the CPU.

    Raises:
        ComityError: torch does not know the name, or this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ComityError(
            f'train.device: this machine has no "{name}"; use "auto" or "cpu"'
        ) from None
    return device


@cache
def processor_class() -> str:
    """How the processor multiplies bf16 matrices: `AMX`, `AVX512-bf16`, or `other` (slowly)."""
    checks = {"AMX": "_is_amx_tile_supported", "AVX512-bf16": "_is_avx512_bf16_supported"}
    for name, check in checks.items():
        if getattr(torch.cpu, check, lambda: False)():
            return name
    return "other"


def processor_name() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device; a GPU copies it while the program continues.

    A plain copy to a GPU waits for all work that is queued there.
    """
    if device.type == "cuda" and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype for `train.precision`; "auto" is bf16 where its matrix products are fast."""
    if name == "float32":
        return torch.float32
    if name == "bf16" or fast_bf16(device):
        return torch.bfloat16
    return torch.float32


def fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bf16 than in float32 on the device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor_class() != "other"


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Round float32 numbers below the normal range (denormals) to 0 inside this context.

    The moments of weights without a gradient decay to denormals, and arithmetic on those is slow.
    The setting belongs to a thread and is inherited by the threads it starts, so enter this context
    before torch starts its own.
    """
    already = not bool(torch.tensor([1e-40]) * 1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


@contextmanager
def memory_errors(sentence: str | Callable[[], str]) -> Iterator[None]:
    """Turn an error because memory has run out, of the CPU or a GPU, into a ComityError.

    `sentence` is its message, or returns it.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_out_of_memory(error):
            raise
        raise ComityError(sentence if isinstance(sentence, str) else sentence()) from None


def _is_out_of_memory(error: MemoryError | RuntimeError | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    no_memory = re.search(
        "can't allocate memory|bad_alloc|out of memory|ALLOC_FAILED", str(error), re.IGNORECASE
    )
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or bool(no_memory)


def limit_compiled_kernels(count: int = 128) -> None:
    """Let oneDNN keep at most `count` compiled kernels; call this before the first product.

    It compiles a kernel of up to a megabyte for every shape of a bf16 product, and by default torch
    keeps 1,024 in each of two caches. A server meets ever new shapes, and grew by 1.3 GB in ten
    minutes. A pass needs some 20 of them. Values that the user has set are kept.
    """
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(count))


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory for reuse; does nothing with other C libraries.

    By default it returns large blocks to the system after each step, and getting them back costs a
    page fault and clearing per page. Memory kept until now, by an earlier run in this process, is
    returned once: blocks of many sizes leave gaps that add up from run to run.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    malloc_trim(0)
    mallopt(mmap_threshold, 32 * 1024 * 1024)  # the largest value that every glibc accepts
    mallopt(trim_threshold, 2**31 - 1)
