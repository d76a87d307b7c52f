"""Scores that need no training, to compare trained models with."""

import numpy as np
import torch

from comity.data.splits import PAIR, Split
from comity.evaluation.evaluate import by_length
from comity.evaluation.metrics import METRICS, Score
from comity.model.checkpoint import LoadedEncoder
from comity.model.heads import CosineHead
from comity.model.multitask import MultiTaskModel, to_packed


@torch.inference_mode()
def untouched_cosine(loaded: LoadedEncoder, pairs: Split, max_length: int) -> dict[str, Score]:
    """Pearson and Spearman of the cosine of two texts' embeddings, before any training.

    A similarity task whose trained head scores lower gains nothing from its training. The texts are
    pooled as the encoder was trained (`Encoder.text_pooling`); only its weights are used, no head.

    Args:
        loaded: the encoder as loaded from its checkpoint.
        pairs: rows of two texts with gold scores.
        max_length: tokens of a text at most, including [CLS] and [SEP].
    """
    model, head = MultiTaskModel(loaded.encoder, {}), CosineHead()
    device = loaded.encoder.word_embeddings.device
    cosines = np.zeros(len(pairs))
    for indices in by_length(pairs.lengths(PAIR, max_length)):
        packed = to_packed(pairs.pack(indices, PAIR, loaded.template, max_length), device)
        vectors = model.embed(packed, loaded.encoder.text_pooling)
        cosines[indices] = head(list(vectors.split(len(indices))), None)[:, 0].cpu().numpy()
    return {name: METRICS[name](pairs.targets, cosines) for name in ("pearson", "spearman")}
