"""Uniform weights, each rounded up or down as its layer's output likes it best (AdaRound: Nagel et al., "Up or Down? Adaptive
Rounding for Post-Training Quantization", ICML 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers.core.base import Rebuilding, WeightQuantizer
from quantizers.core.grid import WeightGrid
from quantizers.core.levels import best_step

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1  # of the sigmoid, before it is cut to 0..1 (equation 23)
SHARPNESS = (20.0, 2.0)  # the regulariser's exponent, from first to last
SETTLED = 4.0  # a choice that is made: its sigmoid is cut to 1
FREE = 0.2  # share of the steps without regulariser


class AdaptiveRounding(WeightQuantizer):
    """``step * clamp(floor(w / step) + h, -2**(bits - 1), 2**(bits - 1) - 1)`` with ``h = clamp(1.2 * sigmoid(v) - 0.1, 0, 1)``
    (equations 22 and 23); deployed, h is 0 or 1. Only v is learned, from the reconstruction of the layer's output plus
    ``penalty`` (``quantizers.calibration.reconstruction``). Untrained, this rounds to nearest.
    """

    step: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__(layer, shape, options)
        self.low, self.high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        self.choice = nn.Parameter(torch.zeros(shape))
        self.register_buffer("step", torch.ones(()))

    def start(self, weight: Tensor) -> None:
        self.step.fill_(best_step(weight, self.low, self.high))
        position = weight / self.step
        share = (position - position.floor() - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
        self.choice.copy_(torch.logit(share))  # the soft weight starts as the weight

    def up(self) -> Tensor:
        """How far each weight is rounded up, 0..1."""
        return (torch.sigmoid(self.choice) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)

    def penalty(self, progress: float) -> Tensor:
        """The regulariser, summed over the weights (equation 24): 1 for a weight halfway, 0 for a rounded one; none in the first
        ``FREE`` of the steps."""
        if progress < FREE:
            return self.choice.new_zeros(())
        first, last = SHARPNESS
        sharpness = last + (first - last) * (1 - (progress - FREE) / (1 - FREE))
        return (1 - (2 * self.up() - 1).abs().pow(sharpness)).sum()

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding:
        return Rebuilding(others=[self.choice], cosine=False, penalty=self.penalty)

    def forward(self, weight: Tensor) -> Tensor:
        up = self.up() if self.training else (self.choice.detach() >= 0).to(weight.dtype)
        return (torch.floor(weight / self.step) + up).clamp(self.low, self.high) * self.step

    def grid(self, latent: Tensor) -> WeightGrid:
        levels = torch.arange(self.low, self.high + 1, dtype=torch.float64, device=latent.device)
        return WeightGrid.even(levels, self.step, len(latent))

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        """Weights half a step below their own level, all rounded up."""
        self.step.fill_(float(grid.scale.flatten()[0]))
        latent.copy_(((grid.levels[owner] - 0.5) * self.step).view_as(latent))
        self.choice.fill_(SETTLED)

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        integers = (torch.floor(weight / self.step) + (self.choice >= 0)).clamp(self.low, self.high)
        indices = (integers - self.low).to(torch.uint8).cpu().numpy()
        levels = np.arange(self.low, self.high + 1, dtype=np.int8)
        return Codebook(indices, levels, self.step.reshape(1).cpu().numpy(), self.bits)
