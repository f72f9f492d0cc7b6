"""Mixtures whose zeros are shrunk: the latent weights of the zero component are multiplied by a factor below 1 in every step
(iterative soft shrinkage, ISS-P: arXiv 2303.09650). What would otherwise lie where its gradient left it comes back the harder the
longer it was zero; a factor of 0 is hard thresholding. ``shrink_what_is_left_out`` does the same to structures: the blocks that a
plan leaves out are zero in the network, while what they were goes on, shrunk, and is compared with the others' in the next step.

A quantizer of a comparison (``benchmarks.trial_accuracy``), not of the project: see docs/accuracy.md for what it gained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantizers.network import quantizers_of
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


def shrink_what_is_left_out(network: nn.Module, shrink: float) -> None:
    """Let a network that ``quantize`` made remember, in training, what its plan's dimensions leave out of its weights."""
    left_out: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(network: nn.Module, inputs: object) -> None:
        if not network.training:
            return
        for name, quantizer, weight in quantizers_of(network):
            if quantizer.effect is not None:
                if name in left_out:
                    weight.add_(left_out[name])
                left_out[name] = shrink * (weight - quantizer.effect(weight, quantizer.effect_progress))

    network.register_forward_pre_hook(remember, prepend=True)
