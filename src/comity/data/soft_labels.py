"""Soft labels: what models predict for training rows that they have not seen, without the texts.

One safetensors file for each task and seed, written by `comity baseline --folds`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from comity.errors import ComityError
from comity.targets import Target

FORMAT = 1
"""Version of the file. Files of another one are refused."""

_ARRAYS = ("rows", "keys", "folds", "values", "logits")


@dataclass(frozen=True)
class SoftLabels:
    """Out-of-fold predictions for the n training rows of one task.

    The task was trained `count` times, each time without one fold of its rows. The prediction for
    a row is that of the model that was trained without the row's fold, so that no model labels a
    row or a text that it was trained on.

    A row is found again by its index in the file, if the file is the same one (`file`), or by the
    hashes of its texts.
    """

    task: str
    kind: str
    """What the task predicts: "classification", "multi-label", "regression" or "similarity"."""

    classes: tuple[str, ...]
    """The names of the C classes or labels, in the order of the columns of `values` and `logits`.
    Empty for regression and similarity."""

    rows: NDArray[np.int64]
    """`[n]`: the index of each row in the training file, counted from 0 without the header."""

    keys: NDArray[np.uint64]
    """`[n, texts]`: a hash of each text, equal for texts that differ in case and white space only
    (`comity.data.token_cache.text_key`)."""

    folds: NDArray[np.int32]
    """`[n]`: the fold of each row, from 1 to `count`."""

    values: NDArray[np.float64]
    """The predictions. Classification: `[n, C]`, probabilities that sum to 1. Multi-label:
    `[n, C]`, one probability for each label. Similarity: `[n]`, scores from 0 to 1, the ends of the
    scale. Regression: `[n]`, numbers in the unit of the label."""

    logits: NDArray[np.float64] | None
    """`[n, C]`: the logits of `values`, for a temperature. Classification: their softmax gives the
    probabilities (the first of two classes has the logit 0). Multi-label: their logistic function
    does. None for regression and similarity."""

    count: int
    """The number of folds."""

    seed: int
    """The seed of the training runs."""

    file: str
    """SHA-256 of the training file."""

    weights: tuple[dict[str, str], ...]
    """For each fold, the SHA-256 of each weight file of the model that has not seen it."""

    recipe: dict[str, Any]
    """The recipe of the training runs."""

    digests: dict[str, str]
    """The digests of encoder, tokenizer and files, as `comity.runs.facts.RunInputs.digests`."""

    drop_leaks: bool
    """Whether training rows that are also in a dev set were left out."""


def write_soft_labels(path: Path, labels: SoftLabels) -> None:
    """Write soft labels to a file; a crash leaves the old file.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {name: getattr(labels, name) for name in _ARRAYS}
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None}
    facts = {f.name: getattr(labels, f.name) for f in fields(labels) if f.name not in _ARRAYS}
    about = {"format": FORMAT, "sha256": _digest(arrays, facts), **facts}
    data = save(arrays, metadata={"comity": json.dumps(about)})
    temporary = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    temporary.replace(path)


def read_soft_labels(path: str | Path) -> SoftLabels:
    """Read soft labels that `comity baseline --folds` wrote.

    Raises:
        ComityError: there is no such file, it holds something else, was written by another version
            of comity, or has changed since it was written.

    Example:
        labels = read_soft_labels("runs/baseline/teachers/mood-seed0.safetensors")
        dict(zip(labels.classes, labels.values[0]))  # the first row's probabilities by class
    """
    path = Path(path)
    if not path.is_file():
        raise ComityError(f"{path}: there is no such file; name one of comity baseline --folds")
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = json.loads((file.metadata() or {})["comity"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known, digest = about.pop("format"), about.pop("sha256")
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError,
            RecursionError):  # fmt: skip
        raise _damaged(path) from None
    if known != FORMAT:
        raise ComityError(
            f"{path}: was written by another version of comity; delete it and repeat comity "
            "baseline --folds"
        )
    if digest != _digest(arrays, about):
        raise ComityError(
            f"{path}: has changed since it was written; restore it, or delete it and repeat comity "
            "baseline --folds"
        )
    if not _is_valid(about, arrays):
        raise _damaged(path)
    lists = {"classes": tuple(about["classes"]), "weights": tuple(about["weights"])}
    return SoftLabels(**{"logits": None, **about, **arrays, **lists})


def _damaged(path: Path) -> ComityError:
    return ComityError(
        f"{path}: does not hold soft labels, or is damaged; name a file of comity baseline "
        "--folds, or repeat that command"
    )


def _is_valid(about: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> bool:
    """Whether the facts have their types, and the arrays types and shapes that fit together."""
    kinds = {
        "task": str, "kind": str, "classes": list, "count": int, "seed": int, "file": str,
        "weights": list, "recipe": dict, "digests": dict, "drop_leaks": bool,
    }  # fmt: skip
    if {name: type(value) for name, value in about.items()} != kinds:
        return False
    if not {*_ARRAYS} - {"logits"} <= {*arrays} <= {*_ARRAYS}:
        return False
    n, classes = len(arrays["rows"].ravel()), len(about["classes"])
    shape = (n, classes) if classes else (n,)
    expected = {
        "rows": (np.int64, (n,)),
        "keys": (np.uint64, (n, *(arrays["keys"].shape[1:2] or (0,)))),
        "folds": (np.int32, (n,)),
        "values": (np.float64, shape),
        "logits": (np.float64, (n, classes)),
    }
    return all(
        (array.dtype, array.shape) == expected[name] for name, array in arrays.items()
    ) and bool(np.isfinite(arrays["values"]).all())


def soft_values(target: Target, outputs: NDArray) -> tuple[NDArray, NDArray | None]:
    """`SoftLabels.values` and `SoftLabels.logits` of a head's outputs `[n, outputs]`."""
    if target.kind == "similarity":
        return target.normalise(target.predictions(outputs)), None
    if target.kind == "regression":
        return target.predictions(outputs), None
    logits = None if target.text_head else outputs  # the logits of two heads are not mixed
    if target.kind == "classification" and target.outputs == 1:
        logits = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    values = target.probabilities(outputs)
    assert values is not None
    return values, logits


def _digest(arrays: Mapping[str, NDArray], facts: Mapping[str, Any]) -> str:
    """The SHA-256 of everything in a file."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
