"""AdamW on the flat parameter vector (section 3.2 of the paper), and learning-rate schedules."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from comity.model.parameters import SHARED, FlatParameters, Segment
from comity.training.gradients import Gradients

BLOCK = 1 << 18
"""Numbers per block of an update: gradient, moments and masters of one block fit into the cache."""

GPU_BLOCK = 1 << 24
"""The same on a GPU, where each operation has a cost that does not depend on its size."""


def adamw(
    master: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> None:
    """One AdamW update in place, as in section 3.2 of the paper (Loshchilov & Hutter 2019).

    All tensors are `[n]` float32. `first` and `second` are the moments m and v; `step` is t and
    starts at 1. The bias correction of both moments is part of the step size, eps is added to the
    *uncorrected* square root, and weight decay comes after the step. The paper uses one symbol for
    step size and decay; here they are `rate` and `weight_decay`.
    """
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    step_size = rate * math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
    master.addcdiv_(first, second.sqrt().add_(eps), value=-step_size)
    if weight_decay:
        master.mul_(1 - rate * weight_decay)


def fused_adamw(
    master: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> None:
    """The same update as `adamw`, in one pass over memory with torch's fused kernel.

    torch adds eps to the *corrected* square root and applies weight decay before the step. The two
    updates are equal if torch gets eps / sqrt(1 - beta2^t) as its eps,
    r = rate * (1 - rate * weight_decay) as its rate, and rate * weight_decay / r as its decay.
    """
    shrunk = rate * (1 - rate * weight_decay)
    torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
        [master], [gradient], [first], [second], [],
        [torch.full((), float(step), device=master.device)],
        lr=shrunk,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=rate * weight_decay / shrunk if shrunk else 0.0,
        eps=eps / math.sqrt(1 - betas[1] ** step),
        amsgrad=False,
        maximize=False,
    )  # fmt: skip


class FlatAdamW:
    """AdamW on the flat parameters. Its state is two vectors of the same layout."""

    def __init__(
        self,
        flat: FlatParameters,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ):
        self.flat = flat
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.first = torch.zeros_like(flat.masters)
        self.second = torch.zeros_like(flat.masters)

    def reset(self) -> None:
        """Set moments and step counts to zero, as at the start of a stage."""
        self.first.zero_()
        self.second.zero_()
        for segment in self.flat.segments:
            segment.step = 0

    @torch.no_grad()
    def update(
        self,
        gradients: Gradients,
        weights: list[float],
        factor: float,
        rate_of: Callable[[Segment], float | None],
    ) -> None:
        """Update every segment that has a rate and a gradient.

        The others keep their weights, moments and step counts; weight decay does not apply either.

        Args:
            gradients: the task gradients and head gradients of the step.
            weights: the weights `[K]` from the balancer.
            factor: the factor from clipping, 1 without clipping.
            rate_of: the learning rate of a segment, or None to leave it unchanged.
        """
        update = fused_adamw if hasattr(torch, "_fused_adamw_") else adamw
        block = GPU_BLOCK if self.flat.masters.is_cuda else BLOCK
        for segment in self.flat.segments:
            rate = rate_of(segment)
            if rate is None or not gradients.reaches(segment):
                continue
            segment.step += 1
            for start, stop in _blocks(segment, self.flat.width, block):
                update(
                    self.flat.masters[start:stop],
                    gradients.combined(start, stop, weights, factor),
                    self.first[start:stop],
                    self.second[start:stop],
                    step=segment.step,
                    rate=rate,
                    betas=self.betas,
                    eps=self.eps,
                    weight_decay=self.weight_decay if segment.decays else 0.0,
                )
                self.flat.refresh(start, stop)


def _blocks(segment: Segment, width: int, block: int) -> Iterator[tuple[int, int]]:
    size = max(block // width, 1) * width  # a block holds whole rows of the word table
    for start in range(segment.start, segment.stop, size):
        yield start, min(start + size, segment.stop)


def segment_rates(
    *,
    lr: float,
    head_lr: Mapping[str, float],
    present: set[str],
    frozen_layers: int,
    top_layer: int,
    lr_layer_decay: float,
) -> Callable[[Segment], float | None]:
    """The learning rate of each segment in a step; None for frozen layers and absent tasks.

    Layer l of the encoder has the rate `lr * lr_layer_decay ** (top_layer - l)` (Howard & Ruder
    2018).
    """

    def rate_of(segment: Segment) -> float | None:
        if segment.owner == SHARED:
            frozen = segment.layer < frozen_layers
            return None if frozen else lr * lr_layer_decay ** (top_layer - segment.layer)
        return head_lr[segment.owner] if segment.owner in present else None

    return rate_of


def schedule_factor(step: int, steps: int, warmup: float, decay: str) -> float:
    """The factor on all learning rates in step `step`, counted from 0, of `steps` in the stage.

    `warmup` below 1 is a share of the steps, otherwise a number of steps. The factor rises linearly
    to 1 during warm-up. Then it falls to 0 (`linear`, or `cosine` as in Loshchilov & Hutter 2017
    without restarts) or stays at 1 (`constant`).

    >>> [round(schedule_factor(step, 10, 0.2, "linear"), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    warm = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(steps - warm, 1)
    if decay == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if decay == "cosine" else 1.0
