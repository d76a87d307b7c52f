"""The paper's systems in full training runs: objectives, interaction, stages, loss weights."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from tests.helpers import (
    alike_rows,
    dev_scores,
    number,
    stop_at_evaluation,
    two_tasks,
    write_csv,
    write_two_tasks,
)
from tests.training.test_trainer import same, weights
from torch import Tensor

from comity import ComityError, Recipe, load, train
from comity.losses.task_losses import uncertainty_weighted
from comity.model.heads import HeadLayer
from comity.model.masked_lm import mask_words
from comity.model.multitask import MASKED
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, EndEntry, EvaluationEntry, TrainEntry
from comity.targets import Target
from comity.terminal.views import show_plan
from comity.training.balancers import BALANCERS
from comity.training.setup import prepare
from comity.training.trainer import Trainer

CONTRASTIVE = [{"loss": "contrastive", "weight": 2.0}]


@pytest.fixture
def folder(tmp_path):
    write_two_tasks(tmp_path / "data")
    pairs = [(a, b, int(score > 2)) for a, b, score in alike_rows(500, 20)]
    write_csv(tmp_path / "data" / "twins.csv", ["a", "b", "twin"], pairs)
    return tmp_path / "data"


def hidden_states(trainer: Trainer, columns: list[list[str]]) -> tuple[Tensor, Tensor]:
    """transformers' last hidden states and mask of texts, or of pairs of them."""
    folder = trainer.prepared.loaded.source["folder"]
    bert = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(*columns, return_tensors="pt", padding=True)
    with torch.no_grad():
        return bert(**given).last_hidden_state, given["attention_mask"]


def batch_of(trainer: Trainer, task: str):
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    planned = next(b for b in plan.steps[0] if plan.tasks[b.task].name == task)
    (batch,) = trainer._batches(plan, [planned])
    return batch


def texts_of(batch) -> list[tuple[str, str, float]]:
    """The rows of a batch of the task `alike`, by their lines in the file."""
    indices = np.concatenate([part.indices for part in batch.micro_batches])
    lines = batch.split.table.lines[batch.split.rows[indices]]
    return [alike_rows(line - 2, 1)[0] for line in lines]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("interaction", [True, False])
def test_the_contrastive_objective_adds_to_the_heads_loss(
    folder, tiny_checkpoint, pooling, interaction
):
    """The added loss is the published formula on the embeddings of transformers' BERT."""
    changes = {"encoder__dropout": 0.0, "tasks__alike__interaction": interaction}
    key = "tasks__alike__pooling" if interaction else "tasks__alike__embedding_pooling"
    plain, both = (
        Trainer(prepare(two_tasks(tiny_checkpoint, **changes, **more), folder))
        for more in (
            {},
            {"tasks__alike__objectives": CONTRASTIVE, key: pooling},
        )
    )
    if interaction and pooling == "cls":
        plain.model.tasks["alike"] = both.model.tasks["alike"]
    losses = []
    for trainer in (plain, both):
        batch = batch_of(trainer, "alike")
        losses.append(trainer.task_gradients[0].fill(trainer.gradients, [batch], True, 0)[0][0])
    rows = texts_of(batch_of(both, "alike"))
    embeddings = []
    for column in ([row[0] for row in rows], [row[1] for row in rows]):
        hidden, mask = hidden_states(both, [column])
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        embeddings.append(mean if pooling == "mean" else hidden[:, 0])
    first, second = (e / e.norm(dim=1, keepdim=True) for e in embeddings)
    wanted = torch.diag(torch.tensor([row[2] / 5 for row in rows]))
    loss = float((first @ second.T - wanted).square().mean())
    assert losses[1] - losses[0] == pytest.approx(2.0 * loss, rel=1e-4)


