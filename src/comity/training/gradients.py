"""The gradients of one step: the Jacobian of the task losses, and the gradients of the heads."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comity.hardware import to_device
from comity.model.parameters import SHARED, FlatParameters, Segment
from comity.training.ranks import Ranks

BLOCK = 4096
"""Columns of J whose products are summed in float32; the sums of blocks are added in float64."""


class Gradients:
    """The gradients of one step: a row of J for each task, and a slice for each head.

    A row covers the trained shared parameters. Its word-table part is stored separately, and only
    for the words that occur in the step. Head gradients are not part of the rows, so they do not
    enter the Gramian.

    A step calls `begin`, then `add` for every gradient (autograd adds those of the heads), then
    `finish`, which also adds up the gradients of all processes.

    Args:
        flat: the model's parameters; those that are not trained get `requires_grad = False`.
        count: K, the most rows of J that a step needs.
        frozen_layers: how many layers are frozen, counting the embeddings as layer 0.

    Attributes:
        rows: J without the word table, `[K, S]` float32.
        start: the flat index of column 0 of `rows`.
        used: how many rows the step fills.
        heads: the gradients of all heads, `[P - shared]` float32.
        words: the ids of the words that occur in the step, `[U]`, sorted.
        word_rows: the word-table part of J, `[K, U, H]` float32.
        touched_words: the embeddings of these words, `[U, H]` float32, as a leaf tensor.
    """

    def __init__(self, flat: FlatParameters, count: int, frozen_layers: int = 0):
        device = flat.masters.device
        self.flat = flat
        self.frozen_layers = frozen_layers
        self.start = flat.trained_from(frozen_layers)
        self.used = count
        self.rows = torch.zeros(count, flat.shared_stop - self.start, device=device)
        self.heads = torch.zeros(len(flat.masters) - flat.shared_stop, device=device)
        self.words: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.word_rows = torch.zeros(count, 0, flat.width, device=device)
        self.touched_words = torch.empty(0, flat.width, device=device)
        self._columns = self._prepare_parameters()  # first column of each parameter, by its id()
        self._written: set[tuple[int, int]] = set()  # (row, id of the parameter), in this step
        self._reached: set[int] = set()  # flat indices of parameters with a gradient in this step

    def _prepare_parameters(self) -> dict[int, int]:
        """Set which parameters autograd tracks; return the first column of each shared one."""
        columns = {}
        for owned in self.flat.parameters:
            parameter = owned.parameter
            trains = owned.owner != SHARED or owned.layer >= self.frozen_layers
            # The table itself gets no gradient: a step uses `touched_words` in its place.
            parameter.requires_grad_(trains and not owned.is_word_table)
            parameter.grad = None
            if owned.owner != SHARED:
                parameter.grad_dtype = torch.float32
            elif parameter.requires_grad:
                columns[id(parameter)] = self.flat.starts[owned.name] - self.start
        return columns

    @property
    def trains_words(self) -> bool:
        """Whether the word table is trained."""
        return self.frozen_layers == 0 and self.flat.table_stop > 0

    def begin(self, words: NDArray[np.int64], used: int = 1) -> None:
        """Start a step.

        Args:
            words: the ids `[U]` of the words that occur in the step, sorted.
            used: how many rows the step fills.
        """
        device = self.rows.device
        self.used = used
        self.words = words if self.trains_words else words[:0]
        self.word_rows = torch.zeros(used, len(self.words), self.flat.width, device=device)
        indices = to_device(torch.from_numpy(words), device)
        self.touched_words = self.flat.table[indices].requires_grad_(self.trains_words)
        self._written.clear()
        self.heads.zero_()
        for parameter, gradient in self._head_views():
            parameter.grad = gradient

    def _head_views(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter of a head, and the view of `heads` that holds its gradient."""
        for owned in self.flat.parameters:
            if owned.owner != SHARED:
                start = self.flat.starts[owned.name] - self.flat.shared_stop
                shape = owned.parameter.shape
                yield owned.parameter, self.heads[start : start + shape.numel()].view(shape)

    def add(self, row: int, parameter: Tensor, gradient: Tensor, start: int = 0) -> None:
        """Add a gradient to a row of J.

        Args:
            row: from 0 to `used` - 1.
            parameter: a shared parameter, or `touched_words`.
            gradient: that of `parameter[start : start + len(gradient)]`, in the same shape.
            start: index in the first dimension of the parameter.
        """
        if parameter is self.touched_words:
            self.word_rows[row].add_(gradient)
            return
        column = self._columns[id(parameter)]
        first = column + start * parameter[0].numel()
        target = self.rows[row, first : first + gradient.numel()]
        if (row, id(parameter)) in self._written:
            target.add_(gradient.reshape(-1))
            return
        # The first gradient of a step overwrites, so that the rows need not be cleared before.
        if gradient.numel() < parameter.numel():
            self.rows[row, column : column + parameter.numel()].zero_()
        target.copy_(gradient.reshape(-1))
        self._written.add((row, id(parameter)))

    def finish(self, ranks: Ranks) -> None:
        """Clear the parameters that got no gradient, such as the pooler for a cosine head; then add
        up the gradients of all processes, each of which has those of some rows of the batches.
        """
        self._reached.clear()
        for owned in self.flat.parameters:
            key = id(owned.parameter)
            if key not in self._columns:
                continue
            column = self._columns[key]
            for row in range(self.used):
                if (row, key) in self._written:
                    self._reached.add(self.start + column)
                else:
                    self.rows[row, column : column + owned.parameter.numel()].zero_()
        for tensor in (self.rows[: self.used], self.word_rows, self.heads):
            ranks.sum(tensor)
        # The first process has rows of every batch, so it reaches whatever another one reaches.
        self._reached = set(ranks.from_first(sorted(self._reached)))

    def reaches(self, segment: Segment) -> bool:
        """Whether the step has a gradient for a segment.

        A segment of shared weights has none if nothing reads it: the pooler, for a step of tasks
        with another pooling.
        """
        if segment.owner != SHARED or segment.is_word_table:
            return True
        return any(segment.start <= start < segment.stop for start in self._reached)

    def gramian(self) -> Tensor:
        """Inner products of the rows in use, `[K, K]` float64 on the CPU."""
        rows, words = self.rows[: self.used], self.word_rows.flatten(1)
        return _inner_products(rows, rows) + _inner_products(words, words)

    @property
    def layers(self) -> list[int]:
        """The trained shared layers, from the lowest; the word table belongs to layer 0."""
        shared = {segment.layer for segment in self.flat.segments if segment.owner == SHARED}
        return sorted(layer for layer in shared if layer >= self.frozen_layers)

    def products(self, other: "Gradients") -> Tensor:
        """Inner products of the rows in use with those of `other`, layer by layer.

        `other` must have the same parameters and frozen layers; it may be these gradients.

        Returns:
            `[L, K, M]` float64 on the CPU for the L layers of `layers`, the K rows of these
            gradients and the M rows of `other`. The sum over layers is the product of whole rows.
        """
        found = [
            _inner_products(self.rows[: self.used, span], other.rows[: other.used, span])
            for span in map(self._columns_of, self.layers)
        ]
        if self.trains_words:
            _, own, others = np.intersect1d(
                self.words, other.words, assume_unique=True, return_indices=True
            )
            words = self.word_rows[:, own].flatten(1)
            found[0] = found[0] + _inner_products(words, other.word_rows[:, others].flatten(1))
        return torch.stack(found)

    def _columns_of(self, layer: int) -> slice:
        """The columns of `rows` that a shared layer has."""
        segments = [
            segment
            for segment in self.flat.segments
            if (segment.owner, segment.layer, segment.is_word_table) == (SHARED, layer, False)
        ]
        start = min((segment.start for segment in segments), default=self.start)
        stop = max((segment.stop for segment in segments), default=self.start)
        return slice(start - self.start, stop - self.start)

    def squared_norm(self, owner: str) -> float:
        """The squared norm of the gradient of the head that `owner` has."""
        first = self.flat.shared_stop
        return sum(
            float(self.heads[segment.start - first : segment.stop - first].square().sum())
            for segment in self.flat.segments
            if segment.owner == owner
        )

    def combined(self, start: int, stop: int, weights: Sequence[float], factor: float) -> Tensor:
        """The combined gradient `[stop - start]` of the flat parameters `[start, stop)`.

        Args:
            start: flat index; the span must be within the word table, the other shared parameters
                or the heads.
            stop: flat index.
            weights: the balancer's weights of the rows, `[K]`; they do not apply to heads.
            factor: the factor of gradient clipping.
        """
        flat = self.flat
        if start >= flat.shared_stop:
            return self.heads[start - flat.shared_stop : stop - flat.shared_stop] * factor
        weights = [weight * factor for weight in weights]
        if stop <= flat.table_stop:
            return self._combined_words(start, stop, weights)
        return self._weighted_sum(self.rows[:, start - self.start : stop - self.start], weights)

    def _combined_words(self, start: int, stop: int, weights: Sequence[float]) -> Tensor:
        """`combined` for whole vectors of the word table."""
        width = self.flat.width
        first, last = start // width, stop // width
        dense = torch.zeros(last - first, width, device=self.rows.device)
        low, high = np.searchsorted(self.words, [first, last])
        if high > low:
            indices = to_device(torch.from_numpy(self.words[low:high] - first), dense.device)
            dense.index_copy_(0, indices, self._weighted_sum(self.word_rows[:, low:high], weights))
        return dense.flatten()

    def _weighted_sum(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        """The weighted sum over the first dimension of `rows [K, ...]`."""
        combined = rows[0] * weights[0]
        for row in range(1, self.used):
            combined.add_(rows[row], alpha=weights[row])
        return combined


def _inner_products(rows: Tensor, others: Tensor) -> Tensor:
    """The inner products of the rows of `[K, S]` and `[L, S]`, as `[K, L]` float64 on the CPU.

    One float32 product over millions of columns is wrong in the fourth digit and takes three times
    as long as the sum over blocks.
    """
    whole = rows.shape[1] // BLOCK * BLOCK
    blocks, other_blocks = (
        each[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1) for each in (rows, others)
    )
    products = torch.bmm(blocks, other_blocks.transpose(1, 2)).cpu().double().sum(0)
    return products + (rows[:, whole:] @ others[:, whole:].T).cpu().double()
