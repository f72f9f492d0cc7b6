"""From estimates of what plans cost to what their programs cost: a line that is fitted anew after every real profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foundation.plan import Plan
from pipeline.study.records import Figures

FACTOR = 0.1  # deviation, from 1, of a real cost to its estimate, before anything was profiled
REST = 0.2  # share of a program's cost that may be no layer's, likewise; networks showed 5 to 36 %
LIKE = 0.03  # deviation of either from that of a network like this one
NOISE = 0.02  # deviation, relative to the cost, of a program from the line
TRUST = 4.0  # profiles that this assumption of the noise weighs as much as


class PriorFactor(NamedTuple):
    """By how much real costs are believed to differ from estimates before anything was profiled, and the deviation of that."""

    mean: float = 1.0
    deviation: float = FACTOR

    @classmethod
    def of(cls, ratios: Sequence[tuple[float, float, float]]) -> PriorFactor:
        """From (mean, least, largest) of each device that was calibrated; of none: estimates as they are."""
        if not ratios:
            return UNCALIBRATED
        means, lows, highs = zip(*ratios)
        mean = float(np.exp(np.mean(np.log(means))))
        return cls(mean, max(FACTOR * mean, (max(highs) - min(lows)) / 4))


UNCALIBRATED = PriorFactor()


class Foreseen(NamedTuple):
    """A cost, with an interval that holds about 19 of 20."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class CostFit:
    """``real = rest + factor * estimate``: what no plan changes, and how the sum of layers is out; by Bayesian linear regression.

    Attributes:
        rest, factor: means.
        covariance: of both, [2, 2].
        noise: deviation of one program, relative to its cost.
    """

    rest: float
    factor: float
    covariance: NDArray[np.float64]
    noise: float

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[float, float]],
        like: tuple[float, float] | None = None,
        believed: PriorFactor = UNCALIBRATED,
    ) -> CostFit:
        """From (estimate, real) pairs, all positive; from none it takes estimates times what is believed, with a wide interval.

        Args:
            like: what share of the cost is no layer's, and the factor, of a network like this one; where it is known, calibration
                says nothing more.
            believed: of the device, by calibration.
        """
        unit = float(np.median([real for _, real in pairs])) if pairs else 1.0
        estimates, reals = np.array(pairs, dtype=np.float64).reshape(-1, 2).T / unit
        sizes = np.maximum(reals, 1e-12)
        rows = np.stack([np.ones_like(estimates), estimates], 1) / sizes[:, None]
        prior = np.diag([REST**-2, believed.deviation**-2] if like is None else [LIKE**-2] * 2)
        start = np.array([0.0, believed.mean] if like is None else like)
        noise = NOISE
        for _ in range(3):  # the noise and the line depend on each other
            precision = prior + rows.T @ rows / noise**2
            mean = np.linalg.solve(precision, prior @ start + rows.T @ np.ones(len(rows)) / noise**2)
            off = np.sum((rows @ mean - 1) ** 2)
            noise = float(np.sqrt((TRUST * NOISE**2 + off) / (TRUST + len(rows))))
        scale = np.array([unit, 1.0])
        covariance = np.linalg.inv(prior + rows.T @ rows / noise**2) * np.outer(scale, scale)
        return cls(float(mean[0]) * unit, float(mean[1]), covariance, noise)

    def shares(self, estimate: float) -> tuple[float, float]:
        """What share of the cost of a program of this estimate is no layer's, and the factor on what is."""
        return self.rest / max(self.foresee(estimate).point, 1e-12), self.factor

    def foresee(self, estimate: float) -> Foreseen:
        """What a program of this estimate will cost."""
        row = np.array([1.0, estimate])
        point = max(self.rest + self.factor * estimate, 1e-12)
        deviation = float(np.sqrt(row @ self.covariance @ row + (self.noise * point) ** 2))
        return Foreseen(point, max(point - 2 * deviation, 0.0), point + 2 * deviation)


Profiles = Callable[[], Sequence[tuple[Plan, Figures]]]


class FittedCost:
    """What plans of one network will cost, as a sampler's ``Prior.cost``: estimates, and what real profiles say of them.

    Args:
        estimate: of a plan, ``latency`` in milliseconds and ``size`` in bytes (``pipeline.candidate.plan_cost.PlanCost``).
        like: of each of them ``CostFit.shares`` of a network like this one.
        latency: what calibration found of the devices.
    """

    def __init__(
        self,
        estimate: Callable[[Plan], Mapping[str, float]],
        like: Mapping[str, tuple[float, float]] | None = None,
        latency: PriorFactor = UNCALIBRATED,
    ) -> None:
        self._estimate, self._like = estimate, like or {}
        self._believed = {"latency": latency}
        self._profiles: Profiles = tuple
        self._seen: int | None = None
        self._fits: dict[str, CostFit] = {}

    def learn_from(self, profiles: Profiles) -> None:
        """Where the plans that have been profiled are, by now and later on."""
        self._profiles, self._seen = profiles, None

    def __call__(self, plan: Plan) -> Mapping[str, float]:
        return {name: foreseen.point for name, foreseen in self.foresee(plan).items()}

    def shares(self, plan: Plan) -> dict[str, tuple[float, float]]:
        """``CostFit.shares`` of a plan, as they stand by now."""
        self._refit()
        return {name: self._fits[name].shares(value) for name, value in self._estimate(plan).items()}

    def _refit(self) -> None:
        profiles = self._profiles()
        if len(profiles) != self._seen:
            self._seen, self._fits = len(profiles), self._fitted(profiles)

    def foresee(self, plan: Plan) -> dict[str, Foreseen]:
        """``latency`` and ``size`` of a plan, each with its interval."""
        self._refit()
        return {name: self._fits[name].foresee(value) for name, value in self._estimate(plan).items()}

    def _fitted(self, profiles: Sequence[tuple[Plan, Figures]]) -> dict[str, CostFit]:
        pairs: dict[str, list[tuple[float, float]]] = {"latency": [], "size": []}
        for plan, figures in profiles:
            real = {"latency": figures.latency_ms, "size": figures.size_bytes}
            for name, value in self._estimate(plan).items():
                found = real[name]
                if found:
                    pairs[name].append((value, float(found)))
        return {
            name: CostFit.of(known, self._like.get(name), self._believed.get(name, UNCALIBRATED))
            for name, known in pairs.items()
        }
