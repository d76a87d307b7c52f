"""R-Drop: task gradients of two dropout draws, compared with autograd on a padded encoder.

The reference encodes each draw by itself, on padded sequences with explicit masks, and takes the
divergences from `torch.distributions`.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers import two_tasks, write_csv, write_two_tasks
from tests.training.test_resume import assert_same
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from comity import ComityError, train
from comity.data.task_sampling import PlannedBatch
from comity.losses.embedding_losses import cosent
from comity.model.dropout import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    OUTPUT,
    TOKEN_STRIDE,
    attention_counters,
    attention_mask,
    keep_mask,
    kept_scale,
    site_keys,
)
from comity.model.parameters import FlatParameters
from comity.rng import DROPOUT, name_key, row_keys
from comity.runs.directory import RunDirectory
from comity.runs.entries import TrainEntry
from comity.targets import Target
from comity.training.setup import prepare
from comity.training.trainer import Trainer

STEP = 7
RATES = {"embedding_dropout": 0.2, "hidden_dropout": 0.1, "attention_dropout": 0.3}
R_DROP = {"kind": "r-drop", "weight": 3.0}
CLASS_WEIGHTS = {"up": 3.0, "down": 0.5}
LOSS_WEIGHT = 5.0


def require_gradients(flat: FlatParameters) -> None:
    """Let autograd follow all parameters; a reference must be computed after this."""
    for owned in flat.parameters:
        owned.parameter.requires_grad_()


def gradient_of(loss: Tensor, flat: FlatParameters) -> Tensor:
    """The gradient of a loss by autograd, in the order of the flat vector."""
    parameters = [owned.parameter for owned in flat.parameters]
    found = torch.zeros_like(flat.masters)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for owned, gradient in zip(flat.parameters, gradients, strict=True):
        if gradient is not None:
            start = flat.starts[owned.name]
            found[start : start + gradient.numel()] = gradient.flatten()
    return found


def make_trainer(folder, checkpoint, **changes) -> Trainer:
    """Two tasks with dropout; `mood` has class weights, `alike` a loss weight."""
    write_two_tasks(folder)
    keys = {
        "encoder__dropout": ...,
        **{f"encoder__{name}": rate for name, rate in RATES.items()},
        "train__balancer": "pcgrad",
        "tasks__mood__class_weights": CLASS_WEIGHTS,
        "tasks__mood__consistency": R_DROP,
        "tasks__alike__loss_weight": LOSS_WEIGHT,
        "tasks__alike__consistency": R_DROP,
        **changes,
    }
    if keys.get("train__loss_weighting") == "uncertainty":
        keys["tasks__alike__loss_weight"] = ...
    trainer = Trainer(prepare(two_tasks(checkpoint, **keys), folder))
    trainer.start_stage(trainer.plans[0])
    return trainer


def padded(bert, packed, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states `[B, L, H]` with dropout, and the mask `[B, L]` of tokens."""
    lengths = packed.offsets.diff().tolist()
    ids, segments = (
        torch.nn.utils.rnn.pad_sequence(list(v.split(lengths)), batch_first=True)
        for v in (packed.ids, packed.segments)
    )
    count, length = ids.shape
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    sites = site_keys(keys, bert.depth + 1)
    counters = torch.arange(length, dtype=torch.int32) * TOKEN_STRIDE

    def dropped(values: Tensor, rate: float, layer: int, site: int) -> Tensor:
        kept = [
            keep_mask(key.repeat(length), counters, bert.width, rate, torch.float32)
            for key in sites[layer, site]
        ]
        return values * torch.stack(kept) * kept_scale(rate)

    hidden = F.embedding(ids, bert.word_embeddings) + bert.position_embeddings[:length]
    hidden = bert.embedding_norm(hidden + F.embedding(segments, bert.segment_embeddings))
    hidden = dropped(hidden, RATES["embedding_dropout"], 0, EMBEDDINGS)
    for number, layer in enumerate(bert.layers, start=1):
        query, key, value = (
            part.view(count, length, bert.heads, -1).transpose(1, 2)
            for part in layer.qkv(hidden).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(dim=-1)
        rate = RATES["attention_dropout"]
        kept = attention_mask(
            sites[number, ATTENTION],
            attention_counters(bert.heads, length, keys.device),
            length,
            rate,
            torch.float32,
        )
        weights = weights * kept.view(count, bert.heads, length, length) * kept_scale(rate)
        context = layer.attention_output((weights @ value).transpose(1, 2).flatten(2))
        context = dropped(context, RATES["hidden_dropout"], number, ATTENTION_OUTPUT)
        hidden = layer.attention_norm(hidden + context)
        output = layer.contract(F.gelu(layer.expand(hidden)))
        output = dropped(output, RATES["hidden_dropout"], number, OUTPUT)
        hidden = layer.output_norm(hidden + output)
    return hidden, mask


def keys_of(task: str, view: str, draw: int, rows: int) -> Tensor:
    keys = row_keys(DROPOUT, 0, STEP, name_key(task), name_key(view), draw, rows=np.arange(rows))
    return torch.from_numpy(keys)


def divergence(target: Target, one: Tensor, two: Tensor) -> Tensor:
    if target.head in ("regression", "cosine"):
        return F.mse_loss(one, two)
    kind = Bernoulli if target.kind == "classification" else Categorical
    first, second = (kind(logits=logits.squeeze(1)) for logits in (one, two))
    return (kl_divergence(first, second) + kl_divergence(second, first)).mean() / 2


class Reference:
    """The losses of one task in a step, each draw encoded by itself."""

    def __init__(self, trainer: Trainer, batch):
        self.model = trainer.model
        self.trainer, self.batch, self.task = trainer, batch, batch.task
        self.spec = trainer.model.tasks[batch.task]
        self.indices = np.concatenate([part.indices for part in batch.micro_batches])
        self.labels = batch.split.targets[self.indices]

    def vector(self, view: str, draw: int, pooling: str) -> Tensor:
        """The pooled view `[B, W]` of all rows."""
        prepared = self.trainer.prepared
        length = prepared.tasks[self.task].max_length
        packed = self.trainer.task_gradients[0]._packed(
            self.batch.split, self.indices, (view,), length
        )
        keys = keys_of(self.task, view, draw, len(self.indices))
        encoder: Any = self.model.encoder
        hidden, mask = padded(encoder, packed, keys)
        if pooling == "pooler":
            return torch.tanh(encoder.pooler(hidden[:, 0]))
        return (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def outputs(self, draw: int) -> Tensor:
        vectors = [self.vector(view, draw, self.spec.pooling) for view in self.spec.views]
        head = self.model.head(self.task)
        return head(vectors, keys_of(self.task, "head", draw, len(self.indices)))

    def cross_entropy(self, outputs: Tensor) -> Tensor:
        """The head's loss of one draw."""
        target = self.spec.target
        if target.kind == "classification":
            weights = torch.tensor([CLASS_WEIGHTS[target.classes[label]] for label in self.labels])
            wanted = torch.from_numpy(self.labels).float()
            return F.binary_cross_entropy_with_logits(outputs[:, 0], wanted, weights)
        if target.head == "bins":
            return F.cross_entropy(outputs, torch.from_numpy(np.floor(self.labels + 0.5)).long())
        wanted = torch.from_numpy(self.labels / 5).float()
        return F.mse_loss(outputs[:, 0], wanted)

    def losses(self) -> tuple[Tensor, Tensor]:
        """The losses to which a learned weight applies, and the consistency."""
        one, two = self.outputs(0), self.outputs(1)
        loss = (self.cross_entropy(one) + self.cross_entropy(two)) / 2
        if self.trainer.prepared.tasks[self.task].task.objectives:
            first, second = (self.vector(view, 0, "mean") for view in ("first", "second"))
            loss = loss + cosent(first, second, torch.from_numpy(self.labels / 5).float())
        return loss, 3.0 * divergence(self.spec.target, one, two)

    def weighted(self) -> Tensor:
        loss, consistency = self.losses()
        log_variance = self.model.log_variance(self.task)
        if log_variance is None:
            return (loss + consistency) * (LOSS_WEIGHT if self.task == "alike" else 1.0)
        half = 0.5 if self.spec.target.head == "regression" else 1.0
        return (half * torch.exp(-log_variance) * loss + log_variance / 2 + consistency).sum()


COSENT = [{"loss": "cosent"}]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tasks__mood__micro_batches": 3, "tasks__alike__micro_batches": 2},
        {"tasks__alike__head": "bins", "tasks__alike__pooling": "mean"},
        {"tasks__alike__head": "cosine", "tasks__alike__objectives": COSENT},
        {"tasks__alike__head": "bins", "tasks__alike__objectives": COSENT},
        {"train__loss_weighting": "uncertainty", "tasks__mood__head_layers": 1},
    ],
    ids=["regression", "micro-batches", "bins", "cosine", "objective", "learned"],
)
def test_task_gradients_of_two_draws_equal_autograd(tmp_path, tiny_checkpoint, changes):
    changes = {"tasks__alike__pooling": "mean", **changes}
    trainer = make_trainer(tmp_path, tiny_checkpoint, **changes)
    generator = torch.Generator().manual_seed(1)
    trainer.flat.masters[trainer.flat.shared_stop :].normal_(0, 0.3, generator=generator)
    trainer.flat.refresh(0, len(trainer.flat.masters))
    batches = trainer._batches(trainer.plans[0], [PlannedBatch(task, 0) for task in range(2)])
    losses, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, STEP)
    assert tasks == ["mood", "alike"]
    found, flat = trainer.gradients, trainer.flat
    require_gradients(flat)
    heads = torch.zeros_like(found.heads)
    for row, (batch, loss) in enumerate(zip(batches, losses, strict=True)):
        reference = Reference(trainer, batch)
        cross_entropy, consistency = reference.losses()
        assert consistency > 1e-3  # otherwise it would not be tested
        assert loss == pytest.approx((cross_entropy + consistency).item(), rel=1e-5)
        expected = gradient_of(reference.weighted(), flat)
        words = expected[: flat.table_stop].view(-1, flat.width)
        torch.testing.assert_close(found.word_rows[row], words[found.words], atol=1e-6, rtol=1e-4)
        dense = expected[flat.table_stop : flat.shared_stop]
        assert dense.norm() > 1e-2
        torch.testing.assert_close(found.rows[row], dense, atol=1e-5, rtol=1e-3)
        heads += expected[flat.shared_stop :]
    torch.testing.assert_close(found.heads, heads, atol=1e-5, rtol=1e-4)


