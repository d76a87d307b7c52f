"""`comity ablate`: which parts a recipe has, what is left without one, and what each is worth."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import number, two_tasks, write_two_tasks

from comity import ComityError, Recipe
from comity.cli.main import main
from comity.evaluation.compare import Comparison, Verdict, compare_groups
from comity.experiments import ablation
from comity.experiments.ablation import Ablation, _chosen, parts_of, without_part
from comity.runs.directory import RunDirectory
from comity.runs.summary import reached

FULL = """
[encoder]
name = "{encoder}"
dropout = 0.2

[train]
epochs = 1
batch_size = 8
balancer = "pcgrad"
task_sampling = "round-robin"    # the default, as the next one, so they are not parts
lr_schedule = "linear"
average = "ema"
average_decay = 0.9

[tasks.mood]
kind = "classification"
train = "mood.csv"
dev = "mood.csv"
text = "text"
label = "mood"
pooling = "mean"

[tasks.alike]
kind = "similarity"
head = "regression"
train = "alike.csv"
dev = "alike.csv"
texts = ["a", "b"]
label = "score"
pooling = "cls+mean"
head_layers = 1
add_norm = true
consistency = {{ kind = "r-drop" }}
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory, tiny_checkpoint) -> Path:
    """The path of a recipe with many parts."""
    folder = tmp_path_factory.mktemp("ablation")
    write_two_tasks(folder)
    path = folder / "full.toml"
    path.write_text(FULL.format(encoder=tiny_checkpoint))
    return path


def test_parts_are_keys_that_change_how_the_model_learns(full):
    parts = parts_of(Recipe.load(full))
    assert parts == [
        "dropout", "balancer", "average", "head", "head_layers", "pooling",
        "consistency",
    ]  # fmt: skip


def test_a_part_goes_from_every_table_with_the_keys_that_need_it(full):
    recipe = Recipe.load(full)
    before = recipe.to_dict()
    without = without_part(recipe, "pooling").to_dict()
    for task in ("mood", "alike"):
        before["tasks"][task].pop("pooling")
    assert without == before
    without = without_part(recipe, "average").to_dict()
    assert not {"average", "average_decay"} & set(without["train"])
    without = without_part(recipe, "head_layers").to_dict()
    assert not {"head_layers", "add_norm"} & set(without["tasks"]["alike"])
    assert without_part(recipe, "balancer").stages[0].balancer == "sum"


def test_stages_are_one_part_and_their_keys_go_too(tiny_checkpoint):
    values = two_tasks(tiny_checkpoint).to_dict()
    values["train"].pop("balancer", None)
    values["stages"] = [
        {"balancer": "pcgrad", "task_sampling": "round-robin", "epochs": 1},
        {"epochs": 1},
    ]
    recipe = Recipe.from_dict(values, drop_unused=True)
    assert {"balancer", "stages"} <= set(parts_of(recipe))
    assert [stage.balancer for stage in without_part(recipe, "balancer").stages] == ["sum", "sum"]
    assert not without_part(recipe, "stages").stages_declared


def test_what_a_part_is_worth(full, tmp_path, capsys):
    """Worth is the mean score of the whole recipe minus that of the runs without the part."""
    out = tmp_path / "out"
    words = ["ablate", str(full), "--out", str(out), "--parts", "balancer", "dropout"]
    words += ["--seeds", "2", "--set", "train.steps=2", "--quiet"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    record = json.loads((out / "ablation.json").read_text())
    assert [part["part"] for part in record["parts"]] == ["balancer", "dropout"]

    def scores(name: str, task: str) -> list[float]:
        runs = [RunDirectory.open(out / "results" / f"{name}-seed{seed}") for seed in (0, 1)]
        return [number(reached(run).tasks[task]) for run in runs]

    for part in record["parts"]:
        for task in ("mood", "alike"):
            worth = np.mean(scores("whole", task)) - np.mean(
                scores(f"without-{part['part']}", task)
            )
            found = part["worth"][task]
            assert found["difference"] == pytest.approx(worth, abs=1e-12)
            assert found["low"] <= found["difference"] <= found["high"]
            assert found["verdict"] in ("helps", "hurts", "undecided")
            assert f"{found['difference']:+.4f}" in printed
        assert set(part["worth"]) == {"mood", "alike", "mean"}
    assert main([*words, "--dry-run"]) == 0  # trains nothing twice
    assert "0 of 6 runs to train" in capsys.readouterr().out


def test_helps_and_hurts_follow_the_direction_of_the_metric(full, tmp_path, monkeypatch):
    real = compare_groups

    def certain(*groups, names):
        found = real(*groups, names=names)
        for table in found.tasks:
            lower = Verdict(-0.3, -0.4, -0.2, 0.01, "lower")
            object.__setattr__(table.entries[1], "verdict", lower)
            object.__setattr__(table, "higher_is_better", table.task == "mood")
        return Comparison(found.tasks, None)

    monkeypatch.setattr(ablation, "compare_groups", certain)
    settings = ["train.steps=1"]
    found = Ablation(full, full.parent, tmp_path / "out", settings, ["balancer"], 1)
    found.train(quiet=True)
    (part,) = found.results().parts
    assert part.worth["mood"] == Verdict(0.3, 0.2, 0.4, 0.01, "helps")
    assert part.worth["alike"] == Verdict(0.3, 0.2, 0.4, 0.01, "hurts")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--parts", "balancr"], '--parts: "balancr" is not a part; did you mean "balancer"?'),
        (["--parts", "epochs"], '--parts: "epochs" is not a part; the parts of '),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_one_sentence(full, tmp_path, capsys, options, sentence):
    assert main(["ablate", str(full), "--out", str(tmp_path / "out"), *options]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_recipe_without_parts(tiny_checkpoint):
    values = two_tasks(tiny_checkpoint).only(["mood"]).to_dict()
    values = {
        "encoder": {"name": values["encoder"]["name"]},
        "train": {"epochs": 1},
        "tasks": {
            "mood": {
                key: value
                for key, value in values["tasks"]["mood"].items()
                if key in ("kind", "train", "dev", "text", "label")
            }
        },
    }
    assert parts_of(Recipe.from_dict(values)) == []
    with pytest.raises(ComityError, match="has no part to take out"):
        _chosen([], [], Path("recipe.toml"))
