"""BERT compared with transformers' BertModel and with the padded reference."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from safetensors.torch import load_file
from tests.encoders import load_bert
from torch import Tensor
from torch.testing import assert_close
from transformers.activations import ACT2FN

from comity.model.attention import attention
from comity.model.bert import Bert
from comity.model.bert_config import ACTIVATIONS, BertConfig
from comity.model.checkpoint import load_encoder, save_encoder
from comity.model.encoder import Encoder, Group, Packed, Read
from comity.model.reference import padded_forward
from comity.rng import DROPOUT, row_keys


def random_batch(lengths: list[int], vocabulary: int, types: int, seed: int = 0) -> Packed:
    """Sequences of random ids (never 0, the padding of transformers) and segments."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(1, vocabulary, (total,), generator=generator)
    segments = torch.randint(0, types, (total,), generator=generator)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Packed(ids, segments, offsets, max(lengths))


def padded(batch: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """The same sequences, padded: ids, segments and mask, each [B, L]."""
    lengths = batch.offsets.diff().tolist()
    rows = [
        torch.nn.utils.rnn.pad_sequence(list(values.split(lengths)), batch_first=True)
        for values in (batch.ids, batch.segments, torch.ones_like(batch.ids))
    ]
    return rows[0], rows[1], rows[2]


def run(encoder: Encoder, batch: Packed, **options: Any) -> Tensor:
    words = options.pop("words", None)
    (hidden,) = encoder([Group(batch, **options)], words)
    return hidden


def keys_of(batch: Packed, seed: int) -> Tensor:
    """A dropout key for each sequence."""
    rows = np.arange(len(batch.offsets) - 1)
    return torch.from_numpy(row_keys(DROPOUT, seed, rows=rows))


def random_bert(write_checkpoint: Any, folder: Path, **config: Any) -> Bert:
    return load_bert(write_checkpoint(folder, **config))


def assert_equals_transformers(folder: Path, batch: Packed) -> None:
    """Hidden states, pooled vectors and the gradients of a random loss, to 1e-5."""
    loaded = load_encoder(str(folder))
    ours = loaded.encoder
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids, segments, mask = padded(batch)
    expected = theirs(input_ids=ids, token_type_ids=segments, attention_mask=mask)
    expected_hidden = expected.last_hidden_state[mask.bool()]
    hidden = run(ours, batch)
    pooled = ours.pool(hidden[batch.offsets[:-1]])
    assert_close(hidden, expected_hidden, atol=1e-5, rtol=0)
    assert_close(pooled, expected.pooler_output, atol=1e-5, rtol=0)

    generator = torch.Generator().manual_seed(1)
    hidden_part = torch.randn(hidden.shape, generator=generator)
    pooled_part = torch.randn(pooled.shape, generator=generator)
    ((hidden * hidden_part).sum() + (pooled * pooled_part).sum()).backward()
    their_loss = (expected_hidden * hidden_part).sum()
    (their_loss + (expected.pooler_output * pooled_part).sum()).backward()
    with tempfile.TemporaryDirectory() as folder_name, torch.no_grad():
        for parameter in ours.parameters():  # save the gradients as weights, to get their names
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
        save_encoder(Path(folder_name), ours, loaded.tokenizer)
        gradients = load_file(Path(folder_name) / "model.safetensors")
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        scale = max(1.0, parameter.grad.abs().max().item())
        assert_close(gradients.pop(name) / scale, parameter.grad / scale, atol=1e-5, rtol=0)
    assert not gradients


@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_any_small_bert_equals_transformers(write_checkpoint: Any, data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, 4))
    positions = data.draw(st.integers(2, 24))
    types = data.draw(st.integers(1, 4))
    tokens = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]"), *(f"w{n}" for n in range(26))]
    lengths = data.draw(st.lists(st.integers(1, positions), min_size=1, max_size=5))
    with tempfile.TemporaryDirectory() as folder_name:
        folder = write_checkpoint(
            Path(folder_name),
            tokens=tokens,
            num_hidden_layers=data.draw(st.integers(1, 3)),
            num_attention_heads=heads,
            hidden_size=heads * data.draw(st.integers(1, 8)),
            intermediate_size=data.draw(st.integers(1, 40)),
            max_position_embeddings=positions,
            type_vocab_size=types,
            hidden_act=data.draw(st.sampled_from(["gelu", "relu", "gelu_new"])),
            # LayerNorm of 1 or 2 values gives signs, which jump unless epsilon is large.
            layer_norm_eps=data.draw(st.sampled_from([0.1, 0.5])),
        )
        lengths[0] = positions  # always one of the maximum length
        assert_equals_transformers(folder, random_batch(lengths, len(tokens), types))


