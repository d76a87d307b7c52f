"""The choice of device and precision, and settings of the process."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from comity import ComityError, hardware

# All blocks of 100 kB but the last are freed; the last keeps the heap from shrinking by itself.
PROGRAM = """
from comity import hardware

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

hardware.keep_freed_memory()
blocks = [bytearray(100_000) for _ in range(2_000)]
full = resident()
del blocks[:-1]
kept = resident()
hardware.keep_freed_memory()
print(full, kept, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator has the setting")
def test_a_new_run_returns_memory_that_an_earlier_one_kept():
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    full, kept, after = map(int, done.stdout.split())
    assert full - kept < 50_000_000  # freed, and kept for the next step
    assert full - after > 150_000_000


@pytest.mark.parametrize(
    ("processor", "name", "dtype"),
    [
        ("AMX", "auto", torch.bfloat16),
        ("other", "auto", torch.float32),
        ("other", "bf16", torch.bfloat16),
        ("AMX", "float32", torch.float32),
    ],
)
def test_the_precision_is_as_asked_or_the_faster_one(monkeypatch, processor, name, dtype):
    monkeypatch.setattr(hardware, "processor_class", lambda: processor)
    assert hardware.choose_precision(name, torch.device("cpu")) == dtype


def test_a_device_that_is_not_there_is_one_sentence():
    assert hardware.choose_device("cpu").type == "cpu"
    with pytest.raises(ComityError, match='this machine has no "nonsense"; use "auto" or "cpu"'):
        hardware.choose_device("nonsense")


def test_a_copy_to_a_gpu_does_not_wait_for_its_queue(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda own: asked.append("pinned") or own)
    monkeypatch.setattr(torch.Tensor, "to", lambda own, *where, **how: asked.append((where, how)))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    hardware.to_device(torch.ones(2), gpu)
    assert asked == ["pinned", ((gpu,), {"non_blocking": True})]
    hardware.to_device(torch.ones(2), cpu)
    hardware.to_device(torch.ones(0), gpu)  # nothing to pin
    assert asked[2:] == [((cpu,), {}), ((gpu,), {})]


@pytest.mark.parametrize(
    "message",
    ["CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"],
)
def test_a_gpu_without_enough_memory_is_one_sentence(message):
    with pytest.raises(ComityError, match="too large"), hardware.memory_errors("too large"):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="kernel"), hardware.memory_errors("too large"):
        raise RuntimeError("CUDA error: no kernel image is available")


SHAPES = """
import sys
import torch
from comity import hardware

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "limited":
    hardware.limit_compiled_kernels(16)
weight = torch.randn(384, 384).bfloat16()
torch.randn(1, 384).bfloat16() @ weight
before = resident()
for rows in range(2, 400):
    torch.randn(rows, 384).bfloat16() @ weight
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.skipif(
    not hardware.fast_bf16(torch.device("cpu")), reason="this processor compiles no bf16 kernels"
)
def test_few_compiled_kernels_are_kept():
    # `comity serve`, which other tests run in this process, sets the variables.
    variables = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    grown = {}
    for how in ("limited", "unlimited"):
        command = [sys.executable, "-c", SHAPES, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        grown[how] = int(done.stdout)
    assert grown["limited"] < grown["unlimited"] / 2