def test_objectives_read_the_texts_in_their_order(folder, tiny_checkpoint):
    """Ranking selects the second text of each first one, by the embeddings of transformers."""
    changes = {"encoder__dropout": 0.0, "tasks__alike__interaction": True}
    losses = []
    for objectives in ([], [{"loss": "ranking", "cosine_scale": 5.0}]):
        recipe = two_tasks(tiny_checkpoint, **changes, tasks__alike__objectives=objectives)
        trainer = Trainer(prepare(recipe, folder))
        batch = batch_of(trainer, "alike")
        losses.append(trainer.task_gradients[0].fill(trainer.gradients, [batch], True, 0)[0][0])
    rows = texts_of(batch)
    embeddings = []
    for column in ([row[0] for row in rows], [row[1] for row in rows]):
        hidden, mask = hidden_states(trainer, [column])
        embeddings.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    first, second = (e / e.norm(dim=1, keepdim=True) for e in embeddings)
    anchors = torch.tensor([row[2] / 5 >= 0.8 for row in rows])
    chosen = (5 * first @ second.T).log_softmax(dim=1).diagonal()
    assert 0 < anchors.sum() < len(rows)
    assert losses[1] - losses[0] == pytest.approx(-float(chosen[anchors].mean()), rel=1e-4)


def test_the_plan_notes_that_micro_batches_add_no_negatives(folder, tiny_checkpoint, capsys):
    changes = {"tasks__alike__objectives": CONTRASTIVE}
    for parts in (1, 2):
        recipe = two_tasks(tiny_checkpoint, tasks__alike__micro_batches=parts, **changes)
        show_plan(Trainer(prepare(recipe, folder)).plan())
        noted = (
            "alike: a batch is split into 2 micro-batches, and objectives compare only"
            in capsys.readouterr().out
        )
        assert noted == (parts == 2)


def test_gradients_with_objectives_equal_autograds(folder, tiny_checkpoint):
    """The packed pass with two groups for one task against plain autograd on the same model."""
    recipe = two_tasks(
        tiny_checkpoint,
        encoder__dropout=0.0,
        train__loss_weighting="uncertainty",
        tasks__alike__objectives=[{"loss": "cosent"}, {"loss": "ranking", "symmetric": True}],
        tasks__alike__head_layers=2,
        tasks__alike__add_norm=True,
    )
    trainer = Trainer(prepare(recipe, folder))
    batch = batch_of(trainer, "alike")
    variance = trainer.model.log_variance("alike")
    assert variance is not None
    variance.data.fill_(0.3)
    trainer.task_gradients[0].fill(trainer.gradients, [batch], True, 0)
    rows = trainer.gradients.combined(trainer.flat.table_stop, trainer.flat.shared_stop, [1.0], 1.0)
    rows = rows.clone()
    heads = trainer.gradients.heads.clone()
    words = np.arange(len(trainer.model.encoder.word_embeddings))
    (part,) = batch.micro_batches
    for owned in trainer.flat.parameters:
        owned.parameter.requires_grad_(True)
        owned.parameter.grad = None
    given = trainer.task_gradients[0]._input(part, words)
    given = replace(given, dropout=None)
    encoded = trainer.model.encode([given])
    (outputs,) = trainer.model.outputs([given], encoded)
    loss = trainer.task_gradients[0]._loss(part, [outputs], encoded[0].texts)
    # Kendall et al. 2018, equation 7: exp(-s) / 2 of a squared error, and s / 2.
    total = math.exp(-0.3) / 2 * loss
    value = loss.item()
    total.backward()
    found = torch.cat(
        [
            torch.zeros_like(p.parameter).flatten() if p.parameter.grad is None
            else p.parameter.grad.flatten()
            for p in trainer.flat.parameters if p.owner == "" and not p.is_word_table
        ]
    )  # fmt: skip
    torch.testing.assert_close(rows, found, atol=1e-5, rtol=1e-4)
    start = trainer.flat.starts["heads.alike.log_variance"] - trainer.flat.shared_stop
    # d/ds of exp(-s) loss / 2 + s / 2
    expected = -math.exp(-0.3) / 2 * value + 0.5
    assert float(heads[start]) == pytest.approx(expected, rel=1e-4)


def test_deeper_heads_by_hand():
    layer = HeadLayer(2, 2, 0.0, add_norm=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.0]))
    # GELU(0) = 0, so x = (1, 3) itself is normalised: mean 2, deviation 1.
    found = layer.apply_to(torch.tensor([[1.0, 3.0]]), None)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("interaction", [False, True])
