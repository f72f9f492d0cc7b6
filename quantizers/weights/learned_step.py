"""Uniform weights with a learned step (LSQ: Esser et al., "Learned Step Size Quantization", ICLR 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers.core.activation import FLOOR, TrainableStep, bounds
from quantizers.core.base import Rebuilding, WeightQuantizer
from quantizers.core.grid import WeightGrid


class LearnedStep(WeightQuantizer):
    """``step * clamp(round(w / step), -2**(bits - 1), 2**(bits - 1) - 1)``, one step per tensor, learned with equation 3 and
    the gradient's scale of section 2.2. Training sees the same values as evaluation. The step starts at
    ``2 * mean |w| / sqrt(2**(bits - 1) - 1)`` (section 2.1)."""

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__(layer, shape, options)
        self.quantize = TrainableStep(self.bits, signed=True)

    def start(self, weight: Tensor) -> None:
        step = 2 * float(weight.abs().double().mean()) / (2 ** (self.bits - 1) - 1) ** 0.5
        self.quantize.step.fill_(step or 1.0)
        self.quantize.floor.fill_((step or 1.0) * FLOOR)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            hard: Tensor = self.quantize.frozen()(weight)
            return hard
        # The step's gradient is scaled by the size of one sample: here the whole tensor is one.
        soft: Tensor = self.quantize(weight.unsqueeze(0)).squeeze(0)
        return soft

    def grid(self, latent: Tensor) -> WeightGrid:
        low, high = bounds(self.bits, signed=True)
        levels = torch.arange(low, high + 1, dtype=torch.float64, device=latent.device)
        return WeightGrid.even(
            levels, torch.tensor(self.quantize.frozen().step, device=latent.device), len(latent)
        )

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        self.quantize.step.fill_(float(grid.scale.flatten()[0]))
        latent.copy_(grid.values(owner).view_as(latent))

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        frozen = self.quantize.frozen()
        integers = (frozen(weight.detach().float()) / frozen.step).round()
        levels = np.arange(frozen.low, frozen.high + 1, dtype=np.int8)
        indices = (integers - frozen.low).to(torch.uint8).cpu().numpy()
        return Codebook(indices, levels, np.array([frozen.step], np.float32), self.bits)

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding:
        return Rebuilding([latent, self.quantize.step])

    def own_parameters(self) -> list[nn.Parameter]:
        return []  # the step is found with those of the activations, and takes their rate
