"""Training steps compared with a plain reference over two stages.

The reference takes autograd's gradient of each task and applies the published PCGrad to full
vectors, one clip, the learning-rate schedule, and AdamW to each tensor.
"""

import math

import numpy as np
import pytest
import torch
from tests.helpers import two_tasks, write_csv, write_two_tasks
from torch import Tensor

from comity.data.task_sampling import PlannedBatch
from comity.losses.task_losses import head_loss
from comity.model.multitask import ModelInput, to_packed
from comity.model.parameters import SHARED
from comity.model.reference import padded_forward
from comity.runs.directory import RunDirectory
from comity.training.balancers import draw_orders
from comity.training.plan import StagePlan
from comity.training.setup import prepare
from comity.training.trainer import Trainer

CLASS_WEIGHTS = {"up": 3.0, "down": 0.5}
LOSS_WEIGHT = 5.0
HEAD_RATES = {"mood": 0.02, "alike": 0.004}
CLIP = 0.4
STAGES = [
    {"steps": 5, "lr": 3e-3, "warmup": 2, "lr_schedule": "cosine", "lr_layer_decay": 0.5},
    {"steps": 4, "lr": 1e-3, "warmup": 0.5, "freeze": 1},
]


def make_recipe(checkpoint, keep_state: bool, **changes):
    stages = [STAGES[0], {**STAGES[1], "keep_optimizer_state": keep_state}]
    keys = {
        "encoder__dropout": 0.0,
        "train__balancer": "pcgrad",
        "train__max_grad_norm": CLIP,
        "train__epochs": ...,
        "train__lr": ...,
        "train__head_lr": HEAD_RATES["alike"],
        "tasks__mood__head_lr": HEAD_RATES["mood"],
        "tasks__mood__class_weights": CLASS_WEIGHTS,
        "tasks__alike__loss_weight": LOSS_WEIGHT,
        "stages": stages,
        **changes,
    }
    return two_tasks(checkpoint, **keys)


