"""Runs on data in several files, and on files with rows that cannot be used."""

import csv
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.helpers import (
    alike_rows,
    mood_rows,
    stop_after_step,
    two_tasks,
    write_csv,
    write_two_tasks,
)

from comity import ComityError, load, train
from comity.cli.main import main
from comity.evaluation.analysis import texts_at
from comity.evaluation.evaluate import trained_on
from comity.evaluation.predictions import kept_predictions
from comity.report.tasks import task_view
from comity.runs.directory import RunDirectory

PARTS = {
    "tasks__mood__train": "mood-*.csv",
    "tasks__mood__dev": "dev-mood*",
    "tasks__alike__train": ["alike-b.csv", "alike-a.csv"],
    "tasks__alike__dev": ["dev-alike-2.csv", "dev-alike-1.csv"],
}


def weights_of(run: RunDirectory) -> dict[str, object]:
    files = sorted(run.kept_model().rglob("*.safetensors"))
    return {f"{file.name} {k}": v.tolist() for file in files for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The rows of `write_two_tasks`, as whole files and in parts."""
    folder = tmp_path_factory.mktemp("data")
    write_two_tasks(folder)
    moods, alike, head = mood_rows(0, 36), alike_rows(0, 20), ["a", "b", "score"]
    for number in range(3):
        rows = moods[12 * number : 12 * number + 12]
        write_csv(folder / f"mood-{number}.csv", ["text", "mood"], rows)
    (folder / "mood-dev.csv").rename(folder / "dev-mood-1.csv")
    write_csv(folder / "alike-b.csv", head, alike[:7])
    write_csv(folder / "alike-a.csv", head, alike[7:])
    dev = alike_rows(1000, 10)
    write_csv(folder / "dev-alike-2.csv", head, dev[:4])
    write_csv(folder / "dev-alike-1.csv", head, dev[4:])
    return folder


@pytest.fixture(scope="module")
def parts(data, tiny_checkpoint, tmp_path_factory) -> RunDirectory:
    return train(two_tasks(tiny_checkpoint, **PARTS), data, tmp_path_factory.mktemp("run") / "run")


def test_parts_train_the_same_weights_as_one_file(data, tiny_checkpoint, parts, tmp_path):
    whole = {"tasks__mood__dev": "dev-mood-1.csv"}
    run = train(two_tasks(tiny_checkpoint, **whole), data, tmp_path / "run")
    assert weights_of(run) == weights_of(parts)


def test_a_run_records_its_parts_in_order(data, parts):
    inputs = parts.facts().inputs
    names = {role: [part.name for part in own] for role, own in inputs.parts.items()}
    assert names == {
        "mood train": ["mood-0.csv", "mood-1.csv", "mood-2.csv"],
        "mood dev": ["dev-mood-1.csv"],
        "alike train": ["alike-b.csv", "alike-a.csv"],
        "alike dev": ["dev-alike-2.csv", "dev-alike-1.csv"],
    }
    assert inputs.files.keys() == names.keys()


def test_predictions_and_worst_rows_name_the_part(data, parts):
    found = kept_predictions(parts, "alike")
    assert found.lines[3:6] == ["dev-alike-2.csv:5", "dev-alike-1.csv:2", "dev-alike-1.csv:3"]
    _, texts, note = texts_at(
        parts, "alike", found.file, ["dev-alike-1.csv:2", "dev-alike-2.csv:2"]
    )
    with (data / "dev-alike-1.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    with (data / "dev-alike-2.csv").open(newline="") as file:
        second = next(csv.DictReader(file))
    assert (texts, note) == ([[first["a"], first["b"]], [second["a"], second["b"]]], None)


def test_a_part_of_the_training_data_is_known_again(data, parts):
    assert "is a training file of mood" in str(trained_on(parts, str(data / "mood-1.csv")))
    assert trained_on(parts, str(data / "dev-mood-1.csv")) is None


def test_the_dev_sets_of_a_run_are_found_again(parts):
    assert len(load(parts.path).dev_split("alike")) == 10


@pytest.fixture
def stopped(data, tiny_checkpoint, tmp_path) -> tuple[Path, Path]:
    """A copy of the data, and a run on it that was killed after its second step."""
    folder, out = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    recipe = two_tasks(tiny_checkpoint, **PARTS, train__evaluate_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, out, on_event=stop_after_step(2))
    return folder, out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("edit", "mood-*.csv: the part mood-1.csv has changed since the run was started"),
        ("remove", "mood-*.csv: the part mood-1.csv of the started run is missing"),
        ("add", "mood-*.csv: the part mood-9.csv was not there when the run was started"),
        ("remove from list", "alike-a.csv: there is no such file"),
    ],
)
def test_resuming_names_the_part_that_is_different(stopped, change, message, capsys):
    folder, out = stopped
    if change == "edit":
        write_csv(folder / "mood-1.csv", ["text", "mood"], mood_rows(50, 12))
    elif change == "remove":
        (folder / "mood-1.csv").unlink()
    elif change == "add":
        write_csv(folder / "mood-9.csv", ["text", "mood"], mood_rows(50, 12))
    else:
        (folder / "alike-a.csv").unlink()
    assert main(["train", "--resume", str(out), "--quiet"]) == 2
    assert f"{folder}/{message}" in capsys.readouterr().err


# --- rows that cannot be used ---------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path) -> Path:
    """The files of `write_two_tasks` with broken lines among the rows of training and dev."""
    folder = tmp_path / "broken"
    write_two_tasks(folder)
    for name, line in (("mood.csv", 5), ("mood.csv", 20), ("mood-dev.csv", 3), ("alike.csv", 9)):
        lines = (folder / name).read_text().splitlines()
        lines.insert(line - 1, "only one field")
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


BROKEN = [("mood", "mood.csv", 5), ("mood", "mood.csv", 20), ("mood", "mood-dev.csv", 3),
          ("alike", "alike.csv", 9)]  # fmt: skip


def listed(run: Path) -> list[tuple[str, str, int]]:
    """Task, file and line of the rows that a run lists."""
    entries = map(json.loads, (run / "skipped-rows.jsonl").read_text().splitlines())
    return [(entry["task"], Path(entry["file"]).name, entry["line"]) for entry in entries]


def test_a_run_lists_what_it_leaves_out_and_is_the_run_on_the_other_rows(
    broken, tiny_checkpoint, tmp_path
):
    whole = tmp_path / "whole"
    write_two_tasks(whole)
    clean = train(two_tasks(tiny_checkpoint), whole, tmp_path / "clean")
    recipe = two_tasks(tiny_checkpoint, train__bad_rows="skip")
    run = train(recipe, broken, tmp_path / "run")
    assert weights_of(run) == weights_of(clean)
    assert listed(run.path) == BROKEN
    data = run.data()
    assert data is not None
    assert data.tasks["mood"].train.skipped == {"wrong number of fields": 2}
    assert any("1 row of" in note and "mood-dev.csv cannot be used" in note for note in data.notes)
    assert not (clean.path / "skipped-rows.jsonl").exists()


def test_a_resumed_run_has_the_same_rows_and_the_same_list(broken, tiny_checkpoint, tmp_path):
    recipe = two_tasks(tiny_checkpoint, train__bad_rows="skip", train__evaluate_every=2)
    whole = train(recipe, broken, tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, broken, out, on_event=stop_after_step(3))
    list_before = (out / "skipped-rows.jsonl").read_bytes()
    resumed = train(recipe, broken, out, resume=True)
    assert weights_of(resumed) == weights_of(whole)
    assert (out / "skipped-rows.jsonl").read_bytes() == list_before
    train(recipe, broken, out, overwrite=True)  # the list belongs to the run
    assert listed(out) == BROKEN


def test_broken_rows_of_dev_stay_out_when_it_is_read_again(broken, tiny_checkpoint, tmp_path):
    run = train(two_tasks(tiny_checkpoint, train__bad_rows="skip"), broken, tmp_path / "run")
    assert len(load(run.path).dev_split("mood")) == 12
    worst = task_view(run, "mood", texts=True).worst
    assert all(miss.texts for miss in worst)
    with pytest.raises(ComityError, match=r"mood-dev\.csv:3: 1 field"):
        load(run.path).evaluate("mood", str(broken / "mood-dev.csv"))


def test_without_the_key_broken_rows_are_errors(broken, tiny_checkpoint, tmp_path):
    with pytest.raises(ComityError) as caught:
        train(two_tasks(tiny_checkpoint), broken, tmp_path / "run")
    assert [m.split(": ")[0] for m in caught.value.messages] == [
        f"{broken}/{name}:{line}" for _, name, line in BROKEN
    ]


def test_rows_of_a_table_in_memory_are_listed_by_their_index(data, tiny_checkpoint, tmp_path):
    pandas = pytest.importorskip("pandas")
    values = two_tasks(tiny_checkpoint, **PARTS).only(["mood"]).to_dict()
    frame = pandas.DataFrame(mood_rows(0, 24), columns=["text", "mood"], index=range(100, 124))
    frame.loc[105, "mood"] = None
    values["tasks"]["mood"] |= {"train": frame, "bad_rows": "skip"}
    run = train(values, data, tmp_path / "run")
    (entry,) = map(json.loads, (run.path / "skipped-rows.jsonl").read_text().splitlines())
    assert entry == {
        "task": "mood", "file": "pandas DataFrame of mood train", "line": 105, "column": "mood",
        "reason": "no label", "detail": 'the label "mood" is empty',
    }  # fmt: skip
    values["tasks"]["mood"]["train"] = [frame, frame]
    with pytest.raises(ComityError, match="mood train: a list names files; join the tables"):
        train(values, data, tmp_path / "other")