def test_deeper_heads_train_and_load(folder, tmp_path, tiny_checkpoint, layers, interaction):
    recipe = two_tasks(
        tiny_checkpoint,
        tasks__alike__head_layers=layers,
        tasks__alike__add_norm=True,
        tasks__alike__interaction=interaction,
        tasks__mood__head_layers=layers,
    )
    run = train(recipe, folder, tmp_path / "run")
    score = run.best().tasks["alike"].value
    assert load(run.path).evaluate("alike").score.value == score
    wide = 4 * 32 if interaction else 32
    heads = load(run.path)._model.head("alike")
    assert next(iter(heads.parameters())).shape == (32, wide)


def test_an_interaction_head_equals_its_formula(folder, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, encoder__dropout=0.0, tasks__alike__interaction=True)
    trainer = Trainer(prepare(recipe, folder))
    split = trainer.prepared.tasks["alike"].dev
    from comity.evaluation.evaluate import task_outputs

    found = task_outputs(trainer.model, "alike", split, trainer.prepared.template, 128)
    pairs = alike_rows(1000, 10)
    vectors = []
    for column in ([row[0] for row in pairs], [row[1] for row in pairs]):
        hidden, mask = hidden_states(trainer, [column])
        vectors.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    u, v = vectors
    weight, bias = trainer.model.head("alike").parameters()
    expected = torch.cat([u, v, (u - v).abs(), u * v], dim=1) @ weight.T + bias
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


def test_learned_weights_move_and_are_not_part_of_the_encoders_row(folder, tiny_checkpoint):
    recipe = two_tasks(
        tiny_checkpoint, train__loss_weighting="uncertainty", train__head_lr=0.1, train__epochs=2
    )
    trainer = Trainer(prepare(recipe, folder))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    shared = trainer.gradients.rows.shape[1]
    for planned in plan.steps[:3]:
        trainer.step(plan, planned)
    names = [f"heads.{task}.log_variance" for task in ("mood", "alike")]
    moved = [float(trainer.flat.masters_by_name()[name]) for name in names]
    assert all(abs(value) > 0.01 for value in moved)
    assert shared == trainer.flat.shared_stop - trainer.flat.table_stop


def test_uncertainty_by_hand():
    # s = log 4, a loss of 3: over classes 3 / 4 + log 2, of squares 3 / 8 + log 2.
    log_variance, loss = torch.tensor([math.log(4)]), torch.tensor(3.0)
    for head, expected in (("bins", 0.75), ("linear", 0.75), ("regression", 0.375)):
        found = uncertainty_weighted(loss, log_variance, Target("similarity", head))
        assert found.item() == pytest.approx(expected + math.log(2))


# --- stages ---------------------------------------------------------------------------------------


def in_domain(checkpoint, **changes) -> Recipe:
    own = {"file": "twins.csv", "label": "twin", "label_map": {"0": 0, "1.0": 5}}
    stages = [
        {"tasks": ["alike"], "epochs": 1, "data": {"alike": own}},
        {"epochs": 1, **changes},
    ]
    return two_tasks(checkpoint, stages=stages, train__epochs=...)


def test_a_stages_own_file_with_mapped_labels(folder, tmp_path, tiny_checkpoint):
    recipe = in_domain(tiny_checkpoint)
    prepared = prepare(recipe, folder)
    mapped = prepared.tasks["alike"].stage_train["twins.csv"]
    assert mapped.targets.tolist() == [5.0 * (s > 2) for _, _, s in alike_rows(500, 20)]
    run = train(recipe, folder, tmp_path / "run")
    assert run.recipe() == recipe
    assert "alike twins.csv" in run.facts().inputs.files


def test_a_label_that_the_map_lacks_is_named_with_its_line(folder, tiny_checkpoint):
    write_csv(folder / "twins.csv", ["a", "b", "twin"], [("a", "b", 0), ("c", "d", "maybe")])
    with pytest.raises(ComityError) as caught:
        prepare(in_domain(tiny_checkpoint), folder)
    (message,) = caught.value.messages
    assert 'twins.csv:3: the label "maybe" is not in the label_map (0, 1.0)' in message


def test_the_head_of_an_eval_only_task_does_not_change(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, tasks__mood__eval_only=True, train__select_by="alike")
    trainer = Trainer(prepare(recipe, folder))
    before = {n: t.clone() for n, t in trainer.flat.masters_by_name().items()}
    trainer.run(RunDirectory.create(tmp_path / "run"))
    after = trainer.flat.masters_by_name()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("heads.mood") for name in moved)
    assert any(name.startswith("heads.alike") for name in moved)
    evaluation = trainer.directory.entries(EvaluationEntry)[0]
    assert set(evaluation.tasks) == {"mood", "alike"}


