"""Predictions: raw outputs of a head as labels and probabilities by name."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.predictions import probability_names
from comity.targets import Target

MOST_SHOWN = 3
"""Probabilities in the repr of a prediction."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one row.

    `label` is a class name, a list of names (multi-label) or a number in the target's unit.
    `probabilities` has one entry per class (or level of the scale); it is empty if the head
    predicts a number. `clipped` says that a similarity was beyond its scale and is now its end.
    """

    label: Any
    probabilities: dict[str, float]
    clipped: bool = False

    def __repr__(self) -> str:
        """The label and the highest probabilities, rounded."""
        if not self.probabilities:
            return f"Prediction({self.label:.6g})"
        highest = sorted(self.probabilities.items(), key=lambda item: -item[1])
        shown = [f"{name} {p:.3f}" for name, p in highest[:MOST_SHOWN]]
        more = ["..."] if len(highest) > MOST_SHOWN else []
        return f"Prediction({self.label!r}: {', '.join(shown + more)})"


def predictions(target: Target, outputs: NDArray[np.float64]) -> list[Prediction]:
    """Raw outputs `[n, outputs]` as labels and probabilities by name."""
    labels = target.predictions(outputs)
    probabilities = target.probabilities(outputs)
    clipped = target.clipped(outputs).tolist()
    names = probability_names(target)
    found = []
    for index, label in enumerate(labels):
        row = [] if probabilities is None else zip(names, probabilities[index], strict=True)
        by_name = {name: float(p) for name, p in row}
        found.append(Prediction(target.label(label), by_name, clipped[index]))
    return found
