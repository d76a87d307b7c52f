"""`view = "both"`: task gradients, the plan, whole runs and wrong recipes.

Gradients are compared with autograd on the padded encoder of test_consistency.py, which encodes
each view by itself.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers import alike_rows, stop_at_evaluation, two_tasks, write_csv, write_two_tasks
from tests.training.test_consistency import (
    COSENT,
    R_DROP,
    RATES,
    STEP,
    Reference,
    divergence,
    gradient_of,
    keys_of,
    make_trainer,
    require_gradients,
)
from tests.training.test_resume import assert_same
from torch import Tensor

from comity import ComityError, train
from comity.data.task_sampling import PlannedBatch
from comity.losses.embedding_losses import cosent
from comity.model.dropout import HEAD, SECOND_HEAD, keep_mask, kept_scale, site_keys
from comity.runs.directory import RunDirectory
from comity.training.data_summary import data_summary
from comity.training.setup import prepare
from comity.training.trainer import Trainer

BOTH: dict[str, Any] = {
    "tasks__alike__view": "both",
    "tasks__alike__pooling": "pooler",
    "tasks__alike__embedding_pooling": "mean",
}
SAME_CLASS: dict[str, Any] = {
    "tasks__alike__kind": "classification",
    "tasks__alike__head": ...,
}
BINS = {"tasks__alike__head": "bins"}
INTERACTION = {"tasks__alike__interaction": True}


def both_trainer(folder, checkpoint, **changes) -> Trainer:
    """Two tasks with dropout, of which `alike` has two heads."""
    keys = {f"tasks__{name}__consistency": ... for name in ("mood", "alike")}
    return make_trainer(folder, checkpoint, **{**keys, **BOTH, **changes})


class BothReference(Reference):
    """The losses of `alike`, whose heads are computed from their weights."""

    def text_vectors(self, draw: int) -> list[Tensor]:
        return [self.vector(view, draw, "mean") for view in ("first", "second")]

    def heads(self, draw: int) -> list[Tensor]:
        """The outputs of the head on the pair and of that on the two texts."""
        keys = keys_of(self.task, "head", draw, len(self.indices))
        parameters = dict(self.model.head(self.task).named_parameters())

        def linear(which: str, values: Tensor, own: Tensor) -> Tensor:
            rate, counters = RATES["hidden_dropout"], torch.zeros(1, dtype=torch.int32)
            rows = [keep_mask(k[None], counters, values.shape[1], rate, torch.float32) for k in own]
            values = values * torch.cat(rows) * kept_scale(rate)
            weight, bias = (parameters[f"heads.*{which}.output.{n}"] for n in ("weight", "bias"))
            return F.linear(values, weight, bias)

        first = linear("pair", self.vector("pair", draw, "pooler"), site_keys(keys, 1)[0, HEAD])
        u, v = self.text_vectors(draw)
        if self.spec.target.text_head == "cosine":
            return [first, F.cosine_similarity(u, v, eps=1e-8)[:, None]]
        own = site_keys(site_keys(keys, 1)[0, SECOND_HEAD], 1)[0, HEAD]
        return [first, linear("texts", torch.cat([u, v, (u - v).abs(), u * v], dim=1), own)]

    def of_labels(self, head: str, outputs: Tensor) -> Tensor:
        """The loss of one head in one draw."""
        if self.spec.target.kind == "classification":
            wanted = torch.from_numpy(self.labels).float()
            return F.binary_cross_entropy_with_logits(outputs[:, 0], wanted)
        if head == "bins":
            return F.cross_entropy(outputs, torch.from_numpy(np.floor(self.labels + 0.5)).long())
        return F.mse_loss(outputs[:, 0], torch.from_numpy(self.labels / 5).float())

    def losses(self) -> tuple[Tensor, Tensor]:
        section, target = self.trainer.prepared.tasks[self.task].task, self.spec.target
        draws = [self.heads(draw) for draw in range(section.draws)]
        names = [target.head, target.text_head]
        loss = torch.zeros(())
        for index, name in enumerate(names):
            own = [self.of_labels(str(name), draw[index]) for draw in draws]
            loss = loss + torch.stack(own).mean()
        if section.objectives:
            closeness = torch.from_numpy(self.labels / 5).float()
            first, second = self.text_vectors(0)
            loss = loss + cosent(first, second, closeness)
        if len(draws) == 1:
            return loss, torch.zeros(())
        terms = [divergence(p, a, b) for p, a, b in zip(target.parts, *draws, strict=True)]
        return loss, 3.0 * sum(terms, torch.zeros(()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tasks__alike__micro_batches": 3, **BINS},
        {**BINS, **INTERACTION},
        {**SAME_CLASS},
        {"tasks__alike__consistency": R_DROP},
        {"tasks__alike__consistency": R_DROP, "tasks__alike__objectives": COSENT, **BINS},
        {"tasks__alike__consistency": R_DROP, **SAME_CLASS},
        {"tasks__alike__objectives": COSENT, "train__loss_weighting": "uncertainty"},
    ],
    ids=[
        "cosine", "micro-batches", "interaction", "classes", "r-drop", "r-drop-objective",
        "r-drop-classes", "learned",
    ],
)  # fmt: skip
def test_task_gradients_of_two_heads_equal_autograd(tmp_path, tiny_checkpoint, changes):
    trainer = both_trainer(tmp_path, tiny_checkpoint, **changes)
    generator = torch.Generator().manual_seed(1)
    trainer.flat.masters[trainer.flat.shared_stop :].normal_(0, 0.3, generator=generator)
    trainer.flat.refresh(0, len(trainer.flat.masters))
    batches = trainer._batches(trainer.plans[0], [PlannedBatch(task, 0) for task in range(2)])
    losses, tasks = trainer.task_gradients[0].fill(trainer.gradients, batches, False, STEP)
    found, flat = trainer.gradients, trainer.flat
    require_gradients(flat)
    reference = BothReference(trainer, batches[tasks.index("alike")])
    loss, consistency = reference.losses()
    assert losses[1] == pytest.approx((loss + consistency).item(), rel=1e-5)
    expected = gradient_of(reference.weighted(), flat)
    words = expected[: flat.table_stop].view(-1, flat.width)
    torch.testing.assert_close(found.word_rows[1], words[found.words], atol=5e-6, rtol=1e-3)
    dense = expected[flat.table_stop : flat.shared_stop]
    assert dense.norm() > 1e-2
    torch.testing.assert_close(found.rows[1], dense, atol=1e-5, rtol=1e-3)
    for owned in [one for one in flat.parameters if one.owner == "alike"]:
        start = flat.starts[owned.name]
        stop = start + owned.parameter.numel()
        head = found.heads[start - flat.shared_stop : stop - flat.shared_stop]
        assert expected[start:stop].norm() > 1e-4
        torch.testing.assert_close(head, expected[start:stop], atol=1e-5, rtol=1e-4)


# --- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [[], COSENT])
@pytest.mark.parametrize("consistency", [..., R_DROP], ids=["one draw", "two draws"])
def test_the_plan_counts_the_tokens_of_the_pair_and_of_both_texts(
    tmp_path, tiny_checkpoint, objectives, consistency
):
    """Objectives read the vectors of the second head, so they add nothing."""
    trainer = both_trainer(
        tmp_path,
        tiny_checkpoint,
        tasks__alike__objectives=objectives,
        tasks__alike__consistency=consistency,
    )
    plan = trainer.plans[0]
    batches = [trainer._batches(plan, step)[1] for step in plan.steps]
    columns = trainer.prepared.tasks["alike"].train.view_texts("pair")
    tokens = 0
    for batch in batches:
        rows = batch.split.rows[batch.micro_batches[0].indices]
        first, second = (column.offsets[rows + 1] - column.offsets[rows] for column in columns)
        tokens += (first + second + 3).sum()  # [CLS] a [SEP] b [SEP]
        tokens += (first + second + 4).sum()  # [CLS] a [SEP] and [CLS] b [SEP]
    draws = 1 if consistency is ... else 2
    assert sum(batch.tokens for batch in batches) == draws * tokens == plan.counts[1].tokens


def test_masked_words_are_those_of_the_pair(tmp_path, tiny_checkpoint):
    stages = [{"train_on": "masked-words", "steps": 2}, {"steps": 2, "balancer": "pcgrad"}]
    counts = []
    for view in ("both", "pair"):
        trainer = both_trainer(
            tmp_path,
            tiny_checkpoint,
            train__balancer=...,
            train__epochs=...,
            tasks__alike__view=view,
            tasks__alike__embedding_pooling="mean" if view == "both" else ...,
            stages=stages,
        )
        (batch,) = trainer._batches(trainer.plans[0], [PlannedBatch(1, 0)])
        assert batch.tokens > 0
        counts.append((trainer.plans[0].counts[1].tokens, batch.tokens))
    assert counts[0] == counts[1]


def test_what_check_says(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    changes = {**BOTH, **BINS, "tasks__alike__max_length": 9}
    summary = data_summary(prepare(two_tasks(tiny_checkpoint, **changes), tmp_path))
    task = summary.tasks["alike"]
    assert (task.head, task.pooling) == ("bins + cosine", "pooler + mean")
    assert task.views == ["pair", "first", "second"]
    assert task.train.truncated == 20


# --- whole runs -----------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path)
    recipe = two_tasks(
        tiny_checkpoint,
        train__balancer="pcgrad",
        train__epochs=...,
        train__steps=4,
        train__evaluate_every=2,
        tasks__alike__consistency=R_DROP,
        **BOTH,
        **INTERACTION,
    )
    whole = train(recipe, tmp_path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "run", on_event=stop_at_evaluation(1))
    assert RunDirectory(tmp_path / "run").status().step == 2
    assert_same(train(recipe, tmp_path, tmp_path / "run", resume=True), whole)


def test_tasks_whose_names_look_like_heads_keep_their_own_weights(tmp_path, tiny_checkpoint):
    """Their tensors are named after task and head."""
    write_csv(tmp_path / "rows.csv", ["a", "b", "score"], alike_rows(0, 16))
    task = {"kind": "similarity", "train": "rows.csv", "dev": "rows.csv", "texts": ["a", "b"],
            "label": "score"}  # fmt: skip
    tasks = {"x": {**task, "view": "both", "interaction": True}}
    tasks |= {f"x.{name}": task for name in ("pair", "texts", "heads", "heads.pair")}
    recipe = {
        "encoder": {"name": str(tiny_checkpoint)},
        "train": {"precision": "float32", "steps": 1, "batch_size": 4},
        "tasks": tasks,
    }
    trainer = Trainer(prepare(two_tasks(tiny_checkpoint).from_dict(recipe), tmp_path))
    names = [owned.name for owned in trainer.flat.parameters]
    assert len(names) == len(set(names))
    assert sum(name.startswith("heads.x.") for name in names) == 4 + 4 * 2


# --- wrong recipes --------------------------------------------------------------------------------

ERRORS = {
    "one text": (
        {"tasks__mood__view": "both"},
        'tasks.mood.view: the view "both" needs two text columns; set "texts"',
    ),
    "multi-label": (
        {"tasks__alike__kind": "multi-label", "tasks__alike__head": ..., **BOTH},
        'tasks.alike.view: the view "both" needs a classification, similarity or regression, not '
        'multi-label; set view = "pair"',
    ),
    "cosine": (
        {**BOTH, "tasks__alike__head": "cosine"},
        'tasks.alike.head: with the view "both", head is the one that reads the pair; the second '
        "head is cosine by default, so remove it, or set bins or regression",
    ),
    "interaction of classes": (
        {**BOTH, **SAME_CLASS, **INTERACTION},
        'tasks.alike.interaction: has no effect here (with the view "both", the second head '
        "always is an interaction head); remove it",
    ),
    "mix above 1": (
        {**BOTH, "tasks__alike__mix": 1.5},
        "tasks.alike.mix: expected a number at most 1 or one of 'dev', got 1.5",
    ),
    "mix below 0": (
        {**BOTH, "tasks__alike__mix": -0.1},
        "tasks.alike.mix: expected a number at least 0 or one of 'dev', got -0.1",
    ),
    "mix of one head": (
        {"tasks__alike__mix": 0.5},
        'tasks.alike.mix: has no effect here (only the view "both" has two heads); remove it',
    ),
    "another view": (
        {"tasks__alike__view": "cross"},
        "tasks.alike.view: expected one of 'first', 'second', 'pair' or 'both', got \"cross\"",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_wrong_recipes(tiny_checkpoint, name):
    changes, message = ERRORS[name]
    with pytest.raises(ComityError) as caught:
        two_tasks(tiny_checkpoint, **changes)
    assert [message in line for line in caught.value.messages] == [True]