def test_an_eval_only_task_does_not_select_the_model(folder, tmp_path, tiny_checkpoint):
    changes = {"tasks__mood__eval_only": True, "train__epochs": 3}
    run = train(two_tasks(tiny_checkpoint, **changes), folder, tmp_path / "run")
    alike = dev_scores(run, "alike")
    assert run.best().score.value == max(alike.values())
    assert run.best().step == max(alike, key=alike.__getitem__)


def test_untrained_embeddings_are_refused(folder, tmp_path, tiny_checkpoint):
    changes = {"tasks__alike__eval_only": True, "tasks__alike__interaction": True}
    run = train(two_tasks(tiny_checkpoint, **changes), folder, tmp_path / "run")
    with pytest.raises(ComityError, match="embeddings: no task of this run trains them"):
        load(run.path).encode(["a house"])


def test_numbers_of_a_map_are_read_whatever_the_tasks_decimal_mark(folder, tiny_checkpoint):
    rows = [(a, b, str(score).replace(".", ",")) for a, b, score in alike_rows(0, 10)]
    write_csv(folder / "alike.csv", ["a", "b", "score"], rows)
    write_csv(folder / "alike-dev.csv", ["a", "b", "score"], rows)
    own = {"file": "twins.csv", "label": "twin", "label_map": {"0": 0.5, "1": 5}}
    stages = [{"tasks": ["alike"], "data": {"alike": own}}, {}]
    recipe = two_tasks(tiny_checkpoint, stages=stages, tasks__alike__decimal_mark=",")
    mapped = prepare(recipe, folder).tasks["alike"].stage_train["twins.csv"]
    assert set(mapped.targets.tolist()) == {0.5, 5.0}


def test_sampling_weights_apply_where_batches_are_drawn(folder, tiny_checkpoint):
    stages = [{"epochs": 1}, {"epochs": 1, "task_sampling": "proportional"}]
    changes = {"stages": stages, "train__epochs": ..., "tasks__mood__sampling_weight": 2.0}
    plans = Trainer(prepare(two_tasks(tiny_checkpoint, **changes), folder)).plans
    assert [plan.tasks[0].sampling_weight for plan in plans] == [1.0, 2.0]


def test_truncated_scores_are_trained_as_the_whole_number_below(folder, tiny_checkpoint):
    changes = {"tasks__alike__head": "bins", "tasks__alike__rounding": "down"}
    target = prepare(two_tasks(tiny_checkpoint, **changes), folder).tasks["alike"].target
    assert target.trained_on(np.array([0.0, 1.5, 2.6, 4.99, 5.0])).tolist() == [0, 1, 2, 4, 5]


# --- masked words ---------------------------------------------------------------------------------


def masked_recipe(checkpoint, **changes) -> Recipe:
    stages = [
        {"train_on": "masked-words", "epochs": 1, "lr": 5e-3},
        {"epochs": 1},
    ]
    return two_tasks(checkpoint, stages=stages, train__epochs=..., **changes)


