"""Settings of the process: memory of an earlier run is returned to the system."""

import ctypes
import subprocess
import sys

import pytest

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
