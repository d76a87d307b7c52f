"""benchmarks/gpu.py and gpu_setup.py: the checks of `make gpu`, run here without a GPU."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch
from benchmarks import gpu_setup
from packaging.requirements import Requirement

BENCHMARKS = Path(gpu_setup.__file__).parent


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run benchmarks/gpu.py with the packages of this process."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments]
    path = os.pathsep.join([str(BENCHMARKS.parent / "src"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def gpu(monkeypatch):
    """The module of benchmarks/gpu.py, which finds its neighbours as the script does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_every_check_runs_on_a_cpu(tmp_path):
    out = tmp_path / "found.json"
    done = start("--device", "cpu", "--quick", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    checks = content["checks"]
    assert list(checks) == ["parity", "gradients", "training", "resume", "throughput", "memory"]
    assert not any("traceback" in check for check in checks.values())
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("missed", "failed"))] == []
    findings = [finding for check in checks.values() for finding in check["found"]]
    assert len(lines) == len(findings) + 2  # one for each, then the file and the verdict
    found = {finding["what"]: finding["value"] for finding in findings}
    # The device is the one it is compared with, so float32 differs by nothing, bf16 by a little.
    steps = [value for what, value in found.items() if "float32, first step" in what]
    assert len(steps) == 7 and set(steps) == {0.0}
    rounded = [value for what, value in found.items() if "bf16, first step" in what]
    assert len(rounded) == 7 and min(rounded) > 0
    assert all(value > 0 for what, value in found.items() if "examples/s" in what)
    assert content["machine"]["device"] == "cpu"
    assert content["machine"]["versions"]["torch"] == torch.__version__


def test_a_missed_bar_or_an_error_does_not_stop_the_others(gpu, monkeypatch, tmp_path, capsys):
    gpu_checks = importlib.import_module("gpu_checks")

    def wrong(setting):
        yield gpu_checks.Finding("difference", 2.0, 1.0)
        yield gpu_checks.Finding("speed", float("nan"), 1.0, at_least=True)
        raise ValueError("no kernel")

    def slow(setting):
        yield gpu_checks.Finding("growth", 1.0, 1.0)
        time.sleep(20)

    def right(setting):
        yield gpu_checks.Finding("speed", 3.0, 2.0, at_least=True)
        yield gpu_checks.Finding("examples/s", 5.0)

    checks = {"wrong": (wrong, 10.0), "slow": (slow, 0.1), "right": (right, 10.0)}
    monkeypatch.setattr(gpu_checks, "CHECKS", checks)
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(out)])
    assert gpu.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "missed  wrong: difference: 2 (at most 1.0)",
        "missed  wrong: speed: nan (at least 1.0)",
        "failed  wrong: ValueError: no kernel",
        "ok      slow: growth: 1 (at most 1.0)",
        "failed  slow: TimeIsUp: not done after 0 seconds",
        "ok      right: speed: 3 (at least 2.0)",
        "-       right: examples/s: 5",
        f"written to {out}",
        "4 missed or failed",
    ]
    content = json.loads(out.read_text())
    assert "no kernel" in content["checks"]["wrong"]["traceback"]
    assert [f["ok"] for f in content["checks"]["wrong"]["found"]] == [False, False]
    assert [f["ok"] for f in content["checks"]["right"]["found"]] == [True, None]


def test_a_check_that_does_not_exist_is_one_sentence(gpu, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--only", "speed"])
    message = "^--only speed: unknown check; choose from parity, gradients, training, resume, "
    with pytest.raises(SystemExit, match=message):
        gpu.main()


def test_without_a_gpu_nothing_is_run(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(subprocess, "run", None)  # would be an error
    sentence = f"torch {torch.__version__} finds no GPU, so nothing was run.\n"
    for script, *arguments in (["gpu_setup.py", "run"], ["gpu.py"]):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        assert (gpu_setup if arguments else gpu).main() == 0
        assert capsys.readouterr().out == sentence


def test_an_old_torch_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")
    assert gpu_setup.run("cuda", []) == 1
    assert capsys.readouterr().err == "torch 2.9.1+cu130 is too old; comity needs 2.10 or newer\n"


def test_the_wheels_are_all_that_comity_and_the_trainer_require():
    pytest.importorskip(
        "accelerate", reason="accelerate is not installed; make bench-train installs it"
    )
    # pyarrow reads Parquet, hf-xet downloads models: neither is used.
    left_out = {"torch", "numpy", "pyarrow", "hf-xet"}
    required: set[str] = set()
    found = ["comity", "transformers", "accelerate"]
    while found:
        for line in metadata.requires(found.pop()) or []:
            requirement = Requirement(line)
            name = re.sub("[-_.]+", "-", requirement.name).lower()
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in required | left_out:
                required.add(name)
                found.append(name)
    assert required | {"transformers", "accelerate"} == set(gpu_setup.NEEDED)


def test_a_compressed_wheel_is_installed_from_the_folder_alone(monkeypatch, tmp_path):
    wheels, packages = tmp_path / "wheels", tmp_path / "packages"
    wheels.mkdir()
    wheel = wheels / "thing-1.0-py3-none-any.whl"
    text = "value = 42\n" * 1000
    files = {
        "thing.py": text,
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any",
        "thing-1.0.dist-info/RECORD": "thing.py,,\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    size = wheel.stat().st_size
    gpu_setup.compress(wheel)
    assert wheel.stat().st_size < size / 2
    assert list(wheels.iterdir()) == [wheel]
    monkeypatch.setattr(gpu_setup, "WHEELS", wheels)
    monkeypatch.setattr(gpu_setup, "PACKAGES", packages)
    monkeypatch.setattr(gpu_setup, "NEEDED", ("thing",))
    assert gpu_setup.unpack()
    assert (packages / "thing.py").read_text() == text
    monkeypatch.setattr(gpu_setup, "NEEDED", ("other",))
    assert not gpu_setup.unpack()
