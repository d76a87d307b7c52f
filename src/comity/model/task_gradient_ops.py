"""Operations on weights that several tasks share: one forward for all, one gradient for each task.

The tokens of all tasks stand in one packed pass, task after task. A product with a shared weight is
then one large product, and so is the gradient of its input; only the gradient of the weight is
taken task by task, from the task's own stretch of tokens, and goes straight into the task's row. So
K task gradients cost about what their sum costs.
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
    """Which rows of a packed tensor belong to which task gradient, and where gradients go."""

    bounds: Sequence[tuple[int, int, int]]  # row of J, start, stop
    sink: Sink

    def each(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        """The row of J and each tensor's stretch, task after task."""
        for row, start, stop in self.bounds:
            yield row, *(tensor[start:stop] for tensor in tensors)


def linear(
    inputs: Tensor, layer: nn.Linear, spans: Spans | None, outputs: slice = slice(None)
) -> Tensor:
    """A dense layer, `[N, I]` to `[N, O]`, or only its rows `outputs`.

    Without spans it is the plain product with ordinary gradients.
    """
    weight, bias = layer.weight[outputs], layer.bias[outputs]
    if spans is None:
        multiply = matmul.linear if torch.is_grad_enabled() else matmul.product
        return multiply(inputs, weight, bias)
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
        return matmul.product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        inputs, weight = ctx.saved_tensors
        layer, first, spans = ctx.layer, ctx.first, ctx.spans
        (outer,) = gradients
        if layer.weight.requires_grad:
            for row, of_task, inputs_of_task in spans.each(outer, inputs):
                of_weight = matmul.product(of_task.t(), inputs_of_task.t())
                spans.sink(row, layer.weight, of_weight, first)
                spans.sink(row, layer.bias, of_task.sum(0), first)
        inner = matmul.product(outer, weight.t()) if ctx.needs_input_grad[0] else None
        return inner, None, None, None, None, None


def norm(inputs: Tensor, layer: nn.LayerNorm, spans: Spans | None) -> Tensor:
    """LayerNorm (Ba et al. 2016) of `[N, H]`."""
    if spans is None:
        return layer(inputs)
    return _Norm.apply(inputs, layer.weight, layer, spans)  # type: ignore[return-value]


class _Norm(torch.autograd.Function):
    """In bfloat16 torch's backward adds the weights' gradients up over tokens in bfloat16, where a
    sum stops growing at a few hundred; hence float32 in between, which costs no more."""

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
        of_inputs = torch.empty_like(inputs) if wanted[0] else None
        tensors = (gradients[0].float(), inputs.float(), mean, scale)
        for row, start, stop in ctx.spans.bounds:
            outer, *saved = (tensor[start:stop] for tensor in tensors)
            of_task, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
                outer, saved[0], list(layer.normalized_shape), *saved[1:], weight, bias, wanted
            )
            if of_inputs is not None:
                of_inputs[start:stop] = of_task
            if layer.weight.requires_grad:
                ctx.spans.sink(row, layer.weight, of_weight, 0)
                ctx.spans.sink(row, layer.bias, of_bias, 0)
        return of_inputs, None, None, None


def look_up(indices: Tensor, table: Tensor, spans: Spans | None) -> Tensor:
    """Rows of a table, `[N]` and `[T, H]` to `[N, H]`, whose gradient adds up in float32."""
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
            for row, outer, places in ctx.spans.each(gradients[0], indices):
                whole = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
                ctx.spans.sink(row, table, whole.index_add_(0, places, outer.float()), 0)
        return None, None, None
