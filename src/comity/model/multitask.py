"""One encoder and a head for each task: rows of token ids in, a task's outputs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comity.model.dropout import torch_generator
from comity.model.encoder import Encoder, Group, Packed
from comity.model.heads import LinearHead, make_head, mean_pool
from comity.model.masked_lm import MaskedLanguageHead
from comity.model.parameters import SHARED, OwnedParameter
from comity.model.task_gradient_ops import Sink, Spans
from comity.rng import INITIALISATION, name_key
from comity.targets import HeadSpec

MASKED = "*masked words"  # owns the head over words; no task can have that name


@dataclass(frozen=True)
class ModelInput:
    """A batch of one task: `count` rows for each view its head reads, view after view."""

    task: str
    packed: Packed
    count: int
    dropout: "DropoutKeys | None" = None  # None: no dropout (evaluation)
    texts: Packed | None = None  # first and second text, for objectives where the head reads a pair


@dataclass(frozen=True)
class DropoutKeys:
    """Keys, int64, that dropout masks are drawn from; see `model/dropout.py`."""

    packed: Tensor  # [count * views], one for each sequence of the head's views
    texts: Tensor | None  # [count * 2], one for each text where texts are read apart
    head: Tensor  # [count], one for each row


@dataclass(frozen=True)
class Encoded:
    """What the rows of one input came to."""

    views: list[Tensor]  # one [B, H] for each view that the head reads
    texts: list[Tensor]  # embeddings [B, H] of the first and second texts, where they were read


class MultiTaskModel(nn.Module):
    """The encoder, shared, and `heads[task]`.

    `log_variances` has one number a task where loss weights are learned (Kendall et al. 2018), and
    `masked` is the head over words where a stage trains on masked words.

    Example:
        (outputs,) = model([ModelInput("sentiment", packed, count=32)])
    """

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Mapping[str, HeadSpec],
        seed: int = 0,
        learned_weights: bool = False,
        masked: MaskedLanguageHead | None = None,
    ):
        super().__init__()
        self.encoder: Encoder = encoder  # type: ignore[assignment]
        self.tasks = dict(tasks)
        self.heads = nn.ModuleList(make_head(self.encoder.width, task) for task in tasks.values())
        self.masked = masked
        numbers = len(tasks) if learned_weights else 0
        self.log_variances = nn.ParameterList(torch.zeros(1) for _ in range(numbers))
        for name, head in zip(tasks, self.heads, strict=True):
            if isinstance(head, LinearHead):
                head.initialise(torch_generator(INITIALISATION, seed, name_key(name)))

    def head(self, task: str) -> nn.Module:
        """The head of a task. (A ModuleDict would forbid names with dots.)"""
        return self.heads[list(self.tasks).index(task)]

    def log_variance(self, task: str) -> Tensor | None:
        """The task's learned number, if loss weights are learned."""
        place = list(self.tasks).index(task)
        return self.log_variances[place] if len(self.log_variances) else None

    def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
        """Outputs `[count, outputs]` of each input's head, all encoded in one pass."""
        return self.outputs(inputs, self.encode(inputs))

    def encode(
        self,
        inputs: Sequence[ModelInput],
        words: Tensor | None = None,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Encoded]:
        """Vectors of each input's rows, all encoded in one pass.

        words: the gathered rows of the word table that the inputs' ids index, if any.
        rows, sink: where the gradients of the shared parameters go; see `Encoder`.
        """
        groups, poolings, of_inputs = [], [], []
        for number, given in enumerate(inputs):
            spec = self.tasks[given.task]
            dropout = given.dropout
            groups.append(_group(given.packed, spec.head_pooling, dropout and dropout.packed))
            poolings.append(spec.head_pooling)
            of_inputs.append(number)
            if given.texts is not None:
                groups.append(_group(given.texts, spec.pooling, dropout and dropout.texts))
                poolings.append(spec.pooling)
                of_inputs.append(number)
        of_groups = None if rows is None else [rows[number] for number in of_inputs]
        hidden = self.encoder(groups, words, of_groups, sink)
        vectors = iter(self._vectors(groups, poolings, hidden, of_groups, sink))
        encoded = []
        for given in inputs:
            views = list(next(vectors).split(given.count))
            texts = views if self.tasks[given.task].apart else []
            if given.texts is not None:
                texts = list(next(vectors).split(given.count))
            encoded.append(Encoded(views, texts))
        return encoded

    def masked_logits(
        self,
        inputs: Sequence[ModelInput],
        places: Sequence[Tensor],
        words: Tensor,
        rows: Sequence[int],
        sink: Sink,
    ) -> list[Tensor]:
        """Logits over all words `[M, V]` at the `places [M]` of each input's tokens.

        words: the whole word table `[V, H]`, which also is the decoder.
        """
        assert self.masked is not None
        groups = [
            Group(given.packed, "all", given.dropout and given.dropout.packed) for given in inputs
        ]
        hidden = self.encoder(groups, words, rows, sink)
        at = [states[of_input] for states, of_input in zip(hidden, places, strict=True)]
        logits = self.masked(torch.cat(at), words)
        return list(logits.split([len(states) for states in at]))

    def outputs(self, inputs: Sequence[ModelInput], encoded: Sequence[Encoded]) -> list[Tensor]:
        """Outputs `[count, outputs]` of each input's head."""
        outputs = []
        for given, of_input in zip(inputs, encoded, strict=True):
            keys = given.dropout and given.dropout.head
            outputs.append(self.head(given.task)(of_input.views, keys))
        return outputs

    def heads_together(self, tasks: Sequence[str], packed: Packed, count: int) -> list[Tensor]:
        """Outputs of several tasks that read the same views alike, the texts encoded once."""
        (encoded,) = self.encode([ModelInput(tasks[0], packed, count)])
        return [self.head(task)(encoded.views, None) for task in tasks]

    def reads(self, task: str) -> tuple[Any, ...]:
        """What a task's head reads; tasks that agree in it can share one encoding."""
        spec = self.tasks[task]
        return spec.views, spec.head_pooling

    def _vectors(
        self,
        groups: Sequence[Group],
        poolings: Sequence[str],
        hidden: list[Tensor],
        rows: Sequence[int] | None,
        sink: Sink | None,
    ) -> list[Tensor]:
        """One vector `[B, H]` a sequence: pooled by the encoder (all in one go), or embedded."""
        vectors = list(hidden)
        pooled = [n for n, pooling in enumerate(poolings) if pooling == "pooler"]
        for number, (group, pooling) in enumerate(zip(groups, poolings, strict=True)):
            if pooling == "mean":
                vectors[number] = mean_pool(hidden[number], group.packed.offsets)
        if pooled:
            counts = [len(hidden[number]) for number in pooled]
            spans = None
            if rows is not None and sink is not None:
                ends = np.cumsum([0, *counts]).tolist()
                bounds = [(rows[n], *ends[i : i + 2]) for i, n in enumerate(pooled)]
                spans = Spans(bounds, sink)
            together = self.encoder.pool(torch.cat([hidden[n] for n in pooled]), spans)
            for number, of_task in zip(pooled, together.split(counts), strict=True):
                vectors[number] = of_task
        return vectors

    def embed(self, packed: Packed, pooling: str) -> Tensor:
        """Embeddings `[B, H]` float32 of packed texts, pooled as `HeadSpec.pooling` says."""
        group = _group(packed, pooling, None)
        (vectors,) = self._vectors([group], [pooling], self.encoder([group]), None, None)
        return vectors.float()

    def owned_parameters(self) -> list[OwnedParameter]:
        """Every parameter with its owner and layer, for the flat vector."""
        pieces = []
        top = 0
        for name, parameter in self.encoder.named_parameters():  # type: ignore[attr-defined]
            layer = self.encoder.layer_of(name)
            top = max(top, layer)
            table = parameter is self.encoder.word_embeddings
            pieces.append(
                OwnedParameter(
                    f"encoder.{name}", parameter, SHARED, layer, parameter.dim() > 1, table
                )
            )
        for task, head in zip(self.tasks, self.heads, strict=True):
            for name, parameter in head.named_parameters():
                decays = parameter.dim() > 1
                pieces.append(OwnedParameter(f"heads.{task}.{name}", parameter, task, top, decays))
            learned = self.log_variance(task)
            if isinstance(learned, nn.Parameter):
                pieces.append(
                    OwnedParameter(f"heads.{task}.log_variance", learned, task, top, False)
                )
        for name, parameter in self.masked.named_parameters() if self.masked else ():
            pieces.append(
                OwnedParameter(f"masked.{name}", parameter, MASKED, top, parameter.dim() > 1)
            )
        return pieces


def _group(packed: Packed, pooling: str, dropout_keys: Tensor | None) -> Group:
    """The sequences of one input with what of them is read: all tokens for a mean, else [CLS]."""
    return Group(packed, "all" if pooling == "mean" else "cls", dropout_keys)


def to_packed(parts: Sequence, device: torch.device) -> Packed:
    """Views packed one by one (`PackedRows`) joined into one packed pass on `device`."""
    ids = np.concatenate([part.ids for part in parts])
    segments = np.concatenate([part.segments for part in parts])
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    offsets = np.concatenate([[0], *ends])
    return Packed(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(segments).to(device),
        torch.from_numpy(offsets).to(device),
        max(part.longest for part in parts),
    )
