"""Matrix products compared with float64, in every memory layout that training uses."""

import pytest
import torch

from comity.model import matmul
from comity.model.matmul import batched_product, linear


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_products_are_rounded_once(monkeypatch, fast):
    """With and without bfloat16 instructions."""
    monkeypatch.setattr(matmul, "fast_bf16", lambda device: fast)
    draws = torch.Generator().manual_seed(5)
    left = torch.randn(3, 40, 24, generator=draws).bfloat16()
    right = torch.randn(3, 24, 17, generator=draws).bfloat16()
    bias = torch.randn(3, 1, 17, generator=draws).bfloat16()
    summed = left.double() @ right.double()
    unit_roundoff = 2**-8

    def check(found, expected, roundings=1):
        assert found.dtype == torch.bfloat16
        error = (found.double() - expected).abs()
        assert (error <= roundings * unit_roundoff * expected.abs() + 1e-5).all()

    check(linear(left[0], right[0].t(), bias[0, 0]), summed[0] + bias[0, 0].double())
    check(linear(left[0].t().contiguous().t(), right[0].t().contiguous()), summed[0])
    check(batched_product(left, right, 0.25), 0.25 * summed)
    check(batched_product(left, right, 1.1), 1.1 * summed, roundings=3)  # 1.1 is rounded too
    check(batched_product(left, right, 0.25, bias), bias.double() + 0.25 * summed)


def test_gradients_do_not_depend_on_bfloat16_instructions(monkeypatch):
    draws = torch.Generator().manual_seed(6)
    gradients = []
    for fast in (True, False):
        monkeypatch.setattr(matmul, "fast_bf16", lambda device, fast=fast: fast)
        draws.manual_seed(6)
        factors = [torch.randn(n, 24, generator=draws).bfloat16() for n in (40, 17)]
        left, right = (factor.requires_grad_() for factor in factors)
        linear(left, right).float().square().sum().backward()
        gradients.append((left.grad, right.grad))
    for fast, slow in zip(*gradients, strict=True):
        assert fast is not None and slow is not None
        assert slow.dtype == torch.bfloat16
        scale = fast.abs().max()
        assert ((fast - slow).abs() <= 2**-6 * scale).all()
