"""Operations on parameters that tasks share: one forward pass, one gradient for each task.

The tokens of all tasks are packed task after task. A product with a shared weight is then one large
product, and so is the gradient of its input. Only the gradient of the weight is computed task by
task, from the task's span of tokens, and goes straight into the task's row of J. So K task
gradients cost about as much as their sum.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model import matmul

Sink = Callable[[int, Tensor, Tensor, int], None]
"""Takes the gradient of one task: (row of J, parameter, gradient, first row of the parameter)."""


@dataclass(frozen=True)
class Spans:
    """The rows of a packed tensor that belong to each task gradient, and where gradients go."""

    bounds: Sequence[tuple[int, int, int]]  # row of J, start, stop
    sink: Sink

    def each(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        """The row of J and the span of each tensor, for one task after another."""
        for row, start, stop in self.bounds:
            yield row, *(tensor[start:stop] for tensor in tensors)


def linear(
    inputs: Tensor, layer: nn.Linear, spans: Spans | None, outputs: slice = slice(None)
) -> Tensor:
    """A dense layer, `[N, I]` to `[N, O]`, or only its rows `outputs`.

    Without spans it is an ordinary differentiable product.
    """
    weight, bias = layer.weight[outputs], layer.bias[outputs]
    if spans is None:
        return matmul.linear(inputs, weight, bias)
    return _Linear.apply(inputs, weight, bias, layer, outputs.start or 0, spans)  # type: ignore[return-value]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        layer: nn.Linear,
        first: int,
        spans: Spans,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.layer, ctx.first, ctx.spans = layer, first, spans
        return matmul.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        inputs, weight = ctx.saved_tensors
        layer, first, spans = ctx.layer, ctx.first, ctx.spans
        (grad_output,) = gradients
        if layer.weight.requires_grad:
            for row, task_grad, task_inputs in spans.each(grad_output, inputs):
                grad_weight = matmul.linear(task_grad.t(), task_inputs.t())
                spans.sink(row, layer.weight, grad_weight, first)
                spans.sink(row, layer.bias, task_grad.sum(0), first)
        needed = ctx.needs_input_grad[0]
        grad_input = matmul.linear(grad_output, weight.t()) if needed else None
        return grad_input, None, None, None, None, None


def norm(inputs: Tensor, layer: nn.LayerNorm, spans: Spans | None) -> Tensor:
    """LayerNorm (Ba et al. 2016) of `[N, H]`."""
    if spans is None:
        return layer(inputs)
    return _Norm.apply(inputs, layer.weight, layer, spans)  # type: ignore[return-value]


class _Norm(torch.autograd.Function):
    """LayerNorm computed in float32.

    In bfloat16 torch's backward sums the gradients of the weights over tokens in bfloat16, where a
    sum stops growing at a few hundred. Float32 costs no more.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, layer: nn.LayerNorm, spans: Spans
    ) -> Tensor:
        wide = inputs.float()
        output, mean, scale = torch.native_layer_norm(
            wide, list(layer.normalized_shape), layer.weight.float(), layer.bias.float(), layer.eps
        )
        ctx.save_for_backward(inputs, mean, scale)
        ctx.layer, ctx.spans = layer, spans
        return output.to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        layer = ctx.layer
        inputs, mean, scale = ctx.saved_tensors
        weight, bias = layer.weight.float(), layer.bias.float()
        wanted = [ctx.needs_input_grad[0], layer.weight.requires_grad, layer.bias.requires_grad]
        grad_input = torch.empty_like(inputs) if wanted[0] else None
        tensors = (gradients[0].float(), inputs.float(), mean, scale)
        for row, start, stop in ctx.spans.bounds:
            task_grad, *saved = (tensor[start:stop] for tensor in tensors)
            task_grad_input, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
                task_grad, saved[0], list(layer.normalized_shape), *saved[1:], weight, bias, wanted
            )
            if grad_input is not None:
                grad_input[start:stop] = task_grad_input
            if layer.weight.requires_grad:
                ctx.spans.sink(row, layer.weight, grad_weight, 0)
                ctx.spans.sink(row, layer.bias, grad_bias, 0)
        return grad_input, None, None, None


def look_up(indices: Tensor, table: Tensor, spans: Spans | None) -> Tensor:
    """Rows of a table, `[N]` and `[T, H]` to `[N, H]`; the gradient is summed in float32."""
    if spans is None:
        return F.embedding(indices, table)
    return _LookUp.apply(indices, table, spans)  # type: ignore[return-value]


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, table: Tensor, spans: Spans) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.table, ctx.spans = table, spans
        return F.embedding(indices, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (indices,) = ctx.saved_tensors
        table = ctx.table
        if table.requires_grad:
            for row, task_grad, task_indices in ctx.spans.each(gradients[0], indices):
                whole = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
                ctx.spans.sink(row, table, whole.index_add_(0, task_indices, task_grad.float()), 0)
        return None, None, None
