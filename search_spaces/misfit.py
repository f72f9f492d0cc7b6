"""By how much plans are off the rule from harm to error: plans that are alike are off alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky

from search_spaces.error_model import LEAST, MISFIT, ErrorModel, chance_in

Floats = NDArray[np.float64]

SHARES = 0.5  # of the kernel, in distances of the roots of two plans' shares of harm by layer, which are at most 1.4
SIZES = 1.0  # likewise of the logarithms of the sums
MOST = 500  # trials, the latest: what they cost grows with their cube, and proposals are like late ones


@dataclass(frozen=True)
class Misfit:
    """A Gaussian process on the errors of trials beside a rule's, relative to what the rule adds to fp32's.

    Two plans are alike where the same layers do the harm (Hellinger's distance of the harms' shares) and as much of it; the
    kernel is squared exponential in both, with deviation ``MISFIT`` where no trial is like a plan.

    Attributes:
        rule: from harms by parts to errors.
        harms: of the trials by layer, [n, L].
        off: by how much they were off, relative, [n].
        noise: the variances of that which are chance, [n].
    """

    rule: ErrorModel
    harms: Floats
    off: Floats
    noise: Floats

    @classmethod
    def fit(cls, rule: ErrorModel, parts: Floats, harms: Floats, errors: Floats, images: Floats) -> Misfit:
        """From trials.

        Args:
            parts: their harms as the rule takes them, [n, K].
            harms: by layer, [n, L].
            errors: [n].
            images: how many images each error is of, [n].
        """
        parts, harms, errors, images = (values[-MOST:] for values in (parts, harms, errors, images))
        told, _ = rule.foreseen(parts)
        added = np.maximum(told - rule.floor, LEAST)
        return cls(rule, harms, (errors - told) / added, chance_in(errors, images) / added**2)

    def predict(self, parts: Floats, harms: Floats) -> tuple[Floats, Floats]:
        """Errors to be expected of plans, by their harms by parts [m, K] and by layer [m, L], and their deviations."""
        told, variance = self.rule.foreseen(parts)
        added = told - self.rule.floor
        off, left = self._off(harms)
        return told + added * off, np.sqrt(variance + LEAST**2 + left * added**2)

    def believing(self, harms: Floats) -> Misfit:
        """The same if trials that run, [m, L], came to what is expected of them: nothing more is to be learned beside them."""
        off, _ = self._off(harms)
        return Misfit(
            self.rule,
            np.concatenate([self.harms, harms]),
            np.append(self.off, off),
            np.append(self.noise, np.full(len(off), LEAST)),
        )

    def _off(self, harms: Floats) -> tuple[Floats, Floats]:
        """By how much plans are expected to be off, and the variances that are left, [m] each."""
        across = MISFIT**2 * _alike(_places(harms), _places(self.harms))
        left = MISFIT**2 - np.einsum("mn,nm->m", across, cho_solve(self._factor, across.T))
        return across @ cho_solve(self._factor, self.off), np.maximum(left, 0.0)

    @cached_property
    def _factor(self) -> tuple[Floats, bool]:
        """Of the covariance of what trials came to."""
        places = _places(self.harms)
        return cholesky(MISFIT**2 * _alike(places, places) + np.diag(self.noise + 1e-9), lower=True), True


def _places(harms: Floats) -> Floats:
    """Plans as points whose distances say how much they differ."""
    total = np.maximum(harms.sum(1, keepdims=True), 1e-12)
    found: Floats = np.concatenate([np.sqrt(np.maximum(harms, 0) / total) / SHARES, np.log(total) / SIZES], 1)
    return found


def _alike(a: Floats, b: Floats) -> Floats:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    found: Floats = np.exp(-0.5 * np.maximum(square, 0))
    return found
