"""Draws are functions of their purpose and integers, in every process and on every machine."""

import binascii
import itertools

import numpy as np

from comity import rng
from comity.rng import generator, integer, name_key, row_keys

PURPOSES = [value for name, value in vars(rng).items() if name.isupper() and name != "GOLDEN"]


def test_draws_depend_on_the_purpose_and_on_every_integer():
    cases = [(purpose, 3, 5) for purpose in PURPOSES] + [(1, 5, 3), (1, 3), (1, 3, 5, 1)]
    drawn = [generator(*case).integers(2**62, size=4).tolist() for case in cases]
    numbers = [[integer(*case)] for case in cases]
    keys = [row_keys(*case, rows=np.arange(2)).tolist() for case in cases]
    for found in (drawn, numbers, keys):
        assert len(set(itertools.chain(*found))) == sum(map(len, found))


def test_draws_are_the_same_every_time():
    for draw in (lambda: generator(2, 7).permutation(50).tolist(), lambda: integer(2, 7)):
        assert draw() == draw()


def test_purposes_are_different():
    assert len(PURPOSES) == len(set(PURPOSES)) > 5


def test_the_key_of_a_name_is_the_same_in_every_process():
    for name in ("sentiment", "été", ""):
        assert name_key(name) == binascii.crc32(name.encode("utf-8"))
