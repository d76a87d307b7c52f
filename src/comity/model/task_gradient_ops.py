"""Layers with shared parameters that compute a separate weight gradient for each task.

The tokens of all tasks are packed, one task after another. The product with a shared weight is then
one large product, and so is the gradient of its input. Only the weight gradient is computed task by
task, each from the task's span of tokens, and added to the task's row of J. So K task gradients
cost about as much as their sum.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comity.model import matmul

Sink = Callable[[int, Tensor, Tensor, int], None]
"""Receives a task gradient: (row of J, parameter, gradient, start).

`gradient` is that of `parameter[start : start + len(gradient)]`.
"""


@dataclass(frozen=True)
class Spans:
    """The spans of a packed tensor for each row of J, and the sink that receives gradients."""

    bounds: Sequence[tuple[int, int, int]]  # row of J, start, stop
    sink: Sink

    def each(self, *tensors: Tensor) -> Iterator[tuple[int, list[tuple[Tensor, ...]]]]:
        """For each row of J those spans of every tensor that belong to it."""
        rows: dict[int, list[tuple[Tensor, ...]]] = {}
        for row, start, stop in self.bounds:
            rows.setdefault(row, []).append(tuple(tensor[start:stop] for tensor in tensors))
        yield from rows.items()


def _total(gradients: Iterable[Tensor]) -> Tensor:
    """The gradient of a row of J from those of its spans, added up in float32.

    The sink gets one gradient from each pass. Then the parts of a batch add up to the same bits
    whether they are passes of one process or come from several processes.
    """
    first, *others = gradients
    return sum(others, first.float()) if others else first


def linear(
    inputs: Tensor, layer: nn.Linear, spans: Spans | None, outputs: slice = slice(None)
) -> Tensor:
    """A dense layer, `[N, I]` to `[N, O]`; `outputs` selects some of its outputs.

    Without spans, autograd computes one gradient as usual.
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
        start: int,
        spans: Spans,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.layer, ctx.start, ctx.spans = layer, start, spans
        return matmul.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        inputs, weight = ctx.saved_tensors
        layer, start, spans = ctx.layer, ctx.start, ctx.spans
        (grad_output,) = gradients
        if layer.weight.requires_grad:
            for row, parts in spans.each(grad_output, inputs):
                grad_weight = _total(matmul.linear(grad.t(), own.t()) for grad, own in parts)
                spans.sink(row, layer.weight, grad_weight, start)
                spans.sink(row, layer.bias, _total(grad.sum(0) for grad, _ in parts), start)
        needed = ctx.needs_input_grad[0]
        grad_input = matmul.linear(grad_output, weight.t()) if needed else None
        return grad_input, None, None, None, None, None


def norm(inputs: Tensor, layer: nn.LayerNorm, spans: Spans | None) -> Tensor:
    """LayerNorm (Ba et al. 2016) of `[N, H]`; see `linear` for `spans`."""
    if spans is None:
        return layer(inputs)
    return _Norm.apply(inputs, layer.weight, layer, spans)  # type: ignore[return-value]


class _Norm(torch.autograd.Function):
    """LayerNorm computed in float32.

    For bfloat16 inputs, torch's backward sums the weight gradients over tokens in bfloat16, where a
    sum stops growing at a few hundred. Float32 costs no more.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, layer: nn.LayerNorm, spans: Spans
    ) -> Tensor:
        weight, bias = layer.weight.float(), layer.bias.float()
        output, mean, scale = torch.native_layer_norm(
            inputs.float(), list(layer.normalized_shape), weight, bias, layer.eps
        )
        ctx.save_for_backward(inputs, mean, scale)
        ctx.layer, ctx.spans = layer, spans
        return output.to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        layer = ctx.layer
        inputs, mean, scale = ctx.saved_tensors
        weight, bias = layer.weight.float(), layer.bias.float()
        needed = [ctx.needs_input_grad[0], layer.weight.requires_grad, layer.bias.requires_grad]
        grad_input = torch.empty_like(inputs) if needed[0] else None
        grad_output, shape = gradients[0].float(), list(layer.normalized_shape)
        inputs = inputs.float()
        found: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by row of J
        for row, start, stop in ctx.spans.bounds:
            task_grad_input, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
                grad_output[start:stop],
                inputs[start:stop],
                shape,
                mean[start:stop],
                scale[start:stop],
                weight,
                bias,
                needed,
            )
            if grad_input is not None:
                grad_input[start:stop] = task_grad_input
            found.setdefault(row, []).append((grad_weight, grad_bias))
        if layer.weight.requires_grad:
            for row, own in found.items():
                ctx.spans.sink(row, layer.weight, _total(grad for grad, _ in own), 0)
                ctx.spans.sink(row, layer.bias, _total(grad for _, grad in own), 0)
        return grad_input, None, None, None


def look_up(indices: Tensor, table: Tensor, spans: Spans | None) -> Tensor:
    """The vectors `[N, H]` at `indices [N]` of a table `[T, H]`; see `linear` for `spans`.

    With spans, the gradient of the table is summed in float32.
    """
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
            for row, parts in ctx.spans.each(gradients[0], indices):
                found = (_grad_table(grad, own, len(table)) for grad, own in parts)
                ctx.spans.sink(row, table, _total(found), 0)
        return None, None, None


def _grad_table(grad_output: Tensor, indices: Tensor, count: int) -> Tensor:
    """The gradient `[T, H]` float32 of a table from that of the vectors `[N, H]` looked up in it.

    On a GPU `index_add_` adds in an order that changes from call to call, so the same seed would
    not give the same weights.
    """
    grad_output = grad_output.float()
    if grad_output.is_cuda:
        return torch.ops.aten.embedding_dense_backward(grad_output, indices, count, -1, False)
    zeros = grad_output.new_zeros(count, grad_output.shape[1])
    return zeros.index_add_(0, indices, grad_output)
