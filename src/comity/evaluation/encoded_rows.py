"""Rows that are encoded once, without dropout, because the weights of the encoder do not change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity.data.packing import PackedRows, Template
from comity.data.splits import Split
from comity.evaluation.evaluate import by_length
from comity.hardware import to_device
from comity.model.multitask import Encoded, MultiTaskModel

Progress = Callable[[int], None]
"""Receives how many rows are done, after each pass of the encoder."""


@torch.inference_mode()
def encode_rows(
    split: Split,
    rows: NDArray[np.integer],
    views: tuple[str, ...],
    template: Template,
    max_length: int,
    encode: Callable[[list[PackedRows]], Sequence[Tensor]],
    progress: Progress = lambda done: None,
) -> list[NDArray[np.float32]]:
    """Encode rows of a split in batches of similar length.

    Args:
        split: the split.
        rows: the indices `[n]` of the rows in it.
        views: "first", "second" or "pair", each encoded as one sequence.
        template: the special tokens of the encoder's input.
        max_length: tokens of a sequence at most.
        encode: one or more vectors `[b, W]` for the packed views of b rows.
        progress: receives the number of rows that are done.

    Returns:
        `[n, W]` for each of the vectors.
    """
    found: list[NDArray[np.float32]] = []
    done = 0
    for positions in by_length(split.lengths(views, max_length)[rows]):
        vectors = encode(split.pack(rows[positions], views, template, max_length))
        if not found:
            found = [np.empty((len(rows), v.shape[1]), dtype=np.float32) for v in vectors]
        for whole, vector in zip(found, vectors, strict=True):
            whole[positions] = vector.float().cpu().numpy()
        done += len(positions)
        progress(done)
    return found


@dataclass(frozen=True)
class EncodedRows:
    """What the heads and objectives of a task read of some rows of a split."""

    rows: NDArray[np.integer]  # [n], their indices in the split, sorted
    vectors: list[NDArray[np.float32]]  # [n, W] each: those of the heads, then other texts
    views: int  # how many of the vectors the heads read
    first_text: int  # index of the first text's vector, if the texts are encoded separately

    @classmethod
    def of_task(
        cls,
        model: MultiTaskModel,
        task: str,
        split: Split,
        rows: NDArray[np.integer],
        views: tuple[str, ...],
        template: Template,
        max_length: int,
        progress: Progress = lambda done: None,
    ) -> "EncodedRows":
        """Encode what a task reads; arguments as in `encode_rows`.

        `views` are those of the heads, and in training the texts that only objectives read.
        """
        spec = model.tasks[task]

        def encode(packed: list[PackedRows]) -> list[Tensor]:
            (encoded,) = model.encode([model.evaluated(task, packed)])
            texts_of_heads = spec.apart or spec.both
            return encoded.views if texts_of_heads else [*encoded.views, *encoded.texts]

        vectors = encode_rows(split, rows, views, template, max_length, encode, progress)
        return cls(rows, vectors, len(spec.views), 0 if spec.apart else 1)

    def take(self, indices: NDArray[np.integer], device: torch.device) -> Encoded:
        """The vectors of the rows with these indices in the split."""
        positions = np.searchsorted(self.rows, indices)
        found = [to_device(torch.from_numpy(each[positions]), device) for each in self.vectors]
        return Encoded(found[: self.views], found[self.first_text :])
