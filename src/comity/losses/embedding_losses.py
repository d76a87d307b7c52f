"""Losses over the embeddings of a batch's text pairs, each with its source.

All take `first [B, H]` and `second [B, H]`, the embeddings of each row's two texts in any dtype,
and give one float32 number. They set the texts of a batch against each other, so that it matters
which rows stand together: parts of a batch do not add up to the whole.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from comity.model.heads import COSINE_EPS

EPSILON = 1e-10
"""What the paper adds to the denominator of its contrastive loss."""


def ranking(
    first: Tensor,
    second: Tensor,
    positive: Tensor,
    same: Tensor,
    scale: float = 20.0,
    symmetric: bool = False,
) -> Tensor:
    """Multiple negatives ranking (Henderson et al. 2017, section 4.4), on cosines times `scale`.

    The anchors are the rows that `positive [B]` marks. An anchor picks its own second text, by
    softmax, among all second texts of the batch, those of other rows' negative pairs too, but for
    the rows j that `same [B, B]` marks in row i (`same_texts`), which may be as right as its own.
    The mean over anchors; 0 without any. `symmetric`: the mean of that and of the second texts
    picking their first.
    """
    scores = scale * (_unit(first) @ _unit(second).T)
    loss = _picks_own(scores, positive, same)
    if symmetric:
        loss = (loss + _picks_own(scores.T, positive, same.T)) / 2
    return loss


def _picks_own(scores: Tensor, positive: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of the diagonal of `scores [B, B]` in its rows, the mean over anchors."""
    own = torch.arange(len(scores), device=scores.device)
    losses = F.cross_entropy(scores.masked_fill(same, -torch.inf), own, reduction="none")
    return torch.where(positive, losses, 0.0).sum() / positive.sum().clamp(min=1)


def same_texts(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether two rows share a text, in either place: `[B, B]`, False on the diagonal.

    `keys [B, 2]` are equal for equal texts. In Quora's questions one text stands in many pairs, and
    what is a duplicate of a text is often one of its duplicates.

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
    """The paper's own variant (section "Multiple negative ranking loss"): the mean of (M - N)^2.

    `M [B, B]` holds the cosine of each first with each second text, N the `labels [B]` from 0 to 1
    on its diagonal and zeros elsewhere. M's products are divided by the product of the two norms,
    the cosine that the text names, or by what is `printed`, `sqrt((A * A) (B * B)^T)`: that is the
    norm of the elementwise product of a_i and b_j, with which M reaches up to sqrt(H).
    """
    first, second = first.float(), second.float()
    if denominator == "norms":
        lengths = torch.outer(first.norm(dim=1), second.norm(dim=1))
    else:
        lengths = _root(first.square() @ second.square().T)
    similarities = first @ second.T / (lengths + EPSILON)
    return (similarities - torch.diag(labels.float())).square().mean()


def _root(squares: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0, where its own is infinite."""
    above = squares > 0
    return torch.where(above, torch.where(above, squares, 1.0).sqrt(), 0.0)


def cosent(first: Tensor, second: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """CoSENT (Su 2022; Huang et al. 2024): rows in the order of their `labels [B]`.

    `log(1 + sum of exp(scale * (cos_j - cos_i)))` over all i, j with label_i > label_j, where
    cos_i is the cosine of row i's two texts. Rows with equal labels say nothing of each other, and
    a batch of equal labels has loss 0.
    """
    cosines = scale * (_unit(first) * _unit(second)).sum(dim=1)
    excess = cosines[None, :] - cosines[:, None]
    excess = excess.masked_fill(labels[:, None] <= labels[None, :], -torch.inf)
    return F.pad(excess.flatten(), (1, 0)).logsumexp(dim=0)  # the 1 is e^0


def _unit(embeddings: Tensor) -> Tensor:
    """Float32 and of length 1, so that products are cosines; a zero vector stays one."""
    return F.normalize(embeddings.float(), dim=1, eps=COSINE_EPS)