class Reference:
    """The same run on separate tensors; `trainer` only provides its model, plan and batches."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.parameters = trainer.flat.parameters
        self.values = {p.name: p.parameter.detach().clone() for p in self.parameters}
        self.moments: dict[str, list] = {}
        self.step = 0
        self.clipped = self.projected = 0

    def gradients(self, plan: StagePlan, planned: PlannedBatch) -> dict[str, Tensor]:
        """Autograd's gradient of one task's weighted mean loss."""
        trainer = self.trainer
        (batch,) = trainer._batches(plan, [planned])
        data, spec = trainer.prepared.tasks[batch.task], trainer.model.tasks[batch.task]
        indices = np.concatenate([micro_batch.indices for micro_batch in batch.micro_batches])
        packed = batch.split.pack(indices, spec.views, trainer.prepared.template, data.max_length)
        model_input = ModelInput(batch.task, to_packed(packed, torch.device("cpu")), len(indices))
        for owned in self.parameters:
            owned.parameter.data.copy_(self.values[owned.name])
            owned.parameter.requires_grad_(True)
        (outputs,) = trainer.model([model_input])
        targets = torch.from_numpy(spec.target.trained_on(batch.split.targets[indices]))
        weights = None
        if batch.task == "mood":
            weights = torch.tensor([CLASS_WEIGHTS[name] for name in spec.target.classes])
        loss = head_loss(spec.target, outputs, targets, weights)
        loss = loss * (LOSS_WEIGHT if batch.task == "alike" else 1.0)
        parameters = [owned.parameter for owned in self.parameters]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {
            owned.name: torch.zeros_like(owned.parameter) if g is None else g
            for owned, g in zip(self.parameters, found, strict=True)
        }

    def train_step(self, plan: StagePlan, number: int, frozen: int) -> None:
        """One step of a stage."""
        each = [self.gradients(plan, planned) for planned in plan.steps[number]]
        trained = [p for p in self.parameters if p.owner == SHARED and p.layer >= frozen]
        rows = [torch.cat([g[p.name].flatten() for p in trained]) for g in each]
        combined = self.surgery(rows)
        heads = {p.name: sum(g[p.name] for g in each) for p in self.parameters if p.owner != SHARED}
        squares = combined.square().sum() + sum(
            torch.as_tensor(h).square().sum() for h in heads.values()
        )
        norm = math.sqrt(float(squares))
        factor = min(1.0, CLIP / norm)
        self.clipped += norm > CLIP
        start = 0
        for owned in trained:
            stop = start + owned.parameter.numel()
            gradient = combined[start:stop].view(owned.parameter.shape) * factor
            rate = plan.stage.lr * plan.stage.lr_layer_decay ** (3 - owned.layer)
            self.adamw(owned.name, gradient, rate * self.lr_factor(plan, number), owned.decays)
            start = stop
        for owned in self.parameters:
            if owned.owner != SHARED:
                rate = HEAD_RATES[owned.owner] * self.lr_factor(plan, number)
                gradient = torch.as_tensor(heads[owned.name]) * factor
                self.adamw(owned.name, gradient, rate, owned.decays)
        self.step += 1

    def surgery(self, rows: list[Tensor]) -> Tensor:
        """Yu et al. 2020, algorithm 1, on the vectors themselves."""
        total = torch.zeros_like(rows[0])
        for one, others in enumerate(draw_orders(0, self.step, len(rows))):
            projected = rows[one].clone()
            for other in others:
                product = projected @ rows[other]
                if product < 0:
                    self.projected += 1
                    projected -= product / (rows[other] @ rows[other]) * rows[other]
            total += projected
        return total

    def lr_factor(self, plan: StagePlan, number: int) -> float:
        """The learning-rate factor: two steps of warm-up, then cosine or linear decay."""
        steps = len(plan.steps)
        if number < 2:
            return (number + 1) / 2
        done = (number - 2) / (steps - 2)
        return (
            (1 + math.cos(math.pi * done)) / 2 if plan.stage.lr_schedule == "cosine" else 1 - done
        )

    def adamw(self, name: str, gradient: Tensor, rate: float, decays: bool) -> None:
        first, second, count = self.moments.get(name) or [0.0, 0.0, 0]
        count += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        self.moments[name] = [first, second, count]
        size = rate * math.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        value = self.values[name] - size * first / (second.sqrt() + 1e-6)
        self.values[name] = value - rate * 0.01 * value if decays else value


@pytest.mark.parametrize("keep_state", [False, True])
def test_two_stages_equal_the_reference(tmp_path, tiny_checkpoint, keep_state):
    write_two_tasks(tmp_path)
    recipe = make_recipe(tiny_checkpoint, keep_state)
    ours, theirs = (Trainer(prepare(recipe, tmp_path)) for _ in range(2))
    ours.directory = RunDirectory.create(tmp_path / "run")
    reference = Reference(theirs)
    for number, frozen in ((0, 0), (1, 2)):
        ours.progress.stage, ours.progress.stage_step = number, 0
        ours.start_stage(ours.plans[number])
        if not keep_state:
            reference.moments.clear()
        for step, planned in enumerate(ours.plans[number].steps):
            ours.progress.stage_step = step
            ours.step(ours.plans[number], planned)
            ours.progress.step += 1
            reference.train_step(theirs.plans[number], step, frozen)
        for name, master in ours.flat.masters_by_name().items():
            torch.testing.assert_close(
                master, reference.values[name], atol=3e-5, rtol=3e-4, msg=f"stage {number}: {name}"
            )
    assert reference.clipped > 0
    assert reference.projected > 0  # otherwise surgery would not be tested


def padded(bert):
    """A `forward` for a `Bert` that calls `padded_forward` for each group."""

    def forward(groups, words=None, rows=None, sink=None):
        found = []
        for group in groups:
            lengths = group.packed.offsets.diff()
            ids, segments = (
                torch.nn.utils.rnn.pad_sequence(list(v.split(lengths.tolist())), batch_first=True)
                for v in (group.packed.ids, group.packed.segments)
            )
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            hidden, _ = padded_forward(bert, ids, segments, mask)
            found.append(hidden[:, 0] if group.read == "cls" else hidden[mask])
        return found

    return forward


def test_twenty_steps_equal_the_padded_reference(tmp_path, tiny_checkpoint, monkeypatch):
    write_two_tasks(tmp_path)
    stages = [{"steps": 20, "lr": 1e-4, "warmup": 2}]
    recipe = make_recipe(tiny_checkpoint, False, stages=stages, train__precision="float32")
    ours, theirs = (Trainer(prepare(recipe, tmp_path)) for _ in range(2))
    monkeypatch.setattr(theirs.model.encoder, "forward", padded(theirs.model.encoder))
    ours.directory = RunDirectory.create(tmp_path / "run")
    reference = Reference(theirs)
    (plan,) = ours.plans
    ours.start_stage(plan)
    for step, planned in enumerate(plan.steps):
        ours.progress.stage_step = ours.progress.step = step
        ours.step(plan, planned)
        reference.train_step(theirs.plans[0], step, 0)
        for name, master in ours.flat.masters_by_name().items():
            torch.testing.assert_close(
                master, reference.values[name], atol=1e-5, rtol=0, msg=f"step {step}: {name}"
            )
    assert reference.projected > 0


def test_the_compute_buffer_follows_the_masters(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    trainer = Trainer(
        prepare(make_recipe(tiny_checkpoint, False, train__precision="bf16"), tmp_path)
    )
    trainer.directory = RunDirectory.create(tmp_path / "run")
    trainer.start_stage(trainer.plans[0])
    before = trainer.flat.compute.clone()
    trainer.step(trainer.plans[0], trainer.plans[0].steps[0])
    assert not torch.equal(before, trainer.flat.compute)
    assert torch.equal(trainer.flat.compute, trainer.flat.masters.bfloat16())


def test_head_dropout_changes_only_its_task(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    losses = []
    for rate in (0.0, 0.5):
        recipe = make_recipe(tiny_checkpoint, False, tasks__mood__head_dropout=rate)
        trainer = Trainer(prepare(recipe, tmp_path))
        plan = trainer.plans[0]
        trainer.start_stage(plan)
        batches = trainer._batches(plan, plan.steps[0])
        losses.append(trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)[0])
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] == losses[1][1]


def test_a_tasks_dropout_does_not_depend_on_the_order_of_tasks(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    trainer = Trainer(prepare(make_recipe(tiny_checkpoint, False, encoder__dropout=0.3), tmp_path))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    losses = []
    for planned in (plan.steps[0], plan.steps[0][::-1]):
        batches = trainer._batches(plan, planned)
        losses.append(trainer.task_gradients[0].fill(trainer.gradients, batches, False, 7)[0])
    assert losses[0] == pytest.approx(losses[1][::-1], rel=1e-5)


@pytest.mark.parametrize("objectives", [[], [{"loss": "contrastive"}]])
def test_a_rows_dropout_does_not_depend_on_micro_batches(tmp_path, tiny_checkpoint, objectives):
    """Losses and gradients of one step with dropout everywhere, in one micro-batch and in three."""
    write_two_tasks(tmp_path)
    found = []
    for micro_batches in (1, 3):
        recipe = make_recipe(
            tiny_checkpoint,
            False,
            encoder__dropout=0.3,
            tasks__mood__head_dropout=0.3,
            tasks__mood__micro_batches=micro_batches,
            tasks__alike__micro_batches=1 if objectives else micro_batches,
            tasks__alike__objectives=objectives,
        )
        trainer = Trainer(prepare(recipe, tmp_path))
        plan = trainer.plans[0]
        trainer.start_stage(plan)
        batches = trainer._batches(plan, plan.steps[0])
        losses, _ = trainer.task_gradients[0].fill(trainer.gradients, batches, False, 7)
        found.append((losses, trainer.gradients.rows.clone(), trainer.gradients.heads.clone()))
    (whole, whole_rows, whole_heads), (split, split_rows, split_heads) = found
    assert whole == pytest.approx(split, rel=1e-5)
    torch.testing.assert_close(split_rows, whole_rows, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(split_heads, whole_heads, atol=1e-5, rtol=1e-4)


def test_each_row_view_and_batch_has_its_own_dropout_key(tmp_path, tiny_checkpoint):
    """Two batches of one task in a step, two views of a row, the head, two tasks, two steps."""
    write_two_tasks(tmp_path)
    recipe = two_tasks(
        tiny_checkpoint, tasks__alike__head="cosine", train__batch_size=4, train__balancer="sum"
    )
    trainer = Trainer(prepare(recipe, tmp_path))
    plan = trainer.plans[0]
    planned = [PlannedBatch(task, number) for task in range(2) for number in range(2)]
    batches = trainer._batches(plan, planned)
    keys = []
    for step in (3, 4):
        for batch in batches:
            found = trainer.task_gradients[0].dropout_keys(batch.micro_batches[0], step)
            keys += [*found.packed.tolist(), *found.head.tolist()]
    # Per step: mood 2 batches x 4 rows x (view, head), alike 2 x 4 x (two views, head).
    assert len(keys) == 2 * (2 * 4 * 2 + 2 * 4 * 3) == len(set(keys))


def test_parameters_without_a_gradient_are_cleared(tmp_path, tiny_checkpoint):
    """The pooler in a step with only a cosine head, after a step with another head."""
    write_two_tasks(tmp_path)
    recipe = two_tasks(tiny_checkpoint, train__balancer="pcgrad", tasks__alike__head="cosine")
    trainer = Trainer(prepare(recipe, tmp_path))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    batches = trainer._batches(plan, plan.steps[0])
    pooler = slice(trainer.flat.starts["encoder.pooler.weight"] - trainer.gradients.start, None)
    trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    assert trainer.gradients.rows[0, pooler].any()
    trainer.task_gradients[0].fill(trainer.gradients, batches[1:], False, 1)
    assert not trainer.gradients.rows[0, pooler].any()


def test_balanced_class_weights_count_the_rows_of_the_stage(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    rows = [("good", "up"), ("bad", "down"), ("poor", "down"), ("worst", "down")]
    write_csv(tmp_path / "other.csv", ["text", "mood"], rows)
    recipe = two_tasks(
        tiny_checkpoint,
        tasks__mood__class_weights="balanced",
        stages=[{"data": {"mood": "other.csv"}}],
    )
    trainer = Trainer(prepare(recipe, tmp_path))
    (batch,) = trainer._batches(trainer.plans[0], [PlannedBatch(0, 0)])
    assert len(batch.split) == 4  # the stage's own file
    weights = trainer.task_gradients[0].class_weights["mood"]
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2.0]))
