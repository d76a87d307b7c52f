"""Each reader reads a broken file or says in a sentence that it cannot; nothing else is raised."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.readers import READERS, Reader, filled

EXAMPLES = 8


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.file)
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=False))
def test_a_broken_file_is_read_or_refused(folder, reader: Reader, random: Random):
    reader.try_broken(filled(reader.write, folder), random)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.file)
def test_the_file_is_read_before_it_is_broken(folder, reader: Reader):
    reader.read(filled(reader.write, folder))
