"""Damage to any file of a run: every command says what is wrong, or does not need the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers import stop_at_evaluation, two_tasks, write_two_tasks

from comity import train
from comity.cli.main import main
from comity.runs.lock import LOCK


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder with data and with a run that was killed after step 1 of 2."""
    base = tmp_path_factory.mktemp("damage")
    write_two_tasks(base / "data")
    settings = {"train__epochs": ..., "train__steps": 2, "train__evaluate_every": 1}
    recipe = two_tasks(tiny_checkpoint, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, base / "data", base / "run", on_event=stop_at_evaluation(1))
    return base


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


READ_BY = {
    "info": ("run.json", "recipe.toml", "best.json"),
    "evaluate": ("run.json", "recipe.toml", "best.json", "best-000001/"),
    "predict": ("run.json", "recipe.toml", "best.json", "best-000001/"),
    "compare": ("run.json", "recipe.toml", "best.json", "predictions/000001/"),
    "report": ("run.json", "recipe.toml", "best.json", "data.json", "predictions/000001/"),
    "train": ("run.json", "recipe.toml", "checkpoint-000001/"),
}
"""The files that each command must not use when they are damaged."""


@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_to_any_file_is_a_sentence(base, tmp_path, capsys, damage: Callable):
    files = sorted(p for p in (base / "run").rglob("*") if p.is_file() and p.name != LOCK)
    assert len(files) > 15
    new = ["--input", base / "data" / "mood-dev.csv", "--output", tmp_path / "predicted.csv"]
    for source in files:
        name = source.relative_to(base / "run").as_posix()
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base / "run", run)
        (run / name).write_bytes(damage(source.read_bytes()))
        commands = (
            ["info", run],
            ["compare", run],
            ["evaluate", run, "--task", "mood"],
            ["predict", run, "--task", "mood", *new],
            ["report", run, "--out", tmp_path / "page", "--overwrite"],
            ["train", "--resume", run, "--quiet"],
        )
        for command in commands:
            (tmp_path / "predicted.csv").unlink(missing_ok=True)
            if command[0] == "train" and name.startswith(("best", "predictions")):
                continue  # it writes these files again
            code = main([str(word) for word in command])
            out, err = capsys.readouterr()
            if not name.startswith(READ_BY[command[0]]):
                assert code == 0 or name == "metrics.jsonl", (name, command[0], err)
            else:
                assert code == 2, (name, command[0], out)
            if code == 0:
                continue
            folder = name.split("/")[0] if "/" in name else name
            assert err.startswith(f"error: {run}/{folder}"), (name, command[0], err)
            assert "download" not in err
            assert "copy the file" not in err


def test_a_kept_model_of_another_run_is_refused(base, tmp_path, capsys, tiny_checkpoint):
    settings = {"train__epochs": ..., "train__steps": 1, "train__seed": 1}
    train(two_tasks(tiny_checkpoint, **settings), base / "data", tmp_path / "other")
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best-000001")
    shutil.copytree(tmp_path / "other" / "best-000001", tmp_path / "run" / "best-000001")
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "best-000001: the kept model is damaged: it belongs to another run" in (
        capsys.readouterr().err
    )
    shutil.rmtree(tmp_path / "run" / "best-000001")
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "best-000001: the kept model is damaged: it is missing" in capsys.readouterr().err
