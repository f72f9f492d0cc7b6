"""Plain int8 weights: symmetric, one scale per output channel, straight-through rounding in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foundation.codebook import Codebook
from quantizers.core.base import QUANTIZERS, WeightQuantizer

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, TemperatureSchedule

HIGH = 127


@QUANTIZERS.register("int8")
class Int8(WeightQuantizer):
    """``round(w / scale)`` in -127..127 with ``scale = max |w| / 127`` of the output channel. Training sees the same values as
    evaluation; the gradient passes through the rounding unchanged."""

    widths = (8,)

    @classmethod
    def for_layer(
        cls,
        weight: Tensor,
        layer: LayerPlan,
        temperature: TemperatureSchedule,
        form: str,
        *,
        initialise: bool,
    ) -> Int8:
        cls.check("int8", layer)
        return cls()

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

    @staticmethod
    def _integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers as float32, and the scale, broadcastable."""
        weight = weight.float()
        largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        scale = (largest / HIGH).clamp(min=torch.finfo(torch.float32).tiny)
        return (weight / scale).round().clamp(-HIGH, HIGH), scale
