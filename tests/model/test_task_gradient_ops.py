"""The gradient of each span, compared with autograd on that span alone."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from comity.model.task_gradient_ops import Spans, linear, look_up, norm

BOUNDS = [(0, 0, 5), (1, 5, 7), (0, 7, 12)]  # the third span adds to row 0 again


class Rows:
    """A sink that adds up gradients by row of J and parameter."""

    def __init__(self):
        self.found: dict[tuple[int, int], Tensor] = {}

    def __call__(self, row: int, parameter: Tensor, gradient: Tensor, start: int = 0) -> None:
        total = self.found.setdefault((row, id(parameter)), torch.zeros(parameter.shape))
        total[start : start + len(gradient)] += gradient


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def autograd_rows(function, inputs: Tensor, parameters: list[Tensor], grad_output: Tensor) -> Rows:
    rows = Rows()
    for row, start, stop in BOUNDS:
        outputs = function(inputs[start:stop])
        found = torch.autograd.grad(outputs, parameters, grad_output[start:stop])
        for parameter, gradient in zip(parameters, found, strict=True):
            rows(row, parameter, gradient)
    return rows


@pytest.mark.parametrize("outputs", [slice(None), slice(2, 5)])
def test_linear(outputs: slice) -> None:
    layer = nn.Linear(4, 6)
    inputs = random(12, 4).requires_grad_()
    rows = Rows()
    found = linear(inputs, layer, Spans(BOUNDS, rows), outputs)
    plain = layer(inputs)[:, outputs]
    assert_close(found, plain)
    grad_output = random(*found.shape)
    found.backward(grad_output)
    expected = autograd_rows(
        lambda x: layer(x)[:, outputs], inputs.detach(), [layer.weight, layer.bias], grad_output
    )
    assert rows.found.keys() == expected.found.keys()
    for key, gradient in expected.found.items():
        assert_close(rows.found[key], gradient)
    assert_close(inputs.grad, torch.autograd.grad(plain, inputs, grad_output)[0])
    assert layer.weight.grad is None  # gradients go only to the sink


def test_norm() -> None:
    layer = nn.LayerNorm(4)
    nn.init.normal_(layer.weight)
    inputs = random(12, 4).requires_grad_()
    rows, grad_output = Rows(), random(12, 4)
    norm(inputs, layer, Spans(BOUNDS, rows)).backward(grad_output)
    expected = autograd_rows(layer, inputs.detach(), [layer.weight, layer.bias], grad_output)
    for key, gradient in expected.found.items():
        assert_close(rows.found[key], gradient)
    assert_close(inputs.grad, torch.autograd.grad(layer(inputs), inputs, grad_output)[0])


def test_norm_sums_its_gradients_in_float32() -> None:
    layer = nn.LayerNorm(8).to(torch.bfloat16)
    inputs = random(3000, 8).to(torch.bfloat16).requires_grad_()
    grad_output = (random(3000, 8) + 0.5).to(torch.bfloat16)
    rows = Rows()
    norm(inputs, layer, Spans([(0, 0, 3000)], rows)).backward(grad_output)
    wide = nn.LayerNorm(8)
    wide(inputs.detach().float()).backward(grad_output.float())
    assert wide.bias.grad is not None and wide.weight.grad is not None
    assert_close(rows.found[0, id(layer.bias)], wide.bias.grad, rtol=1e-4, atol=1e-3)
    assert_close(rows.found[0, id(layer.weight)], wide.weight.grad, rtol=1e-2, atol=1.0)


@pytest.mark.parametrize("gpu", [False, True])
def test_look_up(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    # The sum in a fixed order, which runs on GPUs; here it runs on the CPU.
    monkeypatch.setattr(Tensor, "is_cuda", gpu)
    table = nn.Parameter(random(3, 4))
    indices = torch.tensor([0, 2, 2, 1, 0, 2, 2, 1, 1, 1, 0, 0])
    rows, grad_output = Rows(), random(12, 4)
    found = look_up(indices, table, Spans(BOUNDS, rows))
    assert_close(found, table[indices])
    found.backward(grad_output)
    expected = autograd_rows(lambda x: table[x], indices, [table], grad_output)
    for key, gradient in expected.found.items():
        assert_close(rows.found[key], gradient)


def test_a_frequent_row_keeps_its_gradient_in_bfloat16() -> None:
    table = nn.Parameter(torch.zeros(1, 8, dtype=torch.bfloat16))
    rows = Rows()
    indices = torch.zeros(3000, dtype=torch.int64)
    look_up(indices, table, Spans([(0, 0, 3000)], rows)).sum().backward()
    assert (rows.found[0, id(table)] == 3000).all()  # a sum in bfloat16 stops at 256


def test_frozen_parameters_get_no_gradient() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    inputs = random(12, 4).requires_grad_()
    rows = Rows()
    linear(inputs, layer, Spans(BOUNDS, rows)).sum().backward()
    assert not rows.found
    assert inputs.grad is not None
