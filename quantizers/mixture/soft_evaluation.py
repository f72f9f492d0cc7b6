"""Mixtures, and their soft weight evaluated on points, with its gradients: exact, K numbers a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SATURATED = 16.0  # logit difference at which a component no longer matters


@dataclass(frozen=True)
class Mixture:
    """Components [..., K], temperatures [...], and which form; float64 for tables. What is asked of a mixture is asked of all
    that the leading dimensions hold, which broadcast with those of the points."""

    mean: Tensor
    scale: Tensor
    log_prior: Tensor
    temperature: Tensor
    paper: bool

    def __getitem__(self, place: Any) -> Mixture:
        """Indexed along the leading dimensions."""
        return Mixture(
            self.mean[place], self.scale[place], self.log_prior[place], self.temperature[place], self.paper
        )

    @property
    def low(self) -> Tensor:
        return self.mean.amin(-1)

    @property
    def high(self) -> Tensor:
        return self.mean.amax(-1)

    @property
    def constants(self) -> Tensor:
        """What log densities have besides the distance [..., K], without the constant of the normal law."""
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
        cool = self.temperature.reciprocal()[..., None]
        if not self.paper:
            phi = torch.softmax(logs * cool, -1)
            return phi, phi
        responsibility = torch.softmax(logs, -1)
        return torch.softmax(responsibility * cool, -1), responsibility

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
        """Below the first and above the second point [...] the outermost component leads all others by at least ``reach``."""
        lead = torch.as_tensor(reach, dtype=self.mean.dtype, device=self.mean.device)[..., None]
        ends = []
        for end, sign in ((self.low, -1.0), (self.high, 1.0)):
            logs, slope = self.log_density(end)
            own = self.mean == end[..., None]
            outermost = torch.where(own, logs, -torch.inf).amax(-1, keepdim=True)
            approach = -sign * slope  # how fast the lead grows outward
            missing = (lead - (outermost - logs)) / approach.clamp(min=1e-300)
            ends.append(end + sign * torch.where(own, 0.0, missing).clamp(min=0.0).amax(-1))
        return ends[0], ends[1]


class Owners(NamedTuple):
    """Which of L mixtures each of M points belongs to: their first for all of them, or point by point in the mixtures' order."""

    layer: Tensor | None = None  # [M] int
    counts: Sequence[int] = ()  # how many belong to each

    def spread(self, values: Tensor) -> Tensor:
        """[L, K] or [L] to [K, M] or [M]; to [K, 1] or [] where all points have one owner."""
        if self.layer is None:
            return values[0] if values.ndim == 1 else values[0, :, None]
        return values.t().index_select(-1, self.layer)

    def mixed(self, values: Tensor, shares: Tensor) -> Tensor:
        """Sum over the components of ``values`` [L, K] times ``shares`` [K, M]: [M]."""
        return values[0] @ shares if self.layer is None else (self.spread(values) * shares).sum(0)

    def sums(self, array: Tensor) -> Tensor:
        """Each mixture's sum over its points: [K, M] or [M] to [L, K] or [L]."""
        if self.layer is None:
            return array.sum(-1)[None]
        # Not differences of running sums: layers whose weights differ a thousandfold would drown each other.
        return torch.stack([part.sum(-1) for part in array.split(list(self.counts), -1)])

    def products(self, array: Tensor, factor: Tensor) -> Tensor:
        """``sums(array * factor)``, of [K, M] and [M]."""
        return (array @ factor)[None] if self.layer is None else self.sums(array * factor)


class Evaluation(NamedTuple):
    """The soft weight at M points, and what its gradients need; of the points' and the mixtures' type.

    With ``inside`` the point moved to the outermost mean beyond it, log density k is a constant less
    ``(inside - mu_k) (2 point - inside - mu_k) / (2 sigma_k^2)``, which continues along its tangent beyond the outermost means.
    Distances are taken first, so that float32 is enough however narrow a component is.
    """

    owners: Owners
    points: Tensor  # [M]
    inside: Tensor  # [M]
    product: Tensor  # [K, M] of the two distances
    assignment: Tensor  # [K, M] phi
    responsibility: Tensor  # [K, M]; phi again but in the paper's form
    soft: Tensor  # [M]
    winner: Tensor | None  # [M] the most probable component, where it was asked for

    def gradients(
        self, upstream: Tensor, mixture: Mixture, *, by_point: bool, by_mixture: bool
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor, Tensor] | None]:
        """``upstream`` [M] times the derivative by the point [M]; sums of it times those by mean, scale, log prior [L, K] and
        temperature [L]."""
        of, mean, cool = self.owners, mixture.mean, mixture.temperature.reciprocal()
        precision = mixture.scale.square().reciprocal_()
        # Times the derivative by log density k: phi_k (mu_k - soft) / T, which the paper's form hands on to the responsibilities.
        flow = (of.spread(mean) - self.soft).mul_(self.assignment).mul_(upstream * of.spread(cool))
        cooling = None
        if mixture.paper:
            flow.mul_(self.responsibility)
            pull = flow.sum(0)
            cooling = of.sums(pull)
            flow.addcmul_(self.responsibility, pull, value=-1)
        along = None
        if by_point:
            along = of.mixed(precision * mean, flow).addcmul_(
                self.inside, of.mixed(precision, flow), value=-1
            )
        if not by_mixture:
            return along, None
        total, first = of.sums(flow), of.products(flow, self.points)
        second = of.sums(flow.mul_(self.product)).mul_(precision)
        if cooling is None:
            cooling = (mixture.constants * total - 0.5 * second).sum(-1)
        by_mean = of.products(self.assignment, upstream).add_((first - mean * total).mul_(precision))
        return along, (by_mean, (second - total) / mixture.scale, total, -cooling * cool)


def evaluate(
    points: Tensor, mixture: Mixture, owners: Owners | None = None, *, winner: bool = False
) -> Evaluation:
    """The soft weight at ``points`` [M] under the mixtures [L, K] they belong to, of the mixtures' type; the most probable
    component too where asked for."""
    owners = owners or Owners()
    mean, cool = owners.spread(mixture.mean), owners.spread(mixture.temperature.reciprocal())
    inside = points.clamp(owners.spread(mixture.low), owners.spread(mixture.high))
    product = (torch.sub(2 * points, inside) - mean).mul_(inside - mean)
    unit = mixture.temperature.reciprocal()[:, None] if not mixture.paper else 1.0
    narrow = owners.spread(mixture.scale.square().reciprocal_().mul_(-0.5 * unit))
    logits = torch.addcmul(owners.spread(mixture.constants * unit), product, narrow)
    most = None
    if winner:
        largest, most = logits.max(0)
    else:
        largest = logits.amax(0)
    phi = responsibility = _softmax(logits, largest)
    if mixture.paper:
        logits = responsibility * cool
        phi = _softmax(logits, logits.amax(0))
    soft = owners.mixed(mixture.mean, phi)
    return Evaluation(owners, points, inside, product, phi, responsibility, soft, most)


def _softmax(logits: Tensor, largest: Tensor) -> Tensor:
    """Over the first dimension, overwriting the logits. Nothing is smaller than exp(-80): sums of denormal numbers, of which
    there would be many, take several times as long."""
    shares = logits.sub_(largest).clamp_(min=-80.0).exp_()
    return shares.div_(shares.sum(0))
