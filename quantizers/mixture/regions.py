"""Which component of a mixture is the most probable where: the limit of the soft assignment at temperature 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizers.mixture.soft_evaluation import Evaluation, Mixture


class Regions(NamedTuple):
    """Where each component is the most probable: ``labels[i]`` between ``thresholds[i - 1]`` and ``thresholds[i]``."""

    thresholds: Tensor
    labels: Tensor

    def assign(self, weight: Tensor) -> Tensor:
        """Component of each weight, int64, the weight's shape."""
        return self.labels[torch.bucketize(weight, self.thresholds.to(weight.dtype))]

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
    before, after = label[change], label[change + 1]
    point = _crossings(grid[change], grid[change + 1], before, after, mixture)
    return Regions(point, torch.cat([label[:1], after]))


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