def test_the_two_draws_have_different_keys_and_the_first_those_of_a_single_draw(
    tmp_path, tiny_checkpoint
):
    keys = []
    for consistency in (R_DROP, ...):
        trainer = make_trainer(tmp_path, tiny_checkpoint, tasks__mood__consistency=consistency)
        (batch,) = trainer._batches(trainer.plans[0], [PlannedBatch(0, 0)])
        (part,) = batch.micro_batches
        words = np.arange(len(trainer.model.encoder.word_embeddings))
        drawn = trainer.task_gradients[0]._draws(part, words, STEP)
        dropout = [each.dropout for each in drawn]
        assert all(dropout)
        keys.append([(each.packed.tolist(), each.head.tolist()) for each in dropout if each])
    twice, once = keys
    assert once == twice[:1]
    numbers = [key for draw in twice for part in draw for key in part]
    assert len(numbers) == 2 * 2 * 8 == len(set(numbers))


# --- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [[], COSENT])
def test_the_plan_has_twice_the_tokens_and_the_same_examples(tmp_path, tiny_checkpoint, objectives):
    """The two texts that objectives read by themselves are encoded once."""
    counts = []
    for consistency in (..., R_DROP):
        trainer = make_trainer(
            tmp_path,
            tiny_checkpoint,
            tasks__alike__objectives=objectives,
            tasks__alike__consistency=consistency,
            tasks__mood__consistency=...,
        )
        counts.append(trainer.plans[0].counts)
    (mood, once), (same_mood, twice) = counts
    assert mood == same_mood
    assert replace(twice, tokens=0) == replace(once, tokens=0)
    assert objectives or twice.tokens == 2 * once.tokens
    plan = trainer.plans[0]
    batches = [trainer._batches(plan, step)[1] for step in plan.steps]
    data = trainer.prepared.tasks["alike"]
    columns = data.train.view_texts("pair")
    tokens = 0
    for batch in batches:
        rows = batch.split.rows[batch.micro_batches[0].indices]
        first, second = (column.offsets[rows + 1] - column.offsets[rows] for column in columns)
        tokens += 2 * (first + second + 3).sum()  # [CLS] a [SEP] b [SEP], twice
        tokens += (first + second + 4).sum() if objectives else 0  # [CLS] a [SEP] and [CLS] b [SEP]
    assert sum(batch.tokens for batch in batches) == twice.tokens == tokens
    assert sum(batch.rows for batch in batches) == once.examples


