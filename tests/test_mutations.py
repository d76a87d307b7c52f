"""The mutations of `make mutants` fit the code as it is now. They are not run here."""

from tests.mutate import mistakes, mutations


def test_every_mutation_applies_and_every_package_has_one():
    assert mistakes(mutations()) == []
