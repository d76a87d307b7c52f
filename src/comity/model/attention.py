"""Scaled dot-product attention with dropout."""

import math
from typing import Any

import torch
from torch import Tensor

from comity.model.dropout import kept_scale
from comity.model.matmul import batched_product


def attention(
    query: Tensor,  # [B heads, queries, d]
    key: Tensor,  # [B heads, longest, d]
    value: Tensor,  # [B heads, longest, d]
    key_bias: Tensor,  # [B heads, 1, longest], added to the scores of each key
    mask: Tensor | None,  # [B heads, queries, longest], from `attention_mask`; None: no dropout
    rate: float,
) -> Tensor:
    """Dropout(Softmax(Q K^T / sqrt(d))) V (Vaswani et al. 2017, equation 1): [B heads, queries, d].

    This uses two batched products, not torch's fused attention, whose bfloat16 backward on a CPU
    runs many small products one after another.
    """
    return _Attention.apply(query, key, value, key_bias, mask, kept_scale(rate))  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    """Computes softmax and its gradient in float32: more exact than bfloat16, faster on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_bias: Tensor,
        mask: Tensor | None,
        kept: float,
    ) -> Tensor:
        ctx.scale = 1 / math.sqrt(query.shape[-1])
        ctx.kept = 1.0 if mask is None else kept
        scores = batched_product(query, key.transpose(1, 2), ctx.scale, key_bias)
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(query, key, value, weights, mask)
        return batched_product(weights if mask is None else weights * mask, value, ctx.kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        query, key, value, weights, mask = ctx.saved_tensors
        (grad_output,) = gradients
        dropped = weights if mask is None else weights * mask
        grad_value = batched_product(dropped.transpose(1, 2), grad_output, ctx.kept)
        grad_weights = batched_product(grad_output, value.transpose(1, 2), ctx.kept)
        if mask is not None:
            grad_weights.mul_(mask)
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_weights.float(), weights.float(), -1, torch.float32
        ).to(weights.dtype)
        grad_query = batched_product(grad_scores, key, ctx.scale)
        grad_key = batched_product(grad_scores.transpose(1, 2), query, ctx.scale)
        return grad_query, grad_key, grad_value, None, None, None
