"""A layer's weights as values with counts: all of them, or a fine histogram when there are many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.mixture.soft_evaluation import Mixture

WHOLE = 1 << 15  # up to this many weights each is its own value
BINS = 1 << 15


class WeightSample(NamedTuple):
    """Distinct values (float64 [M]) and how many weights have each (float64 [M])."""

    values: Tensor
    counts: Tensor


@torch.no_grad()
def sample_of(weight: Tensor) -> WeightSample:
    """The weights, or the centres of ``BINS`` equal bins of their range with counts. Deterministic."""
    flat = weight.detach().reshape(-1)
    if flat.numel() <= WHOLE:
        return WeightSample(flat.double(), torch.ones_like(flat, dtype=torch.float64))
    low, high = torch.aminmax(flat)
    width = ((high.double() - low.double()) / BINS).clamp(min=1e-30)
    place = ((flat - low) * width.reciprocal().to(flat.dtype)).to(torch.int32).clamp_(0, BINS - 1)
    counts = torch.bincount(place, minlength=BINS).double()
    centres = low.double() + width * (torch.arange(BINS, dtype=torch.float64, device=flat.device) + 0.5)
    held = counts > 0
    return WeightSample(centres[held], counts[held])


@torch.no_grad()
def shift_for_share(
    sample: WeightSample, mean: Tensor, scale: Tensor, log_prior: Tensor, share: float
) -> Tensor:
    """What to add to component 0's log prior so that it wins ``share`` of the weights.

    Component 0 wins a weight when the shift exceeds its lag behind the best other component there; the shift is the quantile of
    the lags, halfway between two neighbours. Weights with equal lags cannot be told apart.
    """
    mixture = Mixture(
        mean.double(), scale.double(), log_prior.double(), mean.new_tensor(1.0).double(), paper=False
    )
    logs = mixture.log_density(sample.values)[0]
    lag, order = (logs[:, 1:].amax(1) - logs[:, 0]).sort()
    won = sample.counts[order].cumsum(0)
    reached = torch.cat([won.new_zeros(1), won]) / won[-1]
    cut = (reached - share).abs().argmin()  # so many values go to component 0
    padded = torch.cat([lag[:1] - 1.0, lag, lag[-1:] + 1.0])
    return 0.5 * (padded[cut] + padded[cut + 1])


@torch.no_grad()
def most_weighty_half(
    sample: WeightSample, owner: Tensor, mean: Tensor, *, pinned: bool
) -> tuple[int, Tensor, Tensor] | None:
    """The component with the largest squared error, the centre of its outer part, and the values there (mask); where component 0
    is ``pinned`` at zero, of the others.

    None when every such component sits on a single value.
    """
    off = (sample.values - mean[owner]).square() * sample.counts
    error = torch.zeros_like(mean).index_add_(0, owner, off)
    if pinned:
        error[0] = 0.0
    for donor in error.argsort(descending=True).tolist():
        if error[donor] <= 0:
            return None
        inside = owner == donor
        total = (sample.values * sample.counts)[inside].sum() / sample.counts[inside].sum()
        outer = inside & (sample.values.abs() > total.abs())
        if outer.any() and not torch.equal(outer, inside):
            return donor, (sample.values * sample.counts)[outer].sum() / sample.counts[outer].sum(), outer
    return None
