"""The target `onnx` of `comity export`: every task, with 8-bit weights, and code that runs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from comity import load
from comity.cli.main import main
from comity.export.export import export


def test_the_command_writes_both_graphs_and_says_what_int8_costs(run, tmp_path, capsys):
    out = tmp_path / "onnx"
    code = main(["export", str(run.path), "--to", "onnx", "--int8", "--out", str(out), "--quiet"])
    printed = capsys.readouterr().out
    assert code == 0
    assert {"model.onnx", "model_int8.onnx", "README.md", "tasks.json"} <= {
        path.name for path in out.iterdir()
    }
    model = load(run, precision="float32")
    for task in model.tasks:
        value = model.evaluate(task).score.value
        line = next(line for line in printed.splitlines() if re.match(rf"│ {task} +│", line))
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert (
            cells[3] == "-" if value is None else float(cells[3]) == pytest.approx(value, abs=2e-4)
        )
    assert set(json.loads((out / "tasks.json").read_text())["tasks"]) == set(model.tasks)

    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    shutil.copytree(out, tmp_path / "FOLDER")
    lines = code.replace('"FOLDER/', f'"{tmp_path}/FOLDER/').strip().splitlines()
    names: dict = {}
    exec("\n".join([*lines[:-1], f"answer = {lines[-1]}"]), names)  # noqa: S102
    assert all(np.isfinite(values).all() for values in names["answer"])


def test_int8_is_for_onnx(run, tmp_path, capsys):
    out = tmp_path / "exported"
    code = main(["export", str(run.path), "--to", "transformers", "--int8", "--out", str(out)])
    assert code == 2
    assert "--int8 needs --to onnx" in capsys.readouterr().err
    assert not out.exists()


def test_the_largest_difference_is_of_all_tasks(exported, run):
    found = exported("onnx")
    (part,) = found.parts
    assert part.tasks == tuple(load(run).tasks)
    assert 0 < part.difference < 1e-4
    assert found.omitted == []
    assert found.int8 is None


def test_a_wrong_graph_is_not_left_behind(run, tmp_path, monkeypatch):
    from comity import ComityError
    from comity.export import onnx_check

    monkeypatch.setattr(onnx_check, "difference", lambda *_: 1e-3)
    with pytest.raises(ComityError, match="gives other outputs"):
        export(run.path, "onnx", tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
