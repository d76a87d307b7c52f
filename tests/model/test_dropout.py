"""Dropout masks: the hash, their statistics, and what they depend on."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.encoders import load_bert
from torch import Tensor
from torch.testing import assert_close

from comity.model.attention import attention
from comity.model.dropout import (
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    OUTPUT,
    add_dropped,
    dropout,
    keep_mask,
    kept_scale,
    site_keys,
)
from comity.model.encoder import Group, Packed, Read
from comity.model.encoder_pass import EncoderPass
from comity.rng import DROPOUT, row_keys

M64, M32 = (1 << 64) - 1, (1 << 32) - 1


def keys_of(*keys: int, rows: int) -> Tensor:
    return torch.from_numpy(row_keys(DROPOUT, *keys, rows=np.arange(rows)))


def counters(count: int, step: int = 0) -> Tensor:
    return torch.arange(count, dtype=torch.int32) * step


def mask_of(key: int, rate: float = 0.5, rows: int = 1, width: int = 400_000) -> Tensor:
    keys = keys_of(key, rows=rows)
    return keep_mask(keys, counters(rows), width, rate, torch.float32)


# --- the hash -------------------------------------------------------------------------------------


def splitmix64(state: int) -> int:
    """The output of SplitMix64 for a state, as listed in Steele et al. 2014."""
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def test_splitmix64_gives_its_published_numbers() -> None:
    """The first outputs of Java's SplittableRandom with seed 0."""
    found = [splitmix64(0x9E3779B97F4A7C15 * n & M64) for n in (1, 2, 3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_keys_and_masks_equal_plain_python() -> None:
    rows = np.array([0, 3, 1000])
    found = row_keys(DROPOUT, 7, 2, rows=rows)
    (state,) = np.random.SeedSequence([DROPOUT, 7, 2]).generate_state(1, np.uint64)
    expected = [splitmix64((int(state) + int(row) * 0x9E3779B97F4A7C15) & M64) for row in rows]
    assert [int(key) & M64 for key in found] == expected

    (key,) = site_keys(torch.from_numpy(found[1:2]), 7)[4, OUTPUT].tolist()
    site = splitmix64((expected[1] + 0x9E3779B97F4A7C15 * (1 + 4 * 8 + OUTPUT)) & M64)
    assert key & M64 == site

    low, high = site & M32, site >> 32
    expected_bytes = []
    for counter in range(65536, 65539):
        z = (low + counter * 0x9E3779B9) & M32
        z = ((z ^ (z >> 16)) * 0x85EBCA6B) & M32
        z ^= high
        z = ((z ^ (z >> 13)) * 0xC2B2AE35) & M32
        z ^= z >> 16
        expected_bytes += list(z.to_bytes(4, "little"))
    first = torch.tensor([65536], dtype=torch.int32)
    for rate, threshold in ((0.1, 26), (0.5, 128)):
        mask = keep_mask(torch.tensor([key]), first, 11, rate, torch.float32)
        assert mask.tolist() == [[float(byte >= threshold) for byte in expected_bytes[:11]]]


def test_a_mask_does_not_depend_on_the_block_size_or_the_width() -> None:
    keys = keys_of(1, rows=12_000)  # more than fits in one block
    whole = keep_mask(keys, counters(12_000, 1 << 16), 384, 0.3, torch.float32)
    for row in (0, 1, 10_922, 10_923, 11_999):
        alone = keep_mask(keys[[row]], counters(12_000, 1 << 16)[[row]], 384, 0.3, torch.float32)
        assert torch.equal(alone[0], whole[row])
        narrow = keep_mask(keys[[row]], counters(12_000, 1 << 16)[[row]], 13, 0.3, torch.float32)
        assert torch.equal(narrow[0], whole[row, :13])


def test_masks_keep_the_expected_share_and_mean() -> None:
    for rate in (0.1, 0.5, 0.9):
        mask = mask_of(3, rate).double()
        share = 1 - round(256 * rate) / 256
        deviation = (share * (1 - share) / mask.numel()) ** 0.5
        assert abs(mask.mean().item() - share) < 4 * deviation
        assert share * kept_scale(rate) == pytest.approx(1)
        for byte in range(4):  # each byte of a word is as random as the others
            assert abs(mask[0, byte::4].mean().item() - share) < 8 * deviation


def test_neighbouring_masks_are_independent() -> None:
    """Masks of adjacent rows, tokens, layers, sites and steps agree only by chance."""
    width = 100_000
    sequences = keys_of(0, 5, rows=3)
    tokens = keep_mask(sequences[[0, 0, 0]], counters(3, 1 << 16), width, 0.5, torch.float32)
    rows = keep_mask(sequences, counters(3), width, 0.5, torch.float32)
    sites = site_keys(sequences[:1], 3)[:, :5].flatten()
    layers = keep_mask(sites, counters(len(sites)), width, 0.5, torch.float32)
    steps = torch.cat([keys_of(seed, step, rows=1) for seed in (0, 1) for step in range(4)])
    others = keep_mask(steps, counters(len(steps)), width, 0.5, torch.float32)
    for masks in (tokens, rows, layers, others):
        for one, other in itertools.combinations(masks, 2):
            assert abs((one == other).double().mean().item() - 0.5) < 5 * 0.5 / width**0.5
    for shift in (1, 2, 3, 4, 8, 96):  # values of one vector
        agree = (tokens[0, shift:] == tokens[0, :-shift]).double().mean().item()
        assert abs(agree - 0.5) < 5 * 0.5 / width**0.5


def test_dropout_in_bfloat16_has_no_bias() -> None:
    values = torch.rand(8, 100_000, generator=torch.Generator().manual_seed(3)).bfloat16()
    dropped = dropout(values, 0.1, keys_of(0, rows=8))
    kept = values[dropped != 0].double().sum()
    assert (dropped.double().sum() / kept).item() == pytest.approx(256 / 230, rel=2e-4)


def test_dropout_without_keys_or_rate_changes_nothing() -> None:
    values = torch.randn(7, 13)
    assert dropout(values, 0.3, None) is values
    assert dropout(values, 0.0, keys_of(0, rows=7)) is values
    with pytest.raises(ValueError, match=r"between 0 and 0\.99"):
        dropout(values, 1.0, keys_of(0, rows=7))


def test_kept_values_and_their_gradients_are_scaled() -> None:
    values = torch.randn(5, 40, requires_grad=True)
    residual = torch.randn(5, 40, requires_grad=True)
    mask = keep_mask(keys_of(2, rows=5), counters(5), 40, 0.4, torch.float32)
    found = add_dropped(residual, values, 0.4, mask)
    scale = 256 / (256 - 102)
    assert_close(found, residual + values * mask * scale)
    found.sum().backward()
    assert_close(values.grad, mask * scale)
    assert_close(residual.grad, torch.ones(5, 40))


def test_attention_with_dropout_equals_its_formula() -> None:
    draws = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(2, 5, 8, generator=draws, requires_grad=True) for _ in range(3)
    )
    mask = (torch.rand(2, 5, 5, generator=draws) > 0.3).float()
    found = attention(query, key, value, torch.zeros(2, 1, 5), mask, 0.3)
    weights = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1) * mask * kept_scale(0.3)
    expected = weights @ value
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(2, 5, 8, generator=draws)
    ours = torch.autograd.grad(found, (query, key, value), upstream)
    theirs = torch.autograd.grad(expected, (query, key, value), upstream)
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# --- what masks depend on -------------------------------------------------------------------------


