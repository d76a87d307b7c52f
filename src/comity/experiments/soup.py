"""Soups: the mean of the kept weights of several runs, of those that help on the dev sets.

The greedy soup of Wortsman et al. 2022 (arXiv 2203.05482, recipe 1): the runs are tried from the
best dev score to the worst, and one is kept if the mean of the weights with it scores no lower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cmp_to_key
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.packing import Template
from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation, evaluate_outputs, scores_of, task_outputs
from comity.evaluation.fitting import fit_on_dev
from comity.evaluation.metrics import Score, better, mean_score
from comity.evaluation.predictions import kept_predictions, write_predictions
from comity.format import precision_name
from comity.inference.model import Model, load
from comity.model.checkpoint import save_model
from comity.recipe.differences import first_difference
from comity.recipe.recipe import Recipe
from comity.runs.calibration import fitted_heads
from comity.runs.directory import RunDirectory
from comity.runs.facts import RunFacts, SoupMember, current_commit, new_run_id, versions
from comity.training.checkpoint import Progress
from comity.training.records import best_model, end_entry, evaluation_entry
from comity.training.selection import BestScore, selected
from comity.training.setup import describe_machine

Weights = Mapping[str, Tensor]
"""Parameters by the names of `MultiTaskModel.owned_parameters`."""


@dataclass(frozen=True)
class Soup:
    """A soup, and how it was chosen."""

    out: str  # its run directory
    by: str  # what was compared: "mean" or a task
    members: list[SoupMember]  # in the order in which they were tried
    score: float | None  # of the soup
    tasks: dict[str, float | None]  # scores of the soup by task
    all_runs: float | None  # the score of the mean of all runs


@dataclass(frozen=True)
class _Run:
    """A run that is offered to the soup."""

    path: Path
    directory: RunDirectory
    facts: RunFacts
    recipe: Recipe


@dataclass(frozen=True)
class _Result:
    """The mean of some runs' weights on the dev sets."""

    evaluations: dict[str, Evaluation]
    outputs: dict[str, NDArray]  # [n, outputs] by task
    score: Score


def make_soup(
    runs: Sequence[Path], out: Path, overwrite: bool = False, command: list[str] | None = None
) -> Soup:
    """Average the kept weights of those runs that help on the dev sets, and write a run.

    The runs are compared by the `select_by` of the first one. In all other respects the new run
    is described by the recipe of the best run.

    Args:
        runs: finished runs with the same encoder, tasks, heads and dev rows.
        out: the directory of the new run.
        overwrite: replace the run that is there.
        command: the command line to record.

    Raises:
        ComityError: a run cannot be used, or two of them cannot be averaged.
    """
    RunDirectory.check_new(out, overwrite)
    found = [_read(path) for path in runs]
    _check_list(found, out)
    for run in found[1:]:
        _check_alike(found[0], run)
    dev = _DevSets(found[0])
    everything: dict[str, Tensor] = {}
    alone: list[tuple[_Run, _Result]] = []
    for run in found:
        weights = _weights(run)
        alone.append((run, dev.evaluate(weights)))
        everything = _sum(everything, weights)
    alone.sort(key=cmp_to_key(_compare))
    members, weights, result = _greedy(alone, dev)
    all_runs = dev.evaluate(_divided(everything, len(found)))
    best, _ = alone[0]
    facts = replace(
        best.facts,
        machine=describe_machine(dev.device),
        versions=versions(),
        command=command,
        commit=current_commit(),
        id=new_run_id(),
        steps=0,
        soup=members,
    )
    soup = _Run(out, RunDirectory.create(out, overwrite), facts, best.recipe)
    _write(soup, best, dev, weights, result)
    return Soup(
        out=str(out),
        by=dev.by,
        members=members,
        score=result.score.value,
        tasks={task: score.value for task, score in scores_of(result.evaluations).items()},
        all_runs=all_runs.score.value,
    )


