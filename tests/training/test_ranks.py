"""Several processes against one: rows, gradients, weights, runs, and what a lost process does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from tests.helpers import mood_rows, stop_at_evaluation
from tests.training.ranks_worker import (
    CASES,
    COMPARING,
    STEPS,
    STOP,
    TOPIC,
    observed,
    recipe_of,
    run_recipe,
    write_files,
)
from tests.training.test_resume import state
from tests.training.test_teachers import Z, soft_labels
from torch import Tensor
from torch.testing import assert_close

from comity import ComityError, Recipe, hardware, load, train
from comity.data.soft_labels import write_soft_labels
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, EvaluationEntry
from comity.training.balancers import draw_orders, pcgrad
from comity.training.events import Event, Resumed
from comity.training.launch import Launch, launched
from comity.training.ranks import ALONE, Ranks, _backend, _SeveralRanks, joined
from comity.training.setup import prepare
from comity.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
NAMES = [*CASES, *COMPARING]
REPEATED = ("annealed", "sequential", "upgrad, proportional", "imtl-g, round-robin")
"""Cases whose bits say no more than those of others: the balancer sees the same Gramian."""


@dataclass
class Launched:
    """What the processes of one launch have left."""

    size: int
    folder: Path
    seen: list[dict[str, Tensor]]  # of each process
    about: list[dict[str, Any]]

    def of(self, case: str, rank: int = 0) -> dict[str, Tensor]:
        """What a process has seen of a configuration."""
        start = f"{case}: "
        return {k.removeprefix(start): v for k, v in self.seen[rank].items() if k.startswith(start)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_files(folder)
    values = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    write_soft_labels(folder / "mood.labels", soft_labels("mood", mood_rows(0, 30), values[:30]))
    return folder


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def launch(request, folder, tiny_checkpoint) -> Launched:
    """All configurations, in 2 and in 4 processes. A run of one process waits for them."""
    size = request.param
    out = folder / f"runs-{size}"
    with pytest.raises(KeyboardInterrupt):
        train(run_recipe(tiny_checkpoint), folder, out / "resumed", on_event=stop_at_evaluation(2))
    done = torchrun(size, "tests.training.ranks_worker", tiny_checkpoint, folder)
    assert done.returncode == 0, done.stderr
    seen = [load_file(folder / f"seen-{size}-{rank}.safetensors") for rank in range(size)]
    about = [json.loads((folder / f"about-{size}-{rank}.json").read_text()) for rank in range(size)]
    return Launched(size, folder, seen, about)


def command(size: int, module: str, *arguments: object) -> list[str]:
    words = ["--standalone", "--nproc-per-node", str(size), "--shutdown-timeout", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *words]
    return [*torchrun, "-m", module, *map(str, arguments)]


def torchrun(size: int, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = command(size, module, *arguments)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def alone(folder, tiny_checkpoint) -> dict[str, dict[str, Tensor]]:
    """What one process sees of each configuration."""
    return {
        name: observed(recipe_of(tiny_checkpoint, **changes), folder)
        for name, changes in {**CASES, **COMPARING}.items()
    }


def rows_of(seen: dict[str, Tensor], step: int) -> list[Tensor]:
    return [rows for name, rows in seen.items() if name.startswith(f"rows {step} ")]


@pytest.mark.parametrize("case", NAMES)
def test_several_processes_train_as_one_does(launch, alone, case):
    one, several = alone[case], [launch.of(case, rank) for rank in range(launch.size)]
    for step in range(STEPS):
        for name in (n for n in one if n.startswith(f"rows {step} ")):
            assert torch.cat([seen[name] for seen in several]).equal(one[name])
    for name, expected in one.items():
        found = several[0][name]
        if name.startswith("rows"):
            continue
        if name.startswith(("outputs", "counts", "words", "updates")):
            assert found.equal(expected), name
        elif name.startswith("weights"):
            assert_close(found, expected, atol=1e-4, rtol=1e-4)
        else:
            # A small entry may be the sum of large ones, whose rounding it has.
            atol = 1e-6 * max(1.0, float(expected.abs().max()))
            assert_close(found, expected, atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    for seen in several[1:]:
        assert seen["weights"].equal(several[0]["weights"])
        assert seen["weights of the first"].equal(several[0]["weights"])


@pytest.mark.parametrize("case", [name for name in CASES if not name.endswith(REPEATED)])
def test_the_bits_are_those_of_one_process_with_as_many_micro_batches(
    launch, folder, tiny_checkpoint, case
):
    recipe = recipe_of(tiny_checkpoint, **CASES[case])
    parts = {f"tasks__{name}__micro_batches": launch.size for name in recipe.tasks}
    one = observed(recipe_of(tiny_checkpoint, **CASES[case], **parts), folder)
    found = launch.of(case)
    for name, expected in one.items():
        if not name.startswith("rows"):
            assert found[name].equal(expected), name


# --- mistakes that the comparison above would notice ----------------------------------------------


class Part(Ranks):
    """One of several processes, which does not hear of the others."""

    def __init__(self, rank: int, size: int):
        super().__init__(Launch(rank, size))


def filled(recipe: Recipe, folder: Path, step: int, ranks: Ranks = ALONE):
    """J `[K, S]` with the words that occur, the Gramian, and each task's share of its batch."""
    trainer = Trainer(prepare(recipe, folder), ranks=ranks)
    (plan,) = trainer.plans
    trainer.start_stage(plan)
    batches = trainer._batches(plan, plan.steps[step])
    _, _, gramian = trainer._fill(plan, batches, 0)
    gradients = trainer.gradients
    rows = torch.cat([gradients.rows, gradients.word_rows.flatten(1)], dim=1)
    return rows, gramian, torch.tensor([batch.own[0].share for batch in batches])


