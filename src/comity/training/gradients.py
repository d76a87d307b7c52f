"""Task gradients: one row for each task over the shared parameters, one slice for each head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from comity.model.parameters import SHARED, FlatParameters

PIECE = 4096
"""Numbers that an inner product adds up in float32."""


@dataclass
class Gradients:
    """The gradients of one step: a row per task over the trained shared numbers, and the heads.

    The word table's part of a row is compact: `words [U]` names the table rows that the step's
    batches touch, `word_rows [K, U, H]` holds their gradients. Heads have one slice each and stand
    outside the rows, so a head's gradient never enters the Gramian.
    """

    flat: FlatParameters
    count: int  # K, the most rows that a step needs
    frozen_layers: int = 0
    rows: Tensor = field(init=False)  # [K, S]
    heads: Tensor = field(init=False)  # [P - shared]
    words: np.ndarray = field(init=False)  # [U] int64, sorted
    word_rows: Tensor = field(init=False)  # [K, U, H]
    used: int = field(init=False)  # the rows that this step fills, from the first
    leaf: Tensor = field(init=False)  # [U, H] float32, the table rows that the step touches

    def __post_init__(self) -> None:
        flat = self.flat
        device = flat.masters.device
        self.start = flat.trained_from(self.frozen_layers)
        self.rows = torch.zeros(self.count, flat.shared_stop - self.start, device=device)
        self.heads = torch.zeros(len(flat.masters) - flat.shared_stop, device=device)
        self.used = self.count
        self.words = np.empty(0, dtype=np.int64)
        self.word_rows = torch.zeros(self.count, 0, flat.width, device=device)
        self.leaf = torch.empty(0, flat.width, device=device)
        self._written: set[tuple[int, int]] = set()
        self._places: dict[int, int] = {}  # where a shared parameter stands in a row
        for piece in flat.pieces:
            trains = piece.owner != SHARED or piece.layer >= self.frozen_layers
            # The table itself is never a leaf: a step gathers the rows that it touches.
            piece.parameter.requires_grad_(trains and not piece.is_word_table)
            piece.parameter.grad = None
            if piece.owner == SHARED and piece.parameter.requires_grad:
                self._places[id(piece.parameter)] = flat.starts[piece.name] - self.start
            elif piece.owner != SHARED:
                piece.parameter.grad_dtype = torch.float32

    @property
    def trains_words(self) -> bool:
        """Whether the word table is trained."""
        return self.frozen_layers == 0 and self.flat.table_stop > 0

    def _head_views(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for piece in self.flat.pieces:
            if piece.owner != SHARED:
                start = self.flat.starts[piece.name] - self.flat.shared_stop
                shape = piece.parameter.shape
                yield piece.parameter, self.heads[start : start + shape.numel()].view(shape)

    def begin(self, words: np.ndarray, used: int = 1) -> None:
        """Start a step that fills `used` rows and touches the table rows `words` (sorted)."""
        self.used = used
        self.words = words if self.trains_words else words[:0]
        self.word_rows = torch.zeros(
            used, len(self.words), self.flat.width, device=self.rows.device
        )
        places = torch.from_numpy(words).to(self.rows.device)
        self.leaf = self.flat.table[places].requires_grad_(self.trains_words)
        self._written.clear()
        self.heads.zero_()
        for parameter, gradient in self._head_views():
            parameter.grad = gradient

    def add(self, row: int, parameter: Tensor, gradient: Tensor, first: int = 0) -> None:
        """Add a gradient to a row: of a whole parameter, or of its rows from `first` on.

        The first gradient of a step is copied, not added, so that nothing need be cleared.
        """
        if parameter is self.leaf:
            self.word_rows[row].add_(gradient)
            return
        width = parameter[0].numel()
        start = self._places[id(parameter)]
        place = self.rows[row, start + first * width : start + first * width + gradient.numel()]
        if (row, id(parameter)) in self._written:
            place.add_(gradient.reshape(-1))
            return
        if gradient.numel() < parameter.numel():
            self.rows[row, start : start + parameter.numel()].zero_()
        place.copy_(gradient.reshape(-1))
        self._written.add((row, id(parameter)))

    def finish(self) -> None:
        """Clear what this step's passes did not reach, such as the pooler of a cosine head."""
        for piece in self.flat.pieces:
            key = id(piece.parameter)
            if key not in self._places:
                continue
            for row in range(self.used):
                if (row, key) not in self._written:
                    start = self._places[key]
                    self.rows[row, start : start + piece.parameter.numel()].zero_()

    def gramian(self) -> Tensor:
        """Inner products of the rows in use, `[K, K]` float64 on the CPU."""
        return _inner_products(self.rows[: self.used]) + _inner_products(self.word_rows.flatten(1))

    def squared_norm(self, owner: str) -> float:
        """The squared norm of a head's gradient (the head of the task `owner`)."""
        first = self.flat.shared_stop
        parts = [s for s in self.flat.segments if s.owner == owner]
        return sum(
            float(self.heads[s.start - first : s.stop - first].square().sum()) for s in parts
        )

    def combined(self, start: int, stop: int, weights: Sequence[float], factor: float) -> Tensor:
        """The gradient of the flat numbers `[start, stop)`: rows weighted and summed.

        `weights [K]` are the balancer's, `factor` is the clipping's; a head's numbers stand
        outside the rows and take the factor alone.
        """
        flat = self.flat
        if start >= flat.shared_stop:
            return self.heads[start - flat.shared_stop : stop - flat.shared_stop] * factor
        weights = [weight * factor for weight in weights]
        if stop <= flat.table_stop:
            return self._combined_words(start, stop, weights)
        return self._weigh(self.rows[:, start - self.start : stop - self.start], weights)

    def _weigh(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        combined = rows[0] * weights[0]
        for row in range(1, self.used):
            combined.add_(rows[row], alpha=weights[row])
        return combined

    def _combined_words(self, start: int, stop: int, weights: Sequence[float]) -> Tensor:
        width = self.flat.width
        dense = torch.zeros((stop - start) // width, width, device=self.rows.device)
        low, high = np.searchsorted(self.words, [start // width, stop // width])
        if high > low:
            places = torch.from_numpy(self.words[low:high] - start // width).to(dense.device)
            dense.index_copy_(0, places, self._weigh(self.word_rows[:, low:high], weights))
        return dense.flatten()


def _inner_products(rows: Tensor) -> Tensor:
    """All pairs of rows of `[K, S]`, as `[K, K]` float64 on the CPU.

    Part by part, the parts added up in float64: a product over millions of float32 numbers in
    one go errs in the fourth digit, and takes three times as long.
    """
    whole = rows.shape[1] // PIECE * PIECE
    pieces = rows[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1)
    products = torch.bmm(pieces, pieces.transpose(1, 2)).cpu().double().sum(0)
    rest = rows[:, whole:]
    return products + (rest @ rest.T).cpu().double()
