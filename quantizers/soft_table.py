"""The mixture's soft weight evaluated on few points, and the table that answers for many.

The table has two levels, both read in constant time. Level one: B equal bins over the range where the function is not yet
constant. Level two: each bin holds a window and a number of equal cells in it; cells are narrow where the assignment
changes quickly (a cell spans a fraction of a logit unit), and a window shrinks onto a transition that is much narrower
than its bin, so any temperature is resolved. Outside its window a bin is constant to within exp(-SATURATED).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 32_000  # weights handled at once on a CPU: the working arrays stay in its cache, and PyTorch does not split the work
# among threads, whose barriers cost more here than they gain (and very much more on a busy machine)
SATURATED = 16.0  # logit difference at which a component no longer matters
ROUNDS = 4  # zooms by up to SPLIT each
SPLIT = 16
CELLS = 1024  # most cells in one bin
COARSEST = 0.18  # logit units in one cell where the assignment changes, at most
COARSEST_TAIL = 0.5  # the same wherever two components have more than the share TAIL
TAIL = 1e-3
FINEST = 400.0  # cells per logit unit, squared, for a jump as high as the largest mean


class Evaluation(NamedTuple):
    """The soft weight at M points: value, derivative, and what the mixture's gradients need. All float64.

    The derivative of the soft weight by log density k is ``pulling_k (mu_k - soft) / T``, in the paper's form less
    ``responsibility_k mean_pull``. Sums of it over components or points are taken by matrix products with a few features.
    """

    features: (
        Tensor  # [3, M] 1, the point, and its square, continued along its tangent beyond the outermost means
    )
    soft: Tensor  # [M]
    slope: Tensor  # [M] derivative by the point
    assignment: Tensor  # [K, M] phi
    responsibility: Tensor  # [K, M]; phi again but in the paper's form
    pulling: Tensor  # [K, M] phi, in the paper's form times the responsibility
    mean_pull: Tensor | None  # [M], in the paper's form

    def gradients(self, upstream: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over the points of ``upstream`` times the derivative by mean, scale, log prior [K] and temperature []."""
        mean, inverse = mixture.mean, mixture.scale.reciprocal()
        moments = upstream.new_empty(6, len(upstream))
        torch.mul(self.features, upstream, out=moments[:3])
        torch.mul(moments[:3], self.soft, out=moments[3:])
        both = self.pulling @ moments.t()
        flow = (mean[:, None] * both[:, :3] - both[:, 3:]) / mixture.temperature
        if self.mean_pull is None:
            by_temperature = -(mixture.coefficients * flow).sum() / mixture.temperature
        else:
            flow -= self.responsibility @ (moments[:3] * self.mean_pull).t()
            by_temperature = -(upstream @ self.mean_pull) / mixture.temperature
        total, first, second = flow.unbind(1)
        by_mean = self.assignment @ upstream + (first - mean * total) * inverse**2
        square = second - 2 * mean * first + mean**2 * total
        return by_mean, square * inverse**3 - total * inverse, total, by_temperature


