"""Dropout masks, and the random numbers they are drawn from."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from comity.rng import integer

LARGEST_RATE = 0.99
"""A dropout above this keeps next to nothing; it is refused wherever a rate is given."""


def dropout(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Set a share `rate` of `values` to zero and scale the rest up (Srivastava et al. 2014).

    `generator` lives on the device of `values`; None leaves `values` as they are.
    """
    if generator is None or round(256 * rate) == 0:
        return values
    mask = dropout_mask(values.shape, rate, [(len(values), generator)], values.dtype)
    return add_dropped(None, values, rate, mask)


def dropout_mask(
    shape: Sequence[int],
    rate: float,
    draws: Sequence[tuple[int, torch.Generator]],
    dtype: torch.dtype,
) -> Tensor:
    """1 where a value is kept and 0 where it is dropped.

    draws: for each stretch of rows how many they are, and what draws them; together `shape[0]`.

    Eight bits decide on each value: torch's generator is asked for 64-bit words, which is several
    times quicker than one draw per value, and a value is kept where its byte is at least
    t = round(256 rate). A rate is therefore rounded to a multiple of 1/256 (0.1 to 0.1016), and
    kept values are multiplied by 256 / (256 - t) (`kept_scale`), so that the mean stays exact.
    """
    threshold = round(256 * rate)
    if not 0 < threshold < 256:
        raise ValueError(f"a dropout rate lies between 0 and {LARGEST_RATE}, {rate} does not")
    each = math.prod(shape[1:])
    pieces = [_random_bytes(rows * each, generator) for rows, generator in draws]
    drawn = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    # In place, since a comparison that makes booleans is many times slower, and so is their cast.
    return drawn.view(*shape).ge_(threshold).to(dtype)


def _random_bytes(count: int, generator: torch.Generator) -> Tensor:
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[:count]


def kept_scale(rate: float) -> float:
    """What kept values are multiplied by, the rate rounded as `dropout_mask` rounds it."""
    return 256 / (256 - round(256 * rate))


def add_dropped(residual: Tensor | None, values: Tensor, rate: float, mask: Tensor) -> Tensor:
    """`residual + dropout(values)`, or without a residual; `mask` as `dropout_mask` makes it."""
    return _AddDropped.apply(residual, values, mask, kept_scale(rate))  # type: ignore[return-value]


class _AddDropped(torch.autograd.Function):
    """The scale multiplies as a float32 number: rounded to the dtype it would shift the mean."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor | None, values: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        if residual is None:
            return (values * mask).mul_(scale)
        return torch.addcmul(residual, values, mask, value=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        (outer,) = gradients
        of_residual = outer if ctx.needs_input_grad[0] else None
        return of_residual, (outer * mask).mul_(ctx.scale), None, None


def torch_generator(purpose: int, *keys: int) -> torch.Generator:
    """A torch generator on the CPU for `keys`."""
    return torch.Generator().manual_seed(integer(purpose, *keys))