def test_a_masked_step_equals_transformers(folder, tmp_path, tiny_checkpoint, monkeypatch):
    """Loss and word-table gradient of a step against BertForMaskedLM on the same masked ids."""
    recipe = masked_recipe(tiny_checkpoint, encoder__dropout=0.0)
    trainer = Trainer(prepare(recipe, folder))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    batch = batch_of(trainer, "mood")
    seen = []
    from comity.training import task_gradients

    def recorded(ids, *rest):
        seen.append((ids, *(found := mask_words(ids, *rest))))
        return found

    monkeypatch.setattr(task_gradients, "mask_words", recorded)
    (loss,), tasks = trainer.task_gradients[0].fill_masked(trainer.gradients, [batch], 0)
    assert tasks == [MASKED]

    theirs = transformers.BertForMaskedLM.from_pretrained(
        tiny_checkpoint, attn_implementation="eager"
    ).eval()
    head, own = theirs.cls.predictions, trainer.model.masked
    assert own is not None
    with torch.no_grad():
        head.transform.dense.load_state_dict(own.dense.state_dict())
        head.transform.LayerNorm.load_state_dict(own.norm.state_dict())
        head.bias.copy_(own.bias)
    offsets = batch.micro_batches[0].inputs.offsets.tolist()
    rows = list(itertools.pairwise(offsets))
    longest = max(stop - start for start, stop in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (correct, masked_ids, positions) in enumerate(seen):
        ids[row, : len(masked_ids)] = torch.from_numpy(masked_ids)
        mask[row, : len(masked_ids)] = 1
        labels[row, positions] = torch.from_numpy(correct[positions])
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    table = theirs.bert.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(trainer.gradients.word_rows[0], table, atol=1e-5, rtol=1e-4)


def test_masked_words_are_learned(folder, tmp_path, tiny_checkpoint):
    stage = {"train_on": "masked-words", "epochs": 20, "lr": 5e-3}
    recipe = two_tasks(tiny_checkpoint, stages=[stage, {"steps": 1}], train__epochs=...)
    run = train(recipe, folder, tmp_path / "run")
    losses = [entry.loss for entry in run.entries(TrainEntry)]
    # The texts are the same few words: guessing becomes far easier than one in all of them.
    assert number(losses[-2]["alike"]) < number(losses[0]["alike"]) / 2


def test_a_masked_run_resumes_within_the_stage_and_at_its_end(folder, tmp_path, tiny_checkpoint):
    recipe = masked_recipe(tiny_checkpoint, train__evaluate_every=3)
    whole = train(recipe, folder, tmp_path / "whole")
    run = RunDirectory.create(tmp_path / "within")
    with pytest.raises(KeyboardInterrupt):
        Trainer(prepare(recipe, folder), stop_at_evaluation(1)).run(run)
    assert same(weights(whole), weights(train(recipe, folder, run.path, resume=True)))
    trainer = Trainer(prepare(recipe, folder))
    trainer.directory = run = RunDirectory.create(tmp_path / "cut")
    plans, trainer.plans = trainer.plans, trainer.plans[:1]
    trainer.run(run)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:-1]))  # without its end
    assert len(plans) == 2
    resumed = train(recipe, folder, tmp_path / "cut", resume=True)
    assert same(weights(whole), weights(resumed))
    assert load(whole.path).evaluate("mood").score.value is not None


def test_masked_words_do_not_use_up_the_patience(folder, tmp_path, tiny_checkpoint):
    stages = [{"train_on": "masked-words", "epochs": 6}, {"epochs": 2}]
    changes = {"stages": stages, "train__epochs": ..., "train__patience": 1}
    run = train(two_tasks(tiny_checkpoint, **changes), folder, tmp_path / "run")
    (end,) = run.entries(EndEntry)
    assert end.step > 21  # 6 epochs of 56 rows, 16 a step: the second stage has begun


def test_masked_words_alone_keep_the_newest_model(folder, tmp_path, tiny_checkpoint):
    eval_only = {"tasks__mood__eval_only": True, "tasks__alike__eval_only": True}
    stages = [{"train_on": "masked-words", "epochs": 2}]
    recipe = two_tasks(tiny_checkpoint, stages=stages, train__epochs=..., **eval_only)
    run = train(recipe, folder, tmp_path / "run")
    assert run.best().step == run.entries(EvaluationEntry)[-1].step


def test_a_masked_stage_plans_what_it_encodes(folder, tiny_checkpoint):
    recipe = masked_recipe(tiny_checkpoint, tasks__alike__objectives=CONTRASTIVE)
    masked, tasks = Trainer(prepare(recipe, folder)).plans
    tokens = [next(c.tokens for c in p.counts if c.name == "alike") for p in (masked, tasks)]
    assert tokens[1] > 1.5 * tokens[0]


def test_a_random_masked_language_head_is_noted(folder, tiny_checkpoint):
    notes = prepare(masked_recipe(tiny_checkpoint), folder).notes
    assert any(
        "has no masked-language head; training starts from a random one" in note for note in notes
    )


def test_masked_words_need_a_layer_that_is_not_frozen(folder, tiny_checkpoint):
    stages = [{"train_on": "masked-words", "freeze": 2}, {}]
    with pytest.raises(ComityError, match="a stage on masked words has nothing to train"):
        prepare(two_tasks(tiny_checkpoint, stages=stages), folder)


