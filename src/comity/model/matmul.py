"""Dense products, by the library that is fastest at them on this machine.

torch sends float32 products to MKL, which on some processors leaves half of their speed unused;
oneDNN, which torch carries for bfloat16, then does the same product in true float32 twice as fast.

A processor without bfloat16 instructions would take many times as long for a bfloat16 product as
for one in float32; there the factors are widened and the product is rounded, which is the same sum.
"""

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from comity.hardware import fast_bf16

MARGIN = 1.25
"""How much faster oneDNN must be to be taken: so much that two starts choose alike."""

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`left @ right.T + bias`: `[N, I]` and `[O, I]` to `[N, O]`. Knows no gradient."""
    if _widens(left):
        wide = None if bias is None else bias.float()
        return product(left.float(), right.float(), wide).to(left.dtype)
    if left.dtype != torch.float32 or left.device.type != "cpu":
        return F.linear(left, right, bias)
    return fastest(left.is_contiguous(), right.is_contiguous())(left, right, bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same product with gradients by autograd."""
    if _widens(inputs):
        wide = None if bias is None else bias.float()
        return F.linear(inputs.float(), weight.float(), wide).to(inputs.dtype)
    return F.linear(inputs, weight, bias)


def batched_product(
    left: Tensor, right: Tensor, factor: float, added: Tensor | None = None
) -> Tensor:
    """`added + factor * (left @ right)`: `[B, N, I]` and `[B, I, O]` to `[B, N, O]`.

    Without `added` the factor comes last, which is finer than inside the product. Knows no
    gradient.
    """
    if _widens(left):
        wide = None if added is None else added.float()
        return batched_product(left.float(), right.float(), factor, wide).to(left.dtype)
    if added is None:
        return torch.bmm(left, right).mul_(factor)
    return torch.baddbmm(added, left, right, alpha=factor)


def _widens(factor: Tensor) -> bool:
    on_cpu = factor.device.type == "cpu"
    return on_cpu and factor.dtype == torch.bfloat16 and not fast_bf16(factor.device)


def by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """The float32 product by oneDNN, on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


@cache
def fastest(plain_left: bool, plain_right: bool) -> Product:
    """The faster of the two at a product of MiniLM's shapes; timed once, for about 0.1 s.

    Each factor is stored row by row (`plain`) or transposed: a layer's product is of two plain
    ones, its input's gradient has the second transposed, its weight's gradient both.
    """
    shapes = [(896, 384), (1536, 384)]
    left, right = (
        torch.ones(shape) if plain else torch.ones(shape[::-1]).t()
        for shape, plain in zip(shapes, (plain_left, plain_right), strict=True)
    )
    try:
        seconds = _seconds(by_onednn, left, right)
    except (AttributeError, RuntimeError):  # this torch has no such operation
        return F.linear
    return by_onednn if MARGIN * seconds < _seconds(F.linear, left, right) else F.linear


def _seconds(multiply: Product, left: Tensor, right: Tensor) -> float:
    """The least of a few times, which other work on the machine disturbs least."""
    times = []
    for _ in range(6):
        started = time.perf_counter()
        multiply(left, right, None)
        times.append(time.perf_counter() - started)
    return min(times)
