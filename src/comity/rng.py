"""Random numbers as a function of named integers, never of a generator's history.

Every draw names what it is for: `generator(BATCHES, seed, stage, task, epoch)`. So a resumed run
draws what the uninterrupted one drew, and an evaluation more or less changes nothing.
"""

import zlib

import numpy as np

# The purposes. Two draws of the same integers but different purposes are independent.
BATCHES = 1
TASK_SAMPLING = 2
DROPOUT = 3
PCGRAD_ORDERS = 4
SPLIT = 5
INITIALISATION = 6
PROBE = 7
SAMPLE = 8
MASKING = 9
BOOTSTRAP = 10


def name_key(name: str) -> int:
    """A stable integer for a name, so that a task draws the same in any place of the recipe."""
    return zlib.crc32(name.encode())


def integer(purpose: int, *keys: int) -> int:
    """One 63-bit integer for `keys`."""
    state = np.random.SeedSequence([purpose, *keys]).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def generator(purpose: int, *keys: int) -> np.random.Generator:
    """A numpy generator for `keys`."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([purpose, *keys])))
