"""A run that is killed at any instant and resumed in a new process is the run that was not.

The long form is `make torture`.
"""

import pytest
from tests.torture.cover import FEATURES, cover, pairs_of, recipe_of
from tests.torture.kill import PLACES, Stop, digest, leftovers, trained

from comity.runs.directory import RunDirectory

CHOICE = {name: values[0] for name, values in FEATURES.items()} | {
    "balancer": "gradvac", "average": "ema", "stages": "two"
}  # fmt: skip
KILLED = -9


@pytest.fixture(scope="module")
def whole(data, tiny_checkpoint, tmp_path_factory) -> str:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert trained(recipe_of(CHOICE, tiny_checkpoint, data), data, run) == 0
    return digest(run)


STOPS = [
    Stop(1),
    Stop(3),
    Stop(2, "after the evaluation"),
    *(Stop(2 if "checkpoint" not in where else 3, where) for where in PLACES),
]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: f"{stop.where}, step {stop.step}")
def test_a_killed_run_is_resumed_by_the_same_command(data, tiny_checkpoint, whole, tmp_path, stop):
    recipe = recipe_of(CHOICE, tiny_checkpoint, data)
    run = tmp_path / "run"
    assert trained(recipe, data, run, stop) == KILLED
    assert not RunDirectory(run).is_finished()
    assert trained(recipe, data, run) == 0
    assert digest(run) == whole
    assert leftovers(run) == []


def test_every_two_features_are_covered():
    chosen = cover()
    together = {
        ((first, choice[first]), (second, choice[second]))
        for choice in chosen
        for (first, _), (second, _) in pairs_of({name: [0] for name in FEATURES})
    }
    assert together == set(pairs_of(FEATURES))
    assert len(chosen) < 60
