"""The messages about errors in a recipe, word for word, and the names that keys had before."""

import re
from typing import Any

import pytest
import tomli_w
from tests.recipe.helpers import ALIKE, MOOD, changed, errors_of

from comity import ComityError, Recipe
from comity.recipe.messages import (
    FROM_ELSEWHERE,
    RENAMED,
    RENAMED_VALUES,
    VALUES_FROM_ELSEWHERE,
    keys_of,
)
from comity.recipe.schema import (
    EncoderSection,
    ObjectiveSection,
    StageSection,
    TaskSection,
    TrackSection,
    TrainSection,
)

# Table, old name, new name.
RENAMED_KEYS = [
    ("stages.0", "schedule", "task_sampling"),
    ("stages.0", "turns", "batches_per_step"),
    ("stages.0", "temperature", "sampling_temperature"),
    ("stages.0", "decay", "lr_schedule"),
    ("stages.0", "layer_decay", "lr_layer_decay"),
    ("stages.0", "objective", "train_on"),
    ("stages.0", "carry", "keep_optimizer_state"),
    ("stages.0.data.mood", "map", "label_map"),
    ("train", "schedule", "task_sampling"),
    ("train", "turns", "batches_per_step"),
    ("train", "temperature", "sampling_temperature"),
    ("train", "decay", "lr_schedule"),
    ("train", "layer_decay", "lr_layer_decay"),
    ("train", "group_lengths", "group_by_length"),
    ("train", "weighting", "loss_weighting"),
    ("train", "clip", "max_grad_norm"),
    ("train", "watch", "conflict_every"),
    ("train", "train_sample", "eval_train_rows"),
    ("train", "best", "select_by"),
    ("tasks.mood", "judge_only", "eval_only"),
    ("tasks.mood", "accumulate", "micro_batches"),
    ("tasks.mood", "weight", "loss_weight"),
    ("tasks.mood", "layers", "head_layers"),
    ("tasks.mood", "dropout", "head_dropout"),
    ("tasks.mood", "decimal", "decimal_mark"),
    ("tasks.mood", "missing", "missing_labels"),
    ("tasks.mood", "empty", "empty_texts"),
    ("tasks.alike.objectives.0", "scale", "cosine_scale"),
    ("tasks.alike.objectives.0", "positive", "positive_from"),
]


def recipe_with(table, key):
    """A recipe in which `key`, of any value, is set in a table given by its full name."""
    objectives = [{"loss": "ranking"}]
    stages = [{"data": {"mood": {"file": "other.csv"}}}]
    recipe = changed(tasks__alike__objectives=objectives, stages=stages)
    node: Any = recipe
    for part in table.split("."):
        node = node[int(part)] if part.isdigit() else node[part]
    node[key] = 1
    return recipe


@pytest.mark.parametrize(("table", "old", "new"), RENAMED_KEYS)
def test_an_old_key_gets_its_new_name(table, old, new):
    assert errors_of(recipe_with(table, old)) == [
        f'r.toml: {table}.{old}: unknown key "{old}" in [{table}]; it is now called "{new}"'
    ]


def test_every_old_key_is_tested():
    inherited = len(RENAMED_KEYS) - sum(len(table) for table in RENAMED.values())
    assert inherited == 5  # those of a stage, which [train] has too


def test_every_new_name_is_a_key_and_no_old_name_is():
    for section, names in RENAMED.items():
        assert set(names.values()) <= set(keys_of(section))
        assert not set(names) & set(keys_of(section))


def test_an_old_name_may_be_a_key_elsewhere():
    recipe = changed(tasks__alike__objectives=[{"loss": "cosent", "weight": 0.5}])
    assert Recipe.from_dict(recipe).tasks["alike"].objectives[0].weight == 0.5
    [error] = errors_of(changed(encoder={"weight": 1}))
    assert "loss_weight" not in error


