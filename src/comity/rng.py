"""Random numbers as functions of named integers, never of a generator's history.

Every draw names its purpose: `generator(BATCHES, seed, stage, task, epoch)`. So a resumed run draws
what the uninterrupted run drew, and evaluations do not change a run.

Purposes and the integers that their draws depend on, after the seed:

    BATCHES         stage, task, epoch           order of a task's rows
    TASK_SAMPLING   stage, epoch or block        which tasks a step takes
    DROPOUT         step, task, view, draw, row  one key for each sequence, see model/dropout.py
    PCGRAD_ORDERS   step                         order of the projections
    SPLIT           digest of the file           dev rows, where dev is a share
    INITIALISATION  head                         weights of new heads
    PROBE           step, task                   batches of a probe for conflict
    SAMPLE          task                         training rows that are evaluated
    MASKING         step, task, view, row        masked words
    BOOTSTRAP       task (and no seed)           resamples of evaluated rows
    TIMING          -                            dropout of steps that are timed and undone
    CALIBRATION     task (and no seed)           halves of the dev rows
    FOLDS           digest of the file, count    folds of the training rows
"""

import zlib

import numpy as np
from numpy.typing import NDArray

# Two draws of the same integers but different purposes are independent.
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
TIMING = 11
CALIBRATION = 12
FOLDS = 13

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio, the increment of SplitMix64


def name_key(name: str) -> int:
    """A stable integer for a name, so that a task's draws do not depend on its position."""
    return zlib.crc32(name.encode())


def integer(purpose: int, *keys: int) -> int:
    """One 63-bit integer for `keys`."""
    state = np.random.SeedSequence([purpose, *keys]).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def generator(purpose: int, *keys: int) -> np.random.Generator:
    """A numpy generator for `keys`."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([purpose, *keys])))


def row_keys(purpose: int, *keys: int, rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """A 64-bit key `[B]` for each of the row numbers `rows [B]`, for draws by hashing.

    The key of a row depends on `keys` and its own number alone: output `rows[b]` of SplitMix64
    (Steele et al. 2014) from a state that `keys` give.
    """
    state = np.random.SeedSequence([purpose, *keys]).generate_state(1, np.uint64)
    z = state + rows.astype(np.uint64) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)
