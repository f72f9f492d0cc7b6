"""Plain int8 weights: one scale per output channel, 255 uniform levels, straight-through rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from quantizers.base import QUANTIZERS, WeightQuantizer
from quantizers.codebook import Codebook

if TYPE_CHECKING:
    from search_spaces.plan import LayerPlan, TemperatureSchedule

LARGEST = 127


@QUANTIZERS.register("int8")
class Int8(WeightQuantizer):
    """int8 per output channel; the scale follows the channel's largest magnitude, so nothing is ever clipped."""

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
        return cls()

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            integers, scale = self._integers(weight)
            hard = integers * scale
        return weight + (hard - weight).detach() if self.training and weight.requires_grad else hard

    def codebook(self, weight: Tensor) -> Codebook:
        integers, scale = self._integers(weight.detach())
        return Codebook(
            (integers + LARGEST).to(torch.uint8).cpu().numpy(),
            np.arange(-LARGEST, LARGEST + 1).astype(np.int8),
            scale.reshape(-1).float().cpu().numpy(),
            8,
        )

    @staticmethod
    def _integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        dimensions = tuple(range(1, weight.ndim))
        scale = (weight.abs().amax(dimensions, keepdim=True) / LARGEST).clamp_min(
            torch.finfo(torch.float32).tiny
        )
        return (weight / scale).round_().clamp_(-LARGEST, LARGEST), scale
