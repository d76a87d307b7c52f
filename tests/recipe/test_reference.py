"""The reference of keys: lookups, and the texts that describe a key."""

import pytest

from comity import ComityError
from comity.recipe.reference import all_keys, find_keys, recipe_page
from comity.recipe.schema import RecipeSchema, TrainSection


def tables_of(name):
    return [key.tables for key in find_keys(name)]


def test_a_key_is_found_in_every_table_that_has_it():
    assert tables_of("lr") == [("[train]", "[[stages]]")]
    assert tables_of("batch_size") == [("[train]",), ("[tasks.NAME]",)]
    assert tables_of("text") == [("[tasks.NAME]",), ("[stages.data.NAME]",)]
    assert tables_of("weight") == [
        ("[[tasks.NAME.objectives]]",), ("[tasks.NAME.consistency]",)
    ]  # fmt: skip


def test_a_full_key_is_found_in_its_table():
    assert tables_of("train.batch_size") == [("[train]",)]
    assert tables_of("tasks.mood.batch_size") == [("[tasks.NAME]",)]
    assert tables_of("stages.0.lr") == [("[train]", "[[stages]]")]
    assert tables_of("stages.0.data.mood.text") == [("[stages.data.NAME]",)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sampling_temprature",
            'unknown key "sampling_temprature"; did you mean "sampling_temperature"?',
        ),
        ("zzz", 'unknown key "zzz"; `comity recipe` lists all keys'),
        ("schedule", 'unknown key "schedule"; it is now called "task_sampling"'),
        ("train.decay", 'unknown key "train.decay"; it is now called "lr_schedule"'),
    ],
)
def test_an_unknown_key_gets_a_suggestion(name, message):
    with pytest.raises(ComityError) as caught:
        find_keys(name)
    assert caught.value.messages == [message]


def test_a_key_is_listed_once_per_table():
    entries = [(table, key.name) for key in all_keys() for table in key.tables]
    assert len(entries) == len(set(entries))
    in_train = {name for table, name in entries if table == "[train]"}
    assert in_train == set(TrainSection.model_fields)
    assert len({table for table, _ in entries}) == 3 + len(RecipeSchema.model_fields)


@pytest.mark.parametrize(
    ("name", "values", "default"),
    [
        ("train.lr", "number above 0", '`5e-5`, or `0.01` with `freeze = "encoder"`'),
        ("train.eps", "number above 0", "`1e-6`"),
        ("train.seed", "whole number at least 0", "`0`"),
        ("train.betas", "list of 2: number at least 0 and below 1", "`[0.9, 0.999]`"),
        ("train.group_by_length", "`true`, `false`", "`true`"),
        ("train.lr_schedule", "`linear`, `cosine`, `constant`", "`linear`"),
        ("train.head_lr", "number above 0", "the stage's `lr`"),
        (
            "train.freeze",
            "`nothing`, `embeddings`, `encoder` or whole number at least 1",
            "`nothing`",
        ),
        ("train.evaluate_every", "whole number at least 1 or `epoch`", "`epoch`"),
        (
            "tasks.NAME.head_dropout",
            "number at least 0 and below 1",
            "the encoder's hidden dropout",
        ),
        ("tasks.NAME.dev", "text or list of text or number above 0 and below 1", "required"),
        ("tasks.NAME.classes", "list of at least 2: text", "found in the training file"),
        ("tasks.NAME.objectives", "list of tables", "none"),
        ("tasks.NAME.class_weights", "`balanced` or table", "equal weights"),
        ("stages.tasks", "list of text", "all tasks, but no `eval_only` task in a stage on labels"),
    ],
)
def test_values_and_default_in_words(name, values, default):
    [key] = find_keys(name)
    assert (key.values, key.default) == (values, default)


def test_every_key_is_described():
    for key in all_keys():
        assert key.description.endswith("."), key
        assert key.summary and not key.summary.endswith("al."), key
        assert "|" not in key.description + key.values + key.default  # it would split a cell


def test_the_page_has_a_row_for_every_key():
    rows = [line for line in recipe_page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(all_keys())
