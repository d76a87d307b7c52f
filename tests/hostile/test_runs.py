"""Run directories, exported models and caches from others: no path out of them, no large sizes."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save

import comity.inference.model
from comity import ComityError, load
from comity.data.soft_labels import read_soft_labels, write_soft_labels
from comity.evaluation.predictions import kept_predictions
from comity.files import MANIFEST, damage, read_record, write_record
from comity.runs.directory import RunDirectory
from comity.serve.bodies import TextsBody, parse
from comity.serve.limits import RequestError
from comity.training.teachers import RunTeacher
from tests.data.test_soft_labels import LABELS
from tests.hostile.readers import filled, resume, seal_manifest, write_run, write_stopped_run
from tests.hostile.sandbox import ENDED, outcome


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return filled(write_run, tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def change(written) -> Any:
    """A function that changes a record of the run or the model; all is as before after the test."""
    before: dict[Path, bytes] = {}

    def change(name: str, key: str, value: Any) -> RunDirectory:
        path = written / name
        before.setdefault(path, path.read_bytes())
        values = read_record(path)
        *owners, last = key.split("/")
        owner = values
        for inner in owners:
            owner = owner[inner]
        owner[last] = value
        write_record(path, values)
        return RunDirectory(written / "run")

    yield change
    for path, content in before.items():
        path.write_bytes(content)


def assert_refused(function: Callable[[], object], said: str) -> None:
    with pytest.raises(ComityError) as caught:
        function()
    assert said in str(caught.value)


HEAD = "tasks/alike/head"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{HEAD}/layers", 10**12),
        (f"{HEAD}/layers", -1),
        (f"{HEAD}/dropout", 2.0),
        (f"{HEAD}/pooling", "max"),
        (f"{HEAD}/views", ["third"]),
        (f"{HEAD}/views", []),
        (f"{HEAD}/target/head", "linear"),
        (f"{HEAD}/target/kind", "x"),
        (f"{HEAD}/target/scale", [5, 0]),
        (f"{HEAD}/target/deviation", 0.0),
        (f"{HEAD}/target/temperature", 0.0),
        (f"{HEAD}/target/threshold", 1.0),
        ("precision", "hub"),
        ("precision", "float64"),
    ],
)
def test_a_head_that_no_recipe_declares_takes_no_memory(written, change, key, value):
    change("run/run.json", key, value)
    ending = outcome(lambda: load(written / "run", "cpu"))
    assert ending.startswith("ComityError: ") and "the run is damaged" in ending, ending
    change("saved/comity.json", key, value)
    ending = outcome(lambda: load(written / "saved", "cpu"))
    assert ending.startswith("ComityError: ") and "is damaged" in ending, ending


def test_a_head_with_too_many_levels_takes_no_memory(written, change):
    change("run/run.json", f"{HEAD}/target/head", "bins")
    change("run/run.json", f"{HEAD}/target/scale", [0, 10**12])
    ending = outcome(lambda: load(written / "run", "cpu"))
    assert ending.startswith("ComityError: ") and "the run is damaged" in ending, ending


@pytest.mark.parametrize("name", ["../../mood", "/etc/hosts", "a/b", "", "x" * 65])
def test_a_task_cannot_name_a_file_elsewhere(written, change, name):
    tasks = read_record(written / "run/run.json")["tasks"]
    run = change("run/run.json", "tasks", {name: tasks["mood"]})
    assert_refused(lambda: kept_predictions(run, name), "the run is damaged")


def test_a_task_that_the_recipe_lacks(written, change):
    tasks = read_record(written / "run/run.json")["tasks"]
    change("run/run.json", "tasks", {"other": tasks["mood"]})
    assert_refused(lambda: load(written / "run", "cpu"), "is not a task of the run")
    change("saved/comity.json", "tasks", {"other": tasks["mood"]})
    assert_refused(lambda: load(written / "saved", "cpu"), "which its recipe does not declare")


@pytest.mark.parametrize("key", ["pooling", "target/kind", "target/head", "target/text_head"])
def test_half_of_a_surrogate_pair(written, change, key):
    change("run/run.json", f"{HEAD}/{key}", "\ud800")
    assert_refused(lambda: load(written / "run", "cpu"), "the run is damaged")
    change("saved/comity.json", f"{HEAD}/{key}", "\ud800")
    assert_refused(lambda: load(written / "saved", "cpu"), "comity.json: is damaged")


@pytest.mark.parametrize("folder", ["../run", "/tmp", ".", "best-1/../../run", "best-x"])
def test_the_best_model_is_in_the_run(change, folder):
    run = change("run/best.json", "folder", folder)
    assert_refused(run.kept_model, "which is not a folder of the run")


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0.0), ("temperature", float("inf")), ("threshold", 1.0), ("threshold", 0.0)],
)
def test_a_calibration_that_cannot_be(change, key, value):
    run = change("run/best.json", f"calibration/mood/{key}", value)
    assert_refused(run.best, f"calibration.mood.{key}")


@pytest.mark.parametrize(
    "name", ["../run/run.json", "/etc/hosts", "a/../../b", "..", "c:\\x", "\0"]
)
def test_files_of_a_folder_are_inside(tmp_path, written, change, name):
    write_record(tmp_path / MANIFEST, {"run": None, "files": {name: [0, "0" * 64]}})
    assert "which is not in the folder" in (damage(tmp_path) or "")
    change("saved/comity.json", "files", {name: "0" * 64})
    assert_refused(lambda: load(written / "saved", "cpu"), "which is not in the folder")


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write_record(tmp_path / MANIFEST, {"run": None, "files": {"pipe": [0, "0" * 64]}})
    found: list[str | None] = []
    assert outcome(lambda: found.append(damage(tmp_path)), seconds=10) == ENDED
    assert damage(tmp_path) == "pipe is not a regular file"


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions/000001/mood.csv"])
def test_a_pipe_in_a_run_is_not_waited_for(tmp_path, written, change, name):
    run = RunDirectory(written / "run")
    path = max((written / "run").glob(name.replace("000001", "*")))
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    manifest = path.parent / MANIFEST
    hidden = manifest.read_bytes() if manifest.is_file() else None
    manifest.unlink(missing_ok=True)
    try:
        reader = run.metrics if "metrics" in name else lambda: kept_predictions(run, "mood")
        ending = outcome(reader, seconds=10)
    finally:
        path.unlink()
        path.write_bytes(content)
        if hidden is not None:
            manifest.write_bytes(hidden)
    assert ending.startswith("ComityError: ") and "cannot be read" in ending, ending


def test_memory_for_heads_is_that_of_their_file(written, monkeypatch):
    built = []

    def build(*arguments: Any) -> Any:
        built.append(comity.model.multitask.MultiTaskModel(*arguments))
        return built[-1]

    monkeypatch.setattr(comity.inference.model, "MultiTaskModel", build)
    monkeypatch.setattr(comity.inference.model, "load_file", lambda path: {})
    assert_refused(lambda: load(written / "run", "cpu"), "heads.safetensors: cannot be read")
    assert all(parameter.is_meta for parameter in built[0].heads.parameters())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    return filled(write_stopped_run, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", 2),
        ("stage", 1),
        ("stage_step", 0),
        ("stage_step", 7),
        ("stage_step", 10**9),
        ("step", 10**9),
        ("skipped", -1),
        ("examples", 10**400),
        ("conflict/tasks", ["mood"]),
        ("conflict/tasks", []),
        ("conflict/steps", []),
        ("conflict/logged", [0, 0]),
        ("conflict/probes/0/products", [[1.0]]),
        ("conflict/probes/0/cosines", [[1.0], [1.0, 1.0]]),
        ("conflict/probes/0/layers", [[1.0]]),
        ("conflict/probes/0/parts", []),
        ("conflict/effects/mood/steps", 0),
    ],
)
def test_a_checkpoint_that_no_run_has_written(stopped, key, value):
    path = stopped / "checkpoint/state.json"
    record, manifest = path.read_bytes(), (path.parent / MANIFEST).read_bytes()
    try:
        values = read_record(path)
        *owners, last = key.split("/")
        owner: Any = values["progress"]
        for inner in owners:
            owner = owner[int(inner) if inner.isdecimal() else inner]
        assert owner[last] != value
        owner[last] = value
        write_record(path, values)
        seal_manifest(path)
        assert_refused(lambda: resume(stopped), "state.json")
    finally:
        path.write_bytes(record)
        (path.parent / MANIFEST).write_bytes(manifest)


# --- soft labels and caches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        replace(LABELS, rows=LABELS.rows.astype(np.int32)),
        replace(LABELS, rows=LABELS.rows[:2]),
        replace(LABELS, keys=LABELS.keys[:, 0]),
        replace(LABELS, values=LABELS.values[:, :1]),
        replace(LABELS, values=LABELS.values * np.nan),
        replace(LABELS, logits=LABELS.values[:, 0]),
        replace(LABELS, count=cast("Any", "2")),
        replace(LABELS, recipe=cast("Any", [])),
    ],
)
def test_soft_labels_that_do_not_fit_together(tmp_path, labels):
    write_soft_labels(tmp_path / "labels.safetensors", labels)
    assert_refused(lambda: read_soft_labels(tmp_path / "labels.safetensors"), "or is damaged")


@pytest.mark.parametrize("about", ["[" * 5000, "[]", "{}", '"a"', '{"format": 1, "sha256": 1}'])
def test_soft_labels_without_their_facts(tmp_path, about):
    path = tmp_path / "labels.safetensors"
    path.write_bytes(save({"rows": LABELS.rows}, metadata={"comity": about}))
    with pytest.raises(ComityError):
        read_soft_labels(path)


def test_a_cached_array_that_claims_more_than_its_file(tmp_path, monkeypatch):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    path = tmp_path / "cached"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80))
    teacher = RunTeacher("", tmp_path, "", "", (), 1, "", frozenset())
    monkeypatch.setattr(RunTeacher, "_cached", lambda *_: path)
    monkeypatch.setattr(RunTeacher, "_predicted", lambda *_: np.zeros(3))
    split = cast("Any", [0, 0, 0])
    assert outcome(lambda: teacher.values(split, "cpu", lambda _: None)) == ENDED


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"text": ' + b"9" * 1_000_000 + b"}",
        b'{"text": "\\ud800"}',
        b'{"texts": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"\xff\xfe",
        b"",
        b'{"' + b"k" * 1_000_000 + b'": 1}',
    ],
)
def test_a_body_that_is_too_deep_or_too_long(body):
    with pytest.raises(RequestError) as caught:
        parse(body, TextsBody)
    assert caught.value.status in (400, 422)
    assert len(str(caught.value)) < 300


def test_random_bodies_are_errors_of_the_client():
    random = Random(0)
    for _ in range(300):
        with pytest.raises(RequestError):
            parse(random.randbytes(random.randint(0, 30)), TextsBody)


def test_json_is_read_to_any_depth_or_refused(tmp_path):
    path = tmp_path / "record.json"
    for depth in (10, 900, 980, 1000, 100_000):
        path.write_text('{"a": ' + "[" * depth + "]" * depth + ', "sha256": "x"}')
        assert_refused(lambda: read_record(path), str(path))
    path.write_text(json.dumps({"a": 1}))
    assert read_record(path) == {"a": 1}
