"""Soups: which runs are kept, the weights and scores of the new run, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.helpers import number, run_facts, two_tasks, write_two_tasks

from comity import ComityError, load, train
from comity.cli.main import main
from comity.evaluation.compare import same_recipes
from comity.evaluation.metrics import Score
from comity.experiments import soup as soup_module
from comity.experiments.slim import write_slim_run
from comity.experiments.soup import make_soup
from comity.runs.directory import RunDirectory
from comity.runs.facts import RunFacts
from comity.runs.summary import run_summary

SEEDS = range(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("soup")


@pytest.fixture(scope="module")
def runs(folder, tiny_checkpoint) -> list[Path]:
    """Four runs that differ only in their seed."""
    write_two_tasks(folder / "data")
    for seed in SEEDS:
        recipe = two_tasks(tiny_checkpoint, train__seed=seed, train__conflict_every=0)
        train(recipe, folder / "data", folder / str(seed), quiet=True)
    return [folder / str(seed) for seed in SEEDS]


def copied(run: Path, to: Path, **facts) -> Path:
    """A copy of a run with other facts."""
    directory = RunDirectory(shutil.copytree(run, to))
    directory.write_facts(replace(directory.facts(), **facts))
    return to


def kept_tensors(run: Path) -> dict[str, np.ndarray]:
    folder = RunDirectory(run).kept_model()
    return load_file(folder / "encoder" / "model.safetensors") | load_file(
        folder / "heads.safetensors"
    )


# --- what is kept ---------------------------------------------------------------------------------


def test_greedy_by_hand(runs, tmp_path, monkeypatch):
    """From the best run on; a tie is kept, a fall is left out."""
    alone = [0.5, 0.7, 0.6, 0.65]
    tried = [0.7, 0.69, 0.75]  # with run 3, then 2, then 0
    scores = iter([*alone, *tried, 0.4])
    monkeypatch.setattr(
        soup_module._DevSets, "_score", lambda *_: Score("mean", next(scores), None, True)
    )
    soup = make_soup(runs, tmp_path / "out")
    found = [(Path(m.run).name, m.seed, m.score, m.with_it, m.kept) for m in soup.members]
    assert found == [
        ("1", 1, 0.7, 0.7, True),
        ("3", 3, 0.65, 0.7, True),
        ("2", 2, 0.6, 0.69, False),
        ("0", 0, 0.5, 0.75, True),
    ]
    assert (soup.score, soup.all_runs) == (0.75, 0.4)
    kept = [kept_tensors(runs[number]) for number in (1, 3, 0)]
    mean = kept_tensors(tmp_path / "out")
    assert mean.keys() == kept[0].keys()
    for name, found in mean.items():
        expected = np.mean([tensors[name].astype(np.float64) for tensors in kept], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert not np.array_equal(mean["mood.output.weight"], kept[0]["mood.output.weight"])


def test_scores_are_those_of_the_averaged_weights(runs, tmp_path):
    """Averaged here from the modules' state, and evaluated as `comity evaluate` does."""
    soup = make_soup(runs, tmp_path / "out")
    models = {str(run): load(run) for run in runs}

    def score_of(chosen: list[str]) -> float:
        model = load(chosen[0])
        states = [models[run].network.state_dict() for run in chosen]
        mean = {k: torch.stack([s[k] for s in states]).double().mean(0) for k in states[0]}
        model.network.load_state_dict(mean)
        scores = [number(model.evaluate(task).score.value) for task in model.tasks]
        return sum(scores) / len(scores)

    kept: list[str] = []
    best = -1.0
    for member in soup.members:
        assert member.score == pytest.approx(score_of([member.run]), abs=1e-6)
        assert member.with_it == pytest.approx(score_of([*kept, member.run]), abs=1e-6)
        assert member.kept == (number(member.with_it) >= best)
        if member.kept:
            kept, best = [*kept, member.run], number(member.with_it)
    assert soup.score == best
    assert soup.all_runs == pytest.approx(score_of(list(map(str, runs))), abs=1e-6)
    own = [number(member.score) for member in soup.members]
    assert own == sorted(own, reverse=True)
    for task, score in soup.tasks.items():
        assert number(load(tmp_path / "out").evaluate(task).score.value) == score


def test_equal_runs_give_their_exact_weights(runs, tmp_path):
    twins = [copied(runs[0], tmp_path / name) for name in ("a", "b", "c")]
    soup = make_soup(twins, tmp_path / "out")
    assert all(member.kept for member in soup.members)
    one, mean = kept_tensors(runs[0]), kept_tensors(tmp_path / "out")
    assert all(np.array_equal(one[name], mean[name]) for name in one)


# --- the new run ----------------------------------------------------------------------------------


