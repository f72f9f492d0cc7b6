"""Plain int8 weights: symmetric, one scale per output channel, straight-through rounding in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers.core.base import Rebuilding, WeightQuantizer
from quantizers.core.grid import WeightGrid

HIGH = 127
CLIPS = torch.linspace(
    0.5, 1.0, 51
)  # shares of a channel's largest magnitude that are tried as its range's end


class Int8(WeightQuantizer):
    """``round(w / scale)`` in -127..127 with ``scale = max |w| / 127`` of the output channel, or a scale that was settled since
    (``clip``, ``adopt``). Training sees the same values as evaluation; the gradient passes through the rounding unchanged.

    Buffer ``scale`` [O]: 0 where the largest weight decides.
    """

    widths = (8,)
    fine = True
    scale: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        self.check("int8", layer)
        super().__init__(layer, shape, options)
        self.register_buffer("scale", torch.zeros(shape[0]))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        state.setdefault(f"{prefix}scale", torch.zeros_like(self.scale))  # what was kept before it was there
        super()._load_from_state_dict(state, prefix, *rest)

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

    @torch.no_grad()
    def clip(self, latent: Tensor) -> None:
        """Let each channel's range end where the weights' squared error is least."""
        rows = latent.detach().float().flatten(1)
        scales = rows.abs().amax(1)[:, None] / HIGH * CLIPS.to(rows)  # [O, clips]
        scales = scales.clamp(min=torch.finfo(torch.float32).tiny)
        errors = [
            ((rows / s[:, None]).round().clamp(-HIGH, HIGH) * s[:, None] - rows).square().sum(1)
            for s in scales.T
        ]
        best = torch.stack(errors, 1).argmin(1, keepdim=True)
        self.scale.copy_(scales.gather(1, best)[:, 0])

    def grid(self, latent: Tensor) -> WeightGrid:
        levels = torch.arange(-HIGH, HIGH + 1, dtype=torch.float64, device=latent.device)
        _, scale = self._integers(latent)
        return WeightGrid(levels, scale.reshape(1, -1).double(), "rows", zero=HIGH)

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        self.scale.copy_(grid.scale.flatten())
        integers = grid.levels[owner].reshape(latent.shape).to(latent.dtype)
        latent.copy_(integers * self._along(latent))

    def _along(self, weight: Tensor) -> Tensor:
        """The scale, broadcastable."""
        return self.scale.reshape(-1, *[1] * (weight.ndim - 1))

    def _integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers as float32, and the scale, broadcastable."""
        weight = weight.float()
        largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        by_largest = (largest / HIGH).clamp(min=torch.finfo(torch.float32).tiny)
        settled = self._along(weight)
        scale = torch.where(settled > 0, settled, by_largest)
        return (weight / scale).round().clamp(-HIGH, HIGH), scale