def packed(*lengths: int) -> Packed:
    draws = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(1, 60, (sum(lengths),), generator=draws)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Packed(ids, torch.zeros_like(ids), offsets, max(lengths))


def group(lengths: list[int], keys: Tensor, read: Read = "all") -> Group:
    return Group(packed(*lengths), read, keys)


def masks_of(groups: list[Group], rate: float = 0.3) -> list[tuple[Tensor, ...]]:
    """Hidden masks of two sites and the attention mask of layer 2, for each group."""
    tokens = EncoderPass.from_groups(groups, 2, 4, torch.float32)
    ones = torch.ones(tokens.groups[-1].end, 32)
    hidden = [
        tokens.split(tokens.add_dropped(None, ones, rate, layer, site))
        for layer, site in ((0, EMBEDDINGS), (2, ATTENTION_OUTPUT))
    ]
    attention = []
    for span in tokens.groups:
        query = torch.empty(len(span.layout.cls) * 4, span.layout.longest, 8)
        mask = span.attention_mask(query, rate, 2)
        assert mask is not None
        attention.append(mask)
    return list(zip(*hidden, attention, strict=True))


def test_a_row_has_the_same_masks_alone_and_in_any_batch() -> None:
    """Whatever else is packed, however long, and at any index in the group."""
    keys = keys_of(4, rows=5)
    others = group([9, 40], keys_of(5, rows=2))
    ((alone_embedded, alone_output, alone_attention),) = masks_of([group([6], keys[[2]])])
    masks = masks_of([others, group([31, 2, 6, 1], keys[[0, 1, 2, 3]])])
    embedded, output, attention = masks[1]
    assert torch.equal(embedded[33:39], alone_embedded)
    assert torch.equal(output[33:39], alone_output)
    assert torch.equal(attention[8:12, :6, :6], alone_attention)
    assert not torch.equal(attention[8:12, :6, :6], attention[:4, :6, :6])  # another row


