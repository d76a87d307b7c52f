"""What `train` accepts as a recipe and its data, and runs whose data was in memory."""

import json
from pathlib import Path

import pytest
from tests.helpers import alike_rows, mood_rows, two_tasks, write_two_tasks

from comity import ComityError, Recipe, load, train
from comity.evaluation.predictions import kept_predictions
from comity.runs.directory import RunDirectory
from comity.training.arguments import resolve

pandas = pytest.importorskip("pandas")


def in_memory(encoder: Path, data: Path, **changes):
    """The recipe of `two_tasks` with tables in place of files."""
    values = two_tasks(encoder, **changes).to_dict()
    for task in values["tasks"].values():
        for key in ("train", "dev"):
            if isinstance(task[key], str):
                task[key] = pandas.read_csv(data / task[key])
    return values


def test_a_path_a_dict_and_a_recipe_are_the_same_run(data, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint)
    folder = tmp_path / "recipes"
    write_two_tasks(folder)
    first = train(recipe, data, tmp_path / "a", quiet=True)
    path = folder / "recipe.toml"
    path.write_bytes((first.path / "recipe.toml").read_bytes())
    runs = [
        first,
        train(path, out=tmp_path / "b", quiet=True),  # files next to the recipe
        train(str(path), str(data), str(tmp_path / "c"), quiet=True),
        train(recipe.to_dict(), data, tmp_path / "d", quiet=True),
        train(in_memory(tiny_checkpoint, data), out=tmp_path / "e", quiet=True),
    ]
    scores = [run.best().tasks for run in runs]
    assert scores == [scores[0]] * 5
    assert runs[1].facts().inputs.data == str(folder)


def test_a_run_on_tables_in_memory_records_them(data, tmp_path, tiny_checkpoint):
    values = in_memory(tiny_checkpoint, data, tasks__alike__dev=0.3)
    run = train(values, out=tmp_path / "run", quiet=True)
    inputs = run.facts().inputs
    assert inputs.in_memory == ["mood train", "mood dev", "alike train", "alike dev"]
    assert run.recipe().tasks["mood"].train == "<table in memory: mood train>"
    assert len(set(inputs.files.values())) == 3  # the two splits of alike are of one table
    model = load(run)
    for task in ("mood", "alike"):
        with pytest.raises(ComityError, match=f"{task}: the run was given its dev rows in memory"):
            model.evaluate(task)
    kept = run.best().tasks["mood"].value
    assert model.evaluate("mood", values["tasks"]["mood"]["dev"]).score.value == kept


def test_resuming_needs_the_same_tables(data, tmp_path, tiny_checkpoint):
    values = in_memory(tiny_checkpoint, data)
    run = train(values, out=tmp_path / "run", quiet=True)
    steps = run.facts().steps
    longer = {"resume": True, "extend": {"steps": 1}, "quiet": True}
    again = train(in_memory(tiny_checkpoint, data), out=run.path, **longer)
    assert steps is not None and again.facts().steps == steps + 1
    values = in_memory(tiny_checkpoint, data) | {"stages": again.recipe().to_dict()["stages"]}
    with pytest.raises(ComityError, match="mood train>: the run was given this table in memory"):
        train(run.recipe(), out=run.path, **longer)
    values["tasks"]["mood"]["train"] = values["tasks"]["mood"]["train"].iloc[:30]
    with pytest.raises(ComityError, match="mood train: has changed since the run was started"):
        train(values, out=run.path, **longer)


