"""Matrix products that convert bfloat16 to float32 on processors without bfloat16 instructions.

There a bfloat16 product takes torch many times as long as a float32 product. Converting the
factors is exact, so only the result is rounded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from comity.hardware import fast_bf16


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`inputs @ weight.T + bias`: `[N, I]` and `[O, I]` to `[N, O]`."""
    if _needs_float32(inputs):
        float_bias = None if bias is None else bias.float()
        return F.linear(inputs.float(), weight.float(), float_bias).to(inputs.dtype)
    return F.linear(inputs, weight, bias)


def batched_product(
    left: Tensor, right: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """`bias + scale * (left @ right)`: `[B, N, I]` and `[B, I, O]` to `[B, N, O]`.

    `bias` broadcasts to the result. Without it the scale is applied last, which rounds less than
    inside the product. Not differentiable.
    """
    if _needs_float32(left):
        float_bias = None if bias is None else bias.float()
        return batched_product(left.float(), right.float(), scale, float_bias).to(left.dtype)
    if bias is None:
        return torch.bmm(left, right).mul_(scale)
    return torch.baddbmm(bias, left, right, alpha=scale)


def _needs_float32(values: Tensor) -> bool:
    on_cpu = values.device.type == "cpu"
    return on_cpu and values.dtype == torch.bfloat16 and not fast_bf16(values.device)
