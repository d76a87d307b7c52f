"""The multi-task model: a shared encoder and a head for each task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comity.data.packing import PackedRows
from comity.hardware import to_device
from comity.model.dropout import torch_generator
from comity.model.encoder import Encoder, Group, Packed
from comity.model.heads import BothHeads, LinearHead, make_head
from comity.model.masked_lm import MaskedLanguageHead
from comity.model.parameters import SHARED, OwnedParameter
from comity.model.pooling import pool_tokens
from comity.model.task_gradient_ops import Sink, Spans
from comity.rng import INITIALISATION, name_key
from comity.targets import HeadSpec

MASKED = "*masked words"  # owns the masked-language head; no task can have this name


@dataclass(frozen=True)
class ModelInput:
    """A batch of one task: `count` sequences for each view that its head reads, view by view.

    With `view = "both"`, `packed` has the pairs, and `texts` what the second head reads.
    """

    task: str
    packed: Packed
    count: int
    dropout: "DropoutKeys | None" = None  # None: no dropout (evaluation)
    texts: Packed | None = None  # first texts, then second, if they are read apart from the pair


@dataclass(frozen=True)
class DropoutKeys:
    """int64 keys of a batch's dropout masks; see `model/dropout.py`."""

    packed: Tensor  # [count * views], one for each sequence in `ModelInput.packed`
    texts: Tensor | None  # [count * 2], one for each text in `ModelInput.texts`
    head: Tensor  # [count], one for each row


@dataclass(frozen=True)
class Encoded:
    """The encoded rows of one input."""

    views: list[Tensor]  # one pooled [B, W] for each view that the task's heads read
    texts: list[Tensor]  # embeddings [B, W] of the first and second texts, if they were encoded


@dataclass(frozen=True)
class PooledGroup:
    """Sequences to encode, and how each is reduced to one vector (`HeadSpec.pooling`)."""

    packed: Packed
    pooling: str  # one of `pooling.WIDTHS`
    dropout_keys: Tensor | None = None

    @property
    def needs_all(self) -> bool:
        """Whether all tokens are read, not only [CLS]."""
        return "mean" in self.pooling

    @property
    def group(self) -> Group:
        """What the encoder computes: the states of all tokens, or of [CLS]."""
        return Group(self.packed, "all" if self.needs_all else "cls", self.dropout_keys)


