"""Plain int8 weights: symmetric, one scale per output channel, straight-through rounding in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers.core.base import Rebuilding, WeightQuantizer

HIGH = 127


class Int8(WeightQuantizer):
    """``round(w / scale)`` in -127..127 with ``scale = max |w| / 127`` of the output channel. Training sees the same values as
    evaluation; the gradient passes through the rounding unchanged."""

    widths = (8,)

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        self.check("int8", layer)
        super().__init__(layer, shape, options)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            integers, scale = self._integers(weight)
            rounded = integers * scale
        if not self.training:
            return rounded.to(weight.dtype)
        return weight + (rounded - weight).detach()

    def codebook(self, weight: Tensor) -> Codebook:
        integers, scale = self._integers(weight.detach())
        indices = (integers + HIGH).to(torch.uint8).cpu().numpy()
        levels = np.arange(-HIGH, HIGH + 1, dtype=np.int8)
        return Codebook(indices, levels, scale.reshape(-1).cpu().numpy(), 8)

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding | None:
        return None  # so fine a grid is as good as it is

    @staticmethod
    def _integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers as float32, and the scale, broadcastable."""
        weight = weight.float()
        largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        scale = (largest / HIGH).clamp(min=torch.finfo(torch.float32).tiny)
        return (weight / scale).round().clamp(-HIGH, HIGH), scale