@pytest.mark.parametrize("lengths", [[9, 1, 40], [512]])
def test_minilm_equals_transformers(minilm: Path, lengths: list[int]) -> None:
    assert_equals_transformers(minilm, random_batch(lengths, 30522, 2))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_transformers(name: str) -> None:
    values = torch.linspace(-6, 6, 1001)
    assert_close(ACTIVATIONS[name](values), ACT2FN[name](values), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("types", [1, 2])
def test_padded_forward_equals_packed(write_checkpoint: Any, tmp_path: Path, types: int) -> None:
    bert = random_bert(write_checkpoint, tmp_path, type_vocab_size=types)
    batch = random_batch([5, 128, 1], 60, 2)
    ids, segments, mask = padded(batch)
    hidden, pooled = padded_forward(bert, ids, segments, mask)
    packed = run(bert, batch)
    assert_close(hidden[mask.bool()], packed, atol=1e-5, rtol=0)
    assert_close(pooled, bert.pool(packed[batch.offsets[:-1]]), atol=1e-5, rtol=0)


def gradients(bert: Bert, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*bert.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


@pytest.mark.parametrize("layers", [1, 2])
def test_reading_only_cls_equals_slicing_all_states(
    write_checkpoint: Any, tmp_path: Path, layers: int
) -> None:
    bert = random_bert(write_checkpoint, tmp_path, num_hidden_layers=layers)
    batch = random_batch([7, 1, 30, 2, 1], 60, 2)
    whole = run(bert, batch, read="all")[batch.offsets[:-1]]
    alone = run(bert, batch, read="cls")
    assert alone.shape == (5, 32)
    assert_close(alone, whole, atol=1e-6, rtol=0)
    weights = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    expected = gradients(bert, (bert.pool(whole) * weights).sum())
    found = gradients(bert, (bert.pool(alone) * weights).sum())
    for name in expected:
        scale = max(1.0, expected[name].abs().max().item())
        assert_close(found[name] / scale, expected[name] / scale, atol=1e-6, rtol=0)


@pytest.mark.parametrize("read", ["all", "cls"])
def test_extra_tokens_that_nobody_reads_change_nothing(
    tiny_checkpoint: Path, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Products of different shapes are rounded differently, so compute them in float64.
    def exact(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(inputs.double(), weight.double(), bias.double()).to(inputs.dtype)

    def exact_batched(
        left: Tensor, right: Tensor, scale: float, bias: Tensor | None = None
    ) -> Tensor:
        product = scale * (left.double() @ right.double())
        return (product if bias is None else product + bias.double()).to(left.dtype)

    monkeypatch.setattr("comity.model.matmul.linear", exact)
    monkeypatch.setattr("comity.model.attention.batched_product", exact_batched)
    bert = load_bert(tiny_checkpoint)
    batch = random_batch([7, 3, 1], 60, 2)
    ids = torch.cat([batch.ids, torch.zeros(9, dtype=torch.int64)])
    segments = torch.cat([batch.segments, torch.zeros(9, dtype=torch.int64)])
    ends = torch.tensor([20, 20, 20])  # one sequence of 9 tokens and two empty ones
    longer = Packed(ids, segments, torch.cat([batch.offsets, ends]), 9)
    rows = 11 if read == "all" else 3
    expected = run(bert, batch, read=read)
    found = run(bert, longer, read=read)
    assert found.isfinite().all()
    assert len(found) == (20 if read == "all" else 6)
    assert_close(found[:rows], expected, atol=1e-6, rtol=0)
    want = gradients(bert, expected.square().sum())
    have = gradients(bert, found[:rows].square().sum())
    for name in want:
        scale = max(1.0, want[name].abs().max().item())
        assert_close(have[name] / scale, want[name] / scale, atol=1e-6, rtol=0)


def test_an_empty_sequence_between_others_changes_nothing(tiny_checkpoint: Path) -> None:
    bert = load_bert(tiny_checkpoint)
    batch = random_batch([4, 3], 60, 2)
    gap = Packed(batch.ids, batch.segments, torch.tensor([0, 4, 4, 7]), 4)
    assert_close(run(bert, gap), run(bert, batch), atol=1e-6, rtol=0)
    alone = run(bert, gap, read="cls")
    assert_close(alone[[0, 2]], run(bert, batch, read="cls"), atol=1e-6, rtol=0)


def test_words_replace_the_table(tiny_checkpoint: Path) -> None:
    bert = load_bert(tiny_checkpoint)
    batch = random_batch([7, 12, 3], 60, 2)
    touched, indices = batch.ids.unique(return_inverse=True)
    rows = bert.word_embeddings.detach()[touched].requires_grad_()
    compact = Packed(indices, batch.segments, batch.offsets, batch.longest)
    expected = run(bert, batch)
    found = run(bert, compact, words=rows)
    assert_close(found, expected, atol=0, rtol=0)
    table = torch.autograd.grad(expected.square().sum(), bert.word_embeddings)[0]
    (gradient,) = torch.autograd.grad(found.square().sum(), rows)
    assert gradient.shape == rows.shape
    assert_close(gradient, table[touched], atol=1e-6, rtol=1e-6)
    untouched = torch.ones(len(table), dtype=torch.bool)
    untouched[touched] = False
    assert not table[untouched].any()


def test_bfloat16_stays_close_to_float32(tiny_checkpoint: Path) -> None:
    batch = random_batch([60, 4, 21], 60, 2)
    wide = load_bert(tiny_checkpoint)
    narrow = load_bert(tiny_checkpoint).to(torch.bfloat16)
    expected, found = run(wide, batch), run(narrow, batch)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.02 * expected.norm()
    want = gradients(wide, expected[:, 0].sum())
    have = gradients(narrow, found[:, 0].sum())
    for name in want:
        # Softmax ignores the bias of keys, so its gradient is only rounding error.
        if want[name].norm() > 1e-3 and not name.startswith("pooler"):
            similar = torch.cosine_similarity(have[name].float().flatten(), want[name].flatten(), 0)
            assert similar > 0.995, name


def test_float32_words_keep_their_gradient_in_float32(tiny_checkpoint: Path) -> None:
    bert = load_bert(tiny_checkpoint).to(torch.bfloat16)
    batch = random_batch([7, 12], 60, 2)
    rows = bert.word_embeddings.detach().float().requires_grad_()
    hidden = run(bert, batch, words=rows)
    assert hidden.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(hidden.square().sum(), rows)
    assert gradient.dtype == torch.float32
    assert gradient.any()


@pytest.mark.parametrize("read", ["all", "cls"])
def test_no_value_is_read_on_the_host(read: Read) -> None:
    # Tensors on the meta device have no values: reading one raises an error.
    with torch.device("meta"):
        bert = Bert(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2))
        ids = torch.zeros(11, dtype=torch.int64)
        offsets = torch.zeros(4, dtype=torch.int64)
    for words in (None, torch.zeros(5, 8, device="meta")):
        (hidden,) = bert([Group(Packed(ids, ids, offsets, 6), read)], words)
        assert hidden.shape == (11 if read == "all" else 3, 8)


def test_a_sequence_that_is_too_long_is_an_error(tiny_checkpoint: Path) -> None:
    bert = load_bert(tiny_checkpoint)
    with pytest.raises(ValueError, match="129 tokens, but the encoder takes at most 128"):
        run(bert, random_batch([129], 60, 2))


def test_layer_of_counts_from_the_embeddings_to_the_pooler(write_checkpoint: Any, tmp_path) -> None:
    bert = random_bert(write_checkpoint, tmp_path, num_hidden_layers=12)
    layers = {name: bert.layer_of(name) for name, _ in bert.named_parameters()}
    assert layers["word_embeddings"] == layers["embedding_norm.bias"] == 0
    assert layers["layers.0.qkv.weight"] == 1
    assert layers["layers.11.output_norm.bias"] == 12
    assert layers["pooler.weight"] == 13
    assert sorted(set(layers.values())) == list(range(14))


# --- dropout (see also test_dropout.py) -----------------------------------------------------------


@pytest.mark.parametrize("read", ["all", "cls"])
def test_masks_depend_only_on_the_keys(tiny_checkpoint: Path, read: str) -> None:
    bert = load_bert(tiny_checkpoint)
    batch = random_batch([7, 12], 60, 2)
    before = torch.get_rng_state()
    first = run(bert, batch, dropout_keys=keys_of(batch, 1), read=read)
    run(bert, batch, dropout_keys=keys_of(batch, 9), read=read)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert torch.equal(run(bert, batch, dropout_keys=keys_of(batch, 1), read=read), first)
    assert not torch.equal(run(bert, batch, dropout_keys=keys_of(batch, 2), read=read), first)
    plain = run(bert, batch, read=read)
    assert not torch.equal(plain, first)
    assert torch.equal(plain, run(bert, batch, read=read))


@pytest.mark.parametrize("read", ["all", "cls"])
def test_each_dropout_rate_has_its_own_effect(tiny_checkpoint: Path, read: str) -> None:
    batch = random_batch([7, 12], 60, 2)

    def rated(embedding: float, hidden: float, attention: float) -> Bert:
        return load_bert(
            tiny_checkpoint,
            embedding_dropout=embedding,
            hidden_dropout=hidden,
            attention_dropout=attention,
        )

    bert = rated(0, 0, 0)
    plain = run(bert, batch, read=read)
    assert torch.equal(run(bert, batch, dropout_keys=keys_of(batch, 1), read=read), plain)
    each = [rated(0.2, 0, 0), rated(0, 0.2, 0), rated(0, 0, 0.2)]
    results = [run(bert, batch, dropout_keys=keys_of(batch, 1), read=read) for bert in each]
    for number, result in enumerate(results):
        assert not torch.equal(result, plain)
        assert not torch.equal(result, results[number - 1])


@pytest.mark.parametrize("zeroed", ["attention_output", "contract"])
def test_hidden_dropout_applies_after_attention_and_after_feed_forward(
    tiny_checkpoint: Path, zeroed: str
) -> None:
    bert = load_bert(tiny_checkpoint, embedding_dropout=0, hidden_dropout=0.2, attention_dropout=0)
    batch = random_batch([7, 12], 60, 2)
    with torch.no_grad():  # one of the two outputs zeros, on which dropout has no effect
        for name, parameter in bert.named_parameters():
            if zeroed in name:
                parameter.zero_()
    assert not torch.equal(run(bert, batch, dropout_keys=keys_of(batch, 1)), run(bert, batch))


def test_default_dropout_rates_come_from_the_config(write_checkpoint: Any, tmp_path: Path) -> None:
    bert = random_bert(
        write_checkpoint, tmp_path, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2
    )
    layer = bert.layers[0]
    assert (bert.embedding_dropout, layer.hidden_dropout, layer.attention_dropout) == (
        0.3,
        0.3,
        0.2,
    )


def test_a_group_has_the_same_states_alone_and_with_others(tiny_checkpoint: Path) -> None:
    """Whatever each group reads, with and without dropout."""
    bert = load_bert(tiny_checkpoint)
    batches = [random_batch([7, 12], 60, 2, seed=1), random_batch([31, 2, 5], 60, 2, seed=2)]
    for reads in (["all", "cls"], ["cls", "all"], ["cls", "cls"], ["all", "all"]):
        for seeds in ([None, None], [4, 9]):
            groups = [
                Group(batch, read, seed and keys_of(batch, seed))  # type: ignore[arg-type]
                for batch, read, seed in zip(batches, reads, seeds, strict=True)
            ]
            together = bert(groups)
            for group, found in zip(groups, together, strict=True):
                (alone,) = bert([group])
                assert_close(found, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dropped", [False, True])
def test_attention_and_its_gradient_equal_autograd(dropped):
    draws = torch.Generator().manual_seed(5)
    query, key, value, grad_output = (
        torch.randn(6, length, 4, generator=draws, dtype=torch.float64) for length in (3, 7, 7, 3)
    )
    key_bias = torch.zeros(6, 1, 7, dtype=torch.float64)
    key_bias[2, :, 5:] = -1e30
    inputs = [tensor.float().requires_grad_() for tensor in (query, key, value)]
    mask = (torch.rand(6, 3, 7, generator=draws) >= 0.25).float() if dropped else None
    found = attention(inputs[0], inputs[1], inputs[2], key_bias.float(), mask, 0.25)
    found.backward(grad_output.float())

    kept = 1.0 if mask is None else mask.double() / 0.75
    plain = [tensor.requires_grad_() for tensor in (query, key, value)]
    scores = plain[0] @ plain[1].transpose(1, 2) / 2 + key_bias
    (((scores.softmax(-1) * kept) @ plain[2]) * grad_output).sum().backward()
    for ours, theirs in zip(inputs, plain, strict=True):
        assert ours.grad is not None
        assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)