def test_the_pruned_layer_has_the_masks_of_the_full_layer() -> None:
    keys = keys_of(4, rows=3)
    lengths = [6, 11, 3]
    tokens = EncoderPass.from_groups([group(lengths, keys, "cls")], 2, 4, torch.float32)
    read = tokens.read_pass()
    assert read is not None
    whole = tokens.add_dropped(None, torch.ones(32, 32), 0.3, 2, OUTPUT)
    pruned = read.add_dropped(None, torch.ones(3, 32), 0.3, 2, OUTPUT)
    assert torch.equal(pruned, whole[[0, 6, 17]])
    full = tokens.groups[0].attention_mask(torch.empty(12, 11, 8), 0.3, 2)
    one = tokens.groups[0].attention_mask(torch.empty(12, 1, 8), 0.3, 2)
    assert full is not None and one is not None
    assert torch.equal(one[:, 0], full[:, 0])


@pytest.mark.parametrize("rates", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3)])
def test_states_with_dropout_do_not_depend_on_the_rest_of_the_pass(
    tiny_checkpoint: Path, rates
) -> None:
    """A row alone, in a batch, next to another group, and reading only [CLS]."""
    bert = load_bert(
        tiny_checkpoint,
        embedding_dropout=rates[0],
        hidden_dropout=rates[1],
        attention_dropout=rates[2],
    )
    keys = keys_of(6, rows=3)
    whole = packed(7, 12, 4)
    (together,) = bert([Group(whole, "all", keys)])
    (plain,) = bert([Group(whole, "all", None)])
    assert (together - plain).abs().max() > 0.01
    (cls,) = bert([Group(whole, "cls", keys)])
    assert_close(cls, together[[0, 7, 19]], atol=2e-6, rtol=1e-5)
    for row, (start, stop) in enumerate(((0, 7), (7, 19), (19, 23))):
        single = Packed(
            whole.ids[start:stop],
            whole.segments[start:stop],
            torch.tensor([0, stop - start]),
            stop - start,
        )
        (alone,) = bert([Group(single, "all", keys[[row]])])
        assert_close(alone, together[start:stop], atol=2e-6, rtol=1e-5)
        _, paired = bert(
            [Group(packed(20), "cls", keys_of(9, rows=1)), Group(single, "all", keys[[row]])]
        )
        assert_close(paired, together[start:stop], atol=2e-6, rtol=1e-5)
