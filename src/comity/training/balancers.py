"""Gradient surgery: from the Gramian of the tasks' gradients to one weight for each task.

A balancer never sees a gradient. It gets `gramian: [K, K]`, the inner products of the K gradients,
the orders of projection and its own state; it gives back weights `w: [K]` and the new state. The
update then follows `sum_k w[k] * gradient[k]`.

The scale of the weights differs, and with it the length of the update that is clipped: `sum`,
`pcgrad` and `gradvac` add the gradients up (weights of 1 where nothing conflicts); `mean`, `mgda`,
`imtl-g`, `cagrad` and `upgrad` average them (weights of about 1/K).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from comity.errors import ComityError
from comity.rng import PCGRAD_ORDERS, generator

Orders = list[list[int]]
State = dict[str, Tensor]
Balancer = Callable[[Tensor, Orders, State], tuple[Tensor, State]]

# GradVac: what one step's cosine counts in the average that is the target (the paper's value), and
# the highest cosine aimed at: the share of the other gradient grows without bound towards 1.
GRADVAC_BETA = 0.01
GRADVAC_HIGHEST = 1 - 1e-6

# CAGrad: how far from the mean gradient its result may lie, as a share of that gradient's length.
CAGRAD_RADIUS = 0.5

# MGDA: when the search for the shortest combination ends.
MGDA_SMALLEST_MOVE = 1e-4
MGDA_MOVES = 1000

# UPGrad: what is added to the diagonal of the Gramian (of trace 1), so that it has an inverse.
UPGRAD_DIAGONAL = 1e-10


def sum_gradients(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of one: the plain sum of the gradients, whatever their conflicts."""
    return torch.ones(len(gramian), dtype=gramian.dtype), state


def mean_gradients(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of 1/K: the direction of the plain sum at the length of the mean."""
    return torch.full((len(gramian),), 1 / len(gramian), dtype=gramian.dtype), state


def pcgrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of PCGrad (Yu et al. 2020, "Gradient Surgery", algorithm 1).

    Each gradient i is projected, in the order `orders[i]` of the others, onto the normal plane of
    every original gradient j that it then conflicts with; the weights give the sum of the projected
    gradients. What is left of gradient i is always a combination of the K gradients, with
    coefficients c, so its inner product with gradient j is `(c G)[j]` and no gradient is needed.

    `gramian: [K, K]` float on the CPU, computed here in float64; the weights have its dtype. A zero
    gradient conflicts with nothing. With K > 2 the result may still conflict with some gradient.
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

    Each gradient i meets, in the order `orders[i]`, every original gradient j. Where their cosine
    is below the target of the pair, so much of gradient j is added to gradient i that the cosine
    equals the target. The target is the pair's moving average of the cosines met so far, which
    then takes in this one (as it was before anything was added). The weights give the sum of the
    altered gradients. There is one cosine for all shared parameters (the paper's "whole model").

    The state is `{"cosines": [K, K] float64}`, the average of pair (i, j) in row i; an empty one
    stands for zeros, with which a step equals PCGrad's. `gramian: [K, K]` float on the CPU,
    computed here in float64; the weights have its dtype. A zero gradient has no cosine: it changes
    neither the others nor the averages.
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
    return math.sqrt(max(square, 0))  # rounding may take the square of nothing below zero


def _sine(cosine: float) -> float:
    return math.sqrt(1 - cosine * cosine)


def mgda(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of MGDA (Désidéri 2012), by Frank-Wolfe (Sener & Koltun 2018, algorithm 2).

    Not negative, and 1 together: of all averages of the gradients the shortest. It conflicts with
    no gradient (up to the search's precision), and leans to the shortest of them. Its length is
    zero where the tasks cannot gain together. See `_weigh` for dtype and zero gradients.
    """
    return _weigh("mgda", gramian), state


def imtl_g(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of IMTL-G (Liu et al. 2021, "Impartial Multi-task Learning").

    1 together: the combination whose projection onto every gradient's direction is as long as onto
    any other's. With K > 2 a weight may be negative, and large where gradients nearly depend on
    each other; where no such combination exists, all are 0. Dependent gradients are weighed by the
    pseudo-inverse (Quinton & Rey 2024). See `_weigh` for dtype and zero gradients.
    """
    return _weigh("imtl-g", gramian), state


def cagrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of CAGrad (Liu et al. 2021, "Conflict-Averse Gradient Descent", algorithm 1).

    The combination that serves the worst-served task best (its inner product with that task's
    gradient is the largest) among those within `CAGRAD_RADIUS` times the length of the mean
    gradient from it. Each weight is 1/K and what is added, so they come to more than 1; nothing is
    divided by 1 + c^2, as some implementations do. Where the tasks cannot gain together (an average
    of the gradients is zero), all are 0. See `_weigh` for dtype and zero gradients.
    """
    return _weigh("cagrad", gramian), state


def upgrad(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of UPGrad (Quinton & Rey 2024, "Jacobian Descent").

    Each gradient is projected onto the vectors that conflict with no gradient; the weights give the
    mean of the projections, which conflicts with none either. They are at least 1/K each, and 1/K
    where nothing conflicts. See `_weigh` for dtype and zero gradients.
    """
    return _weigh("upgrad", gramian), state


TORCHJD = ("mgda", "imtl-g", "cagrad", "upgrad")


def check_installed(balancer: str) -> None:
    """Raise `ComityError` if what the balancer of this name needs is not installed."""
    if balancer in TORCHJD:
        _weighting(balancer)


def _weighting(name: str) -> Callable[[Tensor], Tensor]:
    """torchjd's function from a Gramian `[K, K]` to weights `[K]`."""
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
        fault = f'balancer "{name}" needs torchjd and its solvers; install comity[balancers]'
        raise ComityError(fault) from None


def _weigh(name: str, gramian: Tensor) -> Tensor:
    """torchjd's weights `[K]`, computed in float64 on the CPU; they have the Gramian's dtype.

    A zero gradient gets weight 0, and the others what they would get without it: else MGDA and
    CAGrad would stop all tasks for one that has nothing to learn in this step. torchjd also takes
    gradients for zero that are just short, so the Gramian is brought to a trace of 1 before, which
    changes no balancer's weights.
    """
    inner = gramian.double()
    weights = torch.zeros(len(inner), dtype=inner.dtype)
    present = inner.diagonal() > 0
    if present.any():
        weights[present] = _weighting(name)(_positive(inner[present][:, present]))
    return weights.to(gramian.dtype)


def _positive(inner: Tensor) -> Tensor:
    """The Gramian with trace 1, without the negative eigenvalues that rounding may leave."""
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
    """For each of `count` tasks a random order of the others, a fresh one for each task.

    A function of its three integers, so that all processes of a run draw the same.
    """
    draws = generator(PCGRAD_ORDERS, seed, step)
    return [
        draws.permutation([j for j in range(count) if j != i]).astype(int).tolist()
        for i in range(count)
    ]


def cosines(gramian: Tensor) -> Tensor:
    """Cosines of the gradients, `[K, K]` float64 in [-1, 1]; those of a zero gradient are 0."""
    inner = gramian.double()
    norms = inner.diagonal().clamp(min=0).sqrt()
    products = norms[:, None] * norms[None, :]
    safe = torch.where(products > 0, products, torch.ones_like(products))
    return torch.where(products > 0, inner / safe, torch.zeros_like(inner)).clamp(-1, 1)


def conflicts(gramian: Tensor) -> int:
    """How many of the K (K - 1) / 2 pairs of gradients have a negative inner product."""
    return int((gramian.triu(diagonal=1) < 0).sum())
