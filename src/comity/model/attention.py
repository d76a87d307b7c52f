"""Scaled dot-product attention with dropout."""

import math
from typing import Any

import torch
from torch import Tensor

from comity.model.dropout import dropout_mask, kept_scale
from comity.model.matmul import batched_product


def attention(
    query: Tensor,  # [B heads, queries, d]
    key: Tensor,  # [B heads, longest, d]
    value: Tensor,  # [B heads, longest, d]
    key_bias: Tensor,  # [B heads, 1, longest]
    rate: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Dropout(Softmax(Q K^T / sqrt(d))) V (Vaswani et al. 2017, equation 1): [B heads, queries, d].

    Two batched products, and not torch's fused attention, whose bfloat16 backward on a CPU runs
    many small products one after the other.
    """
    mask = None
    if generator is not None and round(256 * rate):
        shape = (*query.shape[:2], key.shape[1])
        mask = dropout_mask(shape, rate, [(len(query), generator)], query.dtype)
    return _Attention.apply(query, key, value, key_bias, mask, kept_scale(rate))  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    """Softmax and its gradient in float32: finer, and quicker than torch's in bfloat16."""

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
        (outer,) = gradients
        dropped = weights if mask is None else weights * mask
        of_value = batched_product(dropped.transpose(1, 2), outer, ctx.kept)
        of_weights = batched_product(outer, value.transpose(1, 2), ctx.kept)
        if mask is not None:
            of_weights.mul_(mask)
        of_scores = torch.ops.aten._softmax_backward_data(
            of_weights.float(), weights.float(), -1, torch.float32
        ).to(weights.dtype)
        of_query = batched_product(of_scores, key, ctx.scale)
        of_key = batched_product(of_scores.transpose(1, 2), query, ctx.scale)
        return of_query, of_key, of_value, None, None, None
