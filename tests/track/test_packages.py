"""The trackers themselves, offline: a run that is stopped and resumed, read back from each.

`make test-track` installs them.
"""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import tomli_w
from tests.helpers import two_tasks, write_two_tasks

from comity.runs.directory import RunDirectory
from comity.track.trackers import TRACKERS

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from tests.helpers import signal_after_step
from comity import train
from comity.training import tracking
from comity.training.interrupts import Interrupted

tracking.PATIENCE = 300.0  # on a busy machine, MLflow takes long to create its database
try:
    train("recipe.toml", out="run", on_event=signal_after_step(5))
except Interrupted:
    train("recipe.toml", out="run", resume=True)
"""

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder with a run that was stopped at step 5 of 9, resumed, and tracked by all trackers."""
    installed = [name for name in TRACKERS if importlib.util.find_spec(name)]
    if not installed:
        pytest.skip("no tracker is installed; run make test-track")
    folder = tmp_path_factory.mktemp("tracked")
    write_two_tasks(folder)
    changes = {"train__steps": 9, "train__epochs": ..., "train__evaluate_every": 3}
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad", **changes).tracked_by(installed)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe.to_dict()))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "turned off" not in done.stderr
    assert done.stdout == ""
    return folder


@pytest.fixture
def run(folder) -> RunDirectory:
    return RunDirectory(folder / "run")


def record_of(run: RunDirectory, tracker: str) -> str:
    """The id of the run in a tracker, or a reason to skip the test."""
    pytest.importorskip(tracker, reason=f"{tracker} is not installed; run make test-track")
    return json.loads((run.path / "track" / f"{tracker}.json").read_text())["run"]


def check(run: RunDirectory, found: Points) -> None:
    """Compare what a tracker has with metrics.jsonl and best.json, read as JSON."""
    text = (run.path / "metrics.jsonl").read_text()
    expected: Points = {}

    def add(name: str, step: int, value: float | None) -> None:
        assert value is not None
        expected.setdefault(name, []).append((step, value))

    for entry in map(json.loads, text.splitlines()):
        step = entry["step"]
        if entry["type"] == "train":
            for task in ("mood", "alike"):
                add(f"train/loss/{task}", step, entry["loss"][task])
            add("train/lr", step, entry["lr"])
            add("train/gradient_norm", step, entry["gradient_norm"])
        elif entry["type"] == "evaluation":
            add("dev/mean", step, entry["mean"])
            for task, metric in (("mood", "accuracy"), ("alike", "pearson")):
                add(f"dev/{metric}/{task}", step, entry["tasks"][task]["value"])
                add(f"train_sample/{metric}/{task}", step, entry["train"][task]["value"])
        elif entry["type"] == "conflict" and entry["steps"]:
            add("conflict/cosine/mood/alike", step, entry["cosines"][0][1])
        elif entry["type"] == "end":
            best = json.loads((run.path / "best.json").read_text())
            add("kept/step", step, best["step"])
            add("kept/accuracy/mood", step, best["tasks"]["mood"]["value"])
    assert [step for step, _ in expected["train/lr"]] == [3, 6, 9]  # as without the stop at step 5
    assert [step for step, _ in expected["dev/mean"]] == [3, 6, 9]
    for name, points in expected.items():
        assert found[name] == [(step, pytest.approx(value, abs=1e-6)) for step, value in points]


def test_tensorboard(run):
    record_of(run, "tensorboard")
    reader = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(run.path / "track"), size_guidance={"scalars": 0})
    events.Reload()
    found = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    check(run, found)
    (config,) = events.Tensors("config/text_summary")  # once, although the run was resumed
    assert b'balancer = "pcgrad"' in config.tensor_proto.string_val[0]


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which wandb writes.

    Blocks of 32,768 bytes; in them fragments with a checksum, a size and a kind: 1 for a whole
    record, 2 for its first fragment, 3 for a middle one, 4 for the last.
    """
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        fragment = content[at + 7 : at + 7 + size]
        at += 7 + size
        record = fragment if kind in (1, 2) else record + fragment
        if kind in (1, 4):
            yield record


def test_wandb(run):
    run_id = record_of(run, "wandb")
    messages = import_module("wandb.proto.wandb_internal_pb2")
    assert run_id == run.facts().id
    found: Points = {}
    started, exits, axes, config = [], [], set(), {}
    for path in sorted((run.path / "track" / "wandb").glob("offline-run-*/*.wandb")):
        for content in wandb_records(path):
            record = messages.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                started.append((record.run.run_id, record.run.display_name, record.run.project))
                config = {item.key: item.value_json for item in record.run.config.update}
            elif kind == "metric":
                axes.add((record.metric.glob_name, record.metric.step_metric))
            elif kind == "exit":
                exits.append(record.exit.exit_code)
            elif kind == "history":
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                for name, value in row.items():
                    found.setdefault(name, []).append((row["step"], value))
    check(run, found)
    assert started == [(run_id, "run", "comity")] * 2  # two processes of one run
    assert exits == [1, 0]
    assert axes == {("*", "step")}
    assert json.loads(config["train"])["balancer"] == "pcgrad"


def test_trackio(run, folder):
    run_id = record_of(run, "trackio")
    assert run_id == run.facts().id
    database = sqlite3.connect(folder / "trackio" / "comity.db")
    rows = database.execute("select run_id, run_name, step, metrics from metrics").fetchall()
    assert {row[:2] for row in rows} == {(run_id, "run")}
    found: Points = {}
    for _, _, step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, []).append((step, value))
    check(run, found)
    (config,) = database.execute("select config from configs where run_id = ?", (run_id,))
    assert json.loads(config[0])["train"]["balancer"] == "pcgrad"


def test_mlflow(run, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    run_id = record_of(run, "mlflow")
    client = import_module("mlflow").MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("comity")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert (tracked.info.run_id, tracked.info.run_name) == (run_id, "run")
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["train.balancer"] == "pcgrad"
    assert tracked.data.params["tasks.alike.texts"] == '["a", "b"]'
    found = {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in tracked.data.metrics
    }
    check(run, {name: sorted(points) for name, points in found.items()})
