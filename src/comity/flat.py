"""Every parameter in one flat vector, every task's gradient a row of one matrix.

Layout: `[word table | embeddings | layer 1 | ... | pooler | head 1 | head 2 | ...]`. Within a layer
the decayed weights come first, then biases and LayerNorm. So freezing the lowest layers leaves the
trained part of the encoder one stretch, and gradient surgery, clipping, the optimizer and
checkpoints are all arithmetic on stretches of numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

PIECE = 4096
"""Numbers that an inner product adds up in float32."""

SHARED = ""  # the owner of everything that all tasks share; a task's name cannot be empty


@dataclass(frozen=True)
class Piece:
    """One parameter and where it belongs."""

    name: str
    parameter: nn.Parameter
    owner: str  # SHARED or the task that owns the head
    layer: int  # 0: embeddings, 1 to L: layers, L + 1: pooler and heads
    decays: bool
    is_word_table: bool = False


@dataclass
class Segment:
    """A stretch of the flat vector that one rule updates. `step` counts its own updates."""

    owner: str
    layer: int
    decays: bool
    is_word_table: bool
    start: int
    stop: int
    step: int = 0


class FlatParameters:
    """The masters, float32 `[P]`, and the compute buffer `[P]` that the modules' parameters view.

    Where the run computes in float32 the two are the same memory. Checkpoints, export and the
    optimizer read the masters; `refresh` brings an updated stretch into the compute buffer.
    """

    def __init__(self, pieces: Sequence[Piece], dtype: torch.dtype, device: torch.device):
        self.pieces = sorted(pieces, key=_layout_key(pieces))
        self.starts: dict[str, int] = {}
        total = sum(piece.parameter.numel() for piece in self.pieces)
        self.masters = torch.empty(total, dtype=torch.float32, device=device)
        same = dtype == torch.float32
        self.compute = self.masters if same else torch.empty(total, dtype=dtype, device=device)
        self.segments = self._lay_out()
        self.refresh(0, total)
        self.width = next((p.parameter.shape[1] for p in self.pieces if p.is_word_table), 1)
        self.table_stop = max((s.stop for s in self.segments if s.is_word_table), default=0)
        self.shared_stop = max((s.stop for s in self.segments if s.owner == SHARED), default=0)

    def _lay_out(self) -> list[Segment]:
        segments: list[Segment] = []
        start = 0
        for piece in self.pieces:
            stop = start + piece.parameter.numel()
            self.masters[start:stop] = piece.parameter.detach().flatten().to(self.masters)
            piece.parameter.data = self.compute[start:stop].view(piece.parameter.shape)
            self.starts[piece.name] = start
            rule = (piece.owner, piece.layer, piece.decays, piece.is_word_table)
            last = segments[-1] if segments else None
            if last and (last.owner, last.layer, last.decays, last.is_word_table) == rule:
                last.stop = stop
            else:
                segments.append(Segment(*rule, start, stop))
            start = stop
        return segments

    def refresh(self, start: int, stop: int) -> None:
        """Bring masters `[start, stop)` into the compute buffer."""
        if self.compute is not self.masters:
            self.compute[start:stop].copy_(self.masters[start:stop])

    @property
    def table(self) -> Tensor:
        """The word table's masters `[V, H]`."""
        return self.masters[: self.table_stop].view(-1, self.width)

    def trained_from(self, frozen_layers: int) -> int:
        """Where the trained part of the shared stretch begins, without the word table.

        Args:
            frozen_layers: how many of the layers numbered 0 (the embeddings), 1, 2, ... are frozen.
        """
        trained = [
            s.start
            for s in self.segments
            if s.owner == SHARED and s.layer >= frozen_layers and not s.is_word_table
        ]
        return min(trained, default=self.shared_stop)

    def masters_by_name(self) -> dict[str, Tensor]:
        """Each parameter's float32 master in its own shape (views, no copies)."""
        shapes = {piece.name: piece.parameter.shape for piece in self.pieces}
        return {
            name: self.masters[start : start + shapes[name].numel()].view(shapes[name])
            for name, start in self.starts.items()
        }


def _layout_key(pieces: Sequence[Piece]):
    owners = list(dict.fromkeys([SHARED, *(piece.owner for piece in pieces)]))

    def key(piece: Piece) -> tuple[int, bool, int, bool]:
        return (owners.index(piece.owner), not piece.is_word_table, piece.layer, not piece.decays)

    return key


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

    Piece by piece, the pieces added up in float64: a product over millions of float32 numbers in
    one go errs in the fourth digit, and takes three times as long.
    """
    whole = rows.shape[1] // PIECE * PIECE
    pieces = rows[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1)
    products = torch.bmm(pieces, pieces.transpose(1, 2)).cpu().double().sum(0)
    rest = rows[:, whole:]
    return products + (rest @ rest.T).cpu().double()
