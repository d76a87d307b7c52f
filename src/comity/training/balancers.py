"""Balancers: compute one weight per task from the Gramian of the task gradients.

A balancer never sees a gradient. It gets `gramian: [K, K]`, the inner products of the K task
gradients, the projection orders, and its own state. It returns weights `w: [K]` and the new state.
The combined gradient of the shared encoder is `sum_k w[k] * gradient[k]`.

Balancers differ in the scale of their weights, and so in the length of the gradient that is
clipped. `sum`, `pcgrad` and `gradvac` add the gradients (weights are 1 without conflict); `mean`,
`mgda`, `imtl-g`, `cagrad` and `upgrad` average them (weights are about 1/K).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from comity.errors import ComityError
from comity.format import missing_extra
from comity.rng import PCGRAD_ORDERS, generator

Orders = list[list[int]]
State = dict[str, Tensor]
Balancer = Callable[[Tensor, Orders, State], tuple[Tensor, State]]

# GradVac: the weight of a new cosine in the moving average (the paper's value), and the highest
# target: the correction grows without bound as the target approaches 1.
GRADVAC_BETA = 0.01
GRADVAC_HIGHEST = 1 - 1e-6

# CAGrad: the largest distance of the result from the mean gradient, in lengths of that gradient.
CAGRAD_RADIUS = 0.5

# MGDA: the search for the shortest average stops at this step size or number of steps.
MGDA_SMALLEST_MOVE = 1e-4
MGDA_MOVES = 1000

# UPGrad: added to the diagonal of the Gramian (of trace 1) to make it invertible.
UPGRAD_DIAGONAL = 1e-10


def sum_gradients(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of 1: the sum of the gradients."""
    return torch.ones(len(gramian), dtype=gramian.dtype), state


