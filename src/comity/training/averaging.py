"""Weight averaging: which weights a run evaluates and keeps, beside those that it trains.

An evaluation swaps the average into the flat vector and the trained weights back afterwards, by
copy and bit for bit: the modules' parameters are views of that vector (in float32), so nothing else
could be evaluated. Training never sees the average.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from comity.model.parameters import FlatParameters
from comity.recipe.schema import TrainSection

BLOCK = 1 << 18
"""Numbers that a swap copies at once, so that it needs no third vector."""


class WeightAverage:
    """No average (`average = "none"`): the trained weights are evaluated and kept."""

    vectors = 0  # float32 vectors of memory, beside the masters

    def __init__(self, flat: FlatParameters):
        self.flat = flat
        self._trained: Tensor | None = None  # the trained weights, while the average is swapped in

    def restart(self) -> None:
        """Forget all weights before the present ones, as at the start of a stage."""

    def after_update(self) -> None:
        """Take in the weights after an update; a skipped step has none."""

    def after_evaluation(self) -> None:
        """Take in the trained weights after a complete evaluation."""

    def value(self) -> Tensor | None:
        """The average `[P]`, or None to use the trained weights."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the `tensors` of a checkpoint."""

    def swap_in(self) -> None:
        """Put the average into the flat vector."""
        self._trained = self.value()
        if self._trained is not None:
            _exchange(self.flat, self._trained)

    def swap_out(self) -> None:
        """Put the trained weights back; does nothing unless the average is swapped in."""
        if self._trained is not None:
            _exchange(self.flat, self._trained)
            self._trained = None


class MovingAverage(WeightAverage):
    """The exponential moving average of the weights after each update.

    After update n, counted from 1, average = d average + (1 - d) weights with
    d = min(decay, (1 + n) / (10 + n)), as TensorFlow's `ExponentialMovingAverage` with
    `num_updates`: early on, the weights of the start soon lose their share.
    """

    vectors = 1

    def __init__(self, flat: FlatParameters, decay: float):
        super().__init__(flat)
        self.decay = decay
        self.average = flat.masters.clone()
        self.updates = 0

    def restart(self) -> None:
        """Start from the present weights."""
        self.average.copy_(self.flat.masters)
        self.updates = 0

    def after_update(self) -> None:
        """One step of the average. Weights that do not change keep their exact values in it."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.average.lerp_(self.flat.masters, 1 - decay)

    def value(self) -> Tensor:
        """The average `[P]` itself, not a copy."""
        return self.average

    def tensors(self) -> dict[str, Tensor]:
        """The average and the number of updates."""
        return {"moving": self.average, "updates": torch.tensor(self.updates)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.average.copy_(tensors["moving"])
        self.updates = int(tensors["updates"])


class MeanOfEvaluations(WeightAverage):
    """The mean of the weights at the last `count` evaluations, the present one included.

    With fewer evaluations, the mean of those. This is checkpoint averaging (Vaswani et al. 2017) as
    the running mean of stochastic weight averaging (Izmailov et al. 2018, algorithm 1).
    """

    def __init__(self, flat: FlatParameters, count: int):
        super().__init__(flat)
        self.count = count
        self.vectors = count  # those of earlier evaluations, and their mean while it is used
        self.earlier: list[Tensor] = []  # [P] each, the oldest first

    def restart(self) -> None:
        """Forget all evaluations."""
        self.earlier = []

    def after_evaluation(self) -> None:
        """Remember the trained weights for the next `count - 1` evaluations."""
        self.earlier = [*self.earlier, self.flat.masters.clone()][1 - self.count :]

    def value(self) -> Tensor | None:
        """The mean `[P]`; None where no evaluation came before."""
        if not self.earlier:
            return None
        mean = self.earlier[0].clone()
        for number, weights in enumerate([*self.earlier[1:], self.flat.masters], start=2):
            mean.lerp_(weights, 1 / number)
        return mean

    def tensors(self) -> dict[str, Tensor]:
        """The weights of earlier evaluations, by their position."""
        return {str(position): weights for position, weights in enumerate(self.earlier)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        stored = [tensors[name] for name in sorted(tensors, key=int)]
        self.earlier = [torch.empty_like(self.flat.masters).copy_(weights) for weights in stored]


def make_average(settings: TrainSection, flat: FlatParameters) -> WeightAverage:
    """The average that a recipe declares."""
    if settings.average == "ema":
        return MovingAverage(flat, settings.average_decay)
    if settings.average == "last-evaluations":
        return MeanOfEvaluations(flat, settings.average_last)
    return WeightAverage(flat)


def _exchange(flat: FlatParameters, other: Tensor) -> None:
    """Exchange the masters and another vector `[P]`, then refresh the compute buffer."""
    for start in range(0, len(other), BLOCK):
        ours, theirs = flat.masters[start : start + BLOCK], other[start : start + BLOCK]
        kept = ours.clone()
        ours.copy_(theirs)
        theirs.copy_(kept)
    flat.refresh(0, len(other))
