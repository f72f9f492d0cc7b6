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

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantizers.mixture.soft_evaluation import Evaluation, Mixture, evaluate
from quantizers.mixture.soft_table import SoftTable, build_tables, layers_at_once

DIRECT = 1 << 18  # up to this many weights times components the weights are the knots


class _Direct(torch.autograd.Function):
    """``soft_weight`` of few weights, each evaluated."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        log_prior: Tensor,
        temperature: Tensor,
        form: str,
        straight: bool,  # noqa: FBT001  autograd hands no names on
    ) -> Tensor:
        flat = weight.reshape(-1)
        parts = (mean, scale, log_prior, temperature)
        mean_, scale_, prior_, temperature_ = (part[None].to(weight.dtype) for part in parts)
        ctx.mixture = Mixture(mean_, scale_, prior_, temperature_, form == "paper")
        ctx.at = evaluate(flat, ctx.mixture, winner=straight)
        ctx.save_for_backward(flat)
        if ctx.at.winner is not None:
            return _of_components(ctx.at.winner, mean, weight)
        soft: Tensor = ctx.at.soft
        return soft.reshape(weight.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # noqa: B018  refuses weights that were changed in between
        at: Evaluation = ctx.at
        by_weight, of_mixture = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
        along, sums = at.gradients(
            gradient.reshape(-1), ctx.mixture, by_point=by_weight, by_mixture=of_mixture
        )
        shaped = None if along is None else along.reshape(gradient.shape)
        found = [None] * 4 if sums is None else [part[0] for part in sums]
        return shaped, *found, None, None


class _Tables(torch.autograd.Function):
    """Soft weights at the knots of each layer's table (float64 [M_l]), and by ``store`` the tables themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        mean: Tensor,
        scale: Tensor,
        log_prior: Tensor,
        temperature: Tensor,
        weights: Sequence[Tensor],
        form: str,
        straight: bool,  # noqa: FBT001
        store: list[SoftTable],
    ) -> tuple[Tensor, ...]:
        ctx.mixture = Mixture(
            mean.double(), scale.double(), log_prior.double(), temperature.double(), form == "paper"
        )
        flat = [weight.detach().reshape(-1) for weight in weights]
        tables, ctx.at, places = build_tables(flat, ctx.mixture, with_regions=straight)
        store.extend(tables)
        return tuple(ctx.at.soft[a:b] for a, b in pairwise(places))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_knot: Tensor) -> tuple[Tensor | None, ...]:
        at: Evaluation = ctx.at
        sums = at.gradients(torch.cat(by_knot), ctx.mixture, by_point=False, by_mixture=True)[1]
        return *(sums or [None] * 4), None, None, None, None


class _Read(torch.autograd.Function):
    """A layer's weights read from its table."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, at_knots: Tensor, table: SoftTable, mean: Tensor) -> Tensor:
        flat = weight.reshape(-1)
        ctx.table, ctx.place = table, None
        ctx.save_for_backward(flat)
        if table.regions is not None:
            place, of_place = table.regions.place(flat), mean.index_select(0, table.regions.labels)
            return _of_components(place, of_place, weight)
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
        along, by_knot = _through(
            ctx.table, flat, ctx.place, gradient.reshape(-1), by_weight=ctx.needs_input_grad[0]
        )
        return None if along is None else along.reshape(gradient.shape), by_knot, None, None


def _through(
    table: SoftTable, flat: Tensor, place: Tensor | None, upstream: Tensor, *, by_weight: bool
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
    *,
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
    if is_small(weight.numel(), mean.numel()):
        soft: Tensor = _Direct.apply(weight, mean, scale, log_prior, temperature, form, straight)
        return soft
    parts = mean[None], scale[None], log_prior[None], temperature[None]
    return look_ups([weight], *parts, form, straight=straight)[0](weight)


def is_small(weights: int, components: int) -> bool:
    """Whether so many weights are rather evaluated one by one."""
    return weights * components <= DIRECT


class LookUp(NamedTuple):
    """A table for one layer's weights, and its soft weights at the knots, through which gradients flow to the mixture."""

    table: SoftTable
    at_knots: Tensor
    mean: Tensor

    def __call__(self, weight: Tensor) -> Tensor:
        """What ``soft_weight`` says of the weights that the table was made for, differentiable in everything."""
        soft: Tensor = _Read.apply(weight, self.at_knots, self.table, self.mean)
        return soft


def look_ups(
    weights: Sequence[Tensor],
    mean: Tensor,
    scale: Tensor,
    log_prior: Tensor,
    temperature: Tensor,
    form: str = "posterior",
    *,
    straight: bool = False,
) -> list[LookUp]:
    """``soft_weight`` of L layers, begun for all at once: many layers cost hardly more operations than one.

    Args:
        weights: of each layer, any shapes, all float32 or all float64.
        mean, scale, log_prior: [L, K].
        temperature: [L].
    """
    found = []
    most = layers_at_once(max(weight.numel() for weight in weights), mean.shape[1])
    for start in range(0, len(weights), most):
        part = slice(start, start + most)
        mixture = (mean[part], scale[part], log_prior[part], temperature[part])
        tables: list[SoftTable] = []
        at_knots = _Tables.apply(*mixture, weights[part], form, straight, tables)
        found += [LookUp(*parts) for parts in zip(tables, at_knots, mean.detach()[part])]
    return found


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
