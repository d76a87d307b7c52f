"""Tracking while a run trains: what is sent, failures, and resumed runs; with a fake wandb."""

import json
import sys
import threading

import pytest
import tomli_w
from safetensors.torch import load_file
from tests.helpers import signal_after_step, stop_after_step, two_tasks, write_two_tasks
from tests.track.fake_wandb import FakeRun, FakeWandb
from torch import equal

from comity import ComityError, Recipe, train
from comity.cli.main import main
from comity.evaluation.compare import same_recipes
from comity.recipe.differences import first_difference
from comity.runs.directory import RunDirectory
from comity.track import trackers
from comity.training import tracking
from comity.training.interrupts import Interrupted

STEPS = {"train__steps": 9, "train__epochs": ..., "train__evaluate_every": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_two_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint) -> Recipe:
    """Nine steps with an evaluation after every third; not tracked."""
    return two_tasks(tiny_checkpoint, train__balancer="pcgrad", train__conflict_every=4, **STEPS)


@pytest.fixture(scope="module")
def short(tiny_checkpoint) -> Recipe:
    """Three steps; not tracked."""
    return two_tasks(tiny_checkpoint, train__steps=3, train__epochs=..., train__conflict_every=0)


@pytest.fixture(scope="module")
def plain(data, recipe, tmp_path_factory) -> RunDirectory:
    """A run without trackers."""
    return train(recipe, data, tmp_path_factory.mktemp("plain"), quiet=True)


