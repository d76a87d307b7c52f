"""The flat parameters and the rows of J, compared with plain autograd on each parameter."""

import numpy as np
import pytest
import torch
from tests.helpers import two_tasks, write_two_tasks

from comity.data.task_sampling import PlannedBatch
from comity.losses.task_losses import head_loss
from comity.model.multitask import ModelInput, to_packed
from comity.model.parameters import SHARED, FlatParameters
from comity.training.gradients import Gradients
from comity.training.optim import adamw, segment_rates
from comity.training.setup import prepare
from comity.training.task_gradients import Batch
from comity.training.trainer import Trainer

TASKS = ["mood", "alike"]


@pytest.fixture
def trainer(tmp_path, tiny_checkpoint) -> Trainer:
    """Two tasks without dropout, in float32."""
    write_two_tasks(tmp_path)
    return make_trainer(tmp_path, tiny_checkpoint, encoder__dropout=0.0)


def make_trainer(folder, checkpoint, **changes) -> Trainer:
    changes = {"train__balancer": "pcgrad", **changes}
    trainer = Trainer(prepare(two_tasks(checkpoint, **changes), folder))
    trainer.start_stage(trainer.plans[0])
    return trainer


def first_batches(trainer: Trainer) -> list[Batch]:
    return trainer._batches(trainer.plans[0], [PlannedBatch(task, 0) for task in range(2)])


def plain_gradients(trainer: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
    """The gradient of a batch's mean loss, computed by autograd alone."""
    prepared, model = trainer.prepared, trainer.model
    names = {owned.name: owned.parameter for owned in trainer.flat.parameters}
    flags = {name: p.requires_grad for name, p in names.items()}
    for parameter in names.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    indices = np.concatenate([micro_batch.indices for micro_batch in batch.micro_batches])
    data, spec = prepared.tasks[batch.task], model.tasks[batch.task]
    packed = batch.split.pack(indices, spec.views, prepared.template, data.max_length)
    model_input = ModelInput(batch.task, to_packed(packed, torch.device("cpu")), len(indices))
    (outputs,) = model([model_input])
    targets = torch.from_numpy(spec.target.trained_on(batch.split.targets[indices]))
    loss = head_loss(spec.target, outputs, targets)
    found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    for name, parameter in names.items():
        parameter.requires_grad_(flags[name])
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(names.items(), found, strict=True)
    }


