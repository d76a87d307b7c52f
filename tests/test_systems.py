"""The paper's systems through the whole loop: objectives, interaction, stages, learned weights."""

import itertools
import math

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from comity import ComityError, Recipe, load, train
from comity.balance import BALANCERS
from comity.console import show_plan
from comity.model.heads import HeadLayer
from comity.model.multitask import MASKED
from comity.prepare import prepare
from comity.runs import RunDirectory
from comity.summary import plan_summary
from comity.training import Trainer
from tests.helpers import alike_rows, two_tasks, write_csv, write_two_tasks
from tests.test_training import same, weights

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
    turn = next(t for t in plan.steps[0] if plan.tasks[t.task].name == task)
    return trainer._batch(plan, turn)


def texts_of(batch) -> list[tuple[str, str, float]]:
    """The rows of a batch of the task `alike`, by their lines in the file."""
    places = np.concatenate([part.places for part in batch.parts])
    lines = batch.split.table.lines[batch.split.rows[places]]
    return [alike_rows(line - 2, 1)[0] for line in lines]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("interaction", [True, False])
def test_the_contrastive_objective_stands_beside_the_head(
    folder, tiny_checkpoint, pooling, interaction
):
    """Its share of the loss is the published formula on the embeddings of transformers' BERT."""
    changes = {"encoder__dropout": 0.0, "tasks__alike__interaction": interaction}
    plain, both = (
        Trainer(prepare(two_tasks(tiny_checkpoint, **changes, **more), folder))
        for more in (
            {},
            {"tasks__alike__objectives": CONTRASTIVE, "tasks__alike__pooling": pooling},
        )
    )
    if interaction and pooling == "cls":
        plain.model.tasks["alike"] = both.model.tasks["alike"]
    losses = []
    for trainer in (plain, both):
        batch = batch_of(trainer, "alike")
        losses.append(trainer.backward.fill(trainer.gradients, [batch], True, 0)[0][0])
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


def test_the_plan_says_that_accumulation_adds_no_negatives(folder, tiny_checkpoint, capsys):
    changes = {"tasks__alike__objectives": CONTRASTIVE}
    for parts in (1, 2):
        recipe = two_tasks(tiny_checkpoint, tasks__alike__accumulate=parts, **changes)
        show_plan(plan_summary(Trainer(prepare(recipe, folder)), None))
        said = (
            "alike: its objectives compare the rows of one of the 2 parts"
            in capsys.readouterr().out
        )
        assert said == (parts == 2)


