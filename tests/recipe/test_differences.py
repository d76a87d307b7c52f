"""What differs between two recipes."""

from comity.recipe.differences import first_difference


def test_the_first_difference_is_named_with_both_values():
    assert first_difference({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [1, 2], "b": 1}}) is None
    there, here = {"stages": [{"epochs": 1}]}, {"stages": [{"epochs": 2}]}
    assert first_difference(there, here) == "stages.0.epochs is 1 there and 2 here"
    assert first_difference({"a": 1}, {}) == "a is 1 there and not set here"
    assert first_difference({"a": 1}, {"a": 2}, ("in the run", "in r.toml")) == (
        "a is 1 in the run and 2 in r.toml"
    )


def test_a_stage_without_keys_counts():
    there, here = {"stages": [{}]}, {"stages": [{}, {}]}
    assert first_difference(there, here) == "stages.1 is not set there and empty here"
