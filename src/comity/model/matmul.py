"""Dense products, with one detour: bfloat16 on a processor without instructions for it.

There torch takes many times as long for a bfloat16 product as for one in float32. The factors are
widened to float32 and the product is rounded, which gives the same sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from comity.hardware import fast_bf16


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`inputs @ weight.T + bias`: `[N, I]` and `[O, I]` to `[N, O]`."""
    if _widens(inputs):
        wide = None if bias is None else bias.float()
        return F.linear(inputs.float(), weight.float(), wide).to(inputs.dtype)
    return F.linear(inputs, weight, bias)


def batched_product(
    left: Tensor, right: Tensor, factor: float, added: Tensor | None = None
) -> Tensor:
    """`added + factor * (left @ right)`: `[B, N, I]` and `[B, I, O]` to `[B, N, O]`.

    Without `added` the factor is applied last, which rounds less than inside the product. Not
    differentiable.
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