@pytest.mark.parametrize("size", [2, 4])
def test_classic_mistakes_miss_by_a_wide_margin(folder, tiny_checkpoint, size):
    """A mean of the processes' means, and surgery by each process before the sum.

    The sum of the parts differs from J by less than 1e-5 of its norm, so the comparison with one
    process has room for neither of them.
    """

    def surgery(rows: Tensor, gramian: Tensor, step: int) -> Tensor:
        weights, _ = pcgrad(gramian, draw_orders(0, step, len(gramian)), {})
        return weights.float() @ rows

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found - expected).norm() / expected.norm())

    recipe = recipe_of(tiny_checkpoint, train__balancer="pcgrad", tasks__topic=TOPIC)
    misses = []
    for step in range(6):
        whole, gramian, _ = filled(recipe, folder, step)
        parts = [filled(recipe, folder, step, Part(rank, size)) for rank in range(size)]
        total = sum((rows for rows, _, _ in parts), torch.zeros_like(whole))
        means = [
            rows / torch.where(share > 0, share, 1.0)[:, None] / size for rows, _, share in parts
        ]
        mean_of_means = sum(means, torch.zeros_like(whole))
        combined = surgery(whole, gramian, step)
        before = [surgery(rows, gramian, step) for rows, gramian, _ in parts]
        assert error(total, whole) < 1e-5
        assert error(surgery(total, total.double() @ total.double().T, step), combined) < 1e-4
        misses.append(
            (
                error(mean_of_means, whole),
                error(sum(before, torch.zeros_like(combined)), combined),
            )
        )
    of_means, before_sum = zip(*misses, strict=True)
    assert max(of_means) > 0.05
    assert max(before_sum) > 0.05


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder, tiny_checkpoint) -> RunDirectory:
    """The run of one process."""
    return train(run_recipe(tiny_checkpoint), folder, folder / "one" / "whole")


def files_of(run: RunDirectory) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))


def assert_close_runs(run: RunDirectory, whole: RunDirectory) -> None:
    """The same files, steps and examples; weights, moments and scores to float tolerance."""
    assert files_of(run) == files_of(whole)
    one, other = state(run), state(whole)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert_close(tensor, other[name], atol=1e-4, rtol=1e-3)
    found, expected = run.entries(EvaluationEntry), whole.entries(EvaluationEntry)
    for own, entry in zip(found, expected, strict=True):
        assert (own.step, own.examples) == (entry.step, entry.examples)
        for task, scores in entry.tasks.items():
            assert own.tasks[task].n == scores.n
            assert own.tasks[task].loss == pytest.approx(scores.loss, rel=1e-3)
    probes = [[e.step for e in each.entries(ConflictEntry)] for each in (run, whole)]
    assert probes[0] == probes[1]


def test_one_process_writes_the_run_of_all(launch, whole):
    run = RunDirectory(launch.folder / f"runs-{launch.size}" / "whole")
    assert_close_runs(run, whole)
    assert run.status() == whole.status()
    text = "the house number 7 is good"
    found, expected = (load(each.path).predict("mood", [text]) for each in (run, whole))
    assert found[0].label == expected[0].label
    events = [about["events"] for about in launch.about]
    assert events[0] > STEPS
    assert not any(events[1:])


def test_a_run_of_one_process_is_resumed_by_several(launch, whole):
    assert_close_runs(RunDirectory(launch.folder / f"runs-{launch.size}" / "resumed"), whole)


def test_a_signal_to_one_process_stops_all_and_one_process_resumes(
    launch, whole, folder, tiny_checkpoint
):
    run = RunDirectory(launch.folder / f"runs-{launch.size}" / "stopped")
    stopped = {about["stopped"] for about in launch.about}
    assert stopped == {f"stopped at step {STOP} of 14"}
    assert run.status().step == STOP
    train(run_recipe(tiny_checkpoint), folder, run.path, resume=True)
    assert_close_runs(run, whole)


@pytest.mark.parametrize("when", ["failed in a sum", "failed while others wait"])
def test_all_processes_learn_why_one_has_failed(launch, when):
    sentence = "mood.csv: no such file"
    for rank, about in enumerate(launch.about):
        own = [sentence] if rank == 1 else [f"process 1 of {launch.size}: {sentence}"]
        assert about[when] == own


