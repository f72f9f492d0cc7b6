"""Uniform weights with a learned step (LSQ: Esser et al., "Learned Step Size Quantization", ICLR 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from quantizers.core.activation import FLOOR, LearnedStep
from quantizers.core.base import QUANTIZERS, WeightQuantizer

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, TemperatureSchedule


@QUANTIZERS.register("learned_step")
class LearnedStepWeight(WeightQuantizer):
    """``step * clamp(round(w / step), -2**(bits - 1), 2**(bits - 1) - 1)``, one step per tensor, learned with equation 3 and
    the gradient's scale of section 2.2. Training sees the same values as evaluation. The step starts at
    ``2 * mean |w| / sqrt(2**(bits - 1) - 1)`` (section 2.1). Of a layer's plan only ``bits`` count."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.quantize = LearnedStep(bits, signed=True)

    @classmethod
    def for_layer(
        cls,
        weight: Tensor,
        layer: LayerPlan,
        temperature: TemperatureSchedule,
        form: str,
        *,
        initialise: bool,
    ) -> LearnedStepWeight:
        quantizer = cls(layer.bits)
        if initialise:
            step = 2 * float(weight.detach().abs().double().mean()) / (2 ** (layer.bits - 1) - 1) ** 0.5
            with torch.no_grad():
                quantizer.quantize.step.fill_(step or 1.0)
                quantizer.quantize.floor.fill_((step or 1.0) * FLOOR)
        return quantizer.to(weight.device)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return self.quantize.frozen()(weight)
        # The step's gradient is scaled by the size of one sample: here the whole tensor is one.
        return self.quantize(weight.unsqueeze(0)).squeeze(0)

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        frozen = self.quantize.frozen()
        integers = (frozen(weight.detach().float()) / frozen.step).round()
        levels = np.arange(frozen.low, frozen.high + 1, dtype=np.int8)
        indices = (integers - frozen.low).to(torch.uint8).cpu().numpy()
        return Codebook(indices, levels, np.array([frozen.step], np.float32), self.bits)

    def mixture_parameters(self) -> list[nn.Parameter]:
        return []  # the step is found with those of the activations, and takes their rate
