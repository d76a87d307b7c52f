"""Packs rows of token ids into sequences with special tokens and segment ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.data.batches import Integers
from comity.errors import ComityError


@dataclass(frozen=True)
class TextColumn:
    """The token ids of one text column, without special tokens.

    Row i is `ids[offsets[i] : offsets[i + 1]]`. `ids: [T]` uint16 or int32, all rows in one flat
    array; `offsets: [n + 1]` int64.
    """

    ids: NDArray
    offsets: Integers


@dataclass(frozen=True)
class Template:
    """The special tokens of an encoder's input: [CLS] a [SEP] or [CLS] a [SEP] b [SEP].

    The second text and its [SEP] have segment 1, unless the encoder has one segment type only.
    """

    cls_id: int
    sep_id: int
    segment_types: int = 2


@dataclass(frozen=True)
class PackedRows:
    """B sequences one after another, without padding.

    Sequence i is `ids[offsets[i] : offsets[i + 1]]`. `ids, segments: [N]`, `offsets: [B + 1]`, all
    int64; `longest`: tokens of the longest sequence.
    """

    ids: Integers
    segments: Integers
    offsets: Integers
    longest: int


def pack(
    texts: Sequence[TextColumn], rows: ArrayLike, template: Template, max_length: int
) -> PackedRows:
    """The sequences of `rows: [B]`, of one text column or two, each at most `max_length` tokens.

    A pair that is too long loses tokens from its longer text until both are equally long, then
    from both alternately, as with `longest_first` in the `tokenizers` library. Raises `ComityError`
    if `max_length` is too small for any token of each text.
    """
    rows = np.asarray(rows, dtype=np.int64)
    starts = [text.offsets[rows] for text in texts]
    full = [text.offsets[rows + 1] - start for text, start in zip(texts, starts, strict=True)]
    kept = _kept(full, max_length)
    offsets = np.concatenate([[0], np.cumsum(_with_special(kept))])
    ids = np.empty(offsets[-1], dtype=np.int64)
    ids[offsets[:-1]] = template.cls_id
    position = offsets[:-1] + 1  # of the next token of each sequence
    for text, start, length in zip(texts, starts, kept, strict=True):
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        ids[np.repeat(position, length) + within] = text.ids[np.repeat(start, length) + within]
        position = position + length
        ids[position] = template.sep_id
        position += 1
    segments = np.zeros_like(ids)
    if len(texts) == 2 and template.segment_types > 1:
        lengths = np.stack([kept[0] + 2, kept[1] + 1], axis=1).ravel()
        segments = np.repeat(np.tile([0, 1], len(rows)), lengths)
    return PackedRows(ids, segments, offsets, int(np.diff(offsets).max(initial=0)))


def packed_lengths(texts: Sequence[TextColumn], max_length: int) -> Integers:
    """Tokens `[n]` of each row's sequence, including special tokens."""
    return _with_special(_kept(_lengths(texts), max_length))


def truncated(texts: Sequence[TextColumn], max_length: int) -> NDArray[np.bool_]:
    """Which rows `[n]` lose tokens to `max_length`."""
    full = _lengths(texts)
    return _with_special(full) > _with_special(_kept(full, max_length))


def _lengths(texts: Sequence[TextColumn]) -> list[Integers]:
    return [np.diff(text.offsets).astype(np.int32) for text in texts]


def _with_special(lengths: Sequence[Integers]) -> Integers:
    """Tokens `[B]` of the sequences: [CLS], and each text with its [SEP]."""
    return sum(lengths[1:], lengths[0]) + 1 + len(lengths)


def _kept(lengths: Sequence[Integers], max_length: int) -> list[Integers]:
    """How many tokens each text keeps: an array `[B]` for each text column, as in `lengths`."""
    if len(lengths) not in (1, 2):
        raise ValueError(f"a sequence holds one text or two, not {len(lengths)}")
    least = 1 + 2 * len(lengths)
    if max_length < least:
        what = "a pair of texts" if len(lengths) == 2 else "a text"
        raise ComityError(
            f"max_length {max_length} is too small: {what} with its special tokens needs {least}; "
            "raise it"
        )
    limit = max_length - 1 - len(lengths)
    if len(lengths) == 1:
        return [np.minimum(lengths[0], limit)]
    first, second = lengths
    # If both are cut and the limit is odd, the longer text keeps one token more; the second of two
    # equally long ones.
    half = np.where(first > second, np.int32(limit - limit // 2), np.int32(limit // 2))
    first = np.minimum(first, np.maximum(limit - second, half))
    return [first, np.minimum(second, limit - first)]