def test_gradients_with_objectives_are_autograds(folder, tiny_checkpoint):
    """The packed pass with two groups for one task against plain autograd on the same model."""
    recipe = two_tasks(
        tiny_checkpoint,
        encoder__dropout=0.0,
        train__weighting="uncertainty",
        tasks__alike__objectives=[{"loss": "cosent"}, {"loss": "ranking", "symmetric": True}],
        tasks__alike__layers=2,
        tasks__alike__add_norm=True,
    )
    trainer = Trainer(prepare(recipe, folder))
    batch = batch_of(trainer, "alike")
    variance = trainer.model.log_variance("alike")
    assert variance is not None
    variance.data.fill_(0.3)
    trainer.backward.fill(trainer.gradients, [batch], True, 0)
    rows = trainer.gradients.combined(trainer.flat.table_stop, trainer.flat.shared_stop, [1.0], 1.0)
    rows = rows.clone()
    heads = trainer.gradients.heads.clone()
    words = np.arange(len(trainer.model.encoder.word_embeddings))
    (part,) = batch.parts
    for piece in trainer.flat.pieces:
        piece.parameter.requires_grad_(True)
        piece.parameter.grad = None
    given = trainer.backward._input(batch, 0, 0, words)
    given = type(given)(given.task, given.packed, given.count, None, given.texts)
    encoded = trainer.model.encode([given])
    (outputs,) = trainer.model.outputs([given], encoded)
    loss = trainer.backward._loss(batch, part, outputs, encoded[0].texts)
    # Kendall et al. 2018, equation 7: exp(-s) / 2 of a squared error, and s / 2.
    total = math.exp(-0.3) / 2 * loss
    value = loss.item()
    total.backward()
    found = torch.cat(
        [
            torch.zeros_like(p.parameter).flatten() if p.parameter.grad is None
            else p.parameter.grad.flatten()
            for p in trainer.flat.pieces if p.owner == "" and not p.is_word_table
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
    # GELU(0) = 0, so that x = (1, 3) itself is normalised: mean 2, deviation 1.
    found = layer.apply_to(torch.tensor([[1.0, 3.0]]), None)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("interaction", [False, True])
def test_deeper_heads_train_and_load(folder, tmp_path, tiny_checkpoint, layers, interaction):
    recipe = two_tasks(
        tiny_checkpoint,
        tasks__alike__layers=layers,
        tasks__alike__add_norm=True,
        tasks__alike__interaction=interaction,
        tasks__mood__layers=layers,
    )
    run = train(recipe, folder, tmp_path / "run")
    score = run.best()["tasks"]["alike"]["value"]
    assert load(run.path).evaluate("alike").score.value == pytest.approx(score, abs=1e-6)
    wide = 4 * 32 if interaction else 32
    heads = load(run.path)._model.head("alike")
    assert next(iter(heads.parameters())).shape == (32, wide)


def test_an_interaction_head_is_what_its_formula_says(folder, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, encoder__dropout=0.0, tasks__alike__interaction=True)
    trainer = Trainer(prepare(recipe, folder))
    split = trainer.prepared.tasks["alike"].dev
    from comity.evaluate import task_outputs

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
        tiny_checkpoint, train__weighting="uncertainty", train__head_lr=0.1, train__epochs=2
    )
    trainer = Trainer(prepare(recipe, folder))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    shared = trainer.gradients.rows.shape[1]
    for turns in plan.steps[:3]:
        trainer.step(plan, turns)
    names = [f"heads.{task}.log_variance" for task in ("mood", "alike")]
    moved = [float(trainer.flat.masters_by_name()[name]) for name in names]
    assert all(abs(value) > 0.01 for value in moved)
    assert shared == trainer.flat.shared_stop - trainer.flat.table_stop


# --- stages ---------------------------------------------------------------------------------------


def in_domain(checkpoint, **changes) -> Recipe:
    own = {"file": "twins.csv", "label": "twin", "map": {"0": 0, "1.0": 5}}
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
    assert "alike twins.csv" in run.facts()["files"]


def test_a_label_that_the_map_lacks_is_named_with_its_line(folder, tiny_checkpoint):
    write_csv(folder / "twins.csv", ["a", "b", "twin"], [("a", "b", 0), ("c", "d", "maybe")])
    with pytest.raises(ComityError) as caught:
        prepare(in_domain(tiny_checkpoint), folder)
    (fault,) = caught.value.faults
    assert 'twins.csv:3: the label "maybe" is not in the map of the stage (0, 1.0)' in fault


def test_a_task_that_is_judged_only_keeps_its_head(folder, tmp_path, tiny_checkpoint):
    recipe = two_tasks(tiny_checkpoint, tasks__mood__judge_only=True, train__best="alike")
    trainer = Trainer(prepare(recipe, folder))
    before = {n: t.clone() for n, t in trainer.flat.masters_by_name().items()}
    trainer.run(RunDirectory.create(tmp_path / "run"))
    after = trainer.flat.masters_by_name()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("heads.mood") for name in moved)
    assert any(name.startswith("heads.alike") for name in moved)
    evaluation = next(e for e in trainer.directory.metrics() if e["type"] == "evaluation")
    assert set(evaluation["tasks"]) == {"mood", "alike"}


def test_truncated_scores_are_learned_as_the_whole_number_below(folder, tiny_checkpoint):
    changes = {"tasks__alike__head": "bins", "tasks__alike__rounding": "down"}
    target = prepare(two_tasks(tiny_checkpoint, **changes), folder).tasks["alike"].target
    assert target.trained_on(np.array([0.0, 1.5, 2.6, 4.99, 5.0])).tolist() == [0, 1, 2, 4, 5]


# --- masked words ---------------------------------------------------------------------------------


