"""Dropout whose masks are computed by hashing.

A mask depends only on (seed, step, task, row in the task's global batch, view, draw, layer, site).
It does not depend on the other rows of a pass, on padding, on how a batch is split into
micro-batches, or on the device. `rng.row_keys` hashes all but layer and site into a 64-bit key for
each sequence, `site_keys` adds layer and site, and `keep_mask` hashes that key with a counter for
every four values.
"""

from typing import Any

import torch
from torch import Tensor

from comity.rng import GOLDEN, integer

LARGEST_RATE = 0.99
"""The largest dropout rate allowed."""

# Where values are dropped: in the embeddings (layer 0), at three sites of a layer, and in heads.
EMBEDDINGS, ATTENTION, ATTENTION_OUTPUT, OUTPUT, HEAD, SECOND_HEAD = range(6)
SITES = 8  # spare ones, so that a new site does not change the masks of the others

TOKEN_STRIDE = 1 << 16
"""Difference between the counters of two tokens: enough for vectors of 4 x 65,536 values."""

QUERY_STRIDE, HEAD_STRIDE = 1 << 10, 1 << 22
"""The same for two queries and two attention heads: enough for 4,096 tokens and 1,024 heads."""

BLOCK = 1 << 20
"""Hashes computed at a time: few enough for the processor's cache, many enough for few calls."""


def torch_generator(purpose: int, *keys: int) -> torch.Generator:
    """A torch generator on the CPU, seeded from `purpose` and `keys`; see `rng`."""
    return torch.Generator().manual_seed(integer(purpose, *keys))


def site_keys(keys: Tensor, layers: int) -> Tensor:
    """Keys `[layers, SITES, B]` int64 for each site of each layer, from the rows' keys `[B]`."""
    numbers = torch.arange(1, layers * SITES + 1, device=keys.device).view(layers, SITES, 1)
    z = keys + numbers * _signed(GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def keep_mask(
    keys: Tensor, counters: Tensor, width: int, rate: float, dtype: torch.dtype
) -> Tensor:
    """1 where a value is kept and 0 where it is dropped, `[R, width]` in `dtype`.

    Each value has eight random bits and is kept if they are at least t = round(256 rate). The rate
    is thus rounded to a multiple of 1/256 (0.1 to 0.1016), and kept values are multiplied by
    256 / (256 - t) (`kept_scale`), so that the mean stays exact.

    The bits come from a 32-bit hash of (key, counter): a Weyl sequence from the key's lower half
    and the finalizer of MurmurHash3 (Appleby 2011) with the key's upper half mixed in.

    Args:
        keys: `[R]` int64, the key of each vector. Keys must be hashed already: small integers whose
            lower halves agree would give related masks.
        counters: `[R]` int32, the counter of a vector's first four values; the next four have the
            next counter. The counters of vectors with the same key must not overlap.
    """
    steps = torch.arange(-(-width // 4), dtype=torch.int32, device=keys.device)
    mask = _bytes_kept(keys, counters, steps, rate)
    return mask[:, :width].to(dtype)


def attention_counters(heads: int, longest: int, device: torch.device) -> Tensor:
    """A counter for every four attention weights of a query: `[heads, longest, C]` int32.

    C is longest / 4, rounded up. The counter of a weight does not depend on `longest`.
    """
    counts = ((heads, HEAD_STRIDE), (longest, QUERY_STRIDE), (-(-longest // 4), 1))
    head, query, key = (
        torch.arange(count, dtype=torch.int32, device=device) * stride for count, stride in counts
    )
    return head[:, None, None] + query[:, None] + key


def attention_mask(
    keys: Tensor, counters: Tensor, longest: int, rate: float, dtype: torch.dtype
) -> Tensor:
    """Like `keep_mask`, for attention weights: `[B heads, queries, longest]`.

    Args:
        keys: `[B]` int64, one for each sequence.
        counters: `[heads, queries, C]` int32, from `attention_counters`.
    """
    start = torch.zeros(1, dtype=torch.int32, device=keys.device)
    mask = _bytes_kept(keys, start, counters.flatten(), rate)
    return mask.view(-1, counters.shape[1], 4 * counters.shape[2])[..., :longest].to(dtype)


def _bytes_kept(keys: Tensor, starts: Tensor, steps: Tensor, rate: float) -> Tensor:
    """1 or 0 for each of the four bytes of the counters `starts + steps`: `[R, 4 C]` uint8.

    `keys [R]` int64; `starts [R]` or `[1]` and `steps [C]`, both int32.
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
    # In place: a comparison that allocates booleans, and the cast from them, are many times slower.
    return hashed.view(torch.uint8).ge_(threshold)


def kept_scale(rate: float) -> float:
    """The factor for kept values at a rate, rounded as in `keep_mask`."""
    return 256 / (256 - round(256 * rate))


def drops(rate: float) -> bool:
    """Whether a rate is above 0 after rounding."""
    return round(256 * rate) > 0


def dropout(values: Tensor, rate: float, keys: Tensor | None) -> Tensor:
    """Zero a share `rate` of `values [B, W]` and scale up the rest (Srivastava et al. 2014).

    `keys [B]` are those of the site; None returns `values` unchanged.
    """
    if keys is None or not drops(rate):
        return values
    counters = torch.zeros(len(keys), dtype=torch.int32, device=keys.device)
    mask = keep_mask(keys, counters, values.shape[1], rate, values.dtype)
    return add_dropped(None, values, rate, mask)


def add_dropped(residual: Tensor | None, values: Tensor, rate: float, mask: Tensor) -> Tensor:
    """`residual + dropout(values)`, or `dropout(values)`, with a mask from `keep_mask`."""
    return _AddDropped.apply(residual, values, mask, kept_scale(rate))  # type: ignore[return-value]


class _AddDropped(torch.autograd.Function):
    """Multiplies by a float32 scale: one rounded to bfloat16 would shift the mean."""

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
    """The low `bits` of an unsigned integer, as a signed integer of that size."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical right shift of int64; torch's own shift repeats the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


_WEYL = _signed(0x9E3779B9, 32)
_MURMUR_1, _MURMUR_2 = _signed(0x85EBCA6B, 32), _signed(0xC2B2AE35, 32)
