"""Weight averages: against torch's and by hand, in runs, and in resumed and extended runs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import dev_scores, number, signal_after_step, two_tasks
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from comity import Recipe, load, train
from comity.evaluation.evaluate import task_outputs
from comity.model.parameters import SHARED, FlatParameters, OwnedParameter
from comity.runs.directory import RunDirectory
from comity.runs.entries import EvaluationEntry
from comity.runs.summary import run_summary
from comity.training import trainer as trainer_module
from comity.training.averaging import MeanOfEvaluations, MovingAverage
from comity.training.events import Event, StepDone
from comity.training.interrupts import Interrupted
from comity.training.setup import prepare
from comity.training.task_gradients import TaskGradients
from comity.training.train import extended
from comity.training.trainer import Trainer

KINDS = [
    {"train__average": "ema", "train__average_decay": 0.4},
    {"train__average": "last-evaluations", "train__average_last": 3},
]
STAGES = [{"steps": 5}, {"steps": 6, "lr": 5e-4}]


def recipe_of(encoder: Path, **changes) -> Recipe:
    """Two stages of 5 and 6 steps, evaluated after every second step and at their ends."""
    settings = {"train__epochs": ..., "train__evaluate_every": 2, "train__keep_checkpoints": 20}
    return two_tasks(encoder, **({**settings, "stages": STAGES} | changes))


def state(run: RunDirectory, newest: int = 0) -> dict[str, Tensor]:
    return load_file(run.checkpoints()[newest] / "state.safetensors")


def flat_of(module: nn.Module) -> FlatParameters:
    """The flat parameters of a module; they are views of its masters afterwards."""
    owned = [OwnedParameter(n, p, SHARED, 0, True) for n, p in module.named_parameters()]
    return FlatParameters(owned, torch.float32, torch.device("cpu"))


def values(flat: FlatParameters) -> list[Tensor]:
    return [tensor.clone() for tensor in flat.masters_by_name().values()]


# --- the averages themselves ----------------------------------------------------------------------


def steps(module: nn.Module, count: int, seed: int = 0):
    """Move the module's weights `count` times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        yield


