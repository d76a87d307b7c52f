"""AdamW over the flat vector, after the paper's section 3.2, and the learning-rate schedules."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from comity.model.parameters import SHARED, FlatParameters, Segment
from comity.training.gradients import Gradients

BLOCK = 1 << 18
"""Numbers per block of the update: gradient, moments and masters of one block fit in a cache."""


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
    """One AdamW update in place, as the paper's section 3.2 writes it (Loshchilov & Hutter 2019).

    All tensors are `[n]` float32; `first` and `second` are the moments m and v, `step` is t, from
    1. The step size is corrected for both moments, eps is added to the *uncorrected* square root,
    and the decay comes after the step. The paper uses one letter for the step size and the decay;
    here they are `rate` and `weight_decay`.
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
    """`adamw` in one pass over memory, by torch's kernel.

    torch adds eps to the *corrected* square root and takes the decay before the step. With
    eps / sqrt(1 - beta2^t) for its eps, and r = rate * (1 - rate * weight_decay) for its rate and
    rate * weight_decay / r for its decay, that is the same update.
    """
    shrunk = rate * (1 - rate * weight_decay)
    torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
        [master], [gradient], [first], [second], [],
        [torch.tensor(float(step), device=master.device)],
        lr=shrunk,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=rate * weight_decay / shrunk if shrunk else 0.0,
        eps=eps / math.sqrt(1 - betas[1] ** step),
        amsgrad=False,
        maximize=False,
    )  # fmt: skip


class FlatAdamW:
    """AdamW whose state is two flat vectors beside the masters."""

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
        """New moments and step counts, as a stage starts with them."""
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
        """Move every segment for which `rate_of` gives a rate; the rest keeps weights and moments.

        Args:
            weights: the balancer's `[K]`.
            factor: the clipping's, 1 where nothing is clipped.
        """
        update = fused_adamw if hasattr(torch, "_fused_adamw_") else adamw
        for segment in self.flat.segments:
            rate = rate_of(segment)
            if rate is None:
                continue
            segment.step += 1
            for start, stop in _blocks(segment, self.flat.width):
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


def _blocks(segment: Segment, width: int) -> Iterator[tuple[int, int]]:
    size = max(BLOCK // width, 1) * width  # whole rows of the word table
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
    """The rate of each segment in a step; None for what is frozen and for absent tasks' heads.

    The encoder's layer l moves at `lr * lr_layer_decay ** (top_layer - l)` (Howard & Ruder 2018).
    """

    def rate_of(segment: Segment) -> float | None:
        if segment.owner == SHARED:
            frozen = segment.layer < frozen_layers
            return None if frozen else lr * lr_layer_decay ** (top_layer - segment.layer)
        return head_lr[segment.owner] if segment.owner in present else None

    return rate_of


def schedule_factor(step: int, steps: int, warmup: float, decay: str) -> float:
    """What the rates are multiplied by in a step, counted from 0, of `steps` in the stage.

    `warmup` below 1 is a share of the steps, else a number of steps. The factor rises linearly to
    1 over the warm-up and then falls to 0: `linear`, `cosine` (Loshchilov & Hutter 2017, without
    restarts), or not at all (`constant`).

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
