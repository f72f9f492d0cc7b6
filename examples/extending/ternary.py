"""A quantizer: ternary weights with a threshold (Li et al., "Ternary Weight Networks", 2016).

python -m pipeline.search --quantizer ternary:Ternary --modules examples/extending
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation.codebook import Codebook
from foundation.errors import UserError
from quantizers import WeightQuantizer


class Ternary(WeightQuantizer):
    """``scale * {-1, 0, 1}``: weights within ``threshold`` times the mean magnitude are 0, the scale is the mean magnitude of the
    others. Both follow the latent weight; its gradient passes through unchanged."""

    widths = (2,)

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        threshold: float = 0.7  # nearly the best for normal weights

        def __post_init__(self) -> None:
            if not 0 <= self.threshold < 1:
                raise UserError(f"threshold {self.threshold!r}: give a number in [0, 1)")

    options: Options

    def forward(self, weight: Tensor) -> Tensor:
        signs, scale = self._parts(weight.detach())
        hard = (signs * scale).to(weight.dtype)
        return weight + (hard - weight).detach() if self.training else hard

    def codebook(self, weight: Tensor) -> Codebook:
        signs, scale = self._parts(weight.detach())
        levels = np.array([-1, 0, 1], np.int8)
        return Codebook((signs + 1).byte().cpu().numpy(), levels, scale.reshape(1).cpu().numpy(), self.bits)

    def _parts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Signs (float32, the weight's shape) and the scale (float32 [])."""
        size = weight.float().abs()
        large = size > self.options.threshold * size.mean()
        scale = size[large].mean() if large.any() else size.new_ones(())
        return torch.where(large, weight.float().sign(), 0.0), scale
