"""Mixtures whose zeros are shrunk: the latent weights of the zero component are multiplied by a factor below 1 in every step
(iterative soft shrinkage, ISS-P: arXiv 2303.09650). What would otherwise lie where its gradient left it comes back the harder the
longer it was zero; a factor of 0 is hard thresholding.

A quantizer of a comparison (``benchmarks.trial_accuracy``), not of the project: see docs/accuracy.md for what it gained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.weights.gaussian_mixture import GaussianMixture


class Shrinking(GaussianMixture):
    """``shrink``: the factor."""

    @dataclass(frozen=True)
    class Options(GaussianMixture.Options):
        """``shrink``: the factor, 0 to 1."""

        shrink: float = 0.99

    options: Options

    @torch.no_grad()
    def _keep_house(self, weight: Tensor) -> None:
        due = self._due
        super()._keep_house(weight)
        if due and self.zero_share is not None and self.options.shrink < 1:
            zero = self.regions().assign(weight) == 0
            weight.mul_(torch.where(zero, self.options.shrink, 1.0).to(weight.dtype))
