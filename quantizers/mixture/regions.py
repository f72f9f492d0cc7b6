"""Which component of a mixture is the most probable where: the limit of the soft assignment at temperature 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.mixture.soft_evaluation import Evaluation, Mixture

FEW = 8  # edges that are rather compared with one by one: a search mispredicts a branch at each


def place_between(weight: Tensor, edges: Tensor) -> Tensor:
    """How many of the ascending ``edges`` each weight lies above, int32, the weight's shape; of one that is not a number that is
    any count."""
    edges = edges.to(weight.dtype)
    if weight.device.type != "cpu" or not 0 < len(edges) <= FEW:
        return torch.bucketize(weight, edges, out_int32=True)
    first, *others = ((weight > edge).view(torch.uint8) for edge in edges.unbind())
    for other in others:
        first += other
    return first.to(torch.int32)


class Regions(NamedTuple):
    """Where each component is the most probable: ``labels[i]`` between ``thresholds[i - 1]`` and ``thresholds[i]``."""

    thresholds: Tensor
    labels: Tensor

    def assign(self, weight: Tensor) -> Tensor:
        """Component of each weight, int64, the weight's shape."""
        return self.labels.index_select(0, self.place(weight).flatten()).view(weight.shape)

    def place(self, weight: Tensor) -> Tensor:
        """Whose ``labels`` each weight has, int32, the weight's shape."""
        return place_between(weight, self.thresholds)

    def inside(self, weight: Tensor, component: Tensor) -> Tensor:
        """Each weight, or where it is not in the region of its ``component`` the nearest end of that region. A component with
        several regions has its outermost ends, one without any leaves its weights."""
        count = int(max(self.labels.max(), component.max())) + 1
        edges = self.thresholds.to(weight.dtype)
        low = weight.new_full((count,), float("inf"))
        high = weight.new_full((count,), float("-inf"))
        ends = edges.new_tensor([float("-inf")]), edges.new_tensor([float("inf")])
        low.scatter_reduce_(0, self.labels, torch.cat([ends[0], edges]), "amin")
        high.scatter_reduce_(0, self.labels, torch.cat([edges, ends[1]]), "amax")
        found = torch.minimum(torch.maximum(weight, low[component]), high[component])
        return torch.where(low[component] > high[component], weight, found)


@torch.no_grad()
def regions(mean: Tensor, scale: Tensor, log_prior: Tensor) -> Regions:
    """The intervals of the real line that belong to each component [K] (the limit of both forms at temperature 0), exactly:
    between two neighbours of the points at which any two components are equally probable one component leads."""
    mixture = Mixture(
        mean.double(), scale.double(), log_prior.double(), mean.new_tensor(1.0).double(), paper=False
    )
    point = _ties(mixture)
    if not len(point):
        return Regions(point, mixture.log_density(mixture.mean[:1])[0].argmax(1))
    beyond = mixture.high - mixture.low + mixture.scale.max()
    middle = torch.cat([point[:1] - beyond, 0.5 * (point[1:] + point[:-1]), point[-1:] + beyond])
    label = mixture.log_density(middle)[0].argmax(1)
    change = (label[1:] != label[:-1]).nonzero().squeeze(1)
    return Regions(point[change], torch.cat([label[:1], label[change + 1]]))


def _ties(mixture: Mixture) -> Tensor:
    """Where two components [K] are equally probable, ascending: between the outermost means the roots of a quadratic, beyond
    them, where log densities are straight lines, one point on either side."""
    count = mixture.mean.numel()
    first, second = torch.triu_indices(count, count, 1, device=mixture.mean.device)
    origin = 0.5 * (mixture.low + mixture.high)
    precision, mean = mixture.scale.reciprocal().square(), mixture.mean - origin

    def gap(values: Tensor) -> Tensor:
        return values[first] - values[second]

    square, line = -0.5 * gap(precision), gap(precision * mean)
    constant = gap(mixture.constants - 0.5 * precision * mean.square())
    # Of the two ways to write a root each, those in which nothing cancels.
    larger = -0.5 * (line + torch.copysign((line.square() - 4 * square * constant).sqrt(), line))
    inside = origin + torch.cat([larger / square, constant / larger])
    found = [inside[(inside >= mixture.low) & (inside <= mixture.high)]]
    for end, sign in ((mixture.low, -1.0), (mixture.high, 1.0)):
        logs, slope = mixture.log_density(end)
        way = -gap(logs) / gap(slope)
        found.append((end + way)[(way * sign > 0) & way.isfinite()])
    points: Tensor = torch.cat(found).unique()
    return points


@torch.no_grad()
def regions_between(at: Evaluation, mixture: Mixture, places: list[int]) -> list[Regions]:
    """Each layer's regions as far as its weights go: solved for between two knots that do not belong to the same component.
    (Inside a cell that lies between two knots of one component no other leads by more than a fraction of a cell.)"""
    winner, layer = at.winner, at.owners.layer
    assert winner is not None
    differs = winner[1:] != winner[:-1]
    if layer is not None:
        differs &= layer[1:] == layer[:-1]
    change = differs.nonzero().squeeze(1)
    own = mixture[layer[change]] if layer is not None else mixture[0]
    before, after = winner[change], winner[change + 1]
    points = _crossings(at.points[change], at.points[change + 1], before, after, own)
    firsts = torch.tensor(places[:-1], device=winner.device)
    cuts = torch.searchsorted(change, firsts).tolist()
    first = winner[firsts]
    found = []
    for i, (a, b) in enumerate(zip(cuts, [*cuts[1:], len(change)])):
        found.append(Regions(points[a:b], torch.cat([first[i : i + 1], after[a:b]])))
    return found


def _crossings(left: Tensor, right: Tensor, before: Tensor, after: Tensor, mixture: Mixture) -> Tensor:
    """Where between ``left`` and ``right`` [P] component ``after`` overtakes ``before`` [P], of one mixture or each its own."""
    point = 0.5 * (left + right)
    for _ in range(8):  # Newton's method on a parabola inside a narrow cell
        logs, slope = mixture.log_density(point)
        lead = logs.gather(1, before[:, None]) - logs.gather(1, after[:, None])
        fall = slope.gather(1, before[:, None]) - slope.gather(1, after[:, None])
        step = (lead / fall.clamp(max=-1e-300)).squeeze(1)
        point = torch.minimum(torch.maximum(point - step, left), right)
    return point