@pytest.mark.parametrize(
    ("old", "new"), [("tasks", "labels"), ("masked-language-model", "masked-words")]
)
def test_an_old_value_gets_its_new_name(old, new):
    assert errors_of(changed(stages=[{"train_on": old}])) == [
        f'r.toml: stages.0.train_on: "{old}" is now called "{new}"'
    ]
    assert RENAMED_VALUES["train_on"][old] == new
    assert StageSection.model_validate({"train_on": new})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tasks__alike__metric": "rmse", "tasks__mood": ...},
            "train.select_by: the mean excludes rmse; set train.select_by to a task",
        ),
        (
            {"train__select_by": "x"},
            'train.select_by: unknown task "x"; use "mean" or mood, alike',
        ),
        (
            {"train__select_by": "mood", "tasks__mood__eval_only": True},
            "train.select_by: the task mood is eval_only; name a task that is trained",
        ),
        (
            {"stages": [{"tasks": ["mood", "alike", "x"]}]},
            'stages.0.tasks: unknown task "x"; this recipe has mood, alike',
        ),
        (
            {"stages": [{"data": {"x": "x.csv"}}]},
            'stages.0.data.x: unknown task "x"; this stage has mood, alike',
        ),
        (
            {"tasks__mood__eval_only": True, "stages": [{"tasks": ["mood", "alike"]}]},
            'stages.0.tasks: the task "mood" is eval_only; remove it here, or unset eval_only',
        ),
        (
            {"tasks__mood__eval_only": True, "tasks__mood__loss_weight": 2.0},
            "tasks.mood.loss_weight: has no effect here (the task is eval_only); remove it",
        ),
        (
            {"tasks__mood__metric": "pearson"},
            "tasks.mood.metric: classification needs the metric accuracy, macro_f1, "
            "balanced_accuracy or mcc, got pearson",
        ),
        (
            {"tasks__mood__kind": "clasification"},
            "tasks.mood.kind: expected one of 'classification', 'multi-label', 'regression' or "
            '\'similarity\', got "clasification"; did you mean "classification"?',
        ),
        (
            {"train__lr_layer_decay": 1.5},
            "train.lr_layer_decay: expected a number at most 1, got 1.5",
        ),
        ({"train__lr": 0.0}, "train.lr: expected a number above 0, got 0.0"),
        (
            {"tasks__mood__dev": 10},
            "tasks.mood.dev: expected text in quotes, a list or a number below 1, got 10",
        ),
        (
            {"train__epoch": 2},
            'train.epoch: unknown key "epoch" in [train]; did you mean "epochs"?',
        ),
        ({"train__eps": "x"}, 'train.eps: expected a number, got "x"'),
        (
            {"tasks__mood__classes": ["a"]},
            "tasks.mood.classes: expected at least 2 entries, got ['a']",
        ),
        ({"tasks__alike__texts": ["left"]}, "tasks.alike.texts.1: entry 2 of this list is missing"),
        ({"tasks__mood__train": ...}, 'tasks.mood.train: missing; add "train" to [tasks.mood]'),
        ({"tasks": ...}, "tasks: missing; add a table [tasks.NAME] for each task"),
        (
            {"colour": 1},
            'colour: unknown key "colour" at the top level; the keys of this table are encoder, '
            "stages, tasks, track, train",
        ),
        (
            {"train__freeze": "encoder", "tasks__alike__objectives": [{"loss": "cosent"}]},
            "tasks.alike.objectives: objectives train the encoder, which is frozen in every stage; "
            "remove them",
        ),
        (
            {"stages": [{"data": {"alike": {"file": "x.csv", "text": "a"}}}]},
            'stages.0.data.alike.text: the task has "texts"; set "texts" instead',
        ),
        (
            {"stages": [{"data": {"alike": {"file": "x.csv", "label_map": {}}}}]},
            "stages.0.data.alike.label_map: is empty; map each label of the file, or remove it",
        ),
        (
            {"stages": [{"data": {"alike": {"file": "x", "label_map": {"0": 0, "0.0": 5}}}}]},
            "stages.0.data.alike.label_map: names a label twice; remove one",
        ),
        (
            {
                "stages": [
                    {"data": {"mood": {"file": "x.csv", "label": "a"}}},
                    {"data": {"mood": {"file": "x.csv", "label": "b"}}},
                ]
            },
            "stages.1.data.mood.file: two stages read x.csv with different keys; use the same "
            "keys, or a copy of the file",
        ),
        (
            {"stages": [{"warmup": 2.5}]},
            "stages.0.warmup: a value above 1 is a number of steps; use a whole number",
        ),
        (
            {"stages": [{"train_on": "masked-words", "freeze": "encoder"}, {}]},
            "stages.0.freeze: masked words train the encoder, so it cannot be frozen",
        ),
        (
            {"tasks__mood__consistency": {"kind": "rdrop"}},
            "tasks.mood.consistency.kind: expected one of 'r-drop', got \"rdrop\"; did you mean "
            '"r-drop"?',
        ),
        (
            {"tasks__mood__consistency": {"kind": "r-drop", "weight": -1.0}},
            "tasks.mood.consistency.weight: expected a number above 0, got -1.0",
        ),
        (
            {"tasks__mood__consistency": {"weight": 1.0}},
            'tasks.mood.consistency.kind: missing; add "kind" to [tasks.mood.consistency]',
        ),
        (
            {"tasks__mood__consistency": "r-drop"},
            'tasks.mood.consistency: expected a table, got "r-drop"',
        ),
        (
            {"tasks__mood__consistency": {"kind": "r-drop", "wieght": 1.0}},
            'tasks.mood.consistency.wieght: unknown key "wieght" in [tasks.mood.consistency]; did '
            'you mean "weight"?',
        ),
        (
            {"tasks__mood__eval_only": True, "tasks__mood__consistency": {"kind": "r-drop"}},
            "tasks.mood.consistency: has no effect here (the task is eval_only); remove it",
        ),
        (
            {"tasks__mood__loss": "focal"},
            "tasks.mood.loss: expected one of 'cross-entropy' or 'one-vs-all', got \"focal\"",
        ),
        (
            {"tasks__mood__loss": "ranking"},
            "tasks.mood.loss: expected one of 'cross-entropy' or 'one-vs-all', got \"ranking\"",
        ),
        (
            {"tasks__alike__loss": "one-vs-all"},
            "tasks.alike.loss: has no effect here (only classification has a choice); remove it",
        ),
        (
            {"track": {"to": ["wandb", "mflow"]}},
            "track.to.1: expected one of 'tensorboard', 'wandb', 'trackio' or 'mlflow', got "
            '"mflow"; did you mean "mlflow"?',
        ),
        (
            {"track": {"to": ["wandb", "wandb"]}},
            'track.to: "wandb" is listed twice; remove one of them',
        ),
        (
            {"track": {"to": "tensorboard", "project": "x"}},
            "track.project: has no effect here (tensorboard has no projects",
        ),
        (
            {"track": {"to": "wandb", "project": ""}},
            'track.project: expected text that is not empty, got ""',
        ),
    ],
)
def test_a_message(change, message):
    errors = errors_of(changed(**change))
    assert any(error.startswith(f"r.toml: {message}") for error in errors), errors


