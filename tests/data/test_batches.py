"""Batches of rows, and packed sequences against the tokenizers library."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.bert import BertTokenizer

from comity.data.batches import TaskBatches, epoch_batches
from comity.data.packing import Template, TextColumn, pack, packed_lengths, truncated
from comity.errors import ComityError

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "files"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="shared/cases is not neighbours the checkout"
)

quick = settings(max_examples=60)
TEMPLATE = Template(cls_id=101, sep_id=102, segment_types=2)


def batches_of(lengths, batch_size=None, batch_tokens=None, group_by_length=False, keys=(0,)):
    return epoch_batches(
        lengths,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        group_by_length=group_by_length,
        keys=keys,
    )


def column(texts, dtype: type = np.uint16) -> TextColumn:
    flat = [token for text in texts for token in text]
    offsets = np.cumsum([0, *map(len, texts)])
    return TextColumn(np.array(flat, dtype=dtype), offsets)


def sequences(packed):
    """The packed arrays as lists: ids and segments of each sequence."""
    bounds = packed.offsets[1:-1]
    return [
        (ids.tolist(), segments.tolist())
        for ids, segments in zip(
            np.split(packed.ids, bounds), np.split(packed.segments, bounds), strict=True
        )
    ]


@given(
    st.lists(st.integers(0, 60), max_size=120),
    st.one_of(st.none(), st.integers(1, 130)),
    st.one_of(st.none(), st.integers(1, 300)),
    st.booleans(),
    st.integers(0, 1000),
)
@quick
def test_every_row_once_and_every_batch_within_its_limits(lengths, size, tokens, grouped, key):
    if size is None and tokens is None:
        size = 7
    batches = batches_of(lengths, size, tokens, grouped, (key,))
    assert sorted(row for batch in batches for row in batch) == [*range(len(lengths))]
    for batch in batches:
        assert 1 <= len(batch) <= (size or math.inf)
        total = sum(lengths[row] for row in batch)
        assert tokens is None or total <= tokens or len(batch) == 1


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("rows", "size", "sizes"), [(17, 8, [8, 8, 1]), (12, 4, [4] * 3), (3, 4, [3])]
)
def test_batches_by_number_are_full_but_one(grouped, rows, size, sizes):
    found = [len(batch) for batch in batches_of(np.arange(rows), size, None, grouped)]
    assert found == sizes


def test_token_budget_is_used():
    # No two consecutive batches would have fitted into one.
    lengths = np.random.default_rng(5).integers(1, 30, 400)
    totals = [lengths[batch] for batch in batches_of(lengths, None, 100)]
    for batch, following in pairwise(totals):
        assert batch.sum() + following[0] > 100


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own():
    lengths = [5, 50, 5, 5, 70, 5, 5]
    for key in range(20):
        for batch in batches_of(lengths, None, 20, key % 2 == 1, (key,)):
            assert len(batch) == 1 or not {1, 4} & set(batch.tolist())


def test_a_pass_is_a_function_of_its_keys_alone():
    lengths = np.random.default_rng(0).integers(1, 50, 200)

    def flat(*keys, grouped=True):
        return [batch.tolist() for batch in batches_of(lengths, 8, None, grouped, keys)]

    assert flat(1, 2, 3) == flat(1, 2, 3)
    for grouped in (False, True):
        drawn = {str(flat(*keys, grouped=grouped)) for keys in np.ndindex(3, 3, 3)}
        assert len(drawn) == 27


def test_grouped_batches_have_close_lengths_and_random_order():
    lengths = np.random.default_rng(1).integers(2, 200, 5000)
    grouped = batches_of(lengths, 16, None, True)
    plain = batches_of(lengths, 16, None, False)

    def spread(batches):
        return np.mean([np.ptp(lengths[batch]) for batch in batches])

    assert spread(grouped) < spread(plain) / 10
    means = np.array([lengths[batch].mean() for batch in grouped])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2


def test_grouped_rows_are_batched_with_other_rows_in_each_pass():
    # All lengths differ: a pass sorted as a whole would always put the same rows together.
    neighbours = set()
    for key in range(8):
        batches = batches_of(np.arange(2000), 4, None, True, (key,))
        neighbours |= {row for batch in batches if 700 in batch for row in batch.tolist()}
    assert len(neighbours) > 18


def test_grouped_token_batches_have_close_lengths():
    lengths = np.random.default_rng(1).integers(2, 200, 5000)
    batches = batches_of(lengths, None, 1600, True)
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 20
    assert max(np.ptp(lengths[batch]) for batch in batches) < 100  # also at the edge of a group
    assert len(batches) < 1.08 * lengths.sum() / 1600


@pytest.mark.parametrize("limits", [{"batch_size": 4}, {"batch_tokens": 60}, {"batch_size": 64}])
@pytest.mark.parametrize("rows", [3, 7, 20, 40, 300])
def test_a_small_task_is_reshuffled_too_when_grouped(limits, rows):
    lengths = 3 + np.arange(rows) % 29
    passes = [batches_of(lengths, **limits, group_by_length=True, keys=(key,)) for key in range(8)]
    assert len({str(np.concatenate(batches)) for batches in passes}) >= 4
    if len(passes[0]) > 1 and rows > 7:
        mates = {frozenset(batch.tolist()) for batches in passes for batch in batches}
        assert len(mates) > 0.7 * sum(map(len, passes))


def test_the_short_batch_holds_any_rows():
    # Sorted with the others, it would hold the longest rows in every pass.
    lengths = np.arange(33)
    last = [batches_of(lengths, 4, None, True, (key,))[-1] for key in range(300)]
    assert {len(batch) for batch in last} == {1}
    assert np.mean(last) == pytest.approx(16, abs=2.5)


def test_limits_are_needed():
    for size, tokens in ((None, None), (0, None), (None, 0)):
        with pytest.raises(ValueError, match="limit"):
            batches_of([1, 2], size, tokens)
        with pytest.raises(ValueError, match="limit"):
            TaskBatches("mood", [1, 2], seed=0, stage=0, batch_size=size, batch_tokens=tokens)


def test_a_task_without_rows_is_an_error():
    with pytest.raises(ComityError, match='task "mood" has no rows'):
        TaskBatches("mood", [], seed=0, stage=0, batch_size=4)


def task(lengths, name="mood", seed=1, stage=0, **limits):
    return TaskBatches(name, lengths, seed=seed, stage=stage, **limits)


@pytest.mark.parametrize(
    "limits", [{"batch_size": 4}, {"batch_tokens": 60}, {"batch_size": 3, "batch_tokens": 60}]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_batches_go_through_reshuffled_passes(limits, grouped):
    lengths = np.random.default_rng(2).integers(3, 30, 23)
    batches = task(lengths, group_by_length=grouped, **limits)
    number, orders = 0, []
    for epoch in range(6):
        assert batches.first_batch(epoch) == number
        order = []
        for _ in range(batches.per_pass(epoch)):
            found, rows = batches.batch(number)
            assert found == epoch
            assert batches.size(number) == len(rows)
            order += rows.tolist()
            number += 1
        assert sorted(order) == [*range(23)]
        orders.append(tuple(order))
    assert len(set(orders)) == 6


@pytest.mark.parametrize("limits", [{"batch_size": 4}, {"batch_tokens": 60}])
def test_a_batch_does_not_depend_on_the_order_of_calls(limits):
    lengths = np.random.default_rng(2).integers(3, 30, 23)
    forward = task(lengths, **limits)
    expected = [(epoch, rows.tolist()) for epoch, rows in map(forward.batch, range(40))]
    assert {epoch for epoch, _ in expected} >= {0, 1, 2, 3}
    for number in np.random.default_rng(3).permutation(40).tolist():
        for asked in (forward, task(lengths, **limits)):
            epoch, rows = asked.batch(number)
            assert (epoch, rows.tolist()) == expected[number]


def test_batches_depend_on_seed_stage_task_and_epoch():
    lengths = np.arange(30)
    orders = {
        str(
            [
                rows.tolist()
                for rows in task(lengths, name, seed, stage, batch_size=5).batches(epoch)
            ]
        )
        for name in ("mood", "topic")
        for seed in (0, 1)
        for stage in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 16


def cut_one_by_one(first: int, second: int, limit: int) -> tuple[int, int]:
    """Longest first, one token at a time: from the longer until equal, then alternately."""
    while first + second > limit and first != second:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    while first + second > limit:
        first -= 1
        if first + second > limit:
            second -= 1
    return first, second


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(5, 40),
    st.sampled_from([1, 2]),
    st.data(),
)
@quick
def test_pack_equals_a_loop_over_rows(pairs, limit, segment_types, data):
    firsts = [[1000 + i] * a for i, (a, _) in enumerate(pairs)]
    seconds = [[2000 + i] * b for i, (_, b) in enumerate(pairs)]
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=6))
    template = Template(101, 102, segment_types)
    one, two = column(firsts), column(seconds, np.int32)

    expected = []
    for row in rows:
        text = firsts[row][: limit - 2]
        expected.append(([101, *text, 102], [0] * (len(text) + 2)))
    packed = pack([one], np.array(rows, dtype=int), template, limit)
    assert (sequences(packed) if rows else []) == expected
    assert packed.longest == max((len(ids) for ids, _ in expected), default=0)

    expected = []
    for row in rows:
        first, second = firsts[row], seconds[row]
        a, b = len(first), len(second)
        swapped = (
            cut_one_by_one(b, a, limit - 3)[::-1] if a > b else cut_one_by_one(a, b, limit - 3)
        )
        first, second = first[: swapped[0]], second[: swapped[1]]
        ids = [101, *first, 102, *second, 102]
        segments = [0] * (len(first) + 2) + [1 if segment_types > 1 else 0] * (len(second) + 1)
        expected.append((ids, segments))
    packed = pack([one, two], np.array(rows, dtype=int), template, limit)
    assert (sequences(packed) if rows else []) == expected
    assert packed.longest == max((len(ids) for ids, _ in expected), default=0)
    for array in (packed.ids, packed.segments, packed.offsets):
        assert array.dtype == np.int64
    assert packed.offsets[0] == 0

    every = pack([one, two], np.arange(len(pairs)), template, limit)
    assert packed_lengths([one, two], limit).tolist() == np.diff(every.offsets).tolist()
    assert truncated([one, two], limit).tolist() == [a + b + 3 > limit for a, b in pairs]
    assert truncated([two], limit).tolist() == [b + 2 > limit for _, b in pairs]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(5, 40))
@quick
def test_truncation_equals_the_tokenizers_library(first, second, limit):
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_truncation(limit, strategy="longest_first")
    theirs = tokenizer.encode(" ".join("a" * first), " ".join("b" * second))
    texts = [column([[3] * first]), column([[4] * second])]
    packed = pack(texts, [0], Template(1, 2, 2), limit)
    assert packed.ids.tolist() == theirs.ids
    assert packed.segments.tolist() == theirs.type_ids


def test_rows_are_packed_in_the_given_order():
    packed = pack([column([[5], [], [6, 7]])], [2, 0, 1, 2], TEMPLATE, 10)
    assert [ids for ids, _ in sequences(packed)] == [
        [101, 6, 7, 102],
        [101, 5, 102],
        [101, 102],
        [101, 6, 7, 102],
    ]
    assert packed.longest == 4


@pytest.mark.parametrize(("columns", "limit", "least"), [(1, 2, 3), (2, 4, 5)])
def test_a_limit_that_is_too_small_is_an_error(columns, limit, least):
    texts = [column([[5, 6], [7]])] * columns
    for use in (
        lambda length: pack(texts, [0], TEMPLATE, length),
        lambda length: packed_lengths(texts, length),
        lambda length: truncated(texts, length),
    ):
        with pytest.raises(ComityError, match=f"max_length {limit} is too small.*needs {least}"):
            use(limit)
        use(least)


@needs_cases
def test_case_tr_04_a_last_batch_of_one_row():
    expected = json.loads((CASES / "TR-04" / "expected.json").read_text())["expect"]
    lines = (CASES / "TR-04" / "seventeen.csv").read_text().splitlines()[1:]
    assert len(lines) == expected["rows"]
    lengths = [len(line.split()) for line in lines]
    for grouped in (False, True):
        batches = batches_of(lengths, 8, None, grouped)
        assert [*map(len, batches)] == expected["batches"]
        assert len(np.unique(np.concatenate(batches))) == expected["rows_seen_per_pass"]


@needs_cases
def test_case_tx_04_pairs_longer_than_the_limit():
    case = json.loads((CASES / "TX-04" / "expected.json").read_text())
    limit, expected = case["use"]["max_length"], case["expect"]
    pairs = [
        json.loads(line) for line in (CASES / "TX-04" / "pairs.jsonl").read_text().splitlines()
    ]
    vocabulary = (CASES / "TX-04" / "vocab.txt").read_text().split()
    texts = [
        column([[vocabulary.index(word) for word in pair[name].split()] for pair in pairs])
        for name in ("a", "b")
    ]
    assert np.stack([np.diff(text.offsets) for text in texts], axis=1).tolist() == expected["words"]
    template = Template(vocabulary.index("[CLS]"), vocabulary.index("[SEP]"), 2)
    packed = pack(texts, np.arange(len(pairs)), template, limit)
    theirs = BertTokenizer(vocab=str(CASES / "TX-04" / "vocab.txt"))(
        [pair["a"] for pair in pairs],
        [pair["b"] for pair in pairs],
        truncation="longest_first",
        max_length=limit,
    )
    kept = []
    for (ids, segments), wanted, types in zip(
        sequences(packed), theirs["input_ids"], theirs["token_type_ids"], strict=True
    ):
        assert (ids, segments) == (wanted, types)
        assert ids[-1] == template.sep_id
        kept.append([segments.count(0) - 2, segments.count(1) - 1])
    assert kept == expected["tokens_kept_by_transformers_longest_first"]
    assert packed.longest == expected["total_at_most"]
    assert truncated(texts, limit).sum() == expected["truncated_rows"]