def test_the_moving_average_equals_torchs():
    """With a decay below that of the first update, 2 / 11, which torch has from the start."""
    module = nn.Linear(5, 3)
    flat = flat_of(module)
    ours = MovingAverage(flat, 0.15)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.15))
    theirs.update_parameters(module)  # its first call copies the weights
    for _ in steps(module, 20):
        ours.after_update()
        theirs.update_parameters(module)
    trained = values(flat)
    ours.swap_in()
    for found, expected in zip(module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ours.swap_out()
    assert all(map(torch.equal, values(flat), trained))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_mean_of_evaluations_equals_torchs(count):
    module = nn.Linear(5, 3)
    flat = flat_of(module)
    ours = MeanOfEvaluations(flat, count)
    seen: list[dict[str, Tensor]] = []
    for _ in steps(module, 6):
        seen.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        theirs = AveragedModel(module)
        for weights in seen[-count:]:
            then = nn.Linear(5, 3)
            then.load_state_dict(weights)
            theirs.update_parameters(then)
        ours.swap_in()
        for found, expected in zip(module.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        ours.swap_out()
        ours.after_evaluation()
        assert len(ours.tensors()) == min(len(seen), count - 1)


# --- in a run -------------------------------------------------------------------------------------


class Observed:
    """A run whose masters are seen after each step, and as each evaluation reads them."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
        self.trained: dict[int, np.ndarray] = {}
        self.evaluated: dict[int, np.ndarray] = {}
        self.trainer = Trainer(prepare(recipe, data), self.listen)
        self.trained[0] = self.masters()
        evaluate = self.trainer.evaluate

        def evaluate_and_see(splits):
            self.evaluated[self.trainer.progress.step] = self.masters()
            return evaluate(splits)

        monkeypatch.setattr(self.trainer, "evaluate", evaluate_and_see)
        self.run = RunDirectory.create(out)
        self.trainer.run(self.run)

    def masters(self) -> np.ndarray:
        return self.trainer.flat.masters.numpy().copy()

    def listen(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.trained[event.step] = self.masters()


def assert_kept(observed: Observed) -> None:
    """The kept model has the weights that were evaluated at its step."""
    evaluated = torch.from_numpy(observed.evaluated[observed.run.best().step])
    model = load(observed.run.path, precision="float32")
    for owned in model.network.owned_parameters():
        start = observed.trainer.flat.starts[owned.name]
        expected = evaluated[start : start + owned.parameter.numel()]
        assert torch.equal(owned.parameter.flatten(), expected), owned.name


def test_a_moving_average_by_hand(data, tiny_checkpoint, tmp_path, monkeypatch):
    """It starts anew in the second stage, and the skipped step 3 does not count."""
    fill = TaskGradients.fill

    def fill_with_nan(task_gradients, gradients, batches, together, step, *keys):
        losses, tasks = fill(task_gradients, gradients, batches, together, step, *keys)
        return ([float("nan")] * len(losses) if step == 2 else losses), tasks

    monkeypatch.setattr(TaskGradients, "fill", fill_with_nan)
    recipe = recipe_of(tiny_checkpoint, train__average="ema", train__conflict_every=0)
    observed = Observed(recipe, data, tmp_path / "run", monkeypatch)
    assert np.array_equal(observed.trained[3], observed.trained[2])
    expected = {}
    for start, stop in ((0, 5), (5, 11)):
        average, n = observed.trained[start].astype(np.float64), 0
        for step in range(start + 1, stop + 1):
            if step != 3:
                n += 1
                decay = min(0.999, (1 + n) / (10 + n))
                average = decay * average + (1 - decay) * observed.trained[step]
            expected[step] = average
    assert list(observed.evaluated) == [2, 4, 5, 7, 9, 11]
    for step, found in observed.evaluated.items():
        np.testing.assert_allclose(found, expected[step], rtol=1e-5, atol=1e-6)
        assert not np.array_equal(found, observed.trained[step])
    assert_kept(observed)


def test_the_mean_of_evaluations_is_that_of_the_checkpoints(
    data, tiny_checkpoint, tmp_path, monkeypatch
):
    """Those of the stage; a checkpoint has the trained weights."""
    recipe = recipe_of(tiny_checkpoint, **KINDS[1], stages=[{"steps": 8}, {"steps": 4}])
    observed = Observed(recipe, data, tmp_path / "run", monkeypatch)
    stored = {
        int(path.name[-6:]): load_file(path / "state.safetensors")["masters"].double().numpy()
        for path in observed.run.checkpoints()
    }
    averaged = {2: [2], 4: [2, 4], 6: [2, 4, 6], 8: [4, 6, 8], 10: [10], 12: [10, 12]}
    assert list(observed.evaluated) == list(averaged)
    for step, found in observed.evaluated.items():
        expected = np.mean([stored[one] for one in averaged[step]], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_kept(observed)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_average_leaves_training_as_it_is(data, tiny_checkpoint, tmp_path, precision):
    """Weights and moments are the same bit for bit; scores are those of the kept model."""
    recipe = recipe_of(tiny_checkpoint, train__precision=precision)
    plain = state(train(recipe, data, tmp_path / "plain", quiet=True))
    for kind in KINDS:
        recipe = recipe_of(tiny_checkpoint, train__precision=precision, **kind)
        run = train(recipe, data, tmp_path / kind["train__average"], quiet=True)
        found = state(run)
        assert all(torch.equal(found[name], plain[name]) for name in plain)
        for task, score in run.best().tasks.items():
            again = number(load(run.path).evaluate(task).score.value)
            assert again == pytest.approx(score.value, abs=1e-12)
            assert dev_scores(run, task)[run.best().step] == score.value


def test_what_is_not_trained_keeps_its_exact_values(data, tiny_checkpoint, tmp_path, monkeypatch):
    """Frozen layers, and the head of a task that no stage has trained yet."""
    stages = [{"steps": 6, "tasks": ["mood"], "freeze": 1}, {"steps": 2, "tasks": ["alike"]}]
    for kind in KINDS:
        recipe = recipe_of(tiny_checkpoint, **kind, stages=stages)
        observed = Observed(recipe, data, tmp_path / kind["train__average"], monkeypatch)
        flat, evaluated = observed.trainer.flat, observed.evaluated[6]
        for segment in flat.segments:
            here = slice(segment.start, segment.stop)
            same = np.array_equal(evaluated[here], observed.trained[0][here])
            frozen = segment.owner == SHARED and segment.layer < 2
            assert same == (frozen or segment.owner == "alike"), segment


# --- stopped, resumed, extended -------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS, ids=["ema", "last-evaluations"])
def kind(request) -> dict[str, object]:
    return request.param


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint, kind) -> Recipe:
    """The second stage keeps the optimizer's state, and the average."""
    stages = [STAGES[0], {**STAGES[1], "keep_optimizer_state": True}]
    return recipe_of(tiny_checkpoint, **kind, stages=stages)


@pytest.fixture(scope="module")
def whole(data, recipe, tmp_path_factory) -> RunDirectory:
    return train(recipe, data, tmp_path_factory.mktemp("whole") / "run", quiet=True)


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    one, two = state(run), state(other)
    assert one.keys() == two.keys()
    assert any(name.startswith("average.") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.entries(EvaluationEntry) == other.entries(EvaluationEntry)
    assert run.best() == other.best()
    kept = (run.kept_model(), other.kept_model())
    for name in ("encoder/model.safetensors", "heads.safetensors"):
        one, two = (load_file(folder / name) for folder in kept)
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_a_resumed_run_is_the_same(data, recipe, whole, tmp_path, step):
    """In a stage, where an evaluation is due, at the end of a stage, and in one that keeps on."""
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", quiet=True, on_event=signal_after_step(step))
    assert_same(train(recipe, data, tmp_path / "run", resume=True, quiet=True), whole)


def test_a_signal_during_an_evaluation_saves_the_trained_weights(
    data, recipe, whole, tmp_path, monkeypatch
):
    evaluated = []

    def outputs_then_signal(model, name, *arguments, **keywords):
        evaluated.append(name)
        if len(evaluated) == 5:  # of the second evaluation, the first task on dev
            signal_after_step(0)(StepDone(0, (), 0, 0, 0.0))
        return task_outputs(model, name, *arguments, **keywords)

    monkeypatch.setattr(trainer_module, "task_outputs", outputs_then_signal)
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "run", quiet=True)
    assert torch.equal(
        state(RunDirectory(tmp_path / "run"))["masters"],
        load_file(whole.path / "checkpoint-000004" / "state.safetensors")["masters"],
    )
    assert_same(train(recipe, data, tmp_path / "run", resume=True, quiet=True), whole)


def test_an_extended_run_continues_the_average(data, recipe, whole, tmp_path):
    expected = train(extended(recipe, {"steps": 3}), data, tmp_path / "expected", quiet=True)
    run = RunDirectory(shutil.copytree(whole.path, tmp_path / "run"))
    train(recipe, data, run.path, resume=True, extend={"steps": 3}, quiet=True)
    assert_same(run, expected)


# --- plan and summary -----------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "vectors"), [(KINDS[0], 1), (KINDS[1], 3), ({}, 0)])
def test_the_plan_counts_the_memory(data, tiny_checkpoint, changes, vectors):
    trainer = Trainer(prepare(recipe_of(tiny_checkpoint, **changes), data))
    found = trainer.plan().memory_bytes
    assert found.get("weight average", 0) == vectors * found["optimizer"] / 2


def test_a_mean_of_one_evaluation_is_noted(data, tiny_checkpoint):
    def notes(*stages) -> list[str]:
        changes = {**KINDS[1], "train__evaluate_every": "epoch"}
        recipe = recipe_of(tiny_checkpoint, stages=list(stages), **changes)
        return Trainer(prepare(recipe, data)).plan().notes

    (note,) = notes({"steps": 2}, {"steps": 2})
    assert note.startswith("train.average: no stage has two evaluations")
    assert notes({"steps": 2}, {"steps": 2, "keep_optimizer_state": True}) == []


def test_the_summary_says_which_weights_were_evaluated(whole, kind):
    sentence = {
        "ema": "moving average of the weights, decay 0.4",
        "last-evaluations": "mean of the weights at the last 3 evaluations",
    }
    assert run_summary(whole).average == sentence[kind["train__average"]]
