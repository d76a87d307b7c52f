"""`view = "both"`: outputs of the two heads of a task, and their dropout."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.model.test_bert import random_batch
from torch.testing import assert_close

from comity.model.checkpoint import load_encoder
from comity.model.heads import make_head
from comity.model.multitask import ModelInput, MultiTaskModel
from comity.targets import HeadSpec, Target

VIEWS = ("pair", "first", "second")
CLASSES = Target("classification", "linear", ("a", "b", "c"), text_head="linear")
SCORE = Target("similarity", "bins", scale=(0.0, 5.0), text_head="cosine")


def test_outputs_are_those_of_two_separate_heads(tiny_checkpoint: Path) -> None:
    """The pair has one pooling, the two texts have another."""
    tasks = {
        "classes": HeadSpec(CLASSES, VIEWS, "cls", "cls+mean"),
        "score": HeadSpec(SCORE, VIEWS, "mean", "cls"),
    }
    model = MultiTaskModel(load_encoder(str(tiny_checkpoint)).encoder, tasks)
    pairs, texts = random_batch([9, 4], 100, 2), random_batch([5, 3, 7, 4], 100, 2)
    with torch.no_grad():
        classes, score = model([ModelInput(task, pairs, 2, texts=texts) for task in tasks])
        vectors = {
            pooling: (model.embed(pairs, pooling), model.embed(texts, pooling).split(2))
            for pooling in ("cls", "mean", "cls+mean")
        }
    found = {
        task: {name: value.detach() for name, value in model.head(task).named_parameters()}
        for task in tasks
    }
    assert found["score"].keys() == {"heads.*pair.output.weight", "heads.*pair.output.bias"}
    u, v = vectors["cls+mean"][1]
    wide = torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    def linear(task: str, head: str, values: torch.Tensor) -> torch.Tensor:
        weight, bias = (found[task][f"heads.{head}.output.{name}"] for name in ("weight", "bias"))
        return F.linear(values, weight, bias)

    pair = linear("classes", "*pair", vectors["cls"][0])
    expected = torch.cat([pair, linear("classes", "*texts", wide)], dim=1)
    assert_close(classes, expected, atol=1e-5, rtol=0)
    cosine = F.cosine_similarity(*vectors["cls"][1], dim=1)[:, None]
    expected = torch.cat([linear("score", "*pair", vectors["mean"][0]), cosine], dim=1)
    assert_close(score, expected, atol=1e-5, rtol=0)


def test_both_heads_are_initialised(tiny_checkpoint: Path) -> None:
    task = HeadSpec(CLASSES, VIEWS)
    model = MultiTaskModel(load_encoder(str(tiny_checkpoint)).encoder, {"x": task})
    weights = [p for n, p in model.head("x").named_parameters() if n.endswith("weight")]
    assert [tuple(weight.shape) for weight in weights] == [(3, 32), (3, 128)]
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not torch.equal(weights[0], weights[1][:, :32])


def test_the_two_heads_drop_different_values() -> None:
    """Both read ones, and their weights are all 1, so an output is the sum of the kept ones."""
    target = Target("classification", "linear", ("a", "b"), text_head="linear")
    head = make_head(32, HeadSpec(target, VIEWS, dropout=0.5))
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.fill_(float("weight" in name))
            if "*texts" in name and "weight" in name:
                parameter[:, 32:] = 0  # u alone
    ones, keys = torch.ones(64, 32), torch.arange(64) * 12345
    with torch.no_grad():
        dropped = head([ones, ones, ones], keys)
        whole = head([ones, ones, ones], None)
    assert_close(whole, torch.full((64, 2), 32.0))
    pair, texts = dropped.unbind(1)
    assert (pair != texts).float().mean() > 0.5
    assert abs(torch.corrcoef(dropped.T)[0, 1]) < 0.4