def test_a_task_called_like_a_type_keeps_its_name():
    tasks = {"float": {**MOOD, "train": 1}, "alike": ALIKE}
    with pytest.raises(ComityError, match=r"recipe: tasks\.float\.train: expected text in quotes"):
        Recipe.from_dict({"tasks": tasks})


@pytest.mark.parametrize(
    ("change", "suggestion"),
    [
        ({"lr": 1e-3}, "train.lr"),
        ({"learning_rate": 1e-3}, "train.lr"),
        ({"bacth_size": 8}, "train.batch_size"),
        ({"model": "bert-base-uncased"}, "encoder.name"),
        ({"label": "x"}, "tasks.NAME.label"),
        ({"train__learning_rate": 1e-3}, "lr"),
        ({"train__per_device_train_batch_size": 8}, "batch_size"),
        ({"train__num_train_epochs": 3}, "epochs"),
        ({"train__max_seq_length": 128}, "max_length"),
        ({"train__warmup_ratio": 0.1}, "warmup"),
        ({"train__bf16": True}, "precision"),
        ({"train__gradient_accumulation_steps": 2}, "tasks.NAME.micro_batches"),
        ({"train__kind": "classification"}, "tasks.NAME.kind"),
        ({"tasks__mood__learning_rate": 1e-3}, "train.lr"),
        ({"tasks__mood__lr": 1e-3}, "train.lr"),
        ({"tasks__mood__max_seq_length": 9}, "max_length"),
        ({"encoder__model_name_or_path": "x"}, "name"),
        ({"encoder__lr": 1e-3}, "train.lr"),
        ({"stages": [{"learning_rate": 1e-3}]}, "lr"),
        ({"stages": [{"seed": 1}]}, "train.seed"),
        ({"tasks__mood__r_drop": 1.0}, "consistency"),
        ({"train__report_to": "wandb"}, "track.to"),
        ({"track": {"report_to": "wandb"}}, "to"),
    ],
)
def test_a_key_of_another_table_or_tool_is_suggested(change, suggestion):
    [error] = errors_of(changed(**change))
    assert error.endswith(f'; did you mean "{suggestion}"?')


