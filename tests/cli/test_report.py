"""`comity report`: output, files, messages and exit codes."""

import json
from pathlib import Path

import pytest
from tests.evaluation.helpers import alike, mood, write_run
from tests.report.helpers import Page

from comity.cli.main import main
from comity.runs.directory import RunDirectory


@pytest.fixture
def base(tmp_path) -> Path:
    """A folder with two runs."""
    write_run(tmp_path / "one", mood(150), alike(1.0))
    write_run(tmp_path / "two", mood(90), lr=1e-2)
    return tmp_path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_report_is_in_the_run(base, capsys):
    code, out, err = run(capsys, base / "one")
    page, numbers = base / "one" / "report.html", base / "one" / "report.json"
    assert (code, err) == (0, "")
    assert out == f"{page}: the report; its numbers are in {numbers}\n"
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(numbers.read_text())["format"] == "comity report 1"


def test_with_baselines_it_is_in_the_first_run(base, capsys):
    assert run(capsys, base / "one", base / "two")[0] == 0
    assert not (base / "two" / "report.html").exists()
    rows = Page((base / "one" / "report.html").read_text()).rows
    names = [row[:2] for row in rows if len(row) == 6]
    assert names[:3] == [["task", "run"], ["mood (accuracy)", "one"], ["", "two"]]


def test_json_is_the_file(base, capsys):
    code, out, err = run(capsys, base / "one", "--out", base / "new" / "pages", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert json.loads(out) == json.loads((base / "new" / "pages" / "report.json").read_text())
    assert not (base / "one" / "report.html").exists()


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_a_file_is_replaced_only_with_overwrite(base, capsys, name):
    (base / "pages").mkdir()
    (base / "pages" / name).write_text("mine")
    command = [base / "one", "--out", base / "pages"]
    code, out, err = run(capsys, *command)
    assert (code, out) == (2, "")
    assert err == (
        f"error: {base / 'pages' / name}: already exists; use --overwrite to replace it, or name "
        "another folder with --out\n"
    )
    assert [path.name for path in (base / "pages").iterdir()] == [name]
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert (base / "pages" / name).read_text() != "mine"


def test_errors(base, capsys):
    (base / "file").touch()
    (base / "empty").mkdir()
    for command, message in (
        ([base / "none"], f"{base / 'none'}: no such directory"),
        ([base / "empty"], f"{base / 'empty'}: not a run (it has no run.json)"),
        ([base / "one", "--out", base / "file"], f"{base / 'file'}: is a file; name a folder"),
        ([], "the following arguments are required: RUN"),
    ):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")
    assert not list(base.rglob("report.*"))


def test_a_run_with_a_report_can_be_overwritten(base, capsys):
    """The report belongs to the run: it is no other file that `--overwrite` must not delete."""
    run(capsys, base / "one")
    RunDirectory.check_new(base / "one", overwrite=True)