@pytest.fixture
def wandb(monkeypatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def weights(run: RunDirectory) -> dict:
    (folder,) = run.path.glob("best-*")
    return load_file(folder / "encoder" / "model.safetensors")


def sent(*runs: FakeRun) -> dict[tuple[str, float], float]:
    """Every value by name and step; each may be sent once."""
    pairs = [
        ((name, row["step"]), value)
        for run in runs
        for row in run.rows
        for name, value in row.items()
        if name != "step"
    ]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def without_speed(values: dict) -> dict:
    return {key: value for key, value in values.items() if "_per_second" not in key[0]}


def lines(run: RunDirectory, kind: str) -> list[dict]:
    """The lines of metrics.jsonl of one type, read as JSON."""
    text = (run.path / "metrics.jsonl").read_text()
    return [entry for entry in map(json.loads, text.splitlines()) if entry["type"] == kind]


# --- what is sent ---------------------------------------------------------------------------------


def test_a_tracker_gets_the_recipe_and_what_metrics_jsonl_has(data, recipe, tmp_path, wandb):
    run = train(recipe.tracked_by(["wandb"]), data, tmp_path / "first")
    (tracked,) = wandb.runs
    arguments = tracked.arguments
    facts = run.facts()
    assert arguments["id"] == facts.id
    assert (arguments["name"], arguments["project"]) == ("first", "comity")
    assert arguments["config"]["train"] == recipe.to_dict()["train"]
    assert arguments["config"]["tasks"] == recipe.to_dict()["tasks"]
    assert arguments["config"]["run"]["steps"] == 9
    assert "track" not in arguments["config"]
    assert tracked.step_metric == ("*", "step")
    assert tracked.exit_code == 0
    values = sent(tracked)
    for entry in lines(run, "train"):
        for task, loss in entry["loss"].items():
            assert values.pop((f"train/loss/{task}", entry["step"])) == loss
        assert values.pop(("train/gradient_norm", entry["step"])) == entry["gradient_norm"]
    evaluations = lines(run, "evaluation")
    assert [entry["step"] for entry in evaluations] == [3, 6, 9]
    for entry in evaluations:
        assert values.pop(("dev/mean", entry["step"])) == entry["mean"]
        for task, metric in (("mood", "accuracy"), ("alike", "pearson")):
            score = entry["tasks"][task]["value"]
            assert values.pop((f"dev/{metric}/{task}", entry["step"])) == score
            score = entry["train"][task]["value"]
            assert values.pop((f"train_sample/{metric}/{task}", entry["step"])) == score
    kept = json.loads((run.path / "best.json").read_text())
    assert values.pop(("kept/step", 9)) == kept["step"]
    assert values.pop(("kept/accuracy/mood", 9)) == kept["tasks"]["mood"]["value"]
    steps = [entry for entry in lines(run, "conflict") if entry["steps"]]
    for entry in steps:
        assert values.pop(("conflict/cosine/mood/alike", entry["step"])) == entry["cosines"][0][1]
    assert {name for name, _ in values} >= {"train/lr", "train/skipped_steps", "dev/mcc/mood"}


def test_the_learning_rate_follows_its_schedule(data, recipe, tmp_path, wandb):
    changed = recipe.to_dict()
    changed["train"] |= {"warmup": 3, "lr": 1e-3}
    train(changed | {"track": {"to": "wandb"}}, data, tmp_path / "run")
    values = sent(*wandb.runs)
    # Up to 1e-3 in three steps, then along a line that is at 0 after the other six.
    assert [values["train/lr", step] for step in (3, 6, 9)] == pytest.approx(
        [1e-3, 1e-3 * 4 / 6, 1e-3 * 1 / 6]
    )


def test_project_and_variables(data, short, tmp_path, wandb, monkeypatch):
    tracked = short.to_dict() | {"track": {"to": ["wandb"]}}
    monkeypatch.setenv("WANDB_PROJECT", "from-variable")
    train(tracked, data, tmp_path / "one")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    train(tracked | {"track": {"to": "wandb", "project": "mine"}}, data, tmp_path / "two")
    assert [run.arguments["project"] for run in wandb.runs] == ["from-variable", "mine"]
    # With a variable of the user's own, wandb must not be told a folder.
    assert [run.arguments["dir"] for run in wandb.runs] == [tmp_path / "one" / "track", None]


def test_a_run_without_trackers_has_no_files_of_trackers(plain):
    assert not (plain.path / "track").exists()


def test_trackers_do_not_change_a_run(data, recipe, tmp_path, wandb, plain):
    tracked = train(recipe.tracked_by(["wandb"]), data, tmp_path / "tracked")
    first, second = weights(plain), weights(tracked)
    assert all(equal(first[name], second[name]) for name in first)
    assert lines(plain, "evaluation") == lines(tracked, "evaluation")


def test_the_points_of_a_sweep_are_runs_of_their_own(data, short, tmp_path, wandb):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(short.tracked_by(["wandb"]).to_dict()))
    command = ["sweep", str(path), "--data", str(data), "--out", str(tmp_path / "sweep")]
    assert main([*command, "--quiet", "--set", "train.lr=1e-4,1e-3"]) == 0
    assert [run.arguments["name"] for run in wandb.runs] == ["train.lr=0.0001", "train.lr=0.001"]
    assert len({run.id for run in wandb.runs}) == 2
    assert [run.arguments["config"]["train"]["lr"] for run in wandb.runs] == [1e-4, 1e-3]
    assert all(run.exit_code == 0 for run in wandb.runs)


def test_the_user_is_told_where_the_run_is(data, short, tmp_path, wandb, capsys):
    tracked = short.tracked_by(["wandb"])
    run = train(tracked, data, tmp_path / "run")
    assert f"wandb: https://example.org/{run.facts().id}\n" in capsys.readouterr().err
    train(tracked, data, tmp_path / "quiet", quiet=True)
    assert "wandb" not in capsys.readouterr().err


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "error", "reason", "rows"),
    [
        ("init", None, "no space left on device second line", 0),
        ("log", None, "no space left on device second line", 2),
        ("finish", None, "no space left on device second line", None),
        ("init", SystemExit(1), "1", 0),
        ("log", ValueError(), "ValueError()", 2),
    ],
)
def test_a_failure_is_told_once_and_changes_nothing(
    data, recipe, tmp_path, wandb, capsys, plain, failing, error, reason, rows
):
    wandb.failing = failing
    wandb.error = error or wandb.error
    tracked = train(recipe.tracked_by(["wandb"]), data, tmp_path / "tracked", quiet=True)
    told = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert told == [f"wandb is turned off: {reason}; training is not affected"]
    assert tracked.is_finished()
    first, second = weights(plain), weights(tracked)
    assert all(equal(first[name], second[name]) for name in first)
    assert rows is None or sum(len(run.rows) for run in wandb.runs) == rows