def flat_of(trainer: Trainer, gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    whole = torch.zeros_like(trainer.flat.masters)
    for name, gradient in gradients.items():
        start = trainer.flat.starts[name]
        whole[start : start + gradient.numel()] = gradient.flatten()
    return whole


def test_masters_equal_the_checkpoint(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    prepared = prepare(two_tasks(tiny_checkpoint), tmp_path)
    before = {k: v.detach().clone() for k, v in prepared.encoder.named_parameters()}
    model = prepared.model()
    flat = FlatParameters(model.owned_parameters(), torch.bfloat16, torch.device("cpu"))
    for name, master in flat.masters_by_name().items():
        if name.startswith("encoder."):
            assert torch.equal(master, before[name.removeprefix("encoder.")])
    for owned in flat.parameters:  # the modules compute with a rounded copy
        assert owned.parameter.dtype == torch.bfloat16
        master = flat.masters_by_name()[owned.name]
        assert torch.equal(owned.parameter.detach(), master.bfloat16())


def test_layout_keeps_layers_together_and_heads_last(trainer):
    segments = trainer.flat.segments
    assert [s.start for s in segments[1:]] == [s.stop for s in segments[:-1]]
    owners = [s.owner for s in segments]
    assert owners == sorted(owners, key=lambda o: [SHARED, *TASKS].index(o))
    shared = [s for s in segments if s.owner == SHARED]
    assert [s.layer for s in shared] == sorted(s.layer for s in shared)
    assert shared[0].is_word_table
    for owned in trainer.flat.parameters:
        assert owned.decays == (owned.parameter.dim() > 1)  # no decay on biases and LayerNorm


def test_biases_and_layer_norms_do_not_decay(trainer):
    """As in BERT's own training and in the Trainer of transformers."""
    exempt = {
        p.name for p in trainer.flat.parameters if p.name.endswith("bias") or "norm" in p.name
    }
    assert len(exempt) == 2 + 2 * 8 + 1 + 2  # embeddings, two layers, pooler, two heads
    assert {p.name for p in trainer.flat.parameters if not p.decays} == exempt


def test_rows_and_gramian_equal_autograd(trainer):
    batches = first_batches(trainer)
    _, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    assert tasks == TASKS
    plain = [flat_of(trainer, plain_gradients(trainer, batch)) for batch in batches]
    shared = torch.stack(plain)[:, : trainer.flat.shared_stop]
    torch.testing.assert_close(
        trainer.gradients.gramian().float(), shared @ shared.T, rtol=1e-5, atol=1e-7
    )
    total = len(trainer.flat.masters)
    for row in range(2):  # a weight of 1 on one row gives that row, including its words
        weights = [float(row == 0), float(row == 1)]
        width = trainer.flat.width
        found = torch.cat(
            [
                trainer.gradients.combined(a, b, weights, 1.0)
                for a, b in [
                    (0, width * 3),
                    (width * 3, trainer.flat.table_stop),
                    (trainer.flat.table_stop, trainer.flat.shared_stop),
                ]
            ]
        )
        torch.testing.assert_close(found, shared[row], rtol=1e-4, atol=1e-6)
    heads = trainer.gradients.combined(trainer.flat.shared_stop, total, [9.0, 9.0], 1.0)
    expected = torch.stack(plain).sum(0)[trainer.flat.shared_stop :]
    torch.testing.assert_close(heads, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", ["nothing", "embeddings", 1])
def test_products_of_each_layer_equal_autograd(tmp_path, tiny_checkpoint, frozen):
    """Between two steps of other rows: dense gradients of autograd, sorted by parameter name."""
    write_two_tasks(tmp_path)
    changes = {"encoder__dropout": 0.0, "train__freeze": frozen}
    trainer = make_trainer(tmp_path, tiny_checkpoint, **changes)
    first = first_batches(trainer)
    second = trainer._batches(trainer.plans[0], [PlannedBatch(task, 1) for task in (1, 0)])
    other = Gradients(trainer.flat, 2, trainer.gradients.frozen_layers)
    trainer.task_gradients[0].fill(trainer.gradients, first, False, 0)
    trainer.task_gradients[0].fill(other, second, False, 0)
    plain = [[plain_gradients(trainer, batch) for batch in step] for step in (first, second)]
    prefixes = {1: "encoder.layers.0.", 2: "encoder.layers.1.", 3: "encoder.pooler."}
    names = [owned.name for owned in trainer.flat.parameters if owned.owner == SHARED]
    members = {n: [name for name in names if name.startswith(p)] for n, p in prefixes.items()}
    members[0] = sorted(set(names) - {name for group in members.values() for name in group})
    assert "encoder.word_embeddings" in members[0]
    lowest = {"nothing": 0, "embeddings": 1, 1: 2}[frozen]
    assert trainer.gradients.layers == list(range(lowest, 4))

    def dense(gradients: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
        return torch.cat([gradients[name].flatten() for name in members[layer]]).double()

    def expected(left: int, right: int) -> torch.Tensor:
        return torch.stack(
            [
                torch.stack([dense(g, layer) for g in plain[left]])
                @ torch.stack([dense(g, layer) for g in plain[right]]).T
                for layer in range(lowest, 4)
            ]
        )

    found = trainer.gradients.products(other)
    torch.testing.assert_close(found, expected(0, 1), rtol=1e-4, atol=1e-6)
    own = trainer.gradients.products(trainer.gradients)
    torch.testing.assert_close(own, expected(0, 0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own.sum(0), trainer.gradients.gramian(), rtol=1e-6, atol=1e-9)


def test_the_gramian_of_long_rows_is_exact_to_the_sixth_digit(trainer):
    gradients = Gradients(trainer.flat, 3)
    gradients.rows = torch.randn(3, 3_000_017, generator=torch.Generator().manual_seed(1))
    rows = gradients.rows.double()
    expected = rows @ rows.T
    error = (gradients.gramian() - expected).abs().max() / expected.max()
    assert error < 1e-6  # one float32 product over whole rows is off by 1e-3 or 1e-4


def test_one_row_for_all_tasks_is_the_sum(trainer):
    batches = first_batches(trainer)
    trainer.task_gradients[0].fill(trainer.gradients, batches, True, 0)
    plain = torch.stack([flat_of(trainer, plain_gradients(trainer, b)) for b in batches]).sum(0)
    start, stop = trainer.flat.table_stop, trainer.flat.shared_stop
    found = trainer.gradients.combined(start, stop, [1.0], 1.0)
    torch.testing.assert_close(found, plain[start:stop], rtol=1e-4, atol=1e-6)


def test_a_task_with_two_batches_has_one_row(trainer):
    """Rows of J are in the order of the tasks, with the sum of each task's batches."""
    planned = [PlannedBatch(1, 0), PlannedBatch(0, 0), PlannedBatch(1, 1)]
    batches = trainer._batches(trainer.plans[0], planned)
    losses, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    assert tasks == ["alike", "mood"]
    assert len(losses) == 3
    plain = [flat_of(trainer, plain_gradients(trainer, batch)) for batch in batches]
    start, stop = trainer.flat.table_stop, trainer.flat.shared_stop
    for weights, expected in (([1.0, 0.0], plain[0] + plain[2]), ([0.0, 1.0], plain[1])):
        found = trainer.gradients.combined(start, stop, weights, 1.0)
        torch.testing.assert_close(found, expected[start:stop], rtol=1e-4, atol=1e-6)


def test_a_huge_head_gradient_does_not_change_the_weights(trainer):
    batches = first_batches(trainer)
    trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    plan = trainer.plans[0]
    rows = trainer.gradients.rows
    rows[1] -= 2 * (rows[0] @ rows[1]) / (rows[0] @ rows[0]) * rows[0]  # make them conflict
    weights, norm = trainer._weigh(plan, TASKS, trainer.gradients.gramian())
    assert weights != pytest.approx([1.0, 1.0], abs=1e-3)
    trainer.gradients.heads.mul_(1e6)
    again, larger = trainer._weigh(plan, TASKS, trainer.gradients.gramian())
    assert again == weights
    assert larger > norm  # clipping includes the heads


@pytest.mark.parametrize("balancer", ["sum", "pcgrad"])
def test_micro_batches_add_up_to_the_batch(tmp_path, tiny_checkpoint, balancer):
    """A batch of 8 rows in 3 uneven micro-batches gives the same rows of J as in one."""
    write_two_tasks(tmp_path)
    rows = []
    for count in (1, 3):
        trainer = make_trainer(
            tmp_path,
            tiny_checkpoint,
            encoder__dropout=0.0,
            train__balancer=balancer,
            tasks__mood__micro_batches=count,
            tasks__mood__class_weights={"up": 3.0, "down": 0.5},
            tasks__alike__micro_batches=count,
            tasks__alike__loss_weight=0.7,
        )
        batches = first_batches(trainer)
        assert [len(batch.micro_batches) for batch in batches] == [count, count]
        losses, _ = trainer.task_gradients[0].fill(trainer.gradients, batches, balancer == "sum", 0)
        rows.append((trainer.gradients.rows.clone(), trainer.gradients.word_rows.clone(), losses))
    torch.testing.assert_close(rows[0][0], rows[1][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rows[0][1], rows[1][1], rtol=1e-4, atol=1e-6)
    assert rows[0][2] == pytest.approx(rows[1][2], rel=1e-5)


def test_the_loss_weight_multiplies_the_row(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    grams = []
    for weight in (1.0, 3.0):
        trainer = make_trainer(
            tmp_path, tiny_checkpoint, encoder__dropout=0.0, tasks__alike__loss_weight=weight
        )
        trainer.task_gradients[0].fill(trainer.gradients, first_batches(trainer), False, 0)
        grams.append(trainer.gradients.gramian())
    scale = torch.tensor([1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(grams[1], grams[0] * scale * scale[:, None], rtol=1e-4, atol=1e-9)


def test_bf16_rows_are_float32_and_close(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    rows = {}
    for precision in ("float32", "bf16"):
        trainer = make_trainer(
            tmp_path, tiny_checkpoint, encoder__dropout=0.0, train__precision=precision
        )
        trainer.task_gradients[0].fill(trainer.gradients, first_batches(trainer), False, 0)
        rows[precision] = trainer.gradients.rows.clone()
        assert trainer.gradients.rows.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(rows["float32"], rows["bf16"])
    assert (cosine > 0.995).all(), cosine


@pytest.mark.parametrize("freeze", ["nothing", "embeddings", 1, "encoder"])
def test_updates_equal_a_plain_dense_optimizer(tmp_path, tiny_checkpoint, freeze):
    """Three steps, the second without one task, compared with AdamW on each tensor."""
    write_two_tasks(tmp_path)
    changes = {"encoder__dropout": 0.0, "train__freeze": freeze, "train__balancer": "sum"}
    trainer = make_trainer(tmp_path, tiny_checkpoint, **changes)
    trainer.gradients = Gradients(trainer.flat, 2, trainer.gradients.frozen_layers)
    flat, plan = trainer.flat, trainer.plans[0]
    expected = {name: master.clone() for name, master in flat.masters_by_name().items()}
    state = {name: [torch.zeros_like(v), torch.zeros_like(v), 0] for name, v in expected.items()}
    frozen = trainer.gradients.frozen_layers
    for step, present in enumerate((TASKS, ["alike"], TASKS)):
        planned = [PlannedBatch(TASKS.index(name), step) for name in present]
        batches = trainer._batches(plan, planned)
        plain = [plain_gradients(trainer, batch) for batch in batches]
        _, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, step)
        weights = [0.8, 1.3][: len(tasks)]
        rates = segment_rates(
            lr=0.01,
            head_lr={"mood": 0.05, "alike": 0.02},
            present=set(tasks),
            frozen_layers=frozen,
            top_layer=3,
            lr_layer_decay=0.5,
        )
        trainer.optimizer.update(trainer.gradients, weights, 0.5, rates)
        for owned in flat.parameters:
            name = owned.name
            if owned.owner == SHARED:
                if owned.layer < frozen:
                    continue
                gradient = sum(w * g[name] for w, g in zip(weights, plain, strict=True)) * 0.5
                rate = 0.01 * 0.5 ** (3 - owned.layer)
            elif owned.owner in present:
                gradient = sum(g[name] for g in plain) * 0.5
                rate = {"mood": 0.05, "alike": 0.02}[owned.owner]
            else:
                continue
            first, second, count = state[name]
            state[name][2] = count + 1
            adamw(
                expected[name],
                torch.as_tensor(gradient),
                first,
                second,
                step=count + 1,
                rate=rate,
                weight_decay=0.01 if owned.decays else 0.0,
            )
        for name, master in flat.masters_by_name().items():
            torch.testing.assert_close(master, expected[name], rtol=2e-4, atol=2e-5, msg=name)


def test_the_words_of_a_step_are_those_of_its_batches(trainer):
    batches = first_batches(trainer)
    trainer.task_gradients[0].fill(trainer.gradients, batches, False, 0)
    used = {int(i) for batch in batches for packed in batch.packed for i in packed.ids}
    assert set(trainer.gradients.words.tolist()) == used


def test_dropout_depends_on_the_step_and_not_on_earlier_draws(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    trainer = make_trainer(tmp_path, tiny_checkpoint, encoder__dropout=0.3)

    def losses(step: int) -> list[float]:
        return trainer.task_gradients[0].fill(
            trainer.gradients, first_batches(trainer), False, step
        )[0]

    first = losses(4)
    torch.rand(10)  # the global generator does not matter
    assert losses(5) != first
    assert losses(4) == first
