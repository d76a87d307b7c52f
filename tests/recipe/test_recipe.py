"""Recipes: what is accepted, what is an error, and its message."""

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from tests.recipe.helpers import BASE, MOOD, changed, errors_of

from comity import ComityError, Recipe


def test_defaults_are_the_papers_heads():
    recipe = Recipe.from_dict(BASE)
    assert recipe.tasks["mood"].head_name == "linear"
    assert recipe.tasks["mood"].views == ("first",)
    assert recipe.tasks["alike"].head_name == "bins"
    assert recipe.tasks["alike"].views == ("pair",)
    assert recipe.stages[0].epochs == 3.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train__bacth_size": 3}, ["train.bacth_size", 'did you mean "batch_size"']),
        ({"tasks__mood__lable": "x"}, ["tasks.mood.lable", 'did you mean "label"']),
        ({"stagse": []}, ["stagse", 'did you mean "stages"']),
        ({"encoder__nmae": "x"}, ["encoder.nmae", 'did you mean "name"']),
        ({"train__lr": "fast"}, ["train.lr", "a number", '"fast"']),
        ({"train__seed": 1.5}, ["train.seed", "a whole number", "1.5"]),
        ({"train__group_by_length": "yes"}, ["train.group_by_length", "true or false"]),
        ({"tasks__mood__text": True}, ["tasks.mood.text", "got true"]),
        ({"tasks__mood__train": ...}, ["tasks.mood.train", "missing"]),
        ({"tasks__mood__kind": "clasification"}, ["kind", 'did you mean "classification"']),
        ({"tasks__mood__dev": 1.5}, ["tasks.mood.dev", "1.5"]),
        ({"tasks__mood__batch_size": 0}, ["tasks.mood.batch_size", "at least 1"]),
        ({"tasks": {}}, ["tasks"]),
        ({"train": 3}, ["train", "a table"]),
        ({"train__lr": float("nan")}, ["train.lr"]),
        ({"tasks__mood__text": ...}, ["tasks.mood", '"text"', '"texts"']),
        ({"tasks__alike__text": "left"}, ["tasks.alike", '"text"', '"texts"']),
        ({"tasks__alike__texts": ["left", "left"]}, ["tasks.alike.texts", "left"]),
        ({"tasks__mood__text": 0}, ["tasks.mood", "header = false"]),
        ({"tasks__mood__header": False}, ["tasks.mood.header", "counted from 0"]),
        ({"tasks__mood__view": "pair"}, ["tasks.mood.view", "two text columns"]),
        ({"tasks__alike__scale": [5, 0]}, ["tasks.alike.scale", "lower than the second"]),
        ({"tasks__alike__scale": [5, 5]}, ["tasks.alike.scale", "lower than the second"]),
        ({"tasks__alike__scale": [0, 0.5]}, ["tasks.alike.scale", "whole numbers"]),
        ({"tasks__mood__head": "bins"}, ["tasks.mood.head", "linear"]),
        ({"tasks__mood__metric": "pearson"}, ["tasks.mood.metric", "accuracy"]),
        ({"train__select_by": "moood"}, ["train.select_by", 'did you mean "mood"']),
        ({"train__steps": 3, "train__epochs": 2}, ["train.steps", "not both"]),
        ({"train__average": "emma"}, ["train.average", 'did you mean "ema"']),
        ({"train__average_decay": 0.9}, ["train.average_decay", "no effect", "average is none"]),
        ({"train__average": "ema", "train__average_decay": 1.0}, ["train.average_decay", "1"]),
        (
            {"train__average": "ema", "train__average_last": 3},
            ["train.average_last", "no effect", "average is ema"],
        ),
        (
            {"train__average": "last-evaluations", "train__average_last": 1},
            ["train.average_last", "at least 2"],
        ),
        ({"tasks__a/b": MOOD}, ["tasks.a/b", "file name"]),
        ({"tasks__..": MOOD}, ["tasks...", "file name"]),
        ({"tasks__nul": MOOD}, ["tasks.nul", "file name"]),
        ({"tasks__Mood": MOOD}, ["tasks.Mood", "case"]),
        ({"stages": [{"tasks": ["mood"]}]}, ["tasks.alike", "no stage"]),
        ({"tasks__mood__label": "text"}, ["tasks.mood", "both text and label"]),
        ({"tasks__mood__micro_batches": 64}, ["tasks.mood.micro_batches", "32"]),
        ({"tasks__alike__texts": ["left"]}, ["tasks.alike.texts", "2"]),
        ({"tasks": ...}, ["tasks", "missing"]),
        ({"tasks__int": {"kind": "odd"}}, ["tasks.int.kind"]),
        ({"tasks__mood__kind": "multi-label", "tasks__mood__separator": ""}, ["separator"]),
        ({"train__task_sampling": "annealed", "train__steps": 9}, ["steps", "annealed"]),
        ({"train__freeze": "encoder", "tasks__alike__head": "cosine"}, ["tasks.alike.head"]),
        ({"tasks__alike__metric": "rmse", "tasks__mood": ...}, ["train.select_by", "rmse"]),
        ({"stages": [{"tasks": ["moood"]}]}, ["stages.0.tasks", 'did you mean "mood"']),
        ({"stages": [{"data": {"mod": "x.csv"}}]}, ["stages.0.data.mod", 'did you mean "mood"']),
    ],
)
def test_errors_name_the_key(change, words):
    errors = errors_of(changed(**change))
    assert any(all(word in error for word in words) for error in errors), errors
    assert all(error.startswith("r.toml: ") and "\n" not in error for error in errors)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tasks__mood__sampling_weight": 2.0}, "tasks.mood.sampling_weight"),
        ({"train__task_sampling": "sequential", "train__balancer": "pcgrad"}, "train.balancer"),
        (
            {"train__task_sampling": "proportional", "train__sampling_temperature": 3.0},
            "train.sampling_temperature",
        ),
        ({"train__batches_per_step": 2}, "train.batches_per_step"),
        ({"train__balancer": "pcgrad", "tasks__alike": ...}, "train.balancer"),
        ({"train__steps": 5, "train__epoch_ends": "longest"}, "train.epoch_ends"),
        (
            {"train__task_sampling": "sequential", "train__epoch_ends": "longest"},
            "train.epoch_ends",
        ),
        ({"train__freeze": "encoder", "train__lr_layer_decay": 0.9}, "train.lr_layer_decay"),
        (
            {"train__freeze": "encoder", "encoder__attention_dropout": 0.2},
            "encoder.attention_dropout",
        ),
        (
            {"train__freeze": "encoder", "encoder__embedding_dropout": 0.2},
            "encoder.embedding_dropout",
        ),
        ({"train__conflict_every": 5, "tasks__alike": ...}, "train.conflict_every"),
        ({"tasks__mood__separator": "|"}, "tasks.mood.separator"),
        ({"tasks__mood__scale": [0, 1]}, "tasks.mood.scale"),
        ({"tasks__mood__decimal_mark": ","}, "tasks.mood.decimal_mark"),
        ({"tasks__mood__embedding_pooling": "cls"}, "tasks.mood.embedding_pooling"),
        ({"tasks__alike__classes": ["a", "b"]}, "tasks.alike.classes"),
        ({"tasks__alike__class_weights": "balanced"}, "tasks.alike.class_weights"),
        ({"tasks__alike__head": "cosine", "tasks__alike__head_lr": 1e-3}, "tasks.alike.head_lr"),
        (
            {"tasks__alike__head": "cosine", "tasks__alike__head_dropout": 0.1},
            "tasks.alike.head_dropout",
        ),
        ({"tasks__mood__batch_size": 4, "tasks__mood__batch_tokens": 99}, "tasks.mood.batch_size"),
        ({"encoder__name": "minilm", "encoder__revision": "x"}, "encoder.revision"),
        ({"stages": [{"batches_per_step": 3}, {}]}, "stages.0.batches_per_step"),
        ({"stages": [{"keep_optimizer_state": True}, {}]}, "stages.0.keep_optimizer_state"),
        ({"train__epochs": 2, "stages": [{"steps": 3}, {"epochs": 1}]}, "train.epochs"),
        ({"train__freeze": "encoder", "train__conflict_every": 7}, "train.conflict_every"),
        (
            {"train__head_lr": 1e-3, "tasks__mood__head_lr": 1e-3, "tasks__alike__head_lr": 1e-3},
            "train.head_lr",
        ),
        (
            {"tasks__mood__train": "a.jsonl", "tasks__mood__delimiter": ";"},
            "tasks.mood.delimiter",
        ),
        (
            {"tasks__mood__train": "a.parquet", "tasks__mood__encoding": "utf-8"},
            "tasks.mood.encoding",
        ),
    ],
)
def test_a_key_without_effect_is_an_error(change, key):
    errors = errors_of(changed(**change))
    assert any(f": {key}: " in error for error in errors), errors
    assert any("no effect" in error for error in errors), errors