class MultiTaskModel(nn.Module):
    """A shared encoder and a head for each task.

    Args:
        encoder: the shared encoder.
        tasks: what each task's head reads and predicts.
        seed: for the weights of the heads.
        learned_weights: learn a loss weight for each task (Kendall et al. 2018).
        masked: the masked-language head, if a stage trains on masked words.

    Example:
        (outputs,) = model([ModelInput("sentiment", packed, count=32)])
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Mapping[str, HeadSpec],
        seed: int = 0,
        learned_weights: bool = False,
        masked: MaskedLanguageHead | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.tasks = dict(tasks)
        self.heads = nn.ModuleList(make_head(encoder.width, task) for task in tasks.values())
        self.masked = masked
        count = len(tasks) if learned_weights else 0
        self.log_variances = nn.ParameterList(torch.zeros(1) for _ in range(count))
        for name, head in zip(tasks, self.heads, strict=True):
            if isinstance(head, (LinearHead, BothHeads)):
                head.initialise(torch_generator(INITIALISATION, seed, name_key(name)))

    def head(self, task: str) -> nn.Module:
        """The head of a task. (The keys of a ModuleDict could not contain dots.)"""
        return self.heads[list(self.tasks).index(task)]

    def log_variance(self, task: str) -> Tensor | None:
        """The task's learned log variance `[1]`, or None if loss weights are not learned."""
        index = list(self.tasks).index(task)
        return self.log_variances[index] if len(self.log_variances) else None

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
        """Encode all inputs in one pass.

        Args:
            inputs: the batches.
            words: `[U, H]`, word embeddings that the ids index; default: the word table.
            rows: the row of J that each input adds to.
            sink: receives the gradients of the shared parameters; see `Encoder.forward`.
        """
        groups = [self._groups(batch) for batch in inputs]
        group_rows = None
        if rows is not None:
            group_rows = [row for row, own in zip(rows, groups, strict=True) for _ in own]
        vectors = iter(self._vectors(list(chain(*groups)), words, group_rows, sink))
        return [self._encoded(batch, vectors) for batch in inputs]

    def _groups(self, batch: ModelInput) -> list[PooledGroup]:
        """The sequences of the head's views and, if they are read separately, of the two texts."""
        spec, dropout = self.tasks[batch.task], batch.dropout
        groups = [PooledGroup(batch.packed, spec.pooling, dropout and dropout.packed)]
        if batch.texts is not None:
            groups.append(
                PooledGroup(batch.texts, spec.embedding_pooling, dropout and dropout.texts)
            )
        return groups

    def _encoded(self, batch: ModelInput, vectors: Iterator[Tensor]) -> Encoded:
        """The vectors of a batch, split by view; takes those of its groups from `vectors`."""
        spec = self.tasks[batch.task]
        views = list(next(vectors).split(batch.count))
        if batch.texts is not None:
            texts = list(next(vectors).split(batch.count))
            return Encoded([*views, *texts] if spec.both else views, texts)
        return Encoded(views, views if spec.apart else [])

    def _vectors(
        self,
        groups: Sequence[PooledGroup],
        words: Tensor | None = None,
        rows: Sequence[int] | None = None,
        sink: Sink | None = None,
    ) -> list[Tensor]:
        """One pooled vector for each sequence of each group, `[B, W]`, encoded in one pass."""
        vectors = self.encoder([group.group for group in groups], words, rows, sink)
        for index, group in enumerate(groups):
            if group.needs_all:
                vectors[index] = pool_tokens(vectors[index], group.packed.offsets, group.pooling)
        pooled = [index for index, group in enumerate(groups) if group.pooling == "pooler"]
        if pooled:
            states = [vectors[index] for index in pooled]
            pooled_rows = None if rows is None else [rows[index] for index in pooled]
            for index, output in zip(pooled, self._pool(states, pooled_rows, sink), strict=True):
                vectors[index] = output
        return vectors

    def _pool(
        self, states: Sequence[Tensor], rows: Sequence[int] | None, sink: Sink | None
    ) -> tuple[Tensor, ...]:
        """Apply the encoder's pooler to the [CLS] states `[B, H]` of all groups in one product."""
        counts = [len(group_states) for group_states in states]
        spans = None
        if rows is not None and sink is not None:
            stops = np.cumsum(counts).tolist()
            bounds = zip(rows, counts, stops, strict=True)
            spans = Spans([(row, stop - count, stop) for row, count, stop in bounds], sink)
        return self.encoder.pool(torch.cat(list(states)), spans).split(counts)

    def outputs(self, inputs: Sequence[ModelInput], encoded: Sequence[Encoded]) -> list[Tensor]:
        """Outputs `[count, outputs]` of each input's head."""
        return [
            self.head(batch.task)(vectors.views, batch.dropout and batch.dropout.head)
            for batch, vectors in zip(inputs, encoded, strict=True)
        ]

    def evaluated(self, task: str, views: Sequence[PackedRows]) -> ModelInput:
        """A batch of a task without dropout, from one `PackedRows` for each of its views."""
        device = self.encoder.word_embeddings.device
        first = len(self.tasks[task].parts[0].views)
        texts = to_packed(views[first:], device) if views[first:] else None
        count = len(views[0].offsets) - 1
        return ModelInput(task, to_packed(views[:first], device), count, texts=texts)

    def shared_outputs(self, tasks: Sequence[str], views: Sequence[PackedRows]) -> list[Tensor]:
        """Outputs of several tasks with the same `reads`, for rows that are encoded once."""
        (encoded,) = self.encode([self.evaluated(tasks[0], views)])
        return [self.head(task)(encoded.views, None) for task in tasks]

    def reads(self, task: str) -> tuple[Any, ...]:
        """The views of a task and their poolings; tasks with the same can share an encoding."""
        spec = self.tasks[task]
        return spec.views, spec.poolings

    def embed(self, packed: Packed, pooling: str) -> Tensor:
        """Embeddings `[B, W]` float32 of packed texts, with a pooling as in `HeadSpec`."""
        (vectors,) = self._vectors([PooledGroup(packed, pooling)])
        return vectors.float()

    def masked_logits(
        self,
        inputs: Sequence[ModelInput],
        positions: Sequence[Tensor],
        words: Tensor,
        rows: Sequence[int],
        sink: Sink,
    ) -> list[Tensor]:
        """Logits over all words, `[M, V]`, at the `positions [M]` of each input's tokens.

        `words` is the whole word table `[V, H]`, which is also the decoder. See `encode` for `rows`
        and `sink`.
        """
        assert self.masked is not None
        groups = [
            Group(batch.packed, "all", batch.dropout and batch.dropout.packed) for batch in inputs
        ]
        hidden = self.encoder(groups, words, rows, sink)
        selected = [states[where] for states, where in zip(hidden, positions, strict=True)]
        logits = self.masked(torch.cat(selected), words)
        return list(logits.split([len(states) for states in selected]))

    def owned_parameters(self) -> list[OwnedParameter]:
        """Every parameter with its owner and layer, for the flat vector.

        Weight decay applies to matrices, not to biases and LayerNorm weights.
        """
        owned = []
        for name, parameter in self.encoder.named_parameters():
            layer, decays = self.encoder.layer_of(name), parameter.dim() > 1
            is_table = parameter is self.encoder.word_embeddings
            owned.append(
                OwnedParameter(f"encoder.{name}", parameter, SHARED, layer, decays, is_table)
            )
        top = max(parameter.layer for parameter in owned)

        def own(owner: str, prefix: str, module: nn.Module) -> None:
            for name, parameter in module.named_parameters():
                decays = parameter.dim() > 1
                owned.append(OwnedParameter(f"{prefix}.{name}", parameter, owner, top, decays))

        for task, head in zip(self.tasks, self.heads, strict=True):
            own(task, f"heads.{task}", head)
            learned = self.log_variance(task)
            if isinstance(learned, nn.Parameter):
                name = f"heads.{task}.log_variance"
                owned.append(OwnedParameter(name, learned, task, top, False))
        if self.masked is not None:
            own(MASKED, "masked", self.masked)
        return owned


def to_packed(views: Sequence[PackedRows], device: torch.device) -> Packed:
    """Concatenate separately packed views and copy them to `device`."""
    starts = np.cumsum([0, *(len(view.ids) for view in views[:-1])])
    ends = [view.offsets[1:] + start for view, start in zip(views, starts, strict=True)]
    return Packed(
        ids=to_device(torch.from_numpy(np.concatenate([view.ids for view in views])), device),
        segments=to_device(
            torch.from_numpy(np.concatenate([view.segments for view in views])), device
        ),
        offsets=to_device(torch.from_numpy(np.concatenate([[0], *ends])), device),
        longest=max(view.longest for view in views),
    )