def test_names_of_other_tools_lead_to_keys_and_are_no_keys():
    tables = (TrainSection, EncoderSection, TaskSection, TrackSection)
    known = {key for table in tables for key in keys_of(table)}
    assert set(FROM_ELSEWHERE.values()) <= known
    assert not set(FROM_ELSEWHERE) & known


@pytest.mark.parametrize(
    ("key", "value", "suggestion"),
    [
        ("tasks__mood__metric", "f1", '"macro_f1" or "micro_f1"'),
        ("tasks__mood__metric", "F1-score", '"macro_f1" or "micro_f1"'),
        ("tasks__mood__metric", "acc", '"accuracy"'),
        ("tasks__mood__metric", "matthews_corrcoef", '"mcc"'),
        ("tasks__mood__metric", "precision", '"macro_f1"'),
        ("tasks__alike__metric", "mse", '"rmse"'),
        ("tasks__alike__metric", "pearsonr", '"pearson"'),
        ("tasks__alike__metric", "spearmanr", '"spearman"'),
        ("tasks__mood__kind", "multiclass", '"classification"'),
        ("train__balancer", "gradient surgery", '"pcgrad"'),
        ("train__precision", "bfloat16", '"bf16"'),
        ("tasks__mood__loss", "BCE", '"one-vs-all"'),
        ("tasks__mood__loss", "one vs rest", '"one-vs-all"'),
    ],
)
def test_a_value_of_another_tool_is_suggested(key, value, suggestion):
    [error] = errors_of(changed(**{key: value}))
    assert error.endswith(f'got "{value}"; did you mean {suggestion}?')


def test_a_metric_without_a_counterpart_gets_the_list_alone():
    [error] = errors_of(changed(tasks__mood__metric="roc_auc"))
    assert "'macro_f1'" in error and error.endswith('got "roc_auc"')


def test_values_of_other_tools_lead_to_values_and_are_no_values():
    sections = (TrainSection, TaskSection, StageSection, ObjectiveSection)
    fields = [field for section in sections for field in section.model_fields.items()]
    for key, values in VALUES_FROM_ELSEWHERE.items():
        types = [str(field.annotation) for name, field in fields if name == key]
        choices = re.findall(r"'([^']+)'", " ".join(types))
        assert {value for meant in values.values() for value in meant} <= set(choices), key
        assert not set(values) & {choice.replace("-", "_") for choice in choices}, key


def test_a_set_key_gets_the_same_suggestion(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(tomli_w.dumps(changed()))
    with pytest.raises(ComityError, match=r'did you mean "train\.lr"'):
        Recipe.load(path, ["lr=1e-3"])


def test_errors_of_stages_come_with_the_others():
    stages = [{"tasks": ["mood", "alik"]}, {"steps": 3, "epochs": 1}]
    errors = errors_of(changed(train__select_by="moood", tasks__alike__scale=[5, 0], stages=stages))
    assert [error.split(": ")[1] for error in errors] == [
        "tasks.alike.scale",
        "train.select_by",
        "stages.1.steps",
        "stages.0.tasks",
    ]


def test_a_task_that_is_wrong_is_not_reported_again_for_its_stages():
    stages = [{"data": {"mood": "more.csv"}}]
    errors = errors_of(changed(tasks__mood__text=..., stages=stages))
    assert len(errors) == 1
