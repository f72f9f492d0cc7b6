"""The soft weight of a mixture: what a latent weight becomes while the mixture is trained, and all its gradients.

With component means mu, scales sigma, log priors and a temperature T, the log densities of a weight w are

    l_k(w) = log_prior_k - log sigma_k - (w - mu_k)^2 / (2 sigma_k^2)

and the soft weight is ``S(w) = sum_k phi_k(w) mu_k`` with assignments

    form "posterior":  phi = softmax(l / T)
    form "paper":      phi = softmax(softmax(l) / T)      (Dong et al., ICML 2022; T = 0.01 there)

Beyond the outermost means each l_k continues along its tangent. With equal scales that changes nothing at all (only
differences of l matter and those are linear already); with unequal scales it keeps the broadest component from claiming
both tails, so an outlier always belongs to the outermost component on its side.

S depends on one number per weight. ``soft_weight`` therefore evaluates it, with its derivative, on M knots and reads N
weights by linear interpolation; gradients of the mixture are those of the knots, fed by a histogram of the upstream gradient
over the knots: O(N + M K) time, and a few bytes a weight beyond input and output. Few weights are their own knots.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantizers.soft_table import CHUNK, Evaluation, Mixture, Table, build_table, evaluate

Form = Literal["posterior", "paper"]
DIRECT = 1 << 18  # up to this many weights times components the weights are the knots


class _SoftWeight(torch.autograd.Function):
    """Forward and backward of ``soft_weight``."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        log_prior: Tensor,
        temperature: Tensor,
        form: str,
        straight: bool,
    ) -> Tensor:
        few = weight.numel() * mean.numel() <= DIRECT
        dtype = weight.dtype if few else torch.float64
        mixture = Mixture(mean.to(dtype), scale.to(dtype), log_prior.to(dtype), temperature, form == "paper")
        flat = weight.reshape(-1)
        ctx.mixture, ctx.place = mixture, None
        ctx.save_for_backward(flat)
        if few:
            at = evaluate(flat, mixture, owner=straight)
            ctx.table, ctx.at = None, at
            if at.owner is not None:
                return _of_components(at.owner, mean, weight)
            return at.soft.reshape(weight.shape)
        table = build_table(flat, mixture)
        ctx.table, ctx.at = table, table.at
        if straight:
            return _of_components(regions(mean, scale, log_prior).assign(flat), mean, weight)
        out, ctx.place = torch.empty_like(flat), torch.empty_like(flat)
        for start in range(0, flat.numel(), table.chunk):
            piece = slice(start, start + table.chunk)
            index, fraction = table.locate(flat[piece])
            torch.add(index, fraction, out=ctx.place[piece])
            torch.addcmul(
                table.value.index_select(0, index),
                fraction,
                table.value_step.index_select(0, index),
                out=out[piece],
            )
        return out.reshape(weight.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (flat,) = ctx.saved_tensors  # refuses weights that were changed in between
        table: Table | None = ctx.table
        at: Evaluation = ctx.at
        upstream = gradient.reshape(-1)
        by_weight, of_mixture = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
        if table is None:
            along, sums = at.gradients(upstream, ctx.mixture, by_weight, of_mixture)
        else:
            along, by_knot = _through(table, flat, ctx.place, upstream, by_weight)
            sums = at.gradients(by_knot, ctx.mixture, False, True)[1] if of_mixture else None
        shaped = None if along is None else along.reshape(gradient.shape)
        return shaped, *(sums or (None,) * 4), None, None


def _through(
    table: Table, flat: Tensor, place: Tensor | None, upstream: Tensor, by_weight: bool
) -> tuple[Tensor | None, Tensor]:
    """``upstream`` [N] times the slope at each weight [N], and its sums at the knots in float64 [M]. ``place`` is knot index plus
    fraction of each weight where that is known; as one number it has lost digits that gradients do not need."""
    along = torch.empty_like(flat) if by_weight else None
    whole = torch.zeros_like(table.slope)
    part = torch.zeros_like(table.slope)
    for start in range(0, flat.numel(), table.chunk):
        piece = slice(start, start + table.chunk)
        if place is None:
            index, fraction = table.locate(flat[piece])
        else:
            index = place[piece].to(torch.int32).clamp_(min=0)
            fraction = place[piece] - index
        g = upstream[piece]
        whole.index_add_(0, index, g)
        part.index_add_(0, index, g * fraction)
        if along is not None:
            slope = torch.addcmul(
                table.slope.index_select(0, index), fraction, table.slope_step.index_select(0, index)
            )
            torch.mul(slope, g, out=along[piece])
    by_knot = (whole - part).double()
    by_knot[1:] += part[:-1]
    return along, by_knot


def _of_components(component: Tensor, mean: Tensor, weight: Tensor) -> Tensor:
    """Each weight's mean; a weight that is not finite makes a result that is not a number, so that the loss sees it."""
    values = mean.to(weight.dtype).index_select(0, component).reshape(weight.shape)
    return values.add_(weight, alpha=0.0)


def soft_weight(
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    log_prior: Tensor,
    temperature: Tensor | float,
    form: str = "posterior",
    straight: bool = False,
) -> Tensor:
    """Soft weights, differentiable in everything.

    Args:
        weight: latent weights, any shape, float32 or float64.
        mean, scale, log_prior: [K]; scale positive; log_prior up to a constant.
        temperature: positive.
        form: "posterior" or "paper".
        straight: return the mean of the most probable component instead, with the gradients of the soft weights (straight
            through, Bengio et al. 2013, but by the slope of the soft assignment instead of 1).

    The tail points (smallest and largest mean) count as constants in the gradient. Errors of the interpolation: about 1e-4 of
    the largest mean for the result, 1e-2 (in norm) for each gradient.
    """
    temperature = torch.as_tensor(temperature, dtype=torch.float64, device=weight.device)
    return _SoftWeight.apply(weight, mean, scale, log_prior, temperature, form, straight)


def soft_weight_exact(
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    log_prior: Tensor,
    temperature: Tensor | float,
    form: str = "posterior",
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """The same, straight from the formulas on an N x K array with PyTorch's own derivatives: slow, for comparison.

    ``low`` and ``high`` are the tail points; by default the outermost means.
    """
    flat = weight.reshape(-1, 1)
    inside = flat.clamp(
        mean.min().item() if low is None else low, mean.max().item() if high is None else high
    )
    distance, beyond = inside - mean, flat - inside
    logs = log_prior - scale.log() - (distance**2 / 2 + distance * beyond) / scale**2
    if form == "paper":
        logs = logs.softmax(1)
    return ((logs / temperature).softmax(1) @ mean).reshape(weight.shape)


class Regions(NamedTuple):
    """Where each component is the most probable: ``labels[i]`` between ``thresholds[i - 1]`` and ``thresholds[i]``."""

    thresholds: Tensor
    labels: Tensor

    def assign(self, weight: Tensor) -> Tensor:
        """Component of each weight, int64, the weight's shape."""
        return self.labels[torch.bucketize(weight, self.thresholds.to(weight.dtype))]


@torch.no_grad()
def regions(mean: Tensor, scale: Tensor, log_prior: Tensor) -> Regions:
    """The intervals of the real line that belong to each component (the limit of both forms at temperature 0).

    Found on a grid, then solved for. Regions narrower than a cell of the grid (1/4096 of the range) may be missed.
    """
    mixture = Mixture(mean.double(), scale.double(), log_prior.double(), mean.new_tensor(1.0).double(), False)
    left, right = mixture.saturation(0.0)
    low, high = mixture.mean.min(), mixture.mean.max()
    margin = 1e-3 * (high - low) + 1e-12
    even = torch.linspace(0, 1, 4097, dtype=torch.float64, device=mean.device)
    tail = even[::16]
    grid = torch.cat(
        [
            left - margin + (low - left + margin) * tail,
            low + (high - low) * even,
            high + (right - high + margin) * tail,
        ]
    )
    grid = torch.sort(torch.cat([grid, mixture.mean])).values
    label = mixture.log_density(grid)[0].argmax(1)
    change = (label[1:] != label[:-1]).nonzero().squeeze(1)
    a, b, before, after = grid[change], grid[change + 1], label[change], label[change + 1]
    point = 0.5 * (a + b)
    for _ in range(8):  # Newton's method on a parabola inside a narrow cell
        logs, slope = mixture.log_density(point)
        lead = logs.gather(1, before[:, None]) - logs.gather(1, after[:, None])
        fall = slope.gather(1, before[:, None]) - slope.gather(1, after[:, None])
        step = (lead / fall.clamp(max=-1e-300)).squeeze(1)
        point = torch.minimum(torch.maximum(point - step, a), b)
    return Regions(point, torch.cat([label[:1], after]))


__all__ = ["CHUNK", "Form", "Regions", "regions", "soft_weight", "soft_weight_exact"]
