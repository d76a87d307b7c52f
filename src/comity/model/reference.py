"""BERT's forward pass on padded sequences, operation by operation.

The reference for tests and the graph for export. It uses the parameters of a `Bert` and is written
to be compared with the paper, not for speed.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from comity.model.bert import Bert, BertLayer


def padded_forward(
    bert: Bert,
    ids: Tensor,  # [B, L] int64
    segments: Tensor,  # [B, L] int64
    mask: Tensor,  # [B, L]: 1 for a token, 0 for padding (on the right)
) -> tuple[Tensor, Tensor]:
    """Hidden states [B, L, H] of the last layer and the pooler's output [B, H], without dropout.

    Devlin et al. 2019, section 3; attention as in Vaswani et al. 2017, section 3.2. The hidden
    states of padding are meaningless.
    """
    batch, length = ids.shape
    heads = bert.heads
    size = bert.width // heads
    if bert.segment_types == 1:
        segments = torch.zeros_like(segments)

    def split_heads(values: Tensor) -> Tensor:
        return values.view(batch, length, heads, size).transpose(1, 2)  # [B, heads, L, d]

    hidden = F.embedding(ids, bert.word_embeddings) + bert.position_embeddings[:length]
    hidden = hidden + F.embedding(segments, bert.segment_embeddings)
    hidden = bert.embedding_norm(hidden)
    for layer in cast(Iterable[BertLayer], bert.layers):
        query, key, value = map(split_heads, layer.qkv(hidden).chunk(3, dim=-1))
        scores = query @ key.transpose(2, 3) / math.sqrt(size)  # [B, heads, L, L]
        scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
        context = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)
        hidden = layer.attention_norm(layer.attention_output(context) + hidden)
        feed_forward = layer.contract(layer.activation(layer.expand(hidden)))
        hidden = layer.output_norm(feed_forward + hidden)
    return hidden, torch.tanh(bert.pooler(hidden[:, 0]))