def test_a_train_key_needs_an_effect_in_one_stage_only():
    stages = [{"task_sampling": "temperature"}, {"tasks": ["mood"]}]
    recipe = changed(
        train__sampling_temperature=3.0,
        train__balancer="pcgrad",
        train__batches_per_step=2,
        stages=stages,
    )
    assert [stage.sampling_temperature for stage in Recipe.from_dict(recipe).stages] == [3.0, 3.0]


def test_all_errors_are_listed():
    errors = errors_of(changed(train__lr="x", train__sead=3, tasks__mood__kind="y"))
    assert len(errors) == 3


def test_stages_inherit_from_train():
    recipe = Recipe.from_dict(
        changed(train__epochs=2.0, stages=[{"steps": 7, "lr": 1e-3}, {"tasks": ["mood"]}])
    )
    first, second = recipe.stages
    assert (first.steps, first.epochs, first.lr) == (7, None, 1e-3)
    assert (second.steps, second.epochs, second.lr) == (None, 2.0, 1e-4)
    assert second.tasks == ("mood",)


TOML = """
[train]
epochs = 2
[tasks.mood]
kind = "classification"
train = "a.csv"
dev = 0.1
text = "text"
label = "mood"
"""


def test_overrides(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(TOML)
    recipe = Recipe.load(path, ["train.lr=3e-4", "tasks.mood.train=b c.csv", "train.steps=9"])
    assert recipe.train.lr == 3e-4
    assert recipe.tasks["mood"].train == "b c.csv"
    assert (recipe.stages[0].steps, recipe.stages[0].epochs) == (9, None)
    with pytest.raises(ComityError, match="key=value"):
        Recipe.load(path, ["train.lr"])
    with pytest.raises(ComityError, match="did you mean"):
        Recipe.load(path, ["train.lrr=1"])
    with pytest.raises(ComityError, match=r'"train.epochs" is not a table'):
        Recipe.load(path, ["train.epochs.lr=1"])


def test_to_dict_and_back():
    recipe = Recipe.from_dict(
        changed(stages=[{"tasks": ["mood"]}, {"tasks": ["alike"]}], tasks__alike__scale=[0, 4])
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train\nlr = 1", ["r.toml:1", "not valid TOML"]),
        (TOML + "[tasks.mood]\n", ["r.toml", "two tasks are named mood"]),
        ("a = 1\na = 2\n", ["r.toml:2", "fix that line"]),
    ],
)
def test_toml_errors_name_the_line(tmp_path, text, words):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ComityError) as caught:
        Recipe.load(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_recipe(tmp_path):
    with pytest.raises(ComityError, match="no such recipe"):
        Recipe.load(tmp_path / "none.toml")


# --- frozen encoders and balancers ----------------------------------------------------------------


def test_a_frozen_stage_sums_instead_of_the_balancer_of_train():
    stages = [{"freeze": "encoder"}, {}]
    recipe = Recipe.from_dict(changed(train__balancer="pcgrad", stages=stages))
    assert [stage.balancer for stage in recipe.stages] == ["sum", "pcgrad"]
    assert recipe.notes() == [
        "stage 1: the whole encoder is frozen, so each row is encoded once, without dropout; only "
        "heads are trained, with their own dropout",
        'stage 1: the whole encoder is frozen, so it uses the balancer "sum" instead of "pcgrad"',
    ]


def test_a_balancer_set_from_outside_may_meet_a_frozen_encoder(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(tomli_w.dumps(changed(train__freeze="encoder")))
    recipe = Recipe.load(path, ["train.balancer=gradvac"])
    assert recipe.stages[0].balancer == "sum"
    assert len(recipe.notes()) == 2
    assert len(Recipe.load(path).notes()) == 1


def test_the_own_balancer_of_a_frozen_stage_is_an_error():
    [error] = errors_of(changed(stages=[{"freeze": "encoder", "balancer": "pcgrad"}]))
    assert error.startswith("r.toml: stages.0.balancer: has no effect here (the whole encoder")


# --- some tasks of a recipe -----------------------------------------------------------------------


def test_only_some_tasks():
    recipe = Recipe.from_dict(changed(train__balancer="pcgrad", train__select_by="mood"))
    alone = recipe.only(["alike"])
    assert alone == Recipe.from_dict(changed(tasks__mood=...))
    assert alone.train.select_by == "mean"
    assert recipe.only(["alike", "mood"]) == recipe


def test_only_leaves_stages_without_a_task_out():
    stages = [
        {"tasks": ["mood"]},
        {"tasks": ["mood", "alike"], "keep_optimizer_state": True, "data": {"mood": "m.csv"}},
    ]
    recipe = Recipe.from_dict(changed(train__conflict_every=5, stages=stages))
    [stage] = recipe.only(["alike"]).stages
    assert (stage.tasks, stage.data, stage.keep_optimizer_state) == (("alike",), {}, False)
    first, second = recipe.only(["mood"]).stages
    assert first.tasks == second.tasks == ("mood",)
    assert second.data["mood"].file == "m.csv"
    assert second.keep_optimizer_state


def test_only_drops_keys_that_lose_their_effect():
    changes = {
        "train__conflict_every": 5,
        "tasks__a.b": {**MOOD, "sampling_weight": 2.0},
        "stages": [{"tasks": ["mood", "a.b"], "task_sampling": "temperature"}, {}],
    }
    recipe = Recipe.from_dict(changed(**changes))
    alone = recipe.only(["a.b"])
    assert not alone.train.sets("conflict_every")
    assert alone.tasks["a.b"].sampling_weight == 2.0


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["moood"], '--only: unknown task "moood"; did you mean "mood"?'),
        (["xyz"], '--only: unknown task "xyz"; the recipe has mood, alike'),
        (["mood"], "all tasks are eval_only"),
    ],
)
def test_only_tasks_that_exist_and_are_trained(tasks, message):
    recipe = Recipe.from_dict(changed(tasks__mood__eval_only=True))
    with pytest.raises(ComityError) as caught:
        recipe.only(tasks)
    assert len(caught.value.messages) == 1
    assert message in str(caught.value)


NAMES = ["mood", "alike", "third"]
SUBSETS = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)


@given(
    stages=st.lists(SUBSETS, max_size=3),
    balancer=st.sampled_from(["sum", "pcgrad"]),
    select_by=st.sampled_from(["mean", *NAMES]),
    sampling=st.sampled_from(["round-robin", "temperature"]),
    chosen=SUBSETS,
)
def test_part_of_a_valid_recipe_is_valid(stages, balancer, select_by, sampling, chosen):
    whole = changed(
        tasks__third=MOOD,
        train__balancer=balancer,
        train__select_by=select_by,
        stages=[{"tasks": tasks, "task_sampling": sampling} for tasks in stages],
    )
    try:
        recipe = Recipe.from_dict(whole)
    except ComityError:
        return
    part = recipe.only(chosen)
    assert set(part.tasks) == set(chosen)
    assert all(set(stage.tasks) <= set(chosen) for stage in part.stages)