def masked_recipe(checkpoint, **changes) -> Recipe:
    stages = [
        {"objective": "masked-language-model", "epochs": 1, "lr": 5e-3},
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
    seen = {}
    from comity import backward

    masking = backward.mask_words

    def recorded(ids, *rest):
        seen["ids"], (seen["hidden"], seen["places"]) = ids, (found := masking(ids, *rest))
        return found

    monkeypatch.setattr(backward, "mask_words", recorded)
    (loss,), tasks = trainer.backward.fill_masked(trainer.gradients, [batch], 0)
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
    offsets = batch.parts[0].inputs.offsets.tolist()
    rows = list(itertools.pairwise(offsets))
    longest = max(stop - start for start, stop in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (start, stop) in enumerate(rows):
        ids[row, : stop - start] = torch.from_numpy(seen["hidden"][start:stop])
        mask[row, : stop - start] = 1
        for place in seen["places"]:
            if start <= place < stop:
                labels[row, place - start] = int(seen["ids"][place])
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    table = theirs.bert.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(trainer.gradients.word_rows[0], table, atol=1e-5, rtol=1e-4)


def test_masked_words_are_learned_and_the_run_resumes(folder, tmp_path, tiny_checkpoint):
    recipe = masked_recipe(tiny_checkpoint)
    whole = train(recipe, folder, tmp_path / "whole")
    losses = [e["loss"] for e in whole.metrics() if e["type"] == "train"]
    assert set(losses[0]) == {"mood", "alike"}
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


def test_a_masked_stage_has_nothing_to_balance(tiny_checkpoint):
    recipe = masked_recipe(tiny_checkpoint, train__balancer="gradvac")
    assert [stage.balancer for stage in recipe.stages] == ["sum", "gradvac"]
    stages = [{"objective": "masked-language-model", "balancer": "gradvac"}, {}]
    with pytest.raises(ComityError, match=r"stages.0.balancer: has no effect here \(masked words"):
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
    conflict = next(entry for entry in run.metrics() if entry["type"] == "conflict")
    assert conflict["tasks"] == ["mood", "alike"]


def test_a_balancers_state_survives_a_resume(folder, tmp_path, tiny_checkpoint):
    changes = {"train__balancer": "gradvac", "train__epochs": 4, "train__evaluate_every": 3}
    recipe = two_tasks(tiny_checkpoint, **changes)
    whole = train(recipe, folder, tmp_path / "whole")
    state = weights(whole)
    assert state["balancer.cosines"].abs().sum() > 0
    trainer = Trainer(prepare(recipe, folder))
    run = RunDirectory.create(tmp_path / "cut")

    class Stop(Exception):
        pass

    class Stopper(type(trainer.listener)):
        def evaluated(self, trainer, evaluations):
            raise Stop

    trainer.listener = Stopper()
    with pytest.raises(Stop):
        trainer.run(run)
    resumed = train(recipe, folder, run.path, resume=True)
    assert same(state, weights(resumed))


# --- what a recipe may not say --------------------------------------------------------------------

FAULTS = {
    "tasks__mood__interaction": (True, "tasks.mood.interaction: needs two text columns"),
    "tasks__mood__objectives": (CONTRASTIVE, "tasks.mood.objectives: needs two text columns"),
    "tasks__mood__pooling": ("cls", "tasks.mood.pooling: has no effect here"),
    "tasks__mood__add_norm": (True, "tasks.mood.add_norm: has no effect here"),
    "tasks__alike__rounding": ("down", "tasks.alike.rounding: has no effect here"),
    "tasks__alike__layers": (5, "tasks.alike.layers: expected"),
    "tasks__alike__objectives": (
        [{"loss": "contrastive", "scale": 3.0}],
        "tasks.alike.objectives.0.scale: has no effect here",
    ),
    "stages": (
        [{"data": {"alike": {"file": "x.csv", "colour": 1}}}],
        'stages.0.data.alike.colour: unknown key "colour" in [stages.0.data.alike]',
    ),
    "train__weighting": ("uncertainty", "tasks.alike.weight: has no effect here"),
}


@pytest.mark.parametrize("key", FAULTS)
def test_a_key_without_effect_is_named(tiny_checkpoint, key):
    value, sentence = FAULTS[key]
    changes = {key: value} | ({"tasks__alike__weight": 2.0} if key == "train__weighting" else {})
    with pytest.raises(ComityError) as caught:
        two_tasks(tiny_checkpoint, **changes)
    assert any(sentence in fault for fault in caught.value.faults), caught.value.faults


def test_a_stage_cannot_train_what_is_judged_only(tiny_checkpoint):
    stages = [{"tasks": ["mood", "alike"]}]
    with pytest.raises(ComityError, match=r'stages.0.tasks: "mood" is judged only'):
        two_tasks(tiny_checkpoint, tasks__mood__judge_only=True, stages=stages)


def test_a_recipe_that_trains_nothing_is_refused(tiny_checkpoint):
    nothing = {"tasks__mood__judge_only": True, "tasks__alike__judge_only": True}
    with pytest.raises(ComityError, match="every task is judged only"):
        two_tasks(tiny_checkpoint, **nothing)


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
    with pytest.raises(ComityError, match="has 3 classes; remove them"):
        prepare(recipe, folder)
