"""The error that a plan leads to, from the harm that it does before training and from what trials came to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]

LOG_SCALE, LOG_SCALE_DEVIATION = -2.0, 2.0  # errors added for a nat of harm, before any trial
POWER, POWER_DEVIATION = 0.8, 0.25  # harm grows faster than what training leaves of it
PART_DEVIATION = 0.5  # by how much a part of the network may matter more or less, a factor e ** so much
MISFIT = 0.15  # deviation of what a plan adds, relative, from any such rule
LEAST = 0.002  # deviation of an error at least
# Deviations by which another network differs from one that is like it: of the log scale, the power, a log factor.
OTHER = (0.5, 0.1, 0.25)


@dataclass(frozen=True)
class ErrorModel:
    """``error = floor + (1 - floor) * (1 - exp(-scale * z ** power))`` where z is the sum of a plan's harms in the parts of the
    network, each times a factor.

    Scale, power and factors are where they are likely before any trial (factors at 1: harms are right as they are) and near what
    trials say after some: Bayesian regression with Laplace's approximation.

    Attributes:
        floor: the fp32 network's error.
        mean: log scale, power, log factors [2 + K].
        covariance: of these.
    """

    floor: float
    mean: Floats
    covariance: Floats

    @classmethod
    def fit(
        cls, harms: Floats, errors: Floats, images: Floats, floor: float, like: ErrorModel | None = None
    ) -> ErrorModel:
        """From trials.

        Args:
            harms: of each trial by parts, [n, K].
            errors: [n].
            images: how many images each error is of, [n]; fewer count less.
            floor: the fp32 network's error.
            like: the rule of a network like this one, of as many parts; it is where to begin.
        """
        parts = harms.shape[1]
        prior = np.array([LOG_SCALE, POWER, *np.zeros(parts)])
        spread = np.diag([LOG_SCALE_DEVIATION, POWER_DEVIATION, *np.full(parts, PART_DEVIATION)])
        if like is not None:
            prior = like.mean
            other = np.array([*OTHER[:2], *np.full(parts, OTHER[2])])
            spread = np.linalg.cholesky(like.covariance + np.diag(other**2))
        narrow = np.linalg.inv(spread)
        noise = chance_in(errors, images) + (MISFIT * np.maximum(errors - floor, 0)) ** 2

        def residuals(point: Floats) -> Floats:
            off = (_errors(point, harms, floor) - errors) / np.sqrt(noise)
            return np.concatenate([off, narrow @ (point - prior)])

        found = least_squares(residuals, prior, method="lm", max_nfev=2000)
        return cls(floor, found.x, np.linalg.inv(found.jac.T @ found.jac))

    def predict(self, harms: Floats) -> tuple[Floats, Floats]:
        """Errors to be expected of plans [m, K], and their deviations."""
        errors, variance = self.foreseen(harms)
        return errors, np.sqrt(variance + LEAST**2 + (MISFIT * (errors - self.floor)) ** 2)

    def foreseen(self, harms: Floats) -> tuple[Floats, Floats]:
        """Errors of plans [m, K] by the rule alone, and the variances that come from not knowing it exactly."""
        errors = _errors(self.mean, harms, self.floor)
        step = 1e-4
        slopes = np.stack(
            [
                (_errors(self.mean + move, harms, self.floor) - _errors(self.mean - move, harms, self.floor))
                / (2 * step)
                for move in step * np.eye(len(self.mean))
            ],
            1,
        )
        variance: Floats = np.einsum("mp,pq,mq->m", slopes, self.covariance, slopes)
        return errors, variance

    @property
    def factors(self) -> Floats:
        """How much each part matters, relative to its harm, [K]."""
        return np.exp(self.mean[2:])


def chance_in(errors: Floats, images: Floats) -> Floats:
    """The variances of errors of so many images that are chance, [n]."""
    share = np.clip(errors, 1 / (images + 2), 1 - 1 / (images + 2))
    found: Floats = share * (1 - share) / images + LEAST**2
    return found


def _errors(point: Floats, harms: Floats, floor: float) -> Floats:
    z = np.maximum(harms @ np.exp(np.clip(point[2:], -20, 20)), 1e-12)
    added = np.exp(np.clip(point[0] + point[1] * np.log(z), -50, 50))
    errors: Floats = floor + (1 - floor) * -np.expm1(-added)
    return errors
