"""Dense products of either library against float64, in every storage order that training uses."""

import pytest
import torch
import torch.nn.functional as F

from comity.model.products import by_onednn, fastest, product


@pytest.mark.parametrize("multiply", [by_onednn, product])
@pytest.mark.parametrize(("plain_left", "plain_right"), [(1, 1), (1, 0), (0, 0)])
def test_products_are_float32_products(multiply, plain_left, plain_right):
    draws = torch.Generator().manual_seed(3)
    left, right = torch.randn(70, 48, generator=draws), torch.randn(33, 48, generator=draws)
    bias = torch.randn(33, generator=draws)
    stored = [
        factor if plain else factor.t().contiguous().t()
        for factor, plain in ((left, plain_left), (right, plain_right))
    ]
    expected = left.double() @ right.double().T + bias.double()
    found = multiply(*stored, bias)
    assert found.dtype == torch.float32
    assert (found.double() - expected).abs().max() < 2e-5  # bfloat16 products err by 1e-1 here


def test_other_types_go_where_torch_sends_them():
    left, right = torch.randn(4, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    assert torch.equal(product(left, right), F.linear(left, right))


def test_without_the_operation_torch_multiplies(monkeypatch):
    def missing(*_):
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr("comity.model.products.by_onednn", missing)
    fastest.cache_clear()
    assert fastest(True, True) is F.linear
    fastest.cache_clear()