@dataclass(frozen=True)
class Mixture:
    """Components [K] in float64, the temperature, and which form."""

    mean: Tensor
    scale: Tensor
    log_prior: Tensor
    temperature: Tensor
    paper: bool

    @property
    def low(self) -> Tensor:
        return self.mean.min()

    @property
    def high(self) -> Tensor:
        return self.mean.max()

    @property
    def coefficients(self) -> Tensor:
        """Log densities as polynomials in ``Evaluation.features``, [K, 3]."""
        precision = self.scale.reciprocal().square()
        linear = self.mean * precision
        constant = self.log_prior - self.scale.log() - 0.5 * self.mean * linear
        return torch.stack([constant, linear, -0.5 * precision], 1)

    def log_density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities, without the constant of the normal law, and their derivatives by the point: [..., K] each."""
        inside = points.clamp(self.low, self.high)
        precision = self.scale.reciprocal().square()
        distance = inside[..., None] - self.mean
        slope = -distance * precision
        beyond = (points - inside)[..., None]
        return self.log_prior - self.scale.log() + slope * (0.5 * distance + beyond), slope

    def assignment(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """phi and, for the paper's form, the responsibilities (otherwise phi again)."""
        if not self.paper:
            phi = torch.softmax(logs * self.temperature.reciprocal(), -1)
            return phi, phi
        responsibility = torch.softmax(logs, -1)
        return torch.softmax(responsibility * self.temperature.reciprocal(), -1), responsibility

    @property
    def steepness(self) -> Tensor:
        """Difference of log densities over which an even two-way assignment changes by a factor e."""
        return (2 * self.temperature).clamp(max=1.0) if self.paper else self.temperature

    @property
    def reach(self) -> Tensor:
        """Difference of log densities beyond which a component does not matter."""
        if not self.paper:
            return SATURATED * self.temperature
        share = (SATURATED * self.temperature).clamp(max=1 - 1e-7)
        return 2 * torch.atanh(share)

    def saturation(self, reach: float | Tensor) -> tuple[Tensor, Tensor]:
        """Below the first and above the second point the outermost component leads all others by at least ``reach``."""
        ends = []
        for end, sign in ((self.low, -1.0), (self.high, 1.0)):
            logs, slope = (t[0] for t in self.log_density(end.reshape(1)))
            outermost = torch.where(self.mean == end, logs, -torch.inf).max()
            approach = -sign * slope  # how fast the lead grows outward
            missing = (reach - (outermost - logs)) / approach.clamp(min=1e-300)
            ends.append(end + sign * torch.where(self.mean == end, 0.0, missing).clamp(min=0.0).max())
        return ends[0], ends[1]


def evaluate(points: Tensor, mixture: Mixture) -> Evaluation:
    """The soft weight and its derivatives at ``points`` [M] (float64)."""
    inside = points.clamp(mixture.low, mixture.high)
    features = points.new_ones(3, len(points))
    features[1] = points
    torch.mul(inside, 2 * points - inside, out=features[2])
    cool = mixture.temperature.reciprocal()
    mean, precision = mixture.mean, mixture.scale.reciprocal().square()
    if mixture.paper:
        responsibility = _softmax(mixture.coefficients @ features)
        phi = _softmax(responsibility * cool)
        pulling = responsibility * phi
    else:
        responsibility = phi = pulling = _softmax((mixture.coefficients * cool) @ features)
    soft = mean @ phi
    # The derivative of log density k by the point is precision_k (mu_k - inside).
    rows = torch.stack([precision, precision * mean, precision * mean**2])
    flat, first, second = rows @ pulling
    slope = second.addcmul_(first, inside + soft, value=-1).addcmul_(flat, inside * soft).mul_(cool)
    mean_pull = None
    if mixture.paper:
        mean_pull = (mean @ pulling - soft * pulling.sum(0)) * cool
        flat, first = rows[:2] @ responsibility
        slope -= mean_pull * (first - inside * flat)
    return Evaluation(features, soft, slope, phi, responsibility, pulling, mean_pull)


def _softmax(logits: Tensor) -> Tensor:
    """Over the first dimension, overwriting the logits. Nothing is smaller than exp(-100): sums of denormal numbers, of which
    there would be many, take several times as long."""
    shares = logits.sub_(logits.amax(0)).clamp_(min=-100.0).exp_()
    return shares.div_(shares.sum(0))


