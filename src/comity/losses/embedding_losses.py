"""Losses on the embeddings of a batch of text pairs, each with its source.

All take `first [B, H]` and `second [B, H]`, the embeddings of each row's two texts in any dtype,
and return one float32 number. They compare texts across the rows of a batch, so the loss of a batch
is not the sum of the losses of its parts.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from comity.model.heads import COSINE_EPS

EPSILON = 1e-10
"""Added to the denominator of the paper's contrastive loss."""


def ranking(
    first: Tensor,
    second: Tensor,
    positive: Tensor,
    same: Tensor,
    scale: float = 20.0,
    symmetric: bool = False,
) -> Tensor:
    """Multiple negatives ranking (Henderson et al. 2017, section 4.4), on cosines times `scale`.

    The anchors are the rows marked in `positive [B]`. The loss of an anchor is the cross-entropy of
    its own second text among all second texts of the batch, including those of negative pairs. Rows
    j marked in row i of `same [B, B]` (`same_texts`) are excluded, as they may be right as well.
    The result is the mean over anchors, 0 without any. `symmetric` averages it with the loss of the
    opposite direction, in which second texts select their first.
    """
    scores = scale * (_unit(first) @ _unit(second).T)
    loss = _cross_entropy_of_own(scores, positive, same)
    if symmetric:
        loss = (loss + _cross_entropy_of_own(scores.T, positive, same.T)) / 2
    return loss


def _cross_entropy_of_own(scores: Tensor, positive: Tensor, same: Tensor) -> Tensor:
    """Mean over anchors of the cross-entropy of the diagonal in the rows of `scores [B, B]`."""
    own = torch.arange(len(scores), device=scores.device)
    losses = F.cross_entropy(scores.masked_fill(same, -torch.inf), own, reduction="none")
    return torch.where(positive, losses, 0.0).sum() / positive.sum().clamp(min=1)


def same_texts(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether two rows share a text, as first or second: `[B, B]`, False on the diagonal.

    `keys [B, 2]` are equal for equal texts. In Quora's questions one text occurs in many pairs, and
    duplicates of one text are often duplicates of each other.

    >>> same_texts(np.array([[1, 2], [3, 1], [4, 5]], dtype=np.uint64)).astype(int)
    array([[0, 1, 0],
           [1, 0, 0],
           [0, 0, 0]])
    """
    same = (keys[:, None, :, None] == keys[None, :, None, :]).any(axis=(2, 3))
    np.fill_diagonal(same, False)
    return same


def contrastive(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    denominator: Literal["norms", "printed"] = "norms",
) -> Tensor:
    """The paper's variant (section "Multiple negative ranking loss"): the mean of (M - N)^2.

    `M [B, B]` has the cosine of each first with each second text. N has the `labels [B]` (0 to 1)
    on its diagonal and zeros elsewhere. `denominator` "norms" divides by the product of the two
    norms, which gives the cosine that the paper's text describes. "printed" divides as the paper's
    formula is printed, by `sqrt((A * A) (B * B)^T)`, the norm of the elementwise product of a_i and
    b_j; M then reaches up to sqrt(H).
    """
    first, second = first.float(), second.float()
    if denominator == "norms":
        lengths = torch.outer(first.norm(dim=1), second.norm(dim=1))
    else:
        lengths = _root(first.square() @ second.square().T)
    similarities = first @ second.T / (lengths + EPSILON)
    return (similarities - torch.diag(labels.float())).square().mean()


def _root(squares: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0."""
    above = squares > 0
    return torch.where(above, torch.where(above, squares, 1.0).sqrt(), 0.0)


def cosent(first: Tensor, second: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """CoSENT (Su 2022; Huang et al. 2024): ranks rows by their `labels [B]`.

    `log(1 + sum of exp(scale * (cos_j - cos_i)))` over all i, j with label_i > label_j, where
    cos_i is the cosine of row i's two texts. Rows with equal labels are not compared, and a batch
    of equal labels has loss 0.
    """
    cosines = scale * (_unit(first) * _unit(second)).sum(dim=1)
    excess = cosines[None, :] - cosines[:, None]
    excess = excess.masked_fill(labels[:, None] <= labels[None, :], -torch.inf)
    return F.pad(excess.flatten(), (1, 0)).logsumexp(dim=0)  # the zero adds the 1 inside the log


def _unit(embeddings: Tensor) -> Tensor:
    """Embeddings as float32 of length 1, so that products are cosines; zero vectors stay zero."""
    return F.normalize(embeddings.float(), dim=1, eps=COSINE_EPS)
