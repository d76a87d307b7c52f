"""`comity demo`: what it prints, as a table and as JSON."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from comity import Recipe, load
from comity.cli.main import main
from comity.demo import show

ROWS = 40  # of each file: the whole corpus takes minutes


@pytest.fixture
def small_demo(tmp_path, monkeypatch) -> None:
    """A demo on the first rows of its corpus."""
    here = tmp_path / "demo"
    (here / "corpus").mkdir(parents=True)
    shutil.copy(show.HERE / "demo.toml", here)
    for path in (show.HERE / "corpus").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            lines = list(itertools.islice(file, ROWS + 1))
        (here / "corpus" / path.name).write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(show, "HERE", here)
    monkeypatch.chdir(tmp_path)


def demo(capsys, encoder: Path, *arguments: object) -> tuple[int, str, str]:
    keys = [f"encoder.name={encoder}", "train.steps=2", "train.conflict_every=0"]
    code = main(["demo", *map(str, arguments), "--set", *keys])
    return code, *capsys.readouterr()


def test_the_demo_as_json(small_demo, capsys, tiny_checkpoint, tmp_path):
    run = tmp_path / "run"
    code, out, err = demo(capsys, tiny_checkpoint, "--json", "--out", run)
    assert (code, err) == (0, "")
    found = json.loads(out)
    best = json.loads((run / "best.json").read_text())["tasks"]
    assert {task: e["value"] for task, e in found["trained"].items()} == {
        task: pytest.approx(score["value"]) for task, score in best.items()
    }
    assert found["untrained"]["similarity"]["value"] is None  # a new head is the same for all
    assert found["run"] == str(run)
    assert list(found["untouched"]) == ["pearson", "spearman"]
    model = load(run)
    for task, rows in found["predictions"].items():
        texts = [
            row["text"] if isinstance(row["text"], str) else tuple(row["text"]) for row in rows
        ]
        assert [p.label for p in model.predict(task, texts)] == [row["label"] for row in rows]
    code, out, err = demo(capsys, tiny_checkpoint, "--json", "--out", run)
    assert code == 2
    assert "it holds a finished run" in json.loads(out)["errors"][0]


def test_a_quiet_demo_shows_no_progress(small_demo, capsys, tiny_checkpoint):
    shown = {}
    for quiet in ([], ["--quiet"]):  # the second one replaces the run of the first
        code, out, err = demo(capsys, tiny_checkpoint, *quiet)
        assert code == 0
        assert "Dev scores of one encoder" in out
        assert "  paraphrase  " in out
        shown[bool(quiet)] = err
    assert "Plan, stage 1" in shown[False]
    assert "  sentiment   is a sentence negative" in shown[False]
    assert "Plan" not in shown[True]
    assert len(shown[True].splitlines()) == 2  # the cosine without training, and the time


def test_only_a_run_of_the_demo_is_replaced(small_demo, capsys, tiny_checkpoint):
    show.OUT.mkdir()
    (show.OUT / "mine.txt").write_text("keep me")
    code, _, err = demo(capsys, tiny_checkpoint)
    assert code == 2
    assert "is not empty (mine.txt)" in err
    assert (show.OUT / "mine.txt").is_file()


def test_the_next_commands_run(small_demo, capsys, tiny_checkpoint, tmp_path):
    """As printed, in a shell, with the `comity` of this environment."""
    code, out, _ = demo(capsys, tiny_checkpoint)
    assert code == 0
    commands = [line.strip() for line in out.split("Next:\n")[1].splitlines()]
    assert len(commands) == 3
    wrapper = tmp_path / "bin" / "comity"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m comity "$@"\n')
    wrapper.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    for command in commands:
        done = subprocess.run(
            ["sh", "-ec", command], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout


def test_a_slow_machine_trains_for_fewer_epochs(monkeypatch, tmp_path):
    recipe = Recipe.load(show.HERE / "demo.toml")
    for seconds, epochs in ((None, 3), (100.0, 3), (300.0, 1), (190.0, 1.5), (6000.0, 0.5)):
        monkeypatch.setattr(
            show, "plan_run", lambda *_, seconds=seconds: SimpleNamespace(seconds=seconds)
        )
        assert show._shortened(recipe, tmp_path).train.epochs == epochs
