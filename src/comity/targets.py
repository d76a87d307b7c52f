"""Targets: labels as files spell them, as numbers, and predictions from outputs."""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np

ROUNDING = 1e-5
"""The share of a scale by which a score may be outside of it and still count as inside."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")


def spelling(label: str) -> str:
    """The one spelling of a numeric label, so that `0`, `0.0` and `00` are one class.

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


def is_whole(label: str) -> bool:
    """Whether a label is a whole number, written without leading zeros (`3`, `3.0`, not `03`)."""
    return _WHOLE.fullmatch(label.strip()) is not None


def loose_key(label: str) -> str:
    """A key that labels share if they differ only in case, spaces or Unicode form.

    Invisible characters are ignored too, and numbers are compared by value.

    >>> loose_key("Very Good") == loose_key("very\\u00a0good"), loose_key("01"), loose_key("1.0")
    (True, '1', '1')
    """
    if label.isascii() and label.isprintable():
        key = "".join(label.lower().split())
        return spelling(key) if is_number(key) else key
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    kept = [c for c in folded if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf")]
    key = "".join(kept).replace("\u2212", "-")  # a minus sign is written as a hyphen
    return spelling(key) if is_number(key) else key


@dataclass(frozen=True)
class Classes:
    """The classes of a task in the order of its outputs; of two, the last is the positive one.

    Classes that are all whole numbers, or all true or false, match labels by value (`1` and `1.0`,
    `True` and `true`), unless two of them have the same value. All other classes match labels as
    written, except for spaces at the ends, so codes such as `01` and `345.10` stay as they are.
    With `loose`, labels match by `loose_key`.
    """

    names: tuple[str, ...]
    loose: bool = False

    @classmethod
    def found(cls, labels: Sequence[str], loose: bool = False) -> "Classes":
        """The classes of a training file, from its distinct labels.

        Of several spellings of one class the first names it; whole numbers are named `2`, not
        `2.0`. Numbers are sorted by value, other classes by name.

        >>> Classes.found(["10", "2.0", "2"]).names, Classes.found(["b", "a"]).names
        (('2', '10'), ('a', 'b'))
        >>> Classes.found(["345.10", "345.1", "01"]).names
        ('01', '345.1', '345.10')
        """
        stripped = list(dict.fromkeys(label.strip() for label in labels))
        if _all_whole(stripped):
            return cls(tuple(sorted({spelling(label) for label in stripped}, key=Decimal)), loose)
        boolean = _all_boolean(stripped)
        key = loose_key if loose else str.casefold if boolean else str
        names = {key(label): label for label in reversed(stripped)}.values()
        if all(is_number(label) for label in names):
            return cls(tuple(sorted(names, key=lambda name: (Decimal(name), name))), loose)
        return cls(tuple(sorted(names, key=str.casefold if boolean else None)), loose)

    def index(self, label: str) -> int | None:
        """The index of a label as a file spells it, or None for an unknown label."""
        return self._indices.get(self._key(label.strip()))

    def indices(self, labels: Sequence[str]) -> list[int | None]:
        """The index of each label, as `index` gives it."""
        return [self.index(label) for label in labels]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {self._key(name.strip()): index for index, name in enumerate(self.names)}

    @cached_property
    def _key(self) -> Callable[[str], str]:
        """What labels are compared by."""
        if self.loose:
            return loose_key
        for fits, key in ((_all_whole, _by_value), (_all_boolean, str.casefold)):
            if fits(self.names) and len({key(name) for name in self.names}) == len(self.names):
                return key
        return str


def _by_value(label: str) -> str:
    return spelling(label) if is_number(label) else label


def _all_whole(labels: Sequence[str]) -> bool:
    return all(is_whole(label) for label in labels)


def _all_boolean(labels: Sequence[str]) -> bool:
    return all(label.casefold() in ("true", "false") for label in labels)


@dataclass(frozen=True)
class Target:
    """What a task predicts and with which head; found in the training file, stored in the run."""

    kind: str
    head: str
    classes: tuple[str, ...] = ()
    scale: tuple[float, float] = (0.0, 1.0)  # similarity: lowest and highest score
    mean: float = 0.0  # regression: mean of the training targets
    deviation: float = 1.0  # regression: standard deviation of the training targets
    rounding: str = "nearest"  # bins: "nearest", or "down" to the whole number below
    one_vs_all: bool = False  # classes: each output is the logit of a sigmoid, not of a softmax
    temperature: float = 1.0  # what logits are divided by; fitted by `calibrate`
    threshold: float = 0.5  # two classes, multi-label: predicted above this probability
    text_head: str | None = None  # view "both": the head that reads the two texts separately
    mix: float = 0.5  # view "both": the share of `head` in a prediction

    @property
    def outputs(self) -> int:
        """Outputs for one row: with the view "both" those of `head`, then those of `text_head`."""
        if self.text_head is not None:
            return sum(part.outputs for part in self.parts)
        if self.head == "linear":
            return 1 if self._two_classes else len(self.classes)
        return len(self.levels) if self.head == "bins" else 1

    @property
    def has_threshold(self) -> bool:
        """Whether predictions compare a probability with `threshold`."""
        return self.kind == "multi-label" or self._two_classes

    @property
    def _two_classes(self) -> bool:
        return self.kind == "classification" and len(self.classes) == 2

    @property
    def parts(self) -> "tuple[Target, ...]":
        """The target of each head: this one or, with the view "both", two."""
        if self.text_head is None:
            return (self,)
        return replace(self, text_head=None), replace(self, head=self.text_head, text_head=None)

    @property
    def head_names(self) -> str:
        """The heads as a user reads them, such as "linear" or "bins + cosine"."""
        if self.text_head is None:
            return self.head
        return f"{self.head} + {'cosine' if self.text_head == 'cosine' else 'interaction'}"

    def split(self, outputs: Any) -> tuple[Any, ...]:
        """Outputs `[n, outputs]`, an array or a tensor, as those of each of the `parts`."""
        first = self.parts[0].outputs
        return (outputs,) if self.text_head is None else (outputs[:, :first], outputs[:, first:])

    def mixed(self, first: Any, second: Any) -> Any:
        """The predictions of the two heads of the view "both" as one, by `mix`."""
        return self.mix * first + (1 - self.mix) * second

    @property
    def has_levels(self) -> bool:
        """Whether the task predicts a probability for each whole number of its scale."""
        return all(part.head == "bins" for part in self.parts)

    @property
    def sigmoid(self) -> bool:
        """Whether outputs are trained as logits of sigmoids: two classes, labels, one-vs-all."""
        return self.has_threshold or self.one_vs_all

    @property
    def levels(self) -> np.ndarray:
        """The whole numbers `[levels]` of the scale, one per output of the `bins` head."""
        return np.arange(int(self.scale[0]), int(self.scale[1]) + 1)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Scores `[n]` as the head is trained on them: from 0 to 1, or standardised."""
        if self.kind == "similarity":
            return (values - self.scale[0]) / (self.scale[1] - self.scale[0])
        return (values - self.mean) / self.deviation

    def trained_on(self, values: np.ndarray) -> np.ndarray:
        """The targets of the loss of `head`: classes, indicators, levels or normalised scores.

        The `bins` head is trained on scores rounded to whole numbers, halves up, or always down
        if `rounding` is "down".
        """
        if self.head == "linear":
            return values.astype(np.int64)  # as torch's losses want them
        if self.head == "bins":
            half = 0.5 if self.rounding == "nearest" else 0.0
            return np.floor(values + half).astype(np.int64) - int(self.scale[0])
        return self.normalise(values).astype(np.float32)

    def closeness(self, values: np.ndarray) -> np.ndarray:
        """How similar the two texts of a row are, from 0 to 1: the score or the positive class."""
        return self.normalise(values) if self.kind == "similarity" else values.astype(np.float64)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalise`."""
        if self.kind == "similarity":
            return values * (self.scale[1] - self.scale[0]) + self.scale[0]
        return values * self.deviation + self.mean

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Probabilities `[n, classes]` (or levels) from outputs `[n, outputs]` float64.

        The probabilities of multi-label classes are independent. Those of a one-vs-all loss are
        the sigmoids, divided by their sum. The view "both" mixes the probabilities of its heads.
        None where a head predicts a number. Logits are divided by `temperature` first.
        """
        if self.text_head is not None:
            first, second = self._of_parts(Target.probabilities, outputs)
            return None if first is None or second is None else self.mixed(first, second)
        outputs = outputs / self.temperature
        if self.kind == "multi-label":
            return _sigmoid(outputs)
        if self.outputs == 1:
            if self.kind != "classification":
                return None
            positive = _sigmoid(outputs)
            return np.concatenate([1 - positive, positive], axis=1)
        if self.one_vs_all:  # the softmax of log sigmoids, whose sum is never 0
            outputs = -np.logaddexp(0, -outputs)
        exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Class indices `[n]`, indicators `[n, classes]`, or scores `[n]` in the label's unit.

        Scores of a similarity task are clipped to its scale (`clipped` marks them); a regression
        has no scale. Metrics use what is returned here, so they describe what users see. The view
        "both" mixes the probabilities of classes, or the scores after each is clipped.
        """
        probabilities = self.probabilities(outputs)
        if self.text_head is not None:
            if self.kind != "classification":
                return self.mixed(*self._of_parts(Target.predictions, outputs))
            assert probabilities is not None
            if self.has_threshold:
                return (probabilities[:, 1] > self.threshold).astype(np.int64)
            return probabilities.argmax(axis=1)
        if self.has_threshold:
            # The output at which the probability is the threshold; 0 for the threshold 0.5.
            least = self.temperature * math.log(self.threshold / (1 - self.threshold))
            positive = (outputs > least).astype(np.int64)
            return positive if self.kind == "multi-label" else positive[:, 0]
        if self.kind == "classification":
            return outputs.argmax(axis=1)
        if self.head == "bins":
            assert probabilities is not None
            return probabilities @ self.levels  # the expected score
        scores = self.restore(outputs[:, 0])
        return scores.clip(*self.scale) if self.kind == "similarity" else scores

    def clipped(self, outputs: np.ndarray) -> np.ndarray:
        """Which rows of `outputs [n, outputs]` have a score that `predictions` clips, `[n]` bool.

        A score beyond the scale by rounding alone, such as a cosine of 1.0000001, does not count.
        With the view "both", the scores of both heads must be beyond the same end.
        """
        if self.kind != "similarity" or any(part.head == "bins" for part in self.parts):
            return np.zeros(len(outputs), dtype=np.bool_)
        shares = outputs  # [n, heads], of the scale; see `normalise`
        below, above = shares < -ROUNDING, shares > 1 + ROUNDING
        return np.asarray(below.all(axis=1) | above.all(axis=1))

    def _of_parts(self, function: "Callable[[Target, Any], Any]", outputs: np.ndarray) -> list[Any]:
        """What a method gives for each of the `parts` and its outputs."""
        pairs = zip(self.parts, self.split(outputs), strict=True)
        return [function(part, own) for part, own in pairs]

    def label(self, prediction: Any) -> Any:
        """One prediction as the user reads it: a class name, a list of names, or a number."""
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
    """The logistic function, without overflow for large numbers."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)


@dataclass(frozen=True)
class HeadSpec:
    """A task as the model sees it: what it predicts and how its head is built.

    With `view = "both"` the task has two heads. The first reads the pair; the second, which
    `target.text_head` names, reads the two texts. `layers`, `dropout` and `add_norm` are for both.
    """

    target: Target
    views: tuple[str, ...]  # read by the heads: "first", "second" or "pair"
    pooling: str = "pooler"  # of what the head reads: "pooler", "cls", "mean" or "cls+mean"
    embedding_pooling: str = "mean"  # of texts that objectives or a second head read, as `pooling`
    dropout: float = 0.1  # in the head
    interaction: bool = False  # of a task with one head
    layers: int = 0  # dense layers before the head's output
    add_norm: bool = False
    embeds: bool = False  # whether training improves the embedding of a single text

    @property
    def apart(self) -> bool:
        """Whether the head reads the embeddings of two texts that are encoded separately."""
        return self.interaction or self.target.head == "cosine"

    @property
    def both(self) -> bool:
        """Whether one head reads the pair and a second one its two texts."""
        return self.target.text_head is not None

    @property
    def parts(self) -> "tuple[HeadSpec, ...]":
        """The spec of each head: this one or, with the view "both", two."""
        if not self.both:
            return (self,)
        pair, texts = self.target.parts
        interaction = texts.head != "cosine"
        return (
            replace(self, target=pair, views=self.views[:1]),
            replace(
                self,
                target=texts,
                views=self.views[1:],
                pooling=self.embedding_pooling,
                interaction=interaction,
            ),
        )

    @property
    def poolings(self) -> tuple[str, ...]:
        """The pooling of each of the `views`."""
        return tuple(part.pooling for part in self.parts for _ in part.views)

    @property
    def text_pooling(self) -> str:
        """How a text that is encoded alone becomes one vector."""
        return self.pooling if self.apart else self.embedding_pooling

    def to_dict(self) -> dict[str, Any]:
        """For the run's JSON."""
        return {**asdict(self), "target": self.target.to_dict(), "views": list(self.views)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadSpec":
        """From the run's JSON, which holds other facts too."""
        own = {key: values[key] for key in cls.__dataclass_fields__}
        target = Target.from_dict(values["target"])
        return cls(**{**own, "target": target, "views": tuple(values["views"])})