def test_processes_that_read_other_files_do_not_start(launch):
    for about in launch.about:
        (sentence,) = about["other data"]
        assert "mood train: differs from what process 0 has read" in sentence


# --- the start -----------------------------------------------------------------------------------


@pytest.fixture
def second_of_two(monkeypatch):
    """The variables of torchrun, for the second process of two."""
    variables = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**variables, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_says_which_process_this_is(second_of_two, monkeypatch):
    assert launched() == Launch(1, 2, 1, 2)
    assert not launched().is_first
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == Launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT")
    assert launched() == Launch()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "this machine has 1 GPU, and each process needs one; start torchrun with --nproc"),
        ("cuda:1", 'several processes cannot train on "cuda:1"; use "auto", "cuda" or "cpu"'),
        ("mps", 'several processes cannot train on "mps"'),
    ],
)
def test_a_device_that_processes_cannot_share_is_an_error(
    second_of_two, monkeypatch, device, message
):
    monkeypatch.setattr(hardware, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ComityError, match=message), joined(device):
        pass


def test_each_process_chooses_its_gpu_before_it_uses_one(second_of_two, monkeypatch):
    done = []

    def choose_device(name):
        done.append(name)
        return torch.device(name)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(hardware, "choose_device", choose_device)
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    assert _backend("cuda", launched()) == "cpu:gloo,cuda:nccl"
    assert done == [1, "cuda"]
    assert _backend("cpu", launched()) == "gloo"
    assert done == [1, "cuda", "cpu"]  # a run on the CPU uses no GPU


class StoreOfTwo:
    """What processes have told each other: the first one is behind."""

    def check(self, keys):
        return False

    def get(self, key):
        return b"0.0 3" if key == "sign of life 0" else b"0.0 4"


@pytest.mark.parametrize(
    "reason",
    [
        "[tcp/unbound_buffer.cc:1] Timed out waiting 25000ms for recv operation to complete",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, "
        "OpType=BROADCAST) ran for 25001 milliseconds before timing out.",
    ],
)
def test_a_time_out_names_the_process_that_is_behind(reason):
    second = _SeveralRanks.__new__(_SeveralRanks)
    vars(second).update(rank=1, size=2, _timeout=25.0, _store=StoreOfTwo())
    assert str(second._lost(reason)).startswith("process 0 of 2 has not answered for 25 seconds")


@pytest.mark.parametrize("value", ["soon", "0", "inf"])
def test_the_timeout_is_a_number_of_seconds(second_of_two, monkeypatch, value):
    monkeypatch.setenv("COMITY_TIMEOUT", value)
    with pytest.raises(ComityError, match=f'COMITY_TIMEOUT="{value}": must be'), joined("cpu"):
        pass


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_reports_an_error_and_a_result_once(folder, tiny_checkpoint, tmp_path):
    recipe = tmp_path / "recipe.toml"
    values = recipe_of(tiny_checkpoint, train__steps=4).to_dict()
    recipe.write_text(tomli_w.dumps(values))
    arguments = ["train", recipe, "--data", folder, "--json", "--out", tmp_path / "run"]
    done = torchrun(2, "comity", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]  # one line, from one process
    again = torchrun(2, "comity", *arguments)
    assert again.returncode != 0
    assert again.stderr.count("it holds a finished run") == 1
    other = torchrun(2, "comity", "info", tmp_path / "run")
    assert other.stderr.count("comity info: only comity train works in several processes") == 1
    missing = tmp_path / "missing.toml"
    missing.write_text(tomli_w.dumps({**values, "encoder": {"name": str(tmp_path / "no-bert")}}))
    failed = torchrun(2, "comity", "train", missing, "--data", folder, "--out", tmp_path / "two")
    assert failed.stderr.count("error: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "error: another process has ended or cannot be reached"),
        (signal.SIGSTOP, "error: process 1 of 2 has not answered for 3 seconds"),
    ],
)
def test_a_lost_process_stops_all_and_the_run_is_resumed(
    folder, tiny_checkpoint, tmp_path, number, cause
):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    given = recipe_of(tiny_checkpoint, train__steps=3000, train__evaluate_every=20)
    recipe.write_text(tomli_w.dumps(given.to_dict()))
    started = subprocess.Popen(
        command(2, "comity", "train", recipe, "--data", folder, "--out", out),
        cwd=ROOT,
        env={**os.environ, "COMITY_TIMEOUT": "3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: any(out.glob("checkpoint-*")), started)
        os.kill(process_of(started.pid, rank=1), number)
        _, output = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode != 0
    assert output.count(cause) == 1
    assert output.count("; continue with comity train --resume") == 1
    assert output.count("Traceback") == 1  # that of torchrun's report
    step = RunDirectory(out).status().step
    assert step >= 20
    resumed: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, Resumed):
            resumed.append(event.step)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(given, folder, out, resume=True, on_event=listen)
    assert resumed == [step]


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None
        time.sleep(0.05)


def process_of(launcher: int, rank: int) -> int:
    """The process that a launcher has started for a rank."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"no process has rank {rank}")