def test_a_task_with_masked_words_only_is_not_trained(tiny_checkpoint):
    stages = [{"train_on": "masked-words"}, {"tasks": ["mood"]}]
    with pytest.raises(ComityError, match=r"tasks.alike: no stage trains this task"):
        two_tasks(tiny_checkpoint, stages=stages)
    assert two_tasks(tiny_checkpoint, stages=stages, tasks__alike__eval_only=True)


def test_a_masked_stage_has_nothing_to_balance(tiny_checkpoint):
    recipe = masked_recipe(tiny_checkpoint, train__balancer="gradvac")
    assert [stage.balancer for stage in recipe.stages] == ["sum", "gradvac"]
    stages = [{"train_on": "masked-words", "balancer": "gradvac"}, {}]
    with pytest.raises(
        ComityError, match=r"stages.0.balancer: has no effect here \(all tasks have"
    ):
        two_tasks(tiny_checkpoint, stages=stages)


def test_masked_words_need_a_mask_token(folder, tmp_path, write_checkpoint):
    from tests.conftest import vocabulary

    tokens = [token for token in vocabulary() if token != "[MASK]"]
    checkpoint = write_checkpoint(tmp_path / "no-mask", tokens=tokens)
    with pytest.raises(ComityError, match=r"has no token \[MASK\]"):
        prepare(masked_recipe(checkpoint), folder)


# --- balancers in the loop ------------------------------------------------------------------------


@pytest.mark.parametrize("balancer", [name for name in BALANCERS if name != "sum"])
def test_every_balancer_trains(folder, tmp_path, tiny_checkpoint, balancer):
    run = train(two_tasks(tiny_checkpoint, train__balancer=balancer), folder, tmp_path / "run")
    assert run.entries(ConflictEntry)[0].tasks == ["mood", "alike"]