def test_a_missing_api_key_is_told_without_a_prompt(data, short, tmp_path, wandb, capsys):
    wandb.logged_in = False
    assert train(short.tracked_by(["wandb"]), data, tmp_path / "run", quiet=True).is_finished()
    assert "wandb is turned off: no API key; run `wandb login`, or set WANDB_MODE=offline" in (
        capsys.readouterr().err
    )


def test_one_failed_tracker_leaves_the_others_on(data, short, tmp_path, wandb, monkeypatch, capsys):
    class Broken:
        def __init__(self):
            raise ImportError("broken")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Broken)
    monkeypatch.setattr(trackers, "find_spec", lambda name: wandb.__spec__)
    run = train(short.tracked_by(["tensorboard", "wandb"]), data, tmp_path / "run", quiet=True)
    assert run.is_finished()
    assert "tensorboard is turned off: broken; training is not affected" in capsys.readouterr().err
    assert ("kept/step", 3) in sent(*wandb.runs)


def test_training_does_not_wait_for_a_tracker(data, short, tmp_path, wandb, monkeypatch, capsys):
    """A tracker that never answers: the run ends all the same."""
    monkeypatch.setattr(tracking, "SOON", 0.05)
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    answer = threading.Event()
    monkeypatch.setattr(FakeWandb, "init", lambda self, **_: answer.wait())
    try:
        assert train(short.tracked_by(["wandb"]), data, tmp_path / "run", quiet=True).is_finished()
        assert not answer.is_set()
        assert "wandb has not finished" in capsys.readouterr().err
    finally:
        answer.set()


def test_a_stopped_run_is_marked_so(data, short, tmp_path, wandb):
    with pytest.raises(Interrupted):
        train(short.tracked_by(["wandb"]), data, tmp_path / "run", on_event=signal_after_step(2))
    assert wandb.runs[0].exit_code == 1


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal_after_step, stop_after_step])
def test_a_resumed_run_continues_in_the_tracker_without_repeats(
    data, recipe, tmp_path, wandb, stop
):
    """Stopped with a checkpoint at step 5, or without one: then step 4 is trained again."""
    tracked = recipe.tracked_by(["wandb"])
    train(tracked, data, tmp_path / "whole")
    whole = without_speed(sent(wandb.runs.pop()))
    with pytest.raises(KeyboardInterrupt):
        train(tracked, data, tmp_path / "run", on_event=stop(5))
    train(tracked, data, tmp_path / "run", resume=True)
    first, second = wandb.runs
    assert first.id == second.id
    assert second.arguments["resume"] == "allow"
    found = without_speed(sent(first, second))  # which checks that nothing is sent twice
    assert found.keys() >= whole.keys()
    # Losses and cosines are means since the entry before, which may be that of the stop.
    points = {key for key in whole if not key[0].startswith(("train/loss", "conflict/cosine"))}
    assert len(points) > 50
    assert {key: found[key] for key in points} == {key: whole[key] for key in points}


def test_an_evaluation_that_a_stop_has_put_off_reaches_the_tracker(data, recipe, tmp_path, wandb):
    """The tracker has values of step 3, but not those of its evaluation."""
    tracked = recipe.tracked_by(["wandb"])
    with pytest.raises(Interrupted):
        train(tracked, data, tmp_path / "run", on_event=signal_after_step(3))
    assert ("train/lr", 3) in sent(*wandb.runs)
    assert ("dev/mean", 3) not in sent(*wandb.runs)
    train(tracked, data, tmp_path / "run", resume=True)
    assert ("dev/mean", 3) in sent(*wandb.runs)


def test_a_tracker_that_joins_late_gets_the_whole_history(data, recipe, tmp_path, wandb):
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", on_event=signal_after_step(5))
    train(recipe.tracked_by(["wandb"]), data, tmp_path / "run", resume=True)
    values = sent(*wandb.runs)
    assert [step for name, step in values if name == "dev/mean"] == [3, 6, 9]


