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
    """The soft weight at M points, and what its gradients need; of the points' and the mixture's type.

    With ``inside`` the point moved to the outermost mean beyond it, log density k is a constant less
    ``(inside - mu_k) (2 point - inside - mu_k) / (2 sigma_k^2)``, which continues along its tangent beyond the outermost means.
    Distances are taken first, so that float32 is enough however narrow a component is.
    """

    points: Tensor  # [M]
    inside: Tensor  # [M]
    product: Tensor  # [K, M] of the two distances
    assignment: Tensor  # [K, M] phi
    responsibility: Tensor  # [K, M]; phi again but in the paper's form
    soft: Tensor  # [M]
    owner: Tensor | None  # [M] the most probable component, where it was asked for

    def gradients(
        self, upstream: Tensor, mixture: Mixture, by_point: bool, by_mixture: bool
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor, Tensor] | None]:
        """``upstream`` [M] times the derivative by the point [M]; sums of it times those by mean, scale, log prior [K] and
        temperature []."""
        mean, cool = mixture.mean, mixture.temperature.reciprocal()
        precision = mixture.scale.square().reciprocal_()
        # Times the derivative by log density k: phi_k (mu_k - soft) / T, which the paper's form hands on to the responsibilities.
        flow = (mean[:, None] - self.soft).mul_(self.assignment).mul_(upstream * cool)
        cooling = None
        if mixture.paper:
            flow.mul_(self.responsibility)
            pull = flow.sum(0)
            cooling = pull.sum()
            flow.addcmul_(self.responsibility, pull, value=-1)
        along = None
        if by_point:
            first, zeroth = torch.stack([precision * mean, precision]) @ flow
            along = first.addcmul_(self.inside, zeroth, value=-1)
        if not by_mixture:
            return along, None
        total, first, second = flow.sum(1), flow @ self.points, flow.mul_(self.product).sum(1).mul_(precision)
        if cooling is None:
            cooling = (mixture.constants * total).sum() - 0.5 * second.sum()
        by_mean = (self.assignment @ upstream).add_((first - mean * total).mul_(precision))
        return along, (by_mean, (second - total) / mixture.scale, total, -cooling * cool)


@dataclass(frozen=True)
class Mixture:
    """Components [K], the temperature, and which form; float64 for tables."""

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
    def constants(self) -> Tensor:
        """What log densities have besides the distance [K], without the constant of the normal law."""
        return self.log_prior - self.scale.log()

    def log_density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities, without the constant of the normal law, and their derivatives by the point: [..., K] each."""
        inside = points.clamp(self.low, self.high)
        precision = self.scale.reciprocal().square()
        distance = inside[..., None] - self.mean
        slope = -distance * precision
        beyond = (points - inside)[..., None]
        return self.constants + slope * (0.5 * distance + beyond), slope

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


def evaluate(points: Tensor, mixture: Mixture, owner: bool = False) -> Evaluation:
    """The soft weight at ``points`` [M], of the mixture's type; the most probable component too where asked for."""
    mean, cool = mixture.mean[:, None], mixture.temperature.reciprocal()
    lowest, highest = torch.aminmax(mixture.mean)
    inside = points.clamp(lowest, highest)
    product = (torch.sub(2 * points, inside) - mean).mul_(inside - mean)
    unit = cool if not mixture.paper else torch.ones_like(cool)
    narrow = mixture.scale.square().reciprocal_().mul_(-0.5 * unit)
    logits = torch.addcmul((mixture.constants * unit)[:, None], product, narrow[:, None])
    winner = None
    if owner:
        largest, winner = logits.max(0)
    else:
        largest = logits.amax(0)
    phi = responsibility = _softmax(logits, largest)
    if mixture.paper:
        logits = responsibility * cool
        phi = _softmax(logits, logits.amax(0))
    return Evaluation(points, inside, product, phi, responsibility, mixture.mean @ phi, winner)


def _softmax(logits: Tensor, largest: Tensor) -> Tensor:
    """Over the first dimension, overwriting the logits. Nothing is smaller than exp(-80): sums of denormal numbers, of which
    there would be many, take several times as long."""
    shares = logits.sub_(largest).clamp_(min=-80.0).exp_()
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
    steepness, _ = at.gradients(torch.ones_like(at.soft), mixture, by_point=True, by_mixture=False)
    assert steepness is not None
    value, slope = at.soft.to(dtype), steepness.to(dtype)
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
