"""The names and numbers that trackers are sent."""

import pytest

from comity.runs.entries import (
    BestModel,
    ConflictEntry,
    EndEntry,
    EvaluationEntry,
    RecordedEvaluation,
    RecordedScore,
    SkippedEntry,
    TrainEntry,
)
from comity.track.values import kept_values, values_of


def test_training_averages():
    entry = TrainEntry(
        step=50,
        examples=800,
        loss={"mood": 0.5, "alike": None},
        gradient_norm=2.0,
        skipped=1,
        examples_per_second=10.0,
        tokens_per_second=100.0,
        lr=1e-3,
    )
    assert values_of(entry) == {
        "train/loss/mood": 0.5,  # that of alike was not finite
        "train/lr": 1e-3,
        "train/gradient_norm": 2.0,
        "train/skipped_steps": 1,
        "train/examples_per_second": 10.0,
        "train/tokens_per_second": 100.0,
    }


def test_an_evaluation_on_dev_and_on_a_sample_of_the_training_rows():
    dev = {
        "mood": RecordedEvaluation("accuracy", 0.75, 0.6, 12, {"macro_f1": 0.7, "mcc": None}),
        "alike": RecordedEvaluation("pearson", None, None, 10, {"rmse": 0.5}, reason="constant"),
    }
    train = {"mood": RecordedEvaluation("accuracy", 0.9, 0.3, 36, {})}
    entry = EvaluationEntry(
        step=8,
        examples=64,
        mean=0.75,
        mean_reason=None,
        tasks=dev,
        train=train,
        best_of_task={},
    )
    assert values_of(entry) == {
        "dev/mean": 0.75,
        "dev/loss/mood": 0.6,
        "dev/accuracy/mood": 0.75,
        "dev/macro_f1/mood": 0.7,
        "dev/rmse/alike": 0.5,
        "train_sample/loss/mood": 0.3,
        "train_sample/accuracy/mood": 0.9,
    }


def test_cosines_of_each_pair():
    tasks = ["a", "b", "c"]
    cosines = [[1.0, -0.1, None], [-0.1, 1.0, 0.3], [None, 0.3, 1.0]]
    steps = ConflictEntry(step=50, tasks=tasks, cosines=cosines, steps=50)
    assert values_of(steps) == {"conflict/cosine/a/b": -0.1, "conflict/cosine/b/c": 0.3}
    probe = ConflictEntry(step=1, tasks=tasks, cosines=cosines, reliability=[0.5, None, 0.25])
    assert values_of(probe) == {
        "conflict/probe_cosine/a/b": -0.1,
        "conflict/probe_cosine/b/c": 0.3,
        "conflict/reliability/a": 0.5,
        "conflict/reliability/c": 0.25,
    }


def test_entries_without_numbers():
    assert values_of(SkippedEntry(step=3, task="mood", lines=[4])) == {}
    assert values_of(EndEntry(step=9, examples=72, skipped=0, stopped_early=False)) == {}


@pytest.mark.parametrize(("by", "mean"), [("mean", {"kept/mean": 0.7}), ("mood", {})])
def test_the_kept_model(by, mean):
    scores = {"mood": RecordedScore("accuracy", 0.7), "alike": RecordedScore("pearson", None)}
    best = BestModel("best-000008", 8, by, RecordedScore("score", 0.7), scores)
    assert kept_values(best) == {"kept/step": 8, **mean, "kept/accuracy/mood": 0.7}
