"""Pooling: how the hidden states of a sequence become the one vector that a head reads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comity.errors import ComityError
from comity.files import is_file, is_inside
from comity.model.checkpoint_files import read_json, read_json_object

WIDTHS = {"pooler": 1, "cls": 1, "mean": 1, "cls+mean": 2}
"""Each pooling, with the size of its vector in multiples of the hidden size."""

MODULES, FOLDER, CONFIG = "modules.json", "1_Pooling", "config.json"
"""The files of a sentence-transformers model that declare its pooling."""

_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}


def width_of(pooling: str, width: int) -> int:
    """The size of a pooled vector, for hidden states of size `width`."""
    return WIDTHS[pooling] * width


def pool_tokens(hidden: Tensor, offsets: Tensor, pooling: str) -> Tensor:
    """The vectors `[B, H]` ("mean") or `[B, 2 H]` ("cls+mean") of packed sequences, float32.

    `hidden [N, H]` are the states of all tokens, `offsets [B + 1]` the starts of the sequences.
    """
    mean = mean_pool(hidden, offsets)
    if pooling == "mean":
        return mean
    first = offsets[:-1].clamp(max=len(hidden) - 1)  # nothing reads an empty sequence
    return torch.cat([hidden.index_select(0, first).float(), mean], dim=1)


def mean_pool(hidden: Tensor, offsets: Tensor) -> Tensor:
    """The mean hidden state `[B, H]` float32 of each packed sequence, including [CLS] and [SEP].

    `hidden [N, H]` are the states of all tokens, `offsets [B + 1]` the starts of the sequences. An
    empty sequence has the mean 0.
    """
    lengths = offsets.diff()
    sequences = torch.arange(len(lengths), device=hidden.device)
    sequences = sequences.repeat_interleave(lengths, output_size=len(hidden))
    sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device)
    if hidden.is_cuda:  # where index_add adds in an order that changes from call to call
        sums = sums.index_put((sequences,), hidden.float(), accumulate=True)
    else:
        sums = sums.index_add(0, sequences, hidden.float())
    return sums / lengths.clamp(min=1)[:, None]


def declared_pooling(folder: Path) -> tuple[str | None, str | None]:
    """The pooling that a sentence-transformers folder declares, and a note for the user.

    None for a folder without such a declaration. A pooling that is not implemented, such as the
    maximum, gives the mean and a note.

    Raises:
        ComityError: a file is damaged.
    """
    if not (folder / MODULES).is_file():
        return None, None
    for module in read_json(folder / MODULES, list):
        if not isinstance(module, dict) or not str(module.get("type")).endswith("Pooling"):
            continue
        name = str(module.get("path"))
        if not is_inside(name):
            raise ComityError(
                f'{folder / MODULES}: the path "{name}" is not in the folder; copy the file again'
            )
        path = folder / name / CONFIG
        if not is_file(path):
            return "mean", f"{path}: is missing; heads read the mean of all tokens by default."
        modes = _modes(read_json_object(path))
        if modes and set(modes) <= set(_MODES.values()):
            return "+".join(sorted(set(modes))), None
        return "mean", (
            f"{path}: the pooling {' and '.join(modes) or 'of this file'} is not implemented; "
            "heads read the mean of all tokens by default."
        )
    return None, None


def _modes(config: dict[str, Any]) -> list[str]:
    """The modes that a pooling module concatenates: one flag each, or a list in newer files."""
    named = config.get("pooling_mode", [])
    modes = list(named) if isinstance(named, list) else [named]
    flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    return [*map(str, modes), *(_MODES.get(flag, flag) for flag in flags)]


def declaration(pooling: str, width: int) -> dict[str, Any]:
    """JSON files, by path, in which `declared_pooling` and sentence-transformers find a pooling."""
    package = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
        {"idx": 1, "name": "1", "path": FOLDER, "type": f"{package}.Pooling"},
    ]
    flags = {flag: mode in pooling.split("+") for flag, mode in _MODES.items()}
    return {
        MODULES: modules,
        f"{FOLDER}/{CONFIG}": {"word_embedding_dimension": width, **flags},
    }