def test_masked_words_are_encoded_once(tmp_path, tiny_checkpoint):
    stages = [{"train_on": "masked-words", "steps": 2}, {"steps": 2, "balancer": "pcgrad"}]
    tokens = []
    for consistency in (..., R_DROP):
        trainer = make_trainer(
            tmp_path / "data",
            tiny_checkpoint,
            train__balancer=...,
            train__epochs=...,
            tasks__mood__consistency=consistency,
            tasks__alike__consistency=...,
            stages=stages,
        )
        (batch,) = trainer._batches(trainer.plans[0], [PlannedBatch(0, 0)])
        tokens.append((trainer.plans[0].counts[0].tokens, batch.tokens))
    assert tokens[0] == tokens[1]


def test_a_token_budget_covers_both_draws(tmp_path, tiny_checkpoint):
    trainer = make_trainer(tmp_path, tiny_checkpoint, tasks__mood__batch_tokens=60)
    planned = [PlannedBatch(0, number) for number in range(5)]
    batches = trainer._batches(trainer.plans[0], planned)
    assert all(30 < batch.tokens <= 60 for batch in batches)
    assert all(batch.tokens == 2 * len(batch.micro_batches[0].inputs.ids) for batch in batches)


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"encoder__dropout": 0.0}, ["mood", "alike"]),
        ({"encoder__dropout": 0.0, "tasks__mood__head_dropout": 0.1}, ["alike"]),
        ({"encoder__dropout": 0.001}, ["mood", "alike"]),  # is rounded to 0
        ({"encoder__dropout": 0.0, "encoder__attention_dropout": 0.1}, []),
        (
            {
                "encoder__dropout": 0.0,
                "tasks__alike__head": "cosine",
                "tasks__mood__head_dropout": 0.5,
            },
            ["alike"],
        ),
    ],
)
def test_without_dropout_there_is_nothing_to_compare(tmp_path, tiny_checkpoint, changes, wrong):
    write_two_tasks(tmp_path)
    tasks = {f"tasks__{name}__consistency": R_DROP for name in ("mood", "alike")}
    recipe = two_tasks(tiny_checkpoint, **tasks, **changes)
    if not wrong:
        prepare(recipe, tmp_path)
        return
    with pytest.raises(ComityError) as caught:
        prepare(recipe, tmp_path)
    assert caught.value.messages == [
        f"tasks.{name}.consistency: has no effect here (all dropout rates are 0); raise "
        "one, or remove it"
        for name in wrong
    ]


