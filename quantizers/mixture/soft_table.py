"""The mixture's soft weight evaluated on few points, and the table that answers for many.

The table has two levels, both read in constant time. Level one: B equal bins over the range where the function is not yet
constant. Level two: each bin holds a window and a number of equal cells in it; cells are narrow where the assignment
changes quickly (a cell spans a fraction of a logit unit), and a window shrinks onto a transition that is much narrower
than its bin, so any temperature is resolved. Outside its window a bin is constant to within exp(-SATURATED).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from quantizers.mixture.regions import Regions, regions_between
from quantizers.mixture.soft_evaluation import SATURATED, Evaluation, Mixture, Owners, evaluate

CHUNK = 32_000  # weights handled at once on a CPU: the working arrays stay in its cache, and PyTorch does not split the work
# among threads, whose barriers cost more here than they gain (and very much more on a busy machine)
ROUNDS = 4  # zooms by up to SPLIT each
SPLIT = 16
CELLS = 1024  # most cells in one bin
COARSEST = 0.18  # logit units in one cell where the assignment changes, at most
COARSEST_TAIL = 0.5  # the same wherever two components have more than the share TAIL
TAIL = 1e-3
ROOM = 1 << 22  # bins times components of the tables that are made together
FINEST = 400.0  # cells per logit unit, squared, for a jump as high as the largest mean


@dataclass(frozen=True)
class SoftTable:
    """One layer's. Level one: ``start``, ``density`` (cells per unit), ``cells`` and ``offset`` of each bin [B]. Level two: value
    and slope at each knot [M] and their steps to the next knot. float32 unless the weights are float64."""

    low: Tensor
    bins_per_unit: Tensor
    start: Tensor
    density: Tensor
    cells: Tensor
    offset: Tensor
    value: Tensor
    value_step: Tensor
    slope: Tensor
    slope_step: Tensor
    regions: Regions | None
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


def bin_count(weights: int, components: int) -> int:
    """Bins of a table for so many weights."""
    return max(256 if weights <= 1 << 17 else 2048, 64 * components)


def layers_at_once(weights: int, components: int) -> int:
    """How many layers, of at most so many weights, to make tables for together: few where components are many."""
    return max(1, ROOM // (bin_count(weights, components) * components))


@torch.no_grad()
def build_tables(
    weights: Sequence[Tensor], mixture: Mixture, *, with_regions: bool
) -> tuple[list[SoftTable], Evaluation, list[int]]:
    """The tables for L layers' weights [N_l], of one type, under their mixtures [L, K]; the soft weights at the knots of all, one
    table's after the other; and where each table's begin."""
    count, dtype, device = max(weight.numel() for weight in weights), weights[0].dtype, weights[0].device
    layers = len(weights)
    bins = bin_count(count, mixture.mean.shape[-1])
    ends = torch.stack([torch.stack(torch.aminmax(weight)) for weight in weights]).double()
    left, right = mixture.saturation(mixture.reach if not mixture.paper else SATURATED)
    low, high = torch.fmax(left, ends[:, 0]), torch.fmin(right, ends[:, 1])  # the ends may be no numbers
    low, high = torch.minimum(low, high).to(dtype), torch.maximum(low, high)
    width = ((high - low.double()) / bins).clamp(min=1e-30)
    numbers = torch.arange(bins, dtype=torch.float64, device=device)
    start = torch.addcmul(low.double()[:, None], width[:, None], numbers)
    need = _cells(start, width, mixture[:, None])
    span = width[:, None].expand(need.shape)
    zoom = (need < 0).nonzero(as_tuple=True)
    if zoom[0].numel():
        span = span.clone()
        start[zoom], span[zoom], need[zoom] = _zoom(start[zoom], span[zoom], mixture[zoom[0]][:, None])
    cells = need.nan_to_num(1.0).ceil().clamp(1, CELLS)  # weights that are not numbers make a table of such
    start = start.to(dtype)
    density = (cells / span).to(dtype)
    knots_of = cells.long()
    knots_of[:, -1] += 1  # the end of the last bin
    offset = torch.cat([knots_of.new_zeros(1), knots_of.flatten().cumsum(0)])
    bounds = offset[::bins]
    places = bounds.tolist()
    knot_bin = torch.repeat_interleave(
        torch.arange(layers * bins, device=device), knots_of.flatten(), output_size=places[-1]
    )
    inner = torch.arange(places[-1], device=device) - offset[knot_bin]
    knots = start.flatten()[knot_bin].double() + inner / density.flatten()[knot_bin].double()
    owners = Owners() if layers == 1 else Owners(knot_bin // bins, [b - a for a, b in pairwise(places)])
    at = evaluate(knots, mixture, owners, winner=with_regions)
    steepness, _ = at.gradients(torch.ones_like(at.soft), mixture, by_point=True, by_mixture=False)
    assert steepness is not None
    regions = regions_between(at, mixture, places) if with_regions else [None] * layers
    last = bounds[1:] - 1
    value, slope = at.soft.to(dtype), steepness.to(dtype)
    value_step, slope_step = (torch.diff(t, append=t[-1:]).index_fill_(0, last, 0.0) for t in (value, slope))
    local = (offset[:-1].reshape(layers, bins) - bounds[:-1, None]).to(torch.int32)
    cells, rate = cells.to(dtype), width.reciprocal().to(dtype)
    chunk = CHUNK if device.type == "cpu" else 1 << 24
    tables = []
    for i in range(layers):
        piece = slice(places[i], places[i + 1])
        tables.append(
            SoftTable(
                low[i], rate[i], start[i], density[i], cells[i], local[i],
                value[piece], value_step[piece], slope[piece], slope_step[piece], regions[i], chunk,
            )
        )  # fmt: skip
    return tables, at, places


def _cells_per_unit(logs: Tensor, slope: Tensor, mixture: Mixture) -> Tensor:
    """How many cells a unit of weight needs at these points [...].

    The assignment changes at the rate of twice the standard deviation, over phi, of the slopes of its logits. A cell of c
    logit units leaves a linear piece an error of about 0.012 c^2 of the jump between the means in question; c is such that this
    is 3e-5 of the largest mean, and at most ``COARSEST`` for the sake of the derivatives. Where the assignment is nearly made and
    the rate small, a cell is at most ``COARSEST_TAIL``, since many weights may lie there.
    """
    phi, responsibility = mixture.assignment(logs)
    if mixture.paper:
        pull = slope - (responsibility * slope).sum(-1, keepdim=True)
        inner = responsibility * pull / mixture.temperature[..., None]
        rate = 2 * torch.maximum(_deviation(phi, inner), _deviation(responsibility, slope))
        spread = torch.maximum(_spread(phi, inner), _spread(responsibility, slope))
    else:
        rate = 2 * _deviation(phi, slope) / mixture.temperature
        spread = _spread(phi, slope) / mixture.temperature
    distance = (mixture.mean - (phi * mixture.mean).sum(-1, keepdim=True)).abs()
    jump = 2.4 * (phi.sqrt().sqrt() * distance).amax(-1) / mixture.mean.abs().amax(-1).clamp(min=1e-30)
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
    precision = mixture.scale.reciprocal().square()
    bend = step.square() * (precision + precision.amax(-1, keepdim=True)) / 8
    ahead = gap[..., :-1, :] - (relative[..., :-1, :] * step).clamp(min=0)
    behind = gap[..., 1:, :] - (-relative[..., 1:, :] * step).clamp(min=0)
    near = torch.minimum(ahead, behind) - bend < mixture.reach[..., None]
    fastest = torch.where(near, torch.maximum(slope[..., :-1, :], slope[..., 1:, :]), -torch.inf).amax(-1)
    slowest = torch.where(near, torch.minimum(slope[..., :-1, :], slope[..., 1:, :]), torch.inf).amin(-1)
    alone = near.sum(-1) <= 1
    return torch.where(alone, 0.0, (fastest - slowest) * width[..., None] / mixture.steepness)


def _cells(start: Tensor, width: Tensor, mixture: Mixture) -> Tensor:
    """Cells wanted in each of B adjoining bins [L, B] of one width [L]; -1 where the bin must be looked at more closely."""
    end = start[:, -1:] + width[:, None]
    logs, slope = mixture.log_density(torch.cat([start, end], 1))
    contest = _contest(logs, slope, width, mixture)
    rate = _cells_per_unit(logs, slope, mixture)
    wanted = torch.maximum(rate[:, 1:], rate[:, :-1]) * width[:, None]
    return torch.where(contest > 2, -1.0, wanted)


def _zoom(start: Tensor, span: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
    """Shrink each interval onto the part where components contend; return start, span and the cells wanted there."""
    even = torch.linspace(0, 1, SPLIT + 1, dtype=torch.float64, device=start.device)
    place = torch.arange(SPLIT, device=start.device)
    shrinking = torch.ones_like(
        start, dtype=torch.bool
    )  # each for itself: a layer's table does not depend on its company
    for _ in range(ROUNDS):
        logs, slope = mixture.log_density(start[:, None] + span[:, None] * even)
        busy = _contest(logs, slope, span / SPLIT, mixture) > 0
        first = torch.where(busy, place, SPLIT).amin(1)
        last = torch.where(busy, place + 1, 0).amax(1)
        still = (last <= first) | ~shrinking
        first, last = torch.where(still, 0, first), torch.where(still, SPLIT, last)
        start, share = start + span * first / SPLIT, (last - first) / SPLIT
        span = span * share
        shrinking &= share < 0.5
        if not bool(shrinking.any()):
            break
    logs, slope = mixture.log_density(start[:, None] + span[:, None] * even)
    return start, span, _cells_per_unit(logs, slope, mixture).amax(1) * span
