"""`export`: what it refuses, what it reports, and that a failed export leaves nothing."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.export.conftest import recipe
from tests.helpers import stop_at_evaluation

from comity import ComityError, Model, load, train
from comity.cli.main import main
from comity.experiments.slim import write_slim_run
from comity.export import export as module
from comity.export import to_transformers
from comity.export.export import export
from comity.export.folders import output_layer
from comity.export.samples import sample_rows
from comity.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def small(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    """A run of two tasks in float32."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(recipe(tiny_checkpoint, "two", "interaction", epochs=0.1), data, out, quiet=True)


def test_the_comity_folder_gives_the_predictions_of_the_run_to_the_bit(
    exported, run, pairs, tmp_path
):
    found = exported("comity")
    (part,) = found.parts
    assert part.difference == 0.0
    assert part.note == "the head of never was not trained"
    assert found.omitted == []
    first, second = load(run), Model.from_pretrained(found.out)
    assert second.tasks == first.tasks
    for task in ("levels", "cosine", "interaction", "never"):
        assert np.array_equal(second.outputs(task, pairs), first.outputs(task, pairs))
    # The card and the record of the export are not part of the model.
    copy = shutil.copytree(found.out, tmp_path / "copy")
    (copy / "README.md").write_text("my own card")
    load(copy)


def test_what_bf16_changes_is_measured_apart(exported, run, model):
    found = exported("transformers")
    assert found.precision == "bfloat16"
    assert found.float32_differences.keys() == set(run.facts().tasks)
    rows = sample_rows(module.open_source(run.path), "score")
    expected = np.abs(load(run).outputs("score", rows) - model.outputs("score", rows)).max()
    assert found.float32_differences["score"] == pytest.approx(expected)
    assert expected > 1e-5


def test_a_folder_that_is_not_empty_is_refused(small, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ComityError, match=r"is not empty \(it has mine.txt\); choose a new"):
        export(small.path, "comity", tmp_path)
    with pytest.raises(ComityError, match="--overwrite replaces only what comity export wrote"):
        export(small.path, "comity", tmp_path, overwrite=True)
    with pytest.raises(ComityError, match=r"mine.txt: is a file; choose a folder"):
        export(small.path, "comity", tmp_path / "mine.txt", overwrite=True)
    with pytest.raises(ComityError, match="--overwrite replaces only what comity export wrote"):
        export(small.path, "comity", small.path, overwrite=True)
    with pytest.raises(ComityError, match="the name of the folder is not UTF-8"):
        export(small.path, "comity", tmp_path / "\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_an_export_and_nothing_else(small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(small.path, "comity", out)
    with pytest.raises(ComityError, match="or replace the export with --overwrite"):
        export(small.path, "transformers", out)
    (out / "notes.txt").write_text("keep")
    with pytest.raises(ComityError, match=r"notes.txt: does not belong to the export; move it"):
        export(small.path, "transformers", out, overwrite=True)
    (out / "notes.txt").unlink()
    export(small.path, "transformers", out, overwrite=True)
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "encoder", "export.json", "tasks"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_with_other_outputs_is_not_left_behind(small, tmp_path, monkeypatch):
    export(small.path, "transformers", tmp_path / "out")
    before = (tmp_path / "out" / "export.json").read_bytes()

    def wrong_layer(*arguments):
        weight, bias = output_layer(*arguments)
        return weight, bias + 0.01

    monkeypatch.setattr(to_transformers, "output_layer", wrong_layer)
    with pytest.raises(ComityError, match=r"tasks/two gives other outputs than the run \(by up to"):
        export(small.path, "transformers", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "export.json").read_bytes() == before
    with pytest.raises(ComityError, match="so nothing was written"):
        export(small.path, "transformers", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_the_library_the_folders_are_written_but_not_checked(
    small, tmp_path, monkeypatch, capsys
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "sentence_transformers" else find(name, *rest),
    )
    found = export(small.path, "sentence-transformers", tmp_path / "out")
    assert [part.difference for part in found.parts] == [None]
    assert found.checked_with == {}
    run = str(small.path)
    main(["export", run, "--to", "sentence-transformers", "--out", str(tmp_path / "2")])
    assert (
        "Not checked: sentence-transformers is not installed (pip install sentence-transformers, "
        "then export again)." in capsys.readouterr().out
    )


def test_a_run_that_cannot_be_exported_is_one_sentence(data, small, tmp_path, tiny_checkpoint):
    write_slim_run(small.path, tmp_path / "slim")
    out = tmp_path / "unfinished"
    values = recipe(tiny_checkpoint, "two", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(values, data, out, quiet=True, on_event=stop_at_evaluation(1))
    damaged = Path(shutil.copytree(small.path, tmp_path / "damaged"))
    next(damaged.glob("best-*/heads.safetensors")).write_bytes(b"x")
    for run, sentence in {
        "slim": "is a slim copy without weights",
        "unfinished": "only a finished run can be exported",
        "damaged": "the kept model is damaged",
        "missing": "no such directory",
    }.items():
        with pytest.raises(ComityError, match=sentence) as error:
            export(tmp_path / run, "comity", tmp_path / "out")
        assert len(error.value.messages) == 1
    with pytest.raises(ComityError, match='unknown target "transformer"; did you mean "transfor'):
        export(small.path, "transformer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prints_tables_and_json(small, tmp_path, capsys):
    run, out = str(small.path), tmp_path / "out"
    assert main(["export", run, "--to", "transformers", "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in (
        "tasks/two │ head of two │ transformers.AutoModelForSequenceClassification",
        "interaction │ the head reads two texts that are encoded separately │ comity",
        "All folders were loaded with transformers 5.24.0",
    ):
        assert part in printed
    assert "bf16" not in printed
    command = ["export", run, "--to", "comity", "--out", str(out), "--overwrite", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"][0]["difference"] == 0
    assert found["omitted"] == []
    assert main(["export", run, "--to", "comity", "--out", str(out)]) == 2
    assert "is not empty (it has README.md)" in capsys.readouterr().err


def test_everyone_may_read_what_everyone_may_read(small, tmp_path):
    """safetensors writes files that only their owner can read."""
    export(small.path, "transformers", tmp_path / "out")
    (tmp_path / "plain").write_text("x")
    modes = {file.stat().st_mode for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}