def _greedy(
    alone: Sequence[tuple[_Run, _Result]], dev: "_DevSets"
) -> tuple[list[SoupMember], dict[str, Tensor], _Result]:
    """Try the runs in their order; returns what came of each, the soup's weights and its result."""
    (best, result), *others = alone
    members = [_member(best, result, result, True)]
    kept, count = _sum({}, _weights(best)), 1
    for run, own in others:
        tried = _sum(kept, _weights(run))
        with_it = dev.evaluate(_divided(tried, count + 1))
        helps = not better(result.score, with_it.score)
        members.append(_member(run, own, with_it, helps))
        if helps:
            kept, count, result = tried, count + 1, with_it
    return members, _divided(kept, count), result


# --- which runs can be averaged -------------------------------------------------------------------


def _read(path: Path) -> _Run:
    directory = RunDirectory.open(path)
    if not directory.is_finished():
        raise ComityError(f"{path}: cannot be averaged yet ({directory.status().sentence})")
    directory.kept_model()
    return _Run(path, directory, directory.facts(), directory.recipe())


def _check_list(runs: Sequence[_Run], out: Path) -> None:
    if len(runs) < 2:
        raise ComityError("a soup needs at least two runs; name another run")
    seen: dict[Path, Path] = {}
    for run in runs:
        place = run.path.resolve()
        if place in seen:
            raise ComityError(f"{run.path}: is named twice; name each run once")
        seen[place] = run.path
    if out.resolve() in seen:
        raise ComityError(f"{out}: is one of the runs to average; choose another --out")


def _check_alike(first: _Run, other: _Run) -> None:
    """Raise a ComityError if the weights of two runs, or their dev scores, do not match."""
    difference = _difference(first, other)
    if difference:
        raise ComityError(
            f"{other.path}: cannot be averaged with {first.path} ({difference}); name runs of one "
            "recipe"
        )


def _difference(first: _Run, other: _Run) -> str | None:
    """What keeps two runs from being averaged, as part of a sentence."""
    ours, theirs = first.facts.inputs, other.facts.inputs
    if ours.encoder.sha256 != theirs.encoder.sha256:
        names = ours.encoder.name, theirs.encoder.name
        same = names[0] == names[1]
        return "the weights of the encoder differ" if same else _unequal("encoder", *names)
    if ours.tokenizer != theirs.tokenizer:
        return "the tokenizers differ"
    if list(first.facts.tasks) != list(other.facts.tasks):
        return _unequal("list of tasks", *(", ".join(run.facts.tasks) for run in (first, other)))
    precisions = [precision_name(run.facts.precision) for run in (first, other)]
    if precisions[0] != precisions[1]:
        return _unequal("precision", *precisions)
    for task in first.facts.tasks:
        difference = first_difference(_layout(first, task), _layout(other, task))
        if difference:
            return f"tasks.{task}.{difference}"
        if not _same_dev_rows(first, other, task):
            return f"the dev rows of {task} differ"
    return None


def _unequal(what: str, there: str, here: str) -> str:
    return f"the {what} is {there} there and {here} here"


def _layout(run: _Run, task: str) -> dict[str, Any]:
    """What a task reads and predicts, without the keys that only change its training."""
    facts = run.facts.tasks[task]
    head = asdict(facts.head)
    kept = {key: value for key, value in head.items() if key not in ("target", "dropout", "embeds")}
    columns = {"texts": list(run.recipe.tasks[task].text_columns)}
    return (
        columns | head["target"] | kept | {"metric": facts.metric, "max_length": facts.max_length}
    )


def _same_dev_rows(first: _Run, other: _Run, task: str) -> bool:
    one, two = (kept_predictions(run.directory, task) for run in (first, other))
    return (one.file, one.lines, one.gold.tolist()) == (two.file, two.lines, two.gold.tolist())


# --- weights and scores ---------------------------------------------------------------------------