def test_what_a_failed_tracker_lacks_is_sent_when_the_run_is_resumed(data, recipe, tmp_path, wandb):
    wandb.failing = "log"
    tracked = recipe.tracked_by(["wandb"])
    with pytest.raises(Interrupted):
        train(tracked, data, tmp_path / "run", on_event=signal_after_step(8))
    wandb.failing = None
    train(tracked, data, tmp_path / "run", resume=True)
    values = sent(*wandb.runs)
    assert [step for name, step in values if name == "dev/mean"] == [3, 6, 9]


# --- the recipe and the command -------------------------------------------------------------------


def test_track_is_no_difference_between_recipes(short):
    tracked = short.tracked_by(["wandb", "mlflow"])
    assert first_difference(short.to_dict(), tracked.to_dict()) is None
    slower = tracked.to_dict()
    slower["train"]["lr"] = 1e-5
    difference = first_difference(short.to_dict(), slower)
    assert difference == "train.lr is 0.001 there and 1e-05 here"


def test_runs_with_other_trackers_are_runs_of_one_recipe(data, recipe, tmp_path, wandb, plain):
    other = recipe.tracked_by(["wandb"]).to_dict()
    other["train"]["seed"] = 1
    run = train(other, data, tmp_path / "run", quiet=True)
    assert same_recipes([run.path, plain.path]) == [[plain.path, run.path]]


def test_the_command_chooses_trackers(data, short, tmp_path, wandb, capsys):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(short.to_dict()))
    command = ["train", str(path), "--data", str(data), "--out", str(tmp_path / "run"), "--json"]
    assert main([*command, "--track", "wandb"]) == 0
    assert len(wandb.runs) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert RunDirectory(tmp_path / "run").recipe().track.to == ("wandb",)


def test_trackers_of_a_resumed_run(data, short, tmp_path, wandb, capsys):
    """They may be edited in the run's recipe, and named on the command line."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(short, data, out, on_event=signal_after_step(2))
    with (out / "recipe.toml").open("a") as file:
        file.write('\n[track]\nto = "wandb"\nproject = "edited"\n')
    train_more = ["train", "--resume", str(out), "--quiet"]
    assert main([*train_more, "--track", "mlfow"]) == 2
    assert 'did you mean "mlflow"?' in capsys.readouterr().err
    assert main(train_more) == 0
    assert wandb.runs[0].arguments["project"] == "edited"


def test_a_given_recipe_may_have_other_trackers_than_the_resumed_run(data, short, tmp_path, wandb):
    out, path = tmp_path / "run", tmp_path / "recipe.toml"
    with pytest.raises(Interrupted):
        train(short, data, out, on_event=signal_after_step(2))
    path.write_text(tomli_w.dumps(short.to_dict() | {"track": {"to": "wandb", "project": "x"}}))
    assert main(["train", str(path), "--resume", str(out), "--quiet"]) == 0
    assert wandb.runs[0].arguments["project"] == "x"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("wandbb", 'got "wandbb"; did you mean "wandb"?'),
        ("wandb,wandb", 'track.to: "wandb" is listed twice; remove one of them'),
    ],
)
def test_wrong_trackers_on_the_command_line(data, short, tmp_path, capsys, names, message):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(short.to_dict()))
    assert main(["train", str(path), "--out", str(tmp_path / "run"), "--track", names]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_an_error_before_anything_is_loaded(short, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    values = short.tracked_by(["wandb", "mlflow"]).to_dict()
    values["encoder"]["name"] = str(tmp_path / "no encoder")
    with pytest.raises(ComityError) as caught:
        train(values, tmp_path / "no data", tmp_path / "run")
    assert caught.value.messages == [
        f'tracker "{name}" needs {name}, which is not installed; run pip install "comity[{name}]"'
        for name in ("wandb", "mlflow")
    ]


def test_a_folder_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "not_a_package").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ComityError, match="not_a_package, which is not installed"):
        trackers.check_installed(["not_a_package"])
    trackers.check_installed(["json"])
