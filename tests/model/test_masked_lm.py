"""Masked words: their proportions, and the head compared with that of transformers."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare
from torch import Tensor

from comity.losses.task_losses import cross_entropy
from comity.model.bert_config import BertConfig
from comity.model.masked_lm import MaskedLanguageHead, mask_words

MASK = 4
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}


def drawing(seed=0):
    return np.random.default_rng(seed)


def within(found, count, share):
    """Whether `found` of `count` is likely for a share; wrong once in a million times."""
    low, high = binom.interval(1 - 1e-6, count, share)
    return low <= found <= high


def test_the_shares_are_those_of_bert():
    count, vocabulary = 40_000, 30_000
    ids = np.full(count, 10)
    special = np.arange(count) % 20 == 0
    masked, positions = mask_words(ids, special, MASK, vocabulary, drawing())
    assert within(len(positions), 38_000, 0.15)
    assert within((masked[positions] == MASK).sum(), len(positions), 0.8)
    assert within((masked[positions] == 10).sum(), len(positions), 0.1)
    others = masked[positions][(masked[positions] != MASK) & (masked[positions] != 10)]
    assert within(len(others), len(positions), 0.1)
    assert within((others < 15_000).sum(), len(others), 0.5)
    assert within((positions < 20_000).sum(), len(positions), 0.5)


def test_random_words_come_from_the_whole_vocabulary():
    ids, special = np.full(20_000, 99), np.zeros(20_000, dtype=bool)
    masked, _ = mask_words(ids, special, MASK, 7, drawing())
    assert set(masked.tolist()) == {*range(7), 99}


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_at_least_one_position_is_chosen_and_never_a_special_one(special, seed, share):
    special = np.array(special, dtype=bool)
    ids = drawing(seed).integers(5, 50, size=len(special))
    before = ids.copy()
    masked, positions = mask_words(ids, special, MASK, 50, drawing(seed), share)
    assert (ids == before).all()
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert not special[positions].any()
    assert len(positions) >= min(1, (~special).sum())
    assert set(np.flatnonzero(masked != ids)) <= set(positions.tolist())
    again, same_positions = mask_words(ids, special, MASK, 50, drawing(seed), share)
    assert (again == masked).all() and (same_positions == positions).all()


def test_a_single_position_is_chosen_uniformly():
    special = np.array([True, False, False, False, False, True])
    draws = drawing()
    chosen = [mask_words(np.arange(6), special, MASK, 50, draws, 0.0)[1] for _ in range(2000)]
    assert all(len(positions) == 1 for positions in chosen)
    counts = np.bincount(np.concatenate(chosen), minlength=6)
    assert counts[[0, 5]].sum() == 0
    assert chisquare(counts[1:5]).pvalue > 1e-6


def theirs_and_ours(**config: Any) -> tuple[Any, MaskedLanguageHead, Tensor]:
    """A masked-language model of transformers with random weights, its head as ours, its words."""
    torch.manual_seed(0)
    theirs: Any = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES | config)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    ours = MaskedLanguageHead(BertConfig(**SIZES | config))
    assert ours.load_tensors(theirs.state_dict())
    return theirs, ours, theirs.get_input_embeddings().weight


@pytest.mark.parametrize(
    "config",
    [{}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"layer_norm_eps": 0.1}],
    ids=str,
)
def test_logits_equal_those_of_transformers(config):
    theirs, ours, words = theirs_and_ours(**config)
    hidden = torch.randn(7, 16)
    torch.testing.assert_close(ours(hidden, words), theirs.cls(hidden), atol=1e-6, rtol=1e-6)


def test_loss_and_gradients_equal_those_of_transformers_with_the_decoder_tied():
    theirs, ours, words = theirs_and_ours()
    ids = torch.randint(5, 50, (3, 9))
    positions = torch.tensor([2, 5, 11, 20, 26])
    targets = ids.flatten()[positions]
    corrupted = ids.clone()
    corrupted.view(-1)[positions] = MASK
    labels = torch.full((27,), -100)
    labels[positions] = targets
    loss = theirs(corrupted, labels=labels.view(3, 9)).loss
    hidden = theirs.bert(corrupted).last_hidden_state.flatten(0, 1)[positions]
    found = cross_entropy(ours(hidden, words), targets)
    torch.testing.assert_close(found, loss)
    expected = torch.autograd.grad(loss, [words, *theirs.cls.predictions.transform.parameters()])
    mine = [*ours.dense.parameters(), *ours.norm.parameters()]
    for ours_, theirs_ in zip(torch.autograd.grad(found, [words, *mine]), expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-5, rtol=1e-5)


def test_rounded_parameters_give_float32_logits_and_gradients():
    _, exact, words = theirs_and_ours()
    _, rounded, _ = theirs_and_ours()
    rounded.bfloat16()
    for parameter in rounded.parameters():  # as `Gradients` does for heads
        parameter.grad_dtype = torch.float32
        parameter.grad = torch.zeros(parameter.shape)
    words_leaf = words.detach().clone().requires_grad_()
    hidden, targets = torch.randn(7, 16).bfloat16(), torch.arange(7)
    logits = rounded(hidden, words_leaf)
    cross_entropy(logits, targets).backward()
    expected = exact(hidden.float(), words)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()
    assert words_leaf.grad is not None and words_leaf.grad.dtype == torch.float32
    assert words_leaf.grad.any()
    for parameter in rounded.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.any()


def test_a_checkpoint_without_the_head_changes_nothing():
    head = MaskedLanguageHead(BertConfig(**SIZES))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert not head.load_tensors({"cls.seq_relationship.bias": torch.ones(2)})
    assert all((head.state_dict()[name] == value).all() for name, value in before.items())


@pytest.mark.parametrize("name", ["cls.predictions.bias", "cls.predictions.transform.dense.weight"])
def test_a_tensor_of_the_wrong_shape_is_an_error_and_nothing_is_loaded(name):
    theirs, _, _ = theirs_and_ours()
    head = MaskedLanguageHead(BertConfig(**SIZES))
    before = {key: value.clone() for key, value in head.state_dict().items()}
    tensors = theirs.state_dict()
    tensors[name] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=rf"{name} must have shape .*, got \[3, 3\]"):
        head.load_tensors(tensors)
    del tensors[name]
    with pytest.raises(ValueError, match=f"{name} .* is missing"):
        head.load_tensors(tensors)
    assert all((head.state_dict()[key] == value).all() for key, value in before.items())


def test_a_new_head_depends_only_on_the_generator():
    config = BertConfig(hidden_size=200, vocab_size=50, initializer_range=0.05)
    heads = [MaskedLanguageHead(config), MaskedLanguageHead(config)]
    for head in heads:
        torch.nn.init.ones_(head.bias)
        head.initialise(torch.Generator().manual_seed(3))
    for one, two in zip(*(head.parameters() for head in heads), strict=True):
        assert torch.equal(one, two)
    head = heads[0]
    assert head.dense.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert not head.dense.bias.any() and not head.norm.bias.any() and not head.bias.any()
    assert (head.norm.weight == 1).all()
