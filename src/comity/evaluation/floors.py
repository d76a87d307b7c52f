"""Scores that need no training, to compare trained models with.

The majority floor predicts the same for every row. The untouched encoder has only its pretrained
weights: its texts are pooled as it was trained (`Encoder.text_pooling`), and scikit-learn fits a
linear model on these vectors, or their cosine is the prediction.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.packing import PackedRows
from comity.data.splits import PAIR, Split, TaskData
from comity.evaluation.encoded_rows import encode_rows
from comity.evaluation.metrics import METRICS, Score
from comity.model.checkpoint import LoadedEncoder
from comity.model.heads import CosineHead
from comity.model.multitask import MultiTaskModel, to_packed
from comity.targets import Target

COSINE_METRICS = ("pearson", "spearman")
"""The metrics of a cosine, which has no unit."""

ITERATIONS = 1000
"""Iterations of the logistic regression at most."""


@dataclass(frozen=True)
class Floor:
    """A score on dev that needs no training of the encoder, and what predicts it."""

    score: Score
    model: str  # such as "always 2" or "logistic regression"


# --- without an encoder ---------------------------------------------------------------------------


def majority_floor(data: TaskData) -> Floor:
    """The score on dev of the best constant: what is most frequent in training, or the mean.

    Classification: the most frequent class. Multi-label: the most frequent set of labels, which may
    be none. Similarity and regression: the mean score, which has no correlation. Of equally
    frequent ones the first is taken.
    """
    targets = data.train.targets
    if data.target.classes:
        different, counts = np.unique(targets, axis=0, return_counts=True)
        constant = different[counts.argmax()]
    else:
        constant = targets.mean()
    predicted = np.repeat(np.asarray(constant)[None], len(data.dev), axis=0)
    return Floor(_score(data, predicted), f"always {_named(data.target, constant)}")


def _named(target: Target, constant: NDArray) -> str:
    label = target.label(constant)
    if isinstance(label, list):
        return ", ".join(label) or "no label"
    return f"{label:.4g}" if isinstance(label, float) else label


# --- with an untouched encoder --------------------------------------------------------------------


def untouched_floor(loaded: LoadedEncoder, data: TaskData) -> Floor:
    """The score on dev of an encoder whose weights are not trained.

    Similarity: the cosine of the two texts' vectors, which learns nothing. All other tasks: a
    logistic regression on the vectors of the training rows (one for each label of a multi-label
    task), or for numbers a ridge regression, both from scikit-learn with its default settings. The
    vectors of a pair are [u; v; |u - v|; u * v].

    Args:
        loaded: the encoder as loaded from its checkpoint.
        data: the task, with token ids.
    """
    metric = data.task.metric_name
    if data.target.kind == "similarity" and metric in COSINE_METRICS:
        return Floor(untouched_cosine(loaded, data.dev, data.max_length)[metric], "cosine")
    views = tuple(PAIR[column] for column in data.read_columns)
    train, dev = (
        _features(text_vectors(loaded, split, views, data.max_length))
        for split in (data.train, data.dev)
    )
    predicted, model = _fitted(data.target.kind, train, data.train.targets, dev)
    return Floor(_score(data, predicted), model)


def text_vectors(
    loaded: LoadedEncoder, split: Split, views: tuple[str, ...], max_length: int
) -> list[NDArray[np.float32]]:
    """The vectors `[n, W]` of the rows of a split, for each view.

    W is the hidden size, or twice that for an encoder that is pooled by "cls+mean". A view is
    "first" or "second": a text that is encoded alone, without dropout.
    """
    model, pooling = MultiTaskModel(loaded.encoder, {}), loaded.encoder.text_pooling
    device = loaded.encoder.word_embeddings.device

    def encode(packed: list[PackedRows]) -> Sequence[Tensor]:
        return model.embed(to_packed(packed, device), pooling).chunk(len(views))

    rows = np.arange(len(split))
    return encode_rows(split, rows, views, loaded.template, max_length, encode)


def _features(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """What a linear model reads: `[n, W]` for one view, `[n, 4 W]` for two."""
    if len(vectors) == 1:
        return vectors[0]
    u, v = vectors
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


def _fitted(kind: str, train: NDArray, targets: NDArray, dev: NDArray) -> tuple[NDArray, str]:
    """Predictions for the vectors `dev [m, F]` of a model that is fitted on `train [n, F]`."""
    if kind == "classification":
        return _logistic(train, targets, dev), "logistic regression"
    if kind == "multi-label":
        columns = [_logistic(train, column, dev) for column in targets.T]
        return np.stack(columns, axis=1), "logistic regression for each label"
    from sklearn.linear_model import Ridge

    return Ridge().fit(train, targets).predict(dev), "ridge regression"


def _logistic(train: NDArray, targets: NDArray, dev: NDArray) -> NDArray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if (targets == targets[0]).all():  # a label that every row has, or none
        return np.full(len(dev), targets[0])
    with warnings.catch_warnings():
        # The last digits of its weights do not matter here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=ITERATIONS).fit(train, targets).predict(dev)


def _score(data: TaskData, predicted: NDArray) -> Score:
    return METRICS[data.task.metric_name](data.dev.targets, predicted)


def untouched_cosine(loaded: LoadedEncoder, pairs: Split, max_length: int) -> dict[str, Score]:
    """Pearson and Spearman of the cosine of two texts' embeddings, before any training.

    A similarity task whose trained head scores lower gains nothing from its training. The texts are
    pooled as the encoder was trained (`Encoder.text_pooling`); only its weights are used, no head.

    Args:
        loaded: the encoder as loaded from its checkpoint.
        pairs: rows of two texts with gold scores.
        max_length: tokens of a text at most, including [CLS] and [SEP].
    """
    u, v = map(torch.from_numpy, text_vectors(loaded, pairs, PAIR, max_length))
    cosines = CosineHead()([u, v], None)[:, 0].numpy()
    return {name: METRICS[name](pairs.targets, cosines) for name in COSINE_METRICS}