@pytest.fixture
def verdicts(tmp_path):
    """The two tasks, with three classes in mood.csv."""
    write_two_tasks(tmp_path)
    words = ["good", "bad", "so so"]
    for name, count in (("mood.csv", 36), ("mood-dev.csv", 12)):
        rows = [(f"number {n} is {words[n % 3]}", words[n % 3]) for n in range(count)]
        write_csv(tmp_path / name, ["text", "mood"], rows)
    return tmp_path


def test_a_resumed_run_is_the_same(verdicts, tiny_checkpoint):
    recipe = two_tasks(
        tiny_checkpoint,
        train__balancer="pcgrad",
        train__epochs=...,
        train__steps=6,
        train__evaluate_every=2,
        tasks__mood__loss="one-vs-all",
        tasks__mood__consistency=R_DROP,
        tasks__alike__consistency=R_DROP,
    )

    def stop(event):
        if getattr(event, "step", None) == 4 and type(event).__name__ == "Evaluated":
            raise KeyboardInterrupt

    whole = train(recipe, verdicts, verdicts / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, verdicts, verdicts / "run", on_event=stop)
    assert RunDirectory(verdicts / "run").checkpoints()[0].name == "checkpoint-000004"
    assert_same(train(recipe, verdicts, verdicts / "run", resume=True), whole)
    (entry,) = whole.entries(TrainEntry)[-1:]
    assert entry.step == 6


def test_one_vs_all_is_refused_for_two_classes(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    with pytest.raises(ComityError) as caught:
        prepare(two_tasks(tiny_checkpoint, tasks__mood__loss="one-vs-all"), tmp_path)
    assert caught.value.messages == [
        f"tasks.mood.loss: one-vs-all needs three or more classes, but {tmp_path / 'mood.csv'} has "
        "two, which already have one sigmoid; remove it"
    ]