def test_lines_are_the_index_of_the_table(data, tmp_path, tiny_checkpoint):
    values = in_memory(tiny_checkpoint, data)
    dev = values["tasks"]["mood"]["dev"]
    values["tasks"]["mood"]["dev"] = dev.set_axis(range(500, 500 + len(dev)))
    run = train(values, out=tmp_path / "run", quiet=True)
    assert kept_predictions(run, "mood").lines == list(range(500, 512))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mood": None}, 'the label "mood" is empty; fill it in, or set missing_labels'),
        ({"text": b"x"}, "'text' is of the type bytes, not text; give the row a text"),
        ({"mood": "x"}, 'the label "x" is not a class of the training rows'),
    ],
)
def test_errors_name_the_row_and_the_column(tmp_path, tiny_checkpoint, data, change, sentence):
    values = in_memory(tiny_checkpoint, data, tasks__mood__classes=["down", "up"])
    table = values["tasks"]["mood"]["train"].astype(object)
    ((column, value),) = change.items()
    table = table.set_axis(range(30, 30 + len(table)))
    table.at[40, column] = value
    values["tasks"]["mood"]["train"] = table
    with pytest.raises(ComityError) as error:
        train(values, out=tmp_path / "run", quiet=True)
    (message,) = error.value.messages
    assert f"pandas DataFrame of mood train, index 40: {sentence}" in message
    assert "file" not in message and "line" not in message
    assert not (tmp_path / "run").exists()


def test_a_stage_takes_a_table_too(data, tmp_path, tiny_checkpoint):
    other = pandas.DataFrame(mood_rows(500, 12), columns=["text", "mood"])
    for file in (other, {"file": other}):
        values = two_tasks(tiny_checkpoint).to_dict() | {"stages": [{"data": {"mood": file}}]}
        job = resolve(values, data)
        assert job.frames == {"<table in memory: mood stage 1>": other}
        assert job.recipe.stages[0].data["mood"].file == "<table in memory: mood stage 1>"
    run = train(values, data, tmp_path / "run", quiet=True)
    assert run.facts().inputs.in_memory == ["mood <table in memory: mood stage 1>"]


@pytest.mark.parametrize(
    ("recipe", "data", "sentence"),
    [
        (None, None, "recipe: expected a path, a dict or a Recipe, got None"),
        ([1], None, "recipe: expected a path, a dict or a Recipe, got a value of the type list"),
        ("[tasks.x]\nkind = 1", None, "recipe: expected a path, got text of several lines"),
        ("none.toml", None, "none.toml: there is no such recipe"),
        ({}, None, "recipe: tasks: missing"),
        ({}, {"mood": 1}, "data: expected the folder of the recipe's files"),
    ],
)
def test_other_arguments_are_one_sentence(recipe, data, sentence):
    with pytest.raises(ComityError) as error:
        resolve(recipe, data)
    (message,) = error.value.messages
    assert message.startswith(sentence)


def test_a_recipe_object_takes_no_table():
    table = pandas.DataFrame(alike_rows(0, 3), columns=["a", "b", "score"])
    task = {"kind": "similarity", "train": table, "dev": 0.5, "texts": ["a", "b"], "label": "score"}
    with pytest.raises(ComityError) as error:
        Recipe.from_dict({"tasks": {"alike": task}})
    assert error.value.messages == [
        "recipe: tasks.alike.train: expected text in quotes or a list, got a table in memory, "
        "which only train() takes"
    ]


def test_a_run_without_a_directory_is_an_error():
    with pytest.raises(ComityError, match="out is missing; name a directory"):
        train("recipe.toml", "runs/first")


def test_a_head_that_predicts_one_class_is_told(data, tmp_path, tiny_checkpoint, capsys):
    """All training rows but one have one class, so that is what the head learns."""
    table = pandas.DataFrame(mood_rows(0, 36), columns=["text", "mood"])
    ups = table[table["mood"] == "up"]
    values = in_memory(tiny_checkpoint, data, train__lr=1e-2)
    values["tasks"].pop("alike")
    values["tasks"]["mood"]["train"] = pandas.concat([ups] * 4 + [table[-3:-2]])
    run = train(values, out=tmp_path / "run", quiet=True)
    sentence = (
        'mood: all 12 rows are predicted as "up", but 6 have another class; train longer, raise '
        "the learning rate, or train more of the encoder"
    )
    assert run.warnings == [sentence]
    assert f"Warning: {sentence}" in capsys.readouterr().err
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines if '"evaluation"' in line]
    assert recorded[-1]["tasks"]["mood"]["warning"] == sentence.removeprefix("mood: ")
    dev = values["tasks"]["mood"]["dev"]
    assert load(run).evaluate("mood", dev).warning == sentence.removeprefix("mood: ")
    assert RunDirectory(run.path).warnings == [sentence]