@dataclass(frozen=True)
class Table:
    """Level one: ``start``, ``density`` (cells per unit), ``cells`` and ``offset`` of each bin [B]. Level two: value and slope at
    each knot [M + 1] and their steps to the next knot. float32 unless the weights are float64."""

    low: Tensor
    high: Tensor
    bins_per_unit: Tensor
    start: Tensor
    density: Tensor
    cells: Tensor
    offset: Tensor
    value: Tensor
    value_step: Tensor
    slope: Tensor
    slope_step: Tensor
    at: Evaluation
    chunk: int

    def locate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Knot index (int32) and fraction of the cell for each weight. A weight that is not a number stays one."""
        bin_ = ((weight - self.low) * self.bins_per_unit).to(torch.int32).clamp_(0, self.start.numel() - 1)
        place = (
            (weight - self.start.index_select(0, bin_)).mul_(self.density.index_select(0, bin_)).clamp_(min=0)
        )
        place = torch.minimum(place, self.cells.index_select(0, bin_), out=place)
        cell = place.to(torch.int32)
        place.sub_(cell)
        cell.add_(self.offset.index_select(0, bin_)).clamp_(0, self.value.numel() - 1)
        return cell, place


@torch.no_grad()
def build_table(weight: Tensor, mixture: Mixture) -> Table:
    """The table for these weights [N] under this mixture."""
    count, dtype = weight.numel(), weight.dtype
    bins = max(1024 if count <= 1 << 17 else 2048, 64 * mixture.mean.numel())
    smallest, largest = torch.aminmax(weight)
    left, right = mixture.saturation(mixture.reach if not mixture.paper else SATURATED)
    low = torch.maximum(left, smallest.double())
    high = torch.minimum(right, largest.double())
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    low = low.to(dtype)
    width = ((high - low.double()) / bins).clamp(min=1e-30)
    start = low.double() + width * torch.arange(bins, dtype=torch.float64, device=weight.device)
    span = width.expand(bins).clone()
    need = _cells(start, span, mixture)
    zoom = (need < 0).nonzero().squeeze(1)
    if zoom.numel():
        start[zoom], span[zoom], need[zoom] = _zoom(start[zoom], span[zoom], mixture)
    cells = need.nan_to_num(1.0).ceil().clamp(1, CELLS)  # weights that are not numbers make a table of such
    start = start.to(dtype)
    density = (cells / span).to(dtype)
    offset = torch.cat([cells.new_zeros(1), cells.cumsum(0)])
    knot_bin = torch.repeat_interleave(torch.arange(bins, device=weight.device), cells.long())
    inner = torch.arange(knot_bin.numel(), device=weight.device) - offset[knot_bin]
    knots = start.double()[knot_bin] + inner / density.double()[knot_bin]
    end = start[-1:].double() + cells[-1:] / density[-1:].double()
    at = evaluate(torch.cat([knots, end]), mixture)
    value, slope = at.soft.to(dtype), at.slope.to(dtype)
    return Table(
        low=low,
        high=high,
        bins_per_unit=width.reciprocal().to(dtype),
        start=start,
        density=density,
        cells=cells.to(dtype),
        offset=offset[:-1].to(torch.int32),
        value=value,
        value_step=torch.diff(value, append=value[-1:]),
        slope=slope,
        slope_step=torch.diff(slope, append=slope[-1:]),
        at=at,
        chunk=CHUNK if weight.device.type == "cpu" else 1 << 24,
    )


def _cells_per_unit(logs: Tensor, slope: Tensor, mixture: Mixture) -> Tensor:
    """How many cells a unit of weight needs at these points [...].

    The assignment changes at the rate of twice the standard deviation, over phi, of the slopes of its logits. A cell of c
    logit units leaves a linear piece an error of about 0.012 c^2 of the jump between the means in question; c is such that this
    is 3e-5 of the largest mean, and at most ``COARSEST`` for the sake of the derivatives. Where the assignment is nearly made and
    the rate small, a cell is at most ``COARSEST_TAIL``, since many weights may lie there.
    """
    phi, responsibility = mixture.assignment(logs)
    if mixture.paper:
        inner = (
            responsibility * (slope - (responsibility * slope).sum(-1, keepdim=True)) / mixture.temperature
        )
        rate = 2 * torch.maximum(_deviation(phi, inner), _deviation(responsibility, slope))
        spread = torch.maximum(_spread(phi, inner), _spread(responsibility, slope))
    else:
        rate = 2 * _deviation(phi, slope) / mixture.temperature
        spread = _spread(phi, slope) / mixture.temperature
    distance = (mixture.mean - (phi * mixture.mean).sum(-1, keepdim=True)).abs()
    jump = 2.4 * (phi.sqrt().sqrt() * distance).amax(-1) / mixture.mean.abs().max().clamp(min=1e-30)
    fine = rate * (FINEST * jump).sqrt().clamp(min=1 / COARSEST)
    return torch.maximum(fine, spread / COARSEST_TAIL)


def _spread(share: Tensor, slope: Tensor) -> Tensor:
    """Difference between the largest and the smallest slope of the components with a share above ``TAIL`` [..., K]."""
    heard = share > TAIL
    return torch.where(heard, slope, -torch.inf).amax(-1) - torch.where(heard, slope, torch.inf).amin(-1)


def _deviation(share: Tensor, values: Tensor) -> Tensor:
    """Standard deviation of ``values`` over the distribution ``share`` [..., K]."""
    mean = (share * values).sum(-1, keepdim=True)
    return (share * (values - mean).square()).sum(-1).sqrt()


def _contest(logs: Tensor, slope: Tensor, width: Tensor, mixture: Mixture) -> Tensor:
    """For neighbouring points [..., P]: by how many logit units the components that matter between two of them may part,
    [..., P - 1]; 0 where only one matters."""
    lead = logs.max(-1)
    gap = lead.values[..., None] - logs
    relative = slope - slope.gather(-1, lead.indices[..., None])
    step = width[..., None, None]
    bend = (
        step.square() * (mixture.scale.reciprocal().square() + mixture.scale.min().reciprocal().square()) / 8
    )
    ahead = gap[..., :-1, :] - (relative[..., :-1, :] * step).clamp(min=0)
    behind = gap[..., 1:, :] - (-relative[..., 1:, :] * step).clamp(min=0)
    near = torch.minimum(ahead, behind) - bend < mixture.reach
    fastest = torch.where(near, torch.maximum(slope[..., :-1, :], slope[..., 1:, :]), -torch.inf).amax(-1)
    slowest = torch.where(near, torch.minimum(slope[..., :-1, :], slope[..., 1:, :]), torch.inf).amin(-1)
    alone = near.sum(-1) <= 1
    return torch.where(alone, 0.0, (fastest - slowest) * width[..., None] / mixture.steepness)


def _cells(start: Tensor, span: Tensor, mixture: Mixture) -> Tensor:
    """Cells wanted in each of B adjoining bins; -1 where the bin must be looked at more closely."""
    logs, slope = mixture.log_density(torch.cat([start, start[-1:] + span[-1:]]))
    contest = _contest(logs, slope, span[0], mixture)
    rate = _cells_per_unit(logs, slope, mixture)
    wanted = torch.maximum(rate[1:], rate[:-1]) * span
    return torch.where(contest > 2, -1.0, wanted)


def _zoom(start: Tensor, span: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Shrink each interval onto the part where components contend; return start, span and the cells wanted there."""
    even = torch.linspace(0, 1, SPLIT + 1, dtype=torch.float64, device=start.device)
    place = torch.arange(SPLIT, device=start.device)
    for _ in range(ROUNDS):
        logs, slope = mixture.log_density(start[:, None] + span[:, None] * even)
        busy = _contest(logs, slope, span / SPLIT, mixture) > 0
        first = torch.where(busy, place, SPLIT).amin(1)
        last = torch.where(busy, place + 1, 0).amax(1)
        quiet = last <= first
        first, last = torch.where(quiet, 0, first), torch.where(quiet, SPLIT, last)
        start, share = start + span * first / SPLIT, (last - first) / SPLIT
        span = span * share
        if not bool((share < 0.5).any()):
            break
    logs, slope = mixture.log_density(start[:, None] + span[:, None] * even)
    return start, span, _cells_per_unit(logs, slope, mixture).amax(1) * span