def test_a_soup_is_a_run_that_says_what_it_is(runs, tmp_path, capsys):
    out = str(tmp_path / "out")
    words = ["soup", *map(str, runs), "--out", out]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "mean of the soup with it" in printed
    assert f"of 4 runs, mean {RunDirectory(Path(out)).best().score.value:.4f} on dev" in printed
    assert main([*words, "--overwrite", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    summary = run_summary(RunDirectory.open(Path(out)))
    assert (summary.finished, summary.step, summary.steps) == (True, 0, 0)
    assert [vars(member) for member in summary.soup] == values["members"]
    best = RunDirectory(Path(out)).best()
    assert {task: score.value for task, score in best.tasks.items()} == values["tasks"]
    assert main(["info", out]) == 0
    assert "soup (selected by mean)" in (shown := " ".join(capsys.readouterr().out.split()))
    assert "A soup: the mean of the weights of" in shown
    new, labelled = tmp_path / "new.csv", tmp_path / "labelled.csv"
    new.write_text("text\nthe house is good\n")
    for command in (
        ["evaluate", out],
        ["predict", out, "--task", "mood", "--input", str(new), "--output", str(labelled)],
        ["export", out, "--to", "comity", "--out", str(tmp_path / "exported")],
        ["report", out, str(runs[0])],
        ["compare", str(runs[0]), out],
        ["train", "--resume", out],
    ):
        assert main(command) == 0, command
    card = next((tmp_path / "exported").rglob("README.md")).read_text()
    assert "A soup of" in card
    assert "mean of the weights of" in (tmp_path / "out" / "report.html").read_text()
    write_slim_run(Path(out), tmp_path / "slim")
    members = RunDirectory.open(tmp_path / "slim").facts().soup
    assert sorted(member.run for member in members) == ["0", "1", "2", "3"]


def test_a_soup_is_not_another_seed_of_its_recipe(runs, tmp_path):
    make_soup(runs, tmp_path / "out")
    assert same_recipes([*runs[1:], tmp_path / "out", runs[0]]) == [runs, [tmp_path / "out"]]


def test_a_task_can_select(folder, tiny_checkpoint, runs, tmp_path):
    recipe = two_tasks(tiny_checkpoint, train__select_by="alike", train__conflict_every=0)
    train(recipe, folder / "data", tmp_path / "first", quiet=True)
    soup = make_soup([tmp_path / "first", runs[1]], tmp_path / "out")
    assert soup.by == "alike"
    assert soup.score == soup.tasks["alike"]
    assert RunDirectory(tmp_path / "out").best().by == "alike"


def test_a_soup_that_was_not_written_to_its_end_says_how_to_repeat_it(runs, tmp_path):
    make_soup(runs[:2], out := tmp_path / "out")
    metrics = out / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    status = RunDirectory.open(out).status().sentence
    assert "start it again with comity soup " in status
    command = status.partition("again with ")[2].split()
    assert main(command[1:]) == 0
    assert RunDirectory.open(out).is_finished()


# --- what is refused ------------------------------------------------------------------------------


def with_head(facts: RunFacts, task: str, **changes) -> dict:
    found = facts.tasks[task]
    return {"tasks": {**facts.tasks, task: replace(found, head=replace(found.head, **changes))}}


def with_target(facts: RunFacts, task: str, **changes) -> dict:
    return with_head(facts, task, target=replace(facts.tasks[task].head.target, **changes))


def with_inputs(facts: RunFacts, **changes) -> dict:
    return {"inputs": replace(facts.inputs, **changes)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: with_inputs(f, encoder=run_facts().inputs.encoder), "the encoder is .* here"),
        (
            lambda f: with_inputs(f, encoder=replace(f.inputs.encoder, sha256={"a": "b"})),
            "the weights of the encoder differ",
        ),
        (lambda f: with_inputs(f, tokenizer="other"), "the tokenizers differ"),
        (
            lambda f: {"tasks": {"mood": f.tasks["mood"]}},
            "the list of tasks is mood, alike there and mood here",
        ),
        (
            lambda f: {"precision": "bfloat16"},
            "the precision is float32 there and bf16 here",
        ),
        (
            lambda f: with_target(f, "mood", classes=("up", "down")),
            r"tasks.mood.classes is \('down', 'up'\) there and \('up', 'down'\) here",
        ),
        (lambda f: with_target(f, "alike", scale=(0.0, 4.0)), "tasks.alike.scale is"),
        (lambda f: with_target(f, "alike", head="cosine"), "tasks.alike.head is regression there"),
        (lambda f: with_head(f, "mood", pooling="cls"), "tasks.mood.pooling is .* and cls here"),
        (lambda f: with_head(f, "mood", layers=1), "tasks.mood.layers is 0 there and 1 here"),
        (
            lambda f: with_inputs(f, files={**f.inputs.files, "mood dev": "other"}),
            "the dev rows of mood differ",
        ),
    ],
)
def test_runs_that_do_not_match_are_refused(runs, tmp_path, change, said):
    other = copied(runs[1], tmp_path / "other", **change(RunDirectory(runs[1]).facts()))
    with pytest.raises(ComityError, match=rf"other: cannot be averaged with .* \({said}") as error:
        make_soup([runs[0], other], tmp_path / "out")
    assert len(error.value.messages) == 1
    assert not (tmp_path / "out").exists()


def test_the_dropout_of_a_head_may_differ(runs, tmp_path):
    facts = with_head(RunDirectory(runs[1]).facts(), "mood", dropout=0.7, embeds=True)
    other = copied(runs[1], tmp_path / "other", **facts)
    assert len(make_soup([runs[0], other], tmp_path / "out").members) == 2


def test_lists_of_runs_that_make_no_sense(runs, tmp_path):
    with pytest.raises(ComityError, match="needs at least two runs"):
        make_soup(runs[:1], tmp_path / "out")
    with pytest.raises(ComityError, match="is named twice"):
        make_soup([runs[0], runs[1], runs[0] / "." / ".." / "0"], tmp_path / "out")
    twin = copied(runs[0], tmp_path / "twin")
    with pytest.raises(ComityError, match="is one of the runs to average"):
        make_soup([runs[0], twin], twin, overwrite=True)
    assert kept_tensors(twin)
    with pytest.raises(ComityError, match="it holds a finished run"):
        make_soup(runs[:2], twin)
    metrics = twin / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ComityError, match=r"twin: cannot be averaged yet \(unfinished"):
        make_soup([runs[0], twin], tmp_path / "out")
