"""Dropout whose masks are functions of named integers, by hashing.

A mask depends on (seed, step, task, row of the task's batch in the step, view, draw, layer, site)
and on nothing else: not on the other rows of a pass, on padding, on how a batch is cut into
micro-batches, or on the device. `rng.row_keys` hashes the first six into a 64-bit key for each
sequence, `site_keys` adds layer and site, and `keep_mask` hashes that key with a counter for every
four values.
"""

from typing import Any

import torch
from torch import Tensor

from comity.rng import GOLDEN, integer

LARGEST_RATE = 0.99
"""A larger dropout rate keeps next to nothing, so it is refused."""

# The sites of an encoder layer where values are dropped (the embeddings are layer 0), and the head.
EMBEDDINGS, ATTENTION, ATTENTION_OUTPUT, OUTPUT, HEAD = range(5)
SITES = 8  # more than there are, so that a new site does not change the draws of the others

TOKEN_STRIDE = 1 << 16
"""Counters between two tokens of a sequence, enough for vectors of 4 x 65,536 values."""

QUERY_STRIDE, HEAD_STRIDE = 1 << 10, 1 << 22
"""Counters between two queries and two attention heads, enough for 4,096 tokens, 1,024 heads."""

BLOCK = 1 << 20
"""Words hashed at a time: few enough for a processor's cache, many enough for few calls."""


def torch_generator(purpose: int, *keys: int) -> torch.Generator:
    """A torch generator on the CPU for `keys`; see `rng`."""
    return torch.Generator().manual_seed(integer(purpose, *keys))


def site_keys(keys: Tensor, layers: int) -> Tensor:
    """Keys `[layers, SITES, B]` int64 for each site of each layer, from the keys `[B]` of rows."""
    numbers = torch.arange(1, layers * SITES + 1, device=keys.device).view(layers, SITES, 1)
    z = keys + numbers * _signed(GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def keep_mask(
    keys: Tensor, counters: Tensor, width: int, rate: float, dtype: torch.dtype
) -> Tensor:
    """1 where a value is kept and 0 where it is dropped, `[R, width]` in `dtype`.

    Args:
        keys: `[R]` int64, the key of each vector, hashed before (never small integers: keys whose
            lower halves agree give related masks).
        counters: `[R]` int32, the counter of the vector's first four values; the next four have the
            next counter. Vectors with one key must not overlap.

    Eight bits decide on each value: it is kept where its byte is at least t = round(256 rate). A
    rate is therefore rounded to a multiple of 1/256 (0.1 to 0.1016), and kept values are multiplied
    by 256 / (256 - t) (`kept_scale`), so that the mean stays exact.

    A byte comes from a 32-bit hash of (key, counter): a Weyl sequence from the key's lower half and
    the finalizer of MurmurHash3 (Appleby 2011) with the key's upper half mixed in.
    """
    words = torch.arange(-(-width // 4), dtype=torch.int32, device=keys.device)
    found = _bytes_kept(keys, counters, words, rate)
    return found[:, :width].to(dtype)


def attention_counters(heads: int, longest: int, device: torch.device) -> Tensor:
    """A counter for every four attention weights of each query: `[heads, longest, words]` int32.

    The counter of a weight does not depend on `longest`.
    """
    counts = ((heads, HEAD_STRIDE), (longest, QUERY_STRIDE), (-(-longest // 4), 1))
    head, query, word = (
        torch.arange(count, dtype=torch.int32, device=device) * stride for count, stride in counts
    )
    return head[:, None, None] + query[:, None] + word


def attention_mask(
    keys: Tensor, counters: Tensor, longest: int, rate: float, dtype: torch.dtype
) -> Tensor:
    """As `keep_mask`, for attention weights: `[B heads, queries, longest]`.

    keys: `[B]` int64, one for each sequence. counters: `[heads, queries, words]`.
    """
    start = torch.zeros(1, dtype=torch.int32, device=keys.device)
    found = _bytes_kept(keys, start, counters.flatten(), rate)
    return found.view(-1, counters.shape[1], 4 * counters.shape[2])[..., :longest].to(dtype)


def _bytes_kept(keys: Tensor, starts: Tensor, steps: Tensor, rate: float) -> Tensor:
    """1 or 0 for each of the four bytes of the counters `starts + steps`: `[R, 4 C]` uint8.

    keys: `[R]` int64. starts: `[R]` or `[1]`, steps: `[C]`, both int32.
    """
    threshold = round(256 * rate)
    if not 0 < threshold < 256:
        raise ValueError(f"a dropout rate must be between 0 and {LARGEST_RATE}, got {rate}")
    low, high = keys.view(torch.int32).view(-1, 2).unbind(1)
    starts, steps = low + starts * _WEYL, steps * _WEYL
    hashed = torch.empty(len(keys), len(steps), dtype=torch.int32, device=keys.device)
    size = max(BLOCK // len(steps), 1)
    for first in range(0, len(keys), size):
        z = hashed[first : first + size]
        torch.add(starts[first : first + size, None], steps, out=z)
        z.bitwise_xor_((z >> 16).bitwise_and_(0xFFFF)).mul_(_MURMUR_1)
        z.bitwise_xor_(high[first : first + size, None])
        z.bitwise_xor_((z >> 13).bitwise_and_(0x7FFFF)).mul_(_MURMUR_2)
        z.bitwise_xor_((z >> 16).bitwise_and_(0xFFFF))
    # In place, since a comparison that makes booleans is many times slower, and so is their cast.
    return hashed.view(torch.uint8).ge_(threshold)


def kept_scale(rate: float) -> float:
    """What kept values are multiplied by, for the rate as `keep_mask` rounds it."""
    return 256 / (256 - round(256 * rate))


def drops(rate: float) -> bool:
    """Whether a rate drops anything after rounding."""
    return round(256 * rate) > 0


def dropout(values: Tensor, rate: float, keys: Tensor | None) -> Tensor:
    """Set a share `rate` of `values [B, W]` to zero and scale the rest up (Srivastava et al. 2014).

    `keys [B]`: of the site; None leaves `values` unchanged.
    """
    if keys is None or not drops(rate):
        return values
    counters = torch.zeros(len(keys), dtype=torch.int32, device=keys.device)
    mask = keep_mask(keys, counters, values.shape[1], rate, values.dtype)
    return add_dropped(None, values, rate, mask)


def add_dropped(residual: Tensor | None, values: Tensor, rate: float, mask: Tensor) -> Tensor:
    """`residual + dropout(values)`, or without a residual; `mask` from `keep_mask`."""
    return _AddDropped.apply(residual, values, mask, kept_scale(rate))  # type: ignore[return-value]


class _AddDropped(torch.autograd.Function):
    """The scale multiplies as a float32 number: rounded to bfloat16 it would shift the mean."""

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
        (grad_output,) = gradients
        grad_residual = grad_output if ctx.needs_input_grad[0] else None
        return grad_residual, (grad_output * mask).mul_(ctx.scale), None, None


def _signed(value: int, bits: int = 64) -> int:
    """The low `bits` of an unsigned integer as torch's signed integer of that size."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """int64 shifted right with zeros; torch repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


_WEYL = _signed(0x9E3779B9, 32)
_MURMUR_1, _MURMUR_2 = _signed(0x85EBCA6B, 32), _signed(0xC2B2AE35, 32)
