"""BERT's plain padded forward, op by op: the reference of the tests and the graph of an export.

It reads the parameters of a `Bert` and is written to be compared with the paper, not to be quick.
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
    mask: Tensor,  # [B, L]: 1 for a token, 0 for padding, which stands on the right
) -> tuple[Tensor, Tensor]:
    """Hidden states [B, L, H] of the last layer and the pooler's output [B, H], without dropout.

    Devlin et al. 2019, section 3; attention after Vaswani et al. 2017, section 3.2. Hidden states
    of padding are of no meaning.
    """
    batch, length = ids.shape
    heads = bert.config.num_attention_heads
    size = bert.width // heads
    if bert.segment_types == 1:
        segments = torch.zeros_like(segments)

    def split(rows: Tensor) -> Tensor:
        return rows.view(batch, length, heads, size).transpose(1, 2)  # [B, heads, L, d]

    hidden = bert.word_embeddings[ids]
    hidden = hidden + bert.position_embeddings[:length] + bert.segment_embeddings[segments]
    hidden = bert.embedding_norm(hidden)
    for layer in cast(Iterable[BertLayer], bert.layers):
        query_weight, key_weight, value_weight = layer.qkv.weight.chunk(3)
        query_bias, key_bias, value_bias = layer.qkv.bias.chunk(3)
        query = split(F.linear(hidden, query_weight, query_bias))
        key = split(F.linear(hidden, key_weight, key_bias))
        value = split(F.linear(hidden, value_weight, value_bias))
        scores = query @ key.transpose(2, 3) / math.sqrt(size)  # [B, heads, L, L]
        scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
        context = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)
        hidden = layer.attention_norm(layer.attention_output(context) + hidden)
        feed_forward = layer.contract(layer.activation(layer.expand(hidden)))
        hidden = layer.output_norm(feed_forward + hidden)
    return hidden, torch.tanh(bert.pooler(hidden[:, 0]))
