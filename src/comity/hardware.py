"""What the machine can do: device, processor class, and the dtype a run computes in."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from comity.errors import ComityError


def choose_device(name: str) -> torch.device:
    """The device of a recipe; `auto` takes a GPU where there is one.

    Raises:
        ComityError: a name that torch does not know, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ComityError(
            f'train.device: "{name}" cannot be used on this machine; take "auto" or "cpu"'
        ) from None
    return device


@cache
def processor_class() -> str:
    """`AMX`, `AVX512-bf16` or `other`: what the processor multiplies bf16 matrices with."""
    checks = {"AMX": "_is_amx_tile_supported", "AVX512-bf16": "_is_avx512_bf16_supported"}
    for name, check in checks.items():
        if getattr(torch.cpu, check, lambda: False)():
            return name
    return "other"


def processor_name() -> str:
    """The processor as the system names it, to stand beside every figure."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the compute buffer: `auto` takes bf16 where products in it are fast."""
    if name == "float32":
        return torch.float32
    if name == "bf16" or fast_bf16(device):
        return torch.bfloat16
    return torch.float32


def fast_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster on the device than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor_class() != "other"


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within, numbers too small for a normal float32 count as 0.

    Moments of weights that have long had no gradient become such numbers, which are slow. The
    setting belongs to a thread and is inherited by those that it starts; so a command enters this
    first thing, before torch starts its own threads.
    """
    already = not bool(torch.tensor([1e-40]) * 1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed from now on; elsewhere nothing happens.

    It otherwise hands large pieces back to the system, step after step, and each page that comes
    again costs a fault and is cleared. What was kept until now (of an earlier run in this process)
    is handed back, since pieces of many sizes leave gaps that add up from run to run.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    malloc_trim(0)
    mallopt(mmap_threshold, 32 * 1024 * 1024)  # the most that every glibc takes
    mallopt(trim_threshold, 2**31 - 1)


def describe(device: torch.device) -> dict[str, str | int]:
    """Device, processor and threads, as a run records them."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    facts = {
        "device": str(device),
        "processor": processor_name(),
        "processor_class": processor_class(),
        "threads": torch.get_num_threads(),
    }
    return facts | ({"card": card} if card else {})
