"""What dropout masks depend on in training, and the precision of heads."""

from itertools import combinations

import numpy as np
import pytest
import torch
from tests.helpers import two_tasks, write_two_tasks
from torch.testing import assert_close

from comity.data.task_sampling import PlannedBatch
from comity.model.heads import LinearHead
from comity.model.multitask import ModelInput
from comity.rng import DROPOUT, row_keys
from comity.targets import HeadSpec, Target
from comity.training.setup import prepare
from comity.training.trainer import Trainer


def make_trainer(folder, checkpoint, **changes) -> Trainer:
    write_two_tasks(folder)
    changes = {"train__batch_size": 4, **changes}
    trainer = Trainer(prepare(two_tasks(checkpoint, **changes), folder))
    trainer.start_stage(trainer.plans[0])
    return trainer


def test_no_two_rows_views_parts_or_batches_share_a_dropout_key(tmp_path, tiny_checkpoint):
    """Two batches of each task in a step, each in two micro-batches; two steps."""
    trainer = make_trainer(
        tmp_path,
        tiny_checkpoint,
        tasks__mood__micro_batches=2,
        tasks__alike__micro_batches=2,
        tasks__alike__interaction=True,
    )
    planned = [PlannedBatch(task, number) for task in range(2) for number in range(2)]
    batches = trainer._batches(trainer.plans[0], planned)
    keys = []
    for step in (3, 4):
        for batch in batches:
            assert len(batch.micro_batches) == 2
            for part in batch.micro_batches:
                found = trainer.task_gradients[0].dropout_keys(part, step)
                keys += [*found.packed.tolist(), *found.head.tolist()]
    # Per step: 2 batches of 4 rows; mood has one view and a head, alike two views and a head.
    assert len(keys) == 2 * (2 * 4 * 2 + 2 * 4 * 3) == len(set(keys))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_equal_texts_in_both_views_have_different_states(tmp_path, tiny_checkpoint, pooling):
    """The same rows as both views, with the masks that training draws."""
    trainer = make_trainer(
        tmp_path, tiny_checkpoint, tasks__alike__interaction=True, tasks__alike__pooling=pooling
    )
    (batch,) = trainer._batches(trainer.plans[0], [PlannedBatch(1, 0)])
    (part,) = batch.micro_batches
    gradients = trainer.task_gradients[0]
    data = trainer.prepared.tasks["alike"]
    twice = gradients._packed(batch.split, part.indices, ("first", "first"), data.max_length)
    keys = gradients.dropout_keys(part, 0)
    with torch.no_grad():
        (dropped,) = trainer.model.encode([ModelInput("alike", twice, len(part.indices), keys)])
        (plain,) = trainer.model.encode([ModelInput("alike", twice, len(part.indices))])
    assert_close(plain.views[0], plain.views[1], atol=1e-5, rtol=0)
    differences = (dropped.views[0] - dropped.views[1]).abs().amax(dim=1)
    assert (differences > 0.01).all()


@pytest.mark.parametrize("layers", [0, 2])
def test_heads_compute_in_float32_from_bfloat16_weights(layers):
    """Against float64 arithmetic on the same rounded weights and vectors."""
    generator = torch.Generator().manual_seed(0)
    spec = HeadSpec(
        Target("similarity", "regression", scale=(0.0, 5.0)), ("first", "second"),
        interaction=True, layers=layers, add_norm=True,
    )  # fmt: skip
    head = LinearHead(32, spec)
    for parameter in head.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    head = head.to(torch.bfloat16)
    vectors = [torch.randn(64, 32, generator=generator).bfloat16() for _ in range(2)]
    with torch.no_grad():
        found = head(vectors, None)
    assert found.dtype == torch.float32

    u, v = (vector.double() for vector in vectors)
    values = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
    for layer in head.layers:
        weights = {name: p.detach().double() for name, p in layer.named_parameters()}
        output = torch.nn.functional.gelu(values @ weights["weight"].T + weights["bias"])
        output = output + values if output.shape == values.shape else output
        mean, variance = output.mean(1, keepdim=True), output.var(1, correction=0, keepdim=True)
        normal = (output - mean) / variance.sqrt()
        values = normal * weights["norm_weight"] + weights["norm_bias"]
    expected = values @ head.output.weight.double().T + head.output.bias.double()
    assert_close(found.double(), expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("interaction", [False, True])
def test_the_dropout_of_a_head_is_in_float32(interaction):
    """Vectors in bfloat16 give what the same numbers in float32 give."""
    target = Target("similarity", "regression", scale=(0.0, 5.0))
    spec = HeadSpec(target, ("first", "second"), dropout=0.3, interaction=interaction)
    head = LinearHead(32, spec)
    head.initialise(torch.Generator().manual_seed(0))
    vectors = [torch.randn(64, 32).bfloat16() for _ in range(2)]
    keys = torch.from_numpy(row_keys(DROPOUT, 0, rows=np.arange(64)))
    with torch.no_grad():
        wide = head([vector.float() for vector in vectors], keys)
        assert torch.equal(head(vectors, keys), wide)
        assert not torch.equal(head(vectors, None), wide)


@pytest.mark.parametrize("layers", [0, 1])
def test_the_last_values_of_a_head_are_dropped_once(layers):
    """With a hidden layer or without, the output reads values scaled by 256 / (256 - 77) or 0."""
    spec = HeadSpec(Target("regression", "regression"), ("first",), dropout=0.3, layers=layers)
    head = LinearHead(32, spec)
    head.initialise(torch.Generator().manual_seed(0))
    vector = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    keys = torch.from_numpy(row_keys(DROPOUT, 0, rows=np.arange(64)))
    read = []
    head.output.register_forward_pre_hook(lambda _, values: read.append(values[0]))
    with torch.no_grad():
        head([vector], None)
        head([vector], keys)
    plain, dropped = read
    kept = dropped != 0
    assert 0.6 < kept.double().mean() < 0.8
    assert_close(dropped[kept], plain[kept] * 256 / (256 - 77))


def test_masks_of_different_parts_are_unrelated(tmp_path, tiny_checkpoint):
    """The outputs of one row as part of another micro-batch or batch differ."""
    trainer = make_trainer(tmp_path, tiny_checkpoint, tasks__mood__micro_batches=2)
    planned = [PlannedBatch(0, 0), PlannedBatch(0, 1)]
    batches = trainer._batches(trainer.plans[0], planned)
    gradients = trainer.task_gradients[0]
    parts = [part for batch in batches for part in batch.micro_batches]
    vectors = []
    for part in parts:  # the rows of the first part, with the masks of each part
        keys = gradients.dropout_keys(part, 0)
        with torch.no_grad():
            (encoded,) = trainer.model.encode([ModelInput("mood", parts[0].inputs, 2, keys)])
        vectors.append(encoded.views[0])
    for one, other in combinations(vectors, 2):
        assert ((one - other).abs().amax(dim=1) > 0.001).all()
