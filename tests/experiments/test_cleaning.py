"""What `comity clean` finds and deletes, and what it leaves alone."""

import json
import os
from pathlib import Path

import pytest
from tests.helpers import end_entry, run_facts, two_tasks

from comity import ComityError
from comity.cli.main import main
from comity.experiments.cleaning import find
from comity.runs.directory import RunDirectory
from comity.runs.entries import BestModel, RecordedScore

LONG_AGO = 1_000_000_000


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"12345678")


def make_run(path: Path, finished: bool) -> RunDirectory:
    """A run with a kept model, a checkpoint, and two leftovers, one of them old."""
    run = RunDirectory.create(path)
    run.write_facts(run_facts())
    run.write_recipe(two_tasks(Path("encoder")))
    run.write_best(BestModel("best-000003", 3, "mean", RecordedScore("mean", 0.5), {}), write)
    run.write_checkpoint(3, write)
    for name in (".checkpoint-000004-old", ".checkpoint-000004-new"):
        (path / name).mkdir()
        write(path / name)
    for old in (path / ".checkpoint-000004-old" / "weights", path / ".checkpoint-000004-old"):
        os.utime(old, (LONG_AGO, LONG_AGO))
    if finished:
        run.log(end_entry(3))
    return run


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A folder with runs, and a cache with one entry and a file of somebody else."""
    make_run(tmp_path / "runs" / "done", finished=True)
    make_run(tmp_path / "runs" / "deeper" / "stopped", finished=False)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "run.json").write_text("{}")
    (tmp_path / "runs" / "other" / "checkpoint-1").mkdir()
    tokens = tmp_path / "cache" / "tokens"
    (tokens / ("0a" * 16)).mkdir(parents=True)
    write(tokens / ("0a" * 16))
    (tokens / "mine.txt").write_text("mine")
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


def deletable(runs: Path) -> set[str]:
    return {one.path.name for one in find([runs]) if one.kept is None}


def test_what_can_be_deleted(runs):
    assert deletable(runs) == {"checkpoint-000003", ".checkpoint-000004-old", "0a" * 16}
    kept = {(one.path.parent.name, one.path.name): one.kept for one in find([runs]) if one.kept}
    assert kept == {
        ("stopped", "checkpoint-000003"): "needed to resume the run",
        ("stopped", ".checkpoint-000004-new"): "may still be written",
        ("done", ".checkpoint-000004-new"): "may still be written",
    }
    (checkpoint,) = [one for one in find([runs / "done"]) if one.path.name == "checkpoint-000003"]
    folder = runs / "done" / "checkpoint-000003"
    assert checkpoint.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert 0 <= checkpoint.seconds < 600


def test_a_dry_run_deletes_nothing_and_yes_deletes_what_it_listed(runs, capsys):
    before = sorted(runs.parent.rglob("*"))
    assert main(["clean", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "kept: needed to resume the run" in out
    assert out.endswith("kB) can be deleted; add --yes to delete them\n")
    assert sorted(runs.parent.rglob("*")) == before
    assert main(["clean", str(runs), "--only", "checkpoints", "--yes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {Path(row["path"]).name for row in rows if row["deleted"]} == {"checkpoint-000003"}
    assert deletable(runs) == {".checkpoint-000004-old", "0a" * 16}
    assert main(["clean", str(runs), "--yes"]) == 0
    assert deletable(runs) == {"0a" * 16}  # the cache serves other runs too
    assert main(["clean", str(runs), "--only", "cache", "--yes"]) == 0
    assert deletable(runs) == set()
    assert (runs / "done" / "best-000003" / "weights").exists()
    assert (runs / "deeper" / "stopped" / "checkpoint-000003" / "weights").exists()
    assert (runs / "other" / "checkpoint-1").exists()
    assert (runs.parent / "cache" / "tokens" / "mine.txt").exists()


def test_the_cache_is_one_row_of_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("0a" * 16, "0b" * 16):
        entry = tmp_path / "cache" / "tokens" / name
        entry.mkdir(parents=True)
        (entry / "about.json").write_bytes(b"x" * 1500)
    monkeypatch.chdir(tmp_path)
    assert main(["clean"]) == 0
    out = capsys.readouterr().out
    assert "0a0a" not in out and out.count("│ cache") == 1
    assert str(tmp_path / "cache" / "tokens") in out and "3.0 kB" in out
    assert "2 entries (3.0 kB) can be deleted" in out


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ComityError, match="no such directory"):
        find([tmp_path / "none"])
