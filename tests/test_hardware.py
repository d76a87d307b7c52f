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
