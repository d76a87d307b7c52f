"""What a task predicts: from labels as files spell them to numbers, and from outputs back."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


def spelling(label: str) -> str:
    """A numeric label in one spelling, so that `0`, `0.0` and `00` are one class.

    >>> [spelling(label) for label in ("1.0", "01", "-5", "2.50", "-0")]
    ['1', '1', '-5', '2.5', '0']
    """
    number = Decimal(label.strip())
    plain = format(number, "f").lstrip("+")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    digits = digits.lstrip("0") or "0"
    digits = f"0{digits}" if digits.startswith(".") else digits
    return digits if digits == "0" else sign + digits


def is_number(label: str) -> bool:
    """Whether a label is a plain decimal number (no exponent, no inf, no nan)."""
    return _NUMBER.fullmatch(label.strip()) is not None


@dataclass(frozen=True)
class Classes:
    """The classes of a task in the order of its outputs; of two, the last is the positive one.

    Numeric labels compare and sort by value, others by name. A label set of true and false is
    matched whatever its case, and spelled as training spells it.
    """

    names: tuple[str, ...]

    @classmethod
    def found(cls, labels: Sequence[str]) -> "Classes":
        """The classes of a training file, from the distinct labels that stand in it.

        >>> Classes.found(["10", "2.0", "2"]).names, Classes.found(["b", "a"]).names
        (('2', '10'), ('a', 'b'))
        """
        stripped = [label.strip() for label in labels]
        if all(is_number(label) for label in stripped):
            return cls(tuple(sorted({spelling(label) for label in stripped}, key=Decimal)))
        if all(label.casefold() in ("true", "false") for label in stripped):
            first = {label.casefold(): label for label in reversed(stripped)}
            return cls(tuple(first[word] for word in sorted(first)))
        return cls(tuple(sorted(set(stripped))))

    def index(self, label: str) -> int | None:
        """The place of a label as a file spells it, or None for an unknown one."""
        return self._places().get(self._key(label.strip()))

    def _places(self) -> dict[str, int]:
        return {self._key(name): place for place, name in enumerate(self.names)}

    def indices(self, labels: Sequence[str]) -> list[int | None]:
        """`index` of many labels."""
        places = self._places()
        return [places.get(self._key(label.strip())) for label in labels]

    def _key(self, label: str) -> str:
        if is_number(label) and all(is_number(name) for name in self.names):
            return spelling(label)
        if all(name.casefold() in ("true", "false") for name in self.names):
            return label.casefold()
        return label


@dataclass(frozen=True)
class Target:
    """What one task predicts and with which head; fixed by the training file, kept in the run."""

    kind: str
    head: str
    classes: tuple[str, ...] = ()
    scale: tuple[float, float] = (0.0, 1.0)  # similarity: the ends of the scale
    mean: float = 0.0  # regression: of the training targets
    deviation: float = 1.0
    rounding: str = "nearest"  # bins; or "down", to the whole number below

    @property
    def outputs(self) -> int:
        """How many numbers the head gives for one row."""
        if self.head == "linear":
            binary = self.kind == "classification" and len(self.classes) == 2
            return 1 if binary else len(self.classes)
        return len(self.levels) if self.head == "bins" else 1

    @property
    def levels(self) -> np.ndarray:
        """The whole numbers of the scale, one per output of the `bins` head."""
        return np.arange(int(self.scale[0]), int(self.scale[1]) + 1)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Scores as the head is trained on them: 0 to 1 on the scale, or standardised."""
        if self.kind == "similarity":
            return (values - self.scale[0]) / (self.scale[1] - self.scale[0])
        return (values - self.mean) / self.deviation

    def trained_on(self, values: np.ndarray) -> np.ndarray:
        """What the head's loss compares with: classes, indicators, levels or normalised scores.

        The `bins` head is trained on the score rounded to a whole number, halves up (or down to
        the next, where `rounding` says so).
        """
        if self.head == "linear":
            return values.astype(np.int64)  # as torch's losses want them
        if self.head == "bins":
            half = 0.5 if self.rounding == "nearest" else 0.0
            return np.floor(values + half).astype(np.int64) - int(self.scale[0])
        return self.normalise(values).astype(np.float32)

    def closeness(self, values: np.ndarray) -> np.ndarray:
        """How alike the two texts of a row are, from 0 to 1: the score, or the positive class."""
        return self.normalise(values) if self.kind == "similarity" else values.astype(np.float64)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """The reverse of `normalise`."""
        if self.kind == "similarity":
            return values * (self.scale[1] - self.scale[0]) + self.scale[0]
        return values * self.deviation + self.mean

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Probabilities `[n, classes]` (or levels) from outputs `[n, outputs]` float64.

        Multi-label gives one probability a class, each by itself; a head that gives a number has
        none.
        """
        if self.kind == "multi-label":
            return _sigmoid(outputs)
        if self.outputs == 1:
            if self.kind != "classification":
                return None
            positive = _sigmoid(outputs)
            return np.concatenate([1 - positive, positive], axis=1)
        exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Class indices `[n]`, indicators `[n, classes]`, or scores `[n]` in the target's unit."""
        probabilities = self.probabilities(outputs)
        if self.kind == "multi-label":
            return (outputs > 0).astype(np.int64)
        if self.kind == "classification":
            if self.outputs == 1:
                return (outputs[:, 0] > 0).astype(np.int64)
            return outputs.argmax(axis=1)
        if self.head == "bins":
            assert probabilities is not None
            return probabilities @ self.levels  # the expected score
        return self.restore(outputs[:, 0])

    def label(self, prediction: Any) -> Any:
        """One prediction as a user reads it: a class name, a list of names, or a number."""
        if self.kind == "classification":
            return self.classes[int(prediction)]
        if self.kind == "multi-label":
            return [name for name, on in zip(self.classes, prediction, strict=True) if on]
        return float(prediction)

    def to_dict(self) -> dict[str, Any]:
        """For the run's JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Target":
        """From the run's JSON."""
        lists = {key: tuple(values[key]) for key in ("classes", "scale")}
        return cls(**{**values, **lists})


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow at either end."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)


@dataclass(frozen=True)
class HeadSpec:
    """What the model knows of one task: what it predicts, and how its head is built."""

    target: Target
    views: tuple[str, ...]  # that the head reads: "first", "second" or "pair"
    pooling: str = "mean"  # of texts that are read apart: "mean", "cls" or "pooler"
    dropout: float = 0.1  # of the head
    interaction: bool = False
    layers: int = 0  # dense layers of the head before its output
    add_norm: bool = False
    embeds: bool = False  # whether training shapes the embedding of a text alone

    @property
    def apart(self) -> bool:
        """Whether the head reads two texts apart, as embeddings."""
        return self.interaction or self.target.head == "cosine"

    @property
    def head_pooling(self) -> str:
        """How the sequences that the head reads become vectors; one sequence by the pooler."""
        return self.pooling if self.apart else "pooler"

    def to_dict(self) -> dict[str, Any]:
        """For the run's JSON."""
        return {**asdict(self), "target": self.target.to_dict(), "views": list(self.views)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadSpec":
        """From the run's JSON, which holds other facts beside."""
        own = {key: values[key] for key in cls.__dataclass_fields__}
        target = Target.from_dict(values["target"])
        return cls(**{**own, "target": target, "views": tuple(values["views"])})