class _DevSets:
    """The dev sets of the runs, and a model that takes the weights of any of them.

    The model's heads are not calibrated: what was fitted for one run's weights fits no other's.
    """

    def __init__(self, run: _Run):
        self.model: Model = load(run.directory)
        self.heads = {task: facts.head for task, facts in run.facts.tasks.items()}
        self.device = next(self.model.network.parameters()).device
        self.by = run.recipe.train.select_by
        self.eval_only = {name for name, task in run.recipe.tasks.items() if task.eval_only}
        self.splits = {task: self.model.dev_split(task) for task in self.model.tasks}

    def evaluate(self, weights: Weights) -> _Result:
        """Evaluate weights on the dev set of every task."""
        network, tokenizer = self.model.network, self.model.tokenizer
        with torch.no_grad():
            for owned in network.owned_parameters():
                owned.parameter.copy_(weights[owned.name])
        template = Template(tokenizer.cls_id, tokenizer.sep_id, network.encoder.segment_types)
        evaluations, outputs = {}, {}
        for task, split in self.splits.items():
            facts = self.model.facts.tasks[task]
            outputs[task] = task_outputs(network, task, split, template, facts.max_length)
            evaluations[task] = evaluate_outputs(
                task, self.heads[task], facts.metric, split, outputs[task]
            )
        return _Result(evaluations, outputs, self._score(scores_of(evaluations)))

    def _score(self, scores: Mapping[str, Score]) -> Score:
        """What runs are compared by, as `training/selection.py` does."""
        return mean_score(self.trained(scores)) if self.by == "mean" else scores[self.by]

    def trained(self, scores: Mapping[str, Score]) -> dict[str, Score]:
        """The scores of the tasks that the runs have trained."""
        return {task: score for task, score in scores.items() if task not in self.eval_only}


def _weights(run: _Run) -> dict[str, Tensor]:
    """The float32 weights of a run's kept model, on the CPU."""
    network = load(run.directory, device="cpu", precision="float32").network
    return {owned.name: owned.parameter.detach() for owned in network.owned_parameters()}


def _sum(weights: Weights, more: Weights) -> dict[str, Tensor]:
    """Sums in float64, so that the mean of equal weights is exact."""
    return {name: tensor.double() + weights.get(name, 0.0) for name, tensor in more.items()}


def _divided(weights: Weights, count: int) -> dict[str, Tensor]:
    return {name: (tensor / count).float() for name, tensor in weights.items()}


def _compare(one: tuple[_Run, _Result], two: tuple[_Run, _Result]) -> int:
    """Sorts the best run first; equal ones stay in the order of the command line."""
    return better(two[1].score, one[1].score) - better(one[1].score, two[1].score)


def _member(run: _Run, own: _Result, with_it: _Result, kept: bool) -> SoupMember:
    facts, scores = run.facts, (own.score.value, with_it.score.value)
    return SoupMember(str(run.path), facts.id, facts.seed, *scores, kept)


# --- the new run ----------------------------------------------------------------------------------


def _write(soup: _Run, source: _Run, dev: _DevSets, weights: Weights, result: _Result) -> None:
    """Write a run without steps. The end entry comes last: without it the run is unfinished."""
    directory, progress = soup.directory, Progress()
    scores = scores_of(result.evaluations)
    progress.selection.update(progress.step, scores, dev.trained(scores), dev.by)
    fit = fit_on_dev(soup.recipe.tasks, dev.heads, dev.splits, result.outputs)
    heads = fitted_heads(dev.heads, fit)
    own = {
        task: evaluate_outputs(
            task, heads[task], soup.facts.tasks[task].metric, dev.splits[task], result.outputs[task]
        )
        for task in fit.tasks
    }
    directory.write_facts(soup.facts)
    directory.write_recipe(soup.recipe)
    data = source.directory.data()
    if data is not None:
        directory.write_data(data)
    directory.log(evaluation_entry(progress, result.evaluations, {}))

    def save_predictions(folder: Path) -> None:
        for task, split in dev.splits.items():
            target, separator = heads[task].target, soup.recipe.tasks[task].separator
            outputs = result.outputs[task]
            write_predictions(folder / f"{task}.csv", target, split, outputs, separator)

    def save_weights(folder: Path) -> None:
        save_model(folder, dev.model.network.encoder, dev.model.tokenizer, weights)

    directory.write_predictions(progress.step, save_predictions)
    final = scores_of({**result.evaluations, **own})
    best = BestScore(selected(final, dev.trained(final), dev.by), progress.step)
    record = best_model(best, final, dev.by, fit, own)
    directory.write_best(record, save_weights)
    directory.log(end_entry(progress))