def mean_gradients(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of 1/K: the mean of the gradients."""
    return torch.full((len(gramian),), 1 / len(gramian), dtype=gramian.dtype), state


def pcgrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of PCGrad (Yu et al. 2020, "Gradient Surgery", algorithm 1).

    Gradient i meets the other original gradients j in the order `orders[i]`. If the current
    gradient i conflicts with gradient j, it is projected onto the normal plane of j. The weights
    give the sum of the projected gradients. A projected gradient is a combination of the K original
    gradients. With coefficients c, its inner product with gradient j is `(c G)[j]`, so the
    gradients themselves are not needed.

    `gramian: [K, K]` float on the CPU. The computation is in float64; the weights have the dtype of
    the Gramian. A zero gradient conflicts with nothing. With K > 2 the result may still conflict
    with a gradient.
    """
    inner = gramian.double().numpy()
    coefficients = np.eye(len(inner))
    for i, others in enumerate(orders):
        for j in others:
            product = coefficients[i] @ inner[:, j]
            if product < 0 < inner[j, j]:
                coefficients[i, j] -= product / inner[j, j]
    return torch.from_numpy(coefficients.sum(axis=0)).to(gramian.dtype), state


def gradvac(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of GradVac (Wang et al. 2021, "Gradient Vaccine", algorithm 1).

    Gradient i meets the other original gradients j in the order `orders[i]`. If their cosine is
    below the target of the pair, a multiple of gradient j is added to gradient i so that the cosine
    equals the target. The target is the moving average of the cosines of this pair. The average is
    then updated with the new cosine, as it was before the addition. The weights give the sum of the
    changed gradients. There is one cosine for all shared parameters (the paper's "whole model").

    The state is `{"cosines": [K, K] float64}`, with the average of pair (i, j) at [i, j]. An empty
    state means zeros, with which the step equals PCGrad. `gramian: [K, K]` float on the CPU. The
    computation is in float64; the weights have the dtype of the Gramian. A zero gradient has no
    cosine: it changes neither the other gradients nor the averages.
    """
    inner = gramian.double().numpy()
    averages = state["cosines"].double().numpy().copy() if state else np.zeros_like(inner)
    coefficients = np.eye(len(inner))
    for i, others in enumerate(orders):
        for j in others:
            own = _length(coefficients[i] @ inner @ coefficients[i])
            other = _length(inner[j, j])
            if own * other == 0:
                continue
            cosine = float(np.clip(coefficients[i] @ inner[:, j] / (own * other), -1, 1))
            target = min(averages[i, j], GRADVAC_HIGHEST)
            if cosine < target:
                missing = target * _sine(cosine) - cosine * _sine(target)
                coefficients[i, j] += own * missing / (other * _sine(target))
            averages[i, j] += GRADVAC_BETA * (cosine - averages[i, j])
    weights = torch.from_numpy(coefficients.sum(axis=0)).to(gramian.dtype)
    return weights, {"cosines": torch.from_numpy(averages)}


def _length(square: float) -> float:
    return math.sqrt(max(square, 0))  # rounding may make the square of zero negative


def _sine(cosine: float) -> float:
    return math.sqrt(1 - cosine * cosine)


def mgda(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of MGDA (Désidéri 2012), by Frank-Wolfe (Sener & Koltun 2018, algorithm 2).

    The weights are not negative and add up to 1; they give the shortest such average of the
    gradients. It conflicts with no gradient (up to the precision of the search) and favours the
    shortest gradients. It is zero if the tasks cannot all gain. See `_weigh` for the dtype and for
    zero gradients.
    """
    return _weigh("mgda", gramian), state


def imtl_g(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of IMTL-G (Liu et al. 2021, "Impartial Multi-task Learning").

    The weights add up to 1; they give the combination with equal projections onto the directions
    of all gradients. With K > 2 a weight may be negative, and large if the gradients are almost
    linearly dependent. If no such combination exists, all weights are 0. For linearly dependent
    gradients the pseudo-inverse is used (Quinton & Rey 2024). See `_weigh` for the dtype and for
    zero gradients.
    """
    return _weigh("imtl-g", gramian), state


def cagrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of CAGrad (Liu et al. 2021, "Conflict-Averse Gradient Descent", algorithm 1).

    The result maximises the smallest inner product with a task gradient, among all vectors whose
    distance from the mean gradient is at most `CAGRAD_RADIUS` times its length. Each weight is 1/K
    plus a correction, so the weights add up to more than 1. Unlike in some implementations, nothing
    is divided by 1 + c^2. If the tasks cannot all gain (an average of the gradients is zero), all
    weights are 0. See `_weigh` for the dtype and for zero gradients.
    """
    return _weigh("cagrad", gramian), state


def upgrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of UPGrad (Quinton & Rey 2024, "Jacobian Descent").

    Each gradient is projected onto the set of vectors that conflict with no gradient. The weights
    give the mean of the projections, which conflicts with no gradient either. Each weight is at
    least 1/K, and exactly 1/K without conflict. See `_weigh` for the dtype and for zero gradients.
    """
    return _weigh("upgrad", gramian), state


TORCHJD = ("mgda", "imtl-g", "cagrad", "upgrad")


def check_installed(balancer: str) -> None:
    """Raise `ComityError` if the balancer of this name needs a package that is not installed."""
    if balancer in TORCHJD:
        _weighting(balancer)


def _weighting(name: str) -> Callable[[Tensor], Tensor]:
    """torchjd's function that computes weights `[K]` from a Gramian `[K, K]`."""
    try:
        from torchjd import aggregation, linalg

        if name == "mgda":
            return aggregation.MGDAWeighting(MGDA_SMALLEST_MOVE, MGDA_MOVES)
        if name == "imtl-g":
            return aggregation.IMTLGWeighting()
        if name == "cagrad":
            return aggregation.CAGradWeighting(c=CAGRAD_RADIUS)
        projector = linalg.QuadprogProjector(reg_eps=UPGRAD_DIAGONAL)
        return aggregation.UPGradWeighting(projector=projector)
    except ImportError:
        missing = ["torchjd with its solvers"]
        sentence = missing_extra(f'balancer "{name}" needs', missing, "balancers")
        raise ComityError(sentence) from None


def _weigh(name: str, gramian: Tensor) -> Tensor:
    """torchjd's weights `[K]`, computed in float64 on the CPU and returned in the Gramian's dtype.

    A zero gradient gets weight 0, and the others get the weights that they would have without it.
    Otherwise one task with nothing to learn in this step would stop all tasks under MGDA and
    CAGrad. torchjd treats short gradients as zero, so the Gramian is first scaled to a trace of 1,
    which changes the weights of no balancer.
    """
    inner = gramian.double()
    weights = torch.zeros(len(inner), dtype=inner.dtype)
    present = inner.diagonal() > 0
    if present.any():
        weights[present] = _weighting(name)(_positive(inner[present][:, present]))
    return weights.to(gramian.dtype)


def _positive(inner: Tensor) -> Tensor:
    """The Gramian scaled to trace 1, without the negative eigenvalues that rounding may cause."""
    values, vectors = torch.linalg.eigh(inner / inner.trace())
    return (vectors * values.clamp(min=0)) @ vectors.T


BALANCERS: dict[str, Balancer] = {
    "sum": sum_gradients,
    "mean": mean_gradients,
    "pcgrad": pcgrad,
    "gradvac": gradvac,
    "mgda": mgda,
    "imtl-g": imtl_g,
    "cagrad": cagrad,
    "upgrad": upgrad,
}


def draw_orders(seed: int, step: int, count: int) -> Orders:
    """For each of `count` tasks, an independent random order of the other tasks.

    A function of its three integers, so that all processes of a run draw the same orders.
    """
    draws = generator(PCGRAD_ORDERS, seed, step)
    return [
        draws.permutation([j for j in range(count) if j != i]).astype(int).tolist()
        for i in range(count)
    ]