def test_a_balancers_state_survives_a_resume(folder, tmp_path, tiny_checkpoint):
    changes = {"train__balancer": "gradvac", "train__epochs": 4, "train__evaluate_every": 3}
    recipe = two_tasks(tiny_checkpoint, **changes)
    whole = train(recipe, folder, tmp_path / "whole")
    state = weights(whole)
    assert state["balancer.cosines"].abs().sum() > 0
    run = RunDirectory.create(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        Trainer(prepare(recipe, folder), stop_at_evaluation(1)).run(run)
    resumed = train(recipe, folder, run.path, resume=True)
    assert same(state, weights(resumed))


def test_a_skipped_step_leaves_the_balancers_state(folder, tiny_checkpoint):
    trainer = Trainer(prepare(two_tasks(tiny_checkpoint, train__balancer="gradvac"), folder))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    trainer.gradients.heads.fill_(math.nan)
    weights, norm = trainer._weigh(plan, ["mood", "alike"], gramian)
    assert (weights, math.isnan(norm)) == ([], True)
    assert trainer.balancer_state == {}


# --- errors in recipes --------------------------------------------------------------------------

ERRORS = {
    "tasks__mood__interaction": (True, "tasks.mood.interaction: needs two text columns"),
    "tasks__mood__objectives": (CONTRASTIVE, "tasks.mood.objectives: needs two text columns"),
    "tasks__mood__embedding_pooling": ("cls", "tasks.mood.embedding_pooling: has no effect here"),
    "tasks__mood__add_norm": (True, "tasks.mood.add_norm: has no effect here"),
    "tasks__alike__rounding": ("down", "tasks.alike.rounding: has no effect here"),
    "tasks__alike__head_layers": (5, "tasks.alike.head_layers: expected"),
    "tasks__alike__objectives": (
        [{"loss": "contrastive", "cosine_scale": 3.0}],
        "tasks.alike.objectives.0.cosine_scale: has no effect here",
    ),
    "stages": (
        [{"data": {"alike": {"file": "x.csv", "colour": 1}}}],
        'stages.0.data.alike.colour: unknown key "colour" in [stages.0.data.alike]',
    ),
    "train__loss_weighting": ("uncertainty", "tasks.alike.loss_weight: has no effect here"),
    "train__freeze": ("encoder", "tasks.alike.objectives: objectives train the encoder"),
    "tasks__alike__view": ("first", "tasks.alike.view: objectives need both texts"),
}
ALSO = {
    "train__loss_weighting": {"tasks__alike__loss_weight": 2.0},
    "train__freeze": {"tasks__alike__objectives": CONTRASTIVE},
    "tasks__alike__view": {"tasks__alike__objectives": CONTRASTIVE},
}
OWN_FILES = [
    ({"label_map": {"0": 0, "0.0": 5}}, "stages.0.data.alike.label_map: names a label twice"),
    ({"label_map": {}}, "stages.0.data.alike.label_map: is empty"),
    ({"texts": ["a", "a"]}, "stages.0.data.alike.texts: both texts are the column a"),
    ({"text": "a"}, 'stages.0.data.alike.text: the task has "texts"'),
]


@pytest.mark.parametrize(("own", "sentence"), OWN_FILES, ids=str)
def test_a_stages_own_file_is_checked_as_the_tasks(tiny_checkpoint, own, sentence):
    stages = [{"data": {"alike": {"file": "x.csv", **own}}}]
    with pytest.raises(ComityError) as caught:
        two_tasks(tiny_checkpoint, stages=stages)
    assert any(sentence in message for message in caught.value.messages), caught.value.messages


@pytest.mark.parametrize("key", ERRORS)
def test_a_key_without_effect_is_named(tiny_checkpoint, key):
    value, sentence = ERRORS[key]
    changes = {key: value} | ALSO.get(key, {})
    with pytest.raises(ComityError) as caught:
        two_tasks(tiny_checkpoint, **changes)
    assert any(sentence in message for message in caught.value.messages), caught.value.messages


def test_a_stage_cannot_train_an_eval_only_task(tiny_checkpoint):
    stages = [{"tasks": ["mood", "alike"]}]
    with pytest.raises(ComityError, match=r'stages.0.tasks: the task "mood" is eval_only'):
        two_tasks(tiny_checkpoint, tasks__mood__eval_only=True, stages=stages)


def test_a_recipe_that_trains_nothing_is_refused(tiny_checkpoint):
    nothing = {"tasks__mood__eval_only": True, "tasks__alike__eval_only": True}
    with pytest.raises(ComityError, match="all tasks are eval_only"):
        two_tasks(tiny_checkpoint, **nothing)


def test_objectives_do_not_guess_which_class_means_similar(folder, tiny_checkpoint):
    rows = [(f"a {n}", "b", name) for n in range(8) for name in ("duplicate", "not_duplicate")]
    write_csv(folder / "twins.csv", ["a", "b", "twin"], rows)
    task = {
        "kind": "classification", "train": "twins.csv", "dev": "twins.csv", "texts": ["a", "b"],
        "label": "twin", "objectives": CONTRASTIVE,
    }  # fmt: skip
    given = {"encoder": {"name": str(tiny_checkpoint)}, "tasks": {"twin": task}}
    with pytest.raises(ComityError, match=r'classes = \["not_duplicate", "duplicate"\]'):
        prepare(Recipe.from_dict(given), folder)
    task["classes"] = ["not_duplicate", "duplicate"]
    target = prepare(Recipe.from_dict(given), folder).tasks["twin"].target
    assert target.closeness(np.array([0, 1])).tolist() == [0.0, 1.0]


def test_objectives_need_two_classes(folder, tiny_checkpoint):
    write_csv(folder / "twins.csv", ["a", "b", "twin"], [("a", "b", i % 3) for i in range(9)])
    recipe = Recipe.from_dict(
        {
            "encoder": {"name": str(tiny_checkpoint)},
            "tasks": {
                "twin": {
                    "kind": "classification", "train": "twins.csv", "dev": "twins.csv",
                    "texts": ["a", "b"], "label": "twin", "objectives": CONTRASTIVE,
                }
            },
        }
    )  # fmt: skip
    with pytest.raises(ComityError, match="has 3 classes; remove the objectives"):
        prepare(recipe, folder)


def test_a_run_of_another_format_is_refused(folder, tmp_path, tiny_checkpoint):
    run = train(two_tasks(tiny_checkpoint), folder, tmp_path / "run")
    run.write_facts(replace(run.facts(), format=1))
    with pytest.raises(ComityError, match="written by another version of comity"):
        load(run.path)
