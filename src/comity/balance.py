"""Gradient surgery: from the Gramian of the tasks' gradients to one weight for each task.

A balancer never sees a gradient. It gets `gramian: [K, K]`, the inner products of the K gradients,
the orders of projection and its own state; it gives back weights `w: [K]` and the new state. The
update then follows `sum_k w[k] * gradient[k]`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from comity.seeds import ORDERS, generator

Orders = list[list[int]]
State = dict[str, Tensor]
Balancer = Callable[[Tensor, Orders, State], tuple[Tensor, State]]


def sum_gradients(gramian: Tensor, orders: Orders, state: State) -> tuple[Tensor, State]:
    """Weights `[K]` of one: the plain sum of the gradients, whatever their conflicts."""
    return torch.ones(len(gramian), dtype=gramian.dtype), state


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


BALANCERS: dict[str, Balancer] = {"sum": sum_gradients, "pcgrad": pcgrad}


def draw_orders(seed: int, step: int, count: int) -> Orders:
    """For each of `count` tasks a random order of the others, a fresh one for each task.

    A function of its three integers, so that all processes of a run draw the same.
    """
    draws = generator(ORDERS, seed, step)
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
