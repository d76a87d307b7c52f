"""Losses of embeddings by hand, by plain loops, and against sentence-transformers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from comity.losses.embedding_losses import contrastive, cosent, ranking, same_texts

# The worked example: norms 5, 1, 2 and 5, 1, 1; cosines
#     24/25  4/5   3/5
#     4/5    0     1
#     6/10   1     0
A = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
B = torch.tensor([[4.0, 3.0], [0.0, 1.0], [1.0, 0.0]])
LABELS = torch.tensor([1.0, 0.5, 0.0])

NONE_SAME = torch.zeros(3, 3, dtype=torch.bool)
ALL_POSITIVE = torch.ones(3, dtype=torch.bool)


def of_ranking(first, second, labels):
    same = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    return ranking(first, second, labels > 0.5, same, symmetric=True)


OBJECTIVES = {
    "ranking": of_ranking,
    "norms": contrastive,
    "printed": lambda *batch: contrastive(*batch, denominator="printed"),
    "cosent": cosent,
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def random_batch(rows=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, width, generator=generator)
    return first, second, torch.randint(0, 6, (rows,), generator=generator) / 5


def cosines_of(first, second):
    """All cosines of rows, in float64 with numpy."""
    first, second = first.double().numpy(), second.double().numpy()
    lengths = np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    return first @ second.T / lengths


def test_contrastive_by_hand():
    # M - N:  -0.04  0.8  0.6      squares:  0.0016  0.64  0.36
    #          0.8  -0.5  1                  0.64    0.25  1
    #          0.6   1    0                  0.36    1     0        sum 4.2516
    assert contrastive(A, B, LABELS).item() == pytest.approx(4.2516 / 9, rel=1e-6)


def test_contrastive_as_printed_by_hand():
    # Products over |a_i * b_j|: 24 / |(12, 12)| = sqrt 2;  4 / |(0, 4)| = 1;  3 / |(3, 0)| = 1;
    # 4 / 4;  0 / 0, which epsilon makes 0;  1 / 1;  6 / 6;  2 / 2;  0 / 0.
    # M - N:  sqrt 2 - 1   1    1
    #         1           -0.5  1
    #         1            1    0       sum of squares (sqrt 2 - 1)^2 + 0.25 + 6
    expected = ((math.sqrt(2) - 1) ** 2 + 6.25) / 9
    assert contrastive(A, B, LABELS, "printed").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("denominator", "largest"), [("norms", 1), ("printed", math.sqrt(384))])
def test_the_printed_denominator_gives_values_up_to_the_root_of_the_width(denominator, largest):
    # For two vectors of H ones: H / (sqrt H sqrt H) = 1, but H / sqrt(1 + ... + 1) = sqrt H.
    ones = torch.ones(1, 384)
    found = contrastive(ones, ones, torch.tensor([0.0]), denominator)
    assert found.item() == pytest.approx(largest**2, rel=1e-6)


@pytest.mark.parametrize("denominator", ["norms", "printed"])
def test_the_gradient_of_contrastive_is_that_of_the_formula(denominator):
    first, second, labels = random_batch()
    first.requires_grad_()
    second.requires_grad_()
    contrastive(first, second, labels, denominator).backward()
    a = first.detach().double().requires_grad_()
    b = second.detach().double().requires_grad_()
    if denominator == "norms":
        lengths = (a.pow(2).sum(1)[:, None] * b.pow(2).sum(1)[None, :]).sqrt()
    else:
        lengths = ((a * a) @ (b * b).T).sqrt()
    (a @ b.T / (lengths + 1e-10) - labels.double().diag()).pow(2).mean().backward()
    for ours, of_formula in [(first, a), (second, b)]:
        torch.testing.assert_close(ours.grad, of_formula.grad, check_dtype=False)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_ranking_is_the_cross_entropy_of_the_right_candidate(scale):
    first, second, _ = random_batch()
    scores = scale * cosines_of(first, second)
    expected = [-math.log(math.exp(row[i]) / np.exp(row).sum()) for i, row in enumerate(scores)]
    positive, same = torch.ones(6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)
    found = ranking(first, second, positive, same, scale)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_ranking_takes_the_mean_over_anchors_and_candidates_from_all_rows():
    # Cosines of row 0 with the second texts: 24/25, 4/5, 3/5; of row 2: 3/5, 1, 0.
    positive = torch.tensor([True, False, True])
    losses = [
        math.log(math.exp(0.96) + math.exp(0.8) + math.exp(0.6)) - 0.96,
        math.log(math.exp(0.6) + math.exp(1) + math.exp(0)) - 0,
    ]
    found = ranking(A, B, positive, NONE_SAME, scale=1.0)
    assert found.item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_rows_that_share_a_text_are_not_candidates():
    # Rows 0 and 1 share a text, so neither row has the other as a candidate (cosine 4/5 in both).
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    losses = [
        math.log(math.exp(0.96) + math.exp(0.6)) - 0.96,
        math.log(math.exp(0) + math.exp(1)) - 0,
        math.log(math.exp(0.6) + math.exp(1) + math.exp(0)) - 0,
    ]
    found = ranking(A, B, ALL_POSITIVE, same, scale=1.0)
    assert found.item() == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_symmetric_averages_both_directions_each_with_its_own_mask():
    # The mask is not symmetric, so that a missing transpose would show.
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 2] = True
    rows = [
        math.log(math.exp(0.96) + math.exp(0.8)) - 0.96,
        math.log(math.exp(0.8) + math.exp(0) + math.exp(1)) - 0,
        math.log(math.exp(0.6) + math.exp(1) + math.exp(0)) - 0,
    ]
    columns = [
        math.log(math.exp(0.96) + math.exp(0.8) + math.exp(0.6)) - 0.96,
        math.log(math.exp(0.8) + math.exp(0) + math.exp(1)) - 0,
        math.log(math.exp(1) + math.exp(0)) - 0,
    ]
    found = ranking(A, B, ALL_POSITIVE, same, scale=1.0, symmetric=True)
    assert found.item() == pytest.approx((sum(rows) + sum(columns)) / 6, rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_ranking_without_an_anchor_has_zero_loss_and_gradient(symmetric):
    first, second = A.clone().requires_grad_(), B.clone().requires_grad_()
    loss = ranking(first, second, ~ALL_POSITIVE, NONE_SAME, symmetric=symmetric)
    loss.backward()
    assert loss.item() == 0
    assert first.grad is not None and not first.grad.any()
    assert second.grad is not None and not second.grad.any()


def test_same_texts_as_first_or_second():
    keys = np.array([[1, 2], [1, 3], [4, 2], [2, 5], [6, 1], [7, 7]], dtype=np.uint64)
    # Row 0 shares its first text with rows 1 and 4 and its second text with rows 2 and 3. Rows 1
    # and 4 share text 1, rows 2 and 3 share text 2. Row 5 has the same text twice.
    expected = np.zeros((6, 6), dtype=bool)
    for i, j in [(0, 1), (0, 2), (0, 3), (0, 4), (1, 4), (2, 3)]:
        expected[i, j] = expected[j, i] = True
    assert (same_texts(keys) == expected).all()


@given(
    arrays.arrays(np.uint64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(0, 9))
)
def test_same_texts_are_rows_whose_sets_of_texts_intersect(keys):
    sets = [set(row) for row in keys.tolist()]
    expected = [[i != j and bool(a & b) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    assert same_texts(keys).tolist() == expected


def test_cosent_by_plain_loops():
    first, second, labels = random_batch(rows=8)
    cosines = np.diag(cosines_of(first, second))
    total = 1.0
    for i in range(8):
        for j in range(8):
            if labels[i] > labels[j]:
                total += math.exp(20 * (cosines[j] - cosines[i]))
    assert len(set(labels.tolist())) < 8  # some labels are equal
    found = cosent(first, second, labels)
    assert found.item() == pytest.approx(math.log(total), rel=1e-5)


@pytest.mark.parametrize("labels", [[0.4, 0.4, 0.4], [1, 1, 1]])
def test_cosent_of_equal_labels_has_zero_loss_and_gradient(labels):
    first = A.clone().requires_grad_()
    loss = cosent(first, B, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert first.grad is not None and not first.grad.any()


@each_objective
def test_zero_vectors_have_a_finite_loss_and_gradient(objective):
    for zero_first, zero_second in [
        ([1], []),
        ([], [2]),
        ([0], [0]),
        ([0, 1], [2]),
        ([0, 1, 2],) * 2,
    ]:
        first, second = A.clone(), B.clone()
        first[zero_first], second[zero_second] = 0, 0
        first.requires_grad_()
        second.requires_grad_()
        loss = objective(first, second, LABELS)
        loss.backward()
        assert loss.isfinite()
        assert first.grad is not None and first.grad.isfinite().all()
        assert second.grad is not None and second.grad.isfinite().all()


@each_objective
def test_bfloat16_embeddings_are_computed_in_float32(objective):
    first, second, labels = random_batch()
    first, second = first.bfloat16(), second.bfloat16()
    loss = objective(first, second, labels)
    assert loss.dtype == torch.float32 and loss.dim() == 0
    assert loss.item() == objective(first.float(), second.float(), labels).item()


@each_objective
@given(st.integers(1, 7).flatmap(lambda rows: st.permutations(range(rows))), st.integers(0, 1000))
@settings(max_examples=50)
def test_the_order_of_the_rows_does_not_matter(objective, order, seed):
    batch = random_batch(len(order), seed=seed)
    permuted = objective(*(tensor[list(order)] for tensor in batch))
    torch.testing.assert_close(permuted, objective(*batch))


@pytest.mark.parametrize("symmetric", [False, True])
def test_ranking_equals_sentence_transformers(symmetric):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    first, second, _ = random_batch(rows=9)
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    options = both if symmetric else {}  # both: as in MultipleNegativesSymmetricRankingLoss
    theirs = losses.MultipleNegativesRankingLoss(model=None, scale=15.0, **options)
    positive, same = torch.ones(9, dtype=torch.bool), torch.zeros(9, 9, dtype=torch.bool)
    found = ranking(first, second, positive, same, 15.0, symmetric)
    torch.testing.assert_close(found, theirs.compute_loss_from_embeddings([first, second], None))


def test_cosent_equals_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    first, second, labels = random_batch(rows=9)
    theirs = losses.CoSENTLoss(model=None, scale=15.0)
    expected = theirs.compute_loss_from_embeddings([first, second], labels)
    torch.testing.assert_close(cosent(first, second, labels, 15.0), expected)
