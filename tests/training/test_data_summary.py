"""What `comity check` counts, compared with the files."""

import numpy as np
import pytest
from tests.helpers import write_csv

from comity import Recipe
from comity.training.data_summary import data_summary
from comity.training.setup import prepare


@pytest.mark.parametrize("dev", ["d.csv", 0.25])
def test_scores_of_training_rows_are_the_mean_and_deviation_of_the_target(
    tmp_path, tiny_checkpoint, dev
):
    rng = np.random.default_rng(0)
    for name, count in {"t": 40, "d": 8}.items():
        rows = [(f"{name} film {n}", round(float(rng.normal(50, 9)), 3)) for n in range(count)]
        write_csv(tmp_path / f"{name}.csv", ["text", "score"], rows)
    task = {"kind": "regression", "train": "t.csv", "dev": dev, "text": "text", "label": "score"}
    recipe = {"encoder": {"name": str(tiny_checkpoint)}, "tasks": {"size": task}}
    prepared = prepare(Recipe.from_dict(recipe), tmp_path)
    data = prepared.tasks["size"]
    found = data_summary(prepared).tasks["size"].train.scores
    assert found is not None
    assert len(data.train) == (40 if dev == "d.csv" else 30)
    assert found.mean == data.target.mean == pytest.approx(np.mean(data.train.targets))
    assert found.deviation == data.target.deviation == pytest.approx(np.std(data.train.targets))


def test_dropping_leaks_leaves_their_scores_out_of_mean_and_deviation(tmp_path, tiny_checkpoint):
    rows = [(f"film {n}", n) for n in range(10)]
    write_csv(tmp_path / "t.csv", ["text", "score"], [*rows, ("a leak", 1000)])
    write_csv(tmp_path / "d.csv", ["text", "score"], [("a leak", 5), ("another", 6)])
    task = {"kind": "regression", "train": "t.csv", "dev": "d.csv", "text": "text"}
    task["label"] = "score"
    recipe = {"encoder": {"name": str(tiny_checkpoint)}, "tasks": {"size": task}}
    target = prepare(Recipe.from_dict(recipe), tmp_path, drop_leaks=True).tasks["size"].target
    assert target.mean == pytest.approx(4.5)
