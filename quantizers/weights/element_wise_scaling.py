"""Uniform weights in a learned interval, with gradients scaled element by element (EWGS: Lee et al., "Network Quantization
with Element-wise Gradient Scaling", CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.plan import LayerPlan
from quantizers.core.base import WeightQuantizer
from quantizers.core.grid import WeightGrid

DELTA = 1e-3  # the paper's fixed scaling factor; its other one follows the Hessian's trace
DEVIATIONS = 3.0  # the first interval's ends, in standard deviations of the weights
FLOOR = 1 / 64  # of the first interval and the first scale: neither gets smaller


class _Discretize(torch.autograd.Function):
    """Round positions 0..intervals; backward is equation 4: the gradient grows where it pushes a value on from its level in the
    direction where the value lies already, and shrinks where it pushes it back."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, intervals: int, delta: float) -> Tensor:
        rounded = position.round()
        # The paper's values lie in 0..1, and delta is meant for those.
        ctx.save_for_backward((position - rounded) / intervals)
        ctx.delta = delta
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        return gradient + ctx.delta * gradient.abs() * distance, None, None


class _Damped(torch.autograd.Function):
    """The larger of value and floor; the gradient passes as if nothing was cut, times ``share``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, floor: Tensor, share: float) -> Tensor:
        ctx.share = share
        return torch.maximum(value, floor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.share, None, None


class ElementWiseScaling(WeightQuantizer):
    """``scale * (2 x_q - 1)`` with ``x_q`` the nearest of ``2**bits`` even steps to ``x_n = clamp((w - lower) / (upper - lower),
    0, 1)`` (equations 1 to 3): symmetric values, none of them zero. Lower and upper end and scale are learned. Training sees
    the same values as evaluation. The interval starts at plus and minus three standard deviations, the scale where the
    mean magnitude of the weights is kept.

    The paper gives these three an optimizer of their own with a far smaller rate. Here one trains everything:
    they take a quantizer's own rate, and their gradients, sums over N weights, are divided by ``sqrt(N)`` as for learned
    steps.
    """

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        """``delta``: the gradient's scaling factor (equation 4); 0 is straight through."""

        delta: float = DELTA

    options: Options

    width_floor: Tensor
    scale_floor: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Options) -> None:
        super().__init__(layer, shape, options)
        self.intervals = 2**self.bits - 1
        self.lower, self.upper = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(1.0))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("width_floor", torch.tensor(2 * FLOOR))
        self.register_buffer("scale_floor", torch.tensor(FLOOR))

    def start(self, weight: Tensor) -> None:
        weight = weight.float()
        end = DEVIATIONS * float(weight.double().std(correction=0)) or float(weight.abs().max()) or 1.0
        self.lower.fill_(-end)
        self.upper.fill_(end)
        self.width_floor.fill_(2 * end * FLOOR)
        scale = float(weight.abs().mean() / self._levels(weight, 1.0).abs().mean()) * self.intervals
        self.scale.fill_(scale or 1.0)
        self.scale_floor.fill_((scale or 1.0) * FLOOR)

    def _levels(self, weight: Tensor, share: float) -> Tensor:
        """Odd whole numbers -intervals..intervals, of the weight's shape; ``share`` of the interval's gradient counts."""
        lower, upper = (_Damped.apply(end, end, share) for end in (self.lower, self.upper))
        width = _Damped.apply(upper - lower, self.width_floor, 1.0)
        position = ((weight - lower) / width).clamp(0, 1) * self.intervals
        rounded: Tensor = _Discretize.apply(position, self.intervals, self.options.delta)
        levels: Tensor = 2 * rounded - self.intervals
        return levels

    def _step(self, share: float) -> Tensor:
        """Half the distance of two levels."""
        step: Tensor = _Damped.apply(self.scale, self.scale_floor, share) / self.intervals
        return step

    def forward(self, weight: Tensor) -> Tensor:
        share = weight.numel() ** -0.5
        return (self._levels(weight.float(), share) * self._step(share)).to(weight.dtype)

    def grid(self, latent: Tensor) -> WeightGrid:
        levels = torch.arange(
            -self.intervals, self.intervals + 1, 2, dtype=torch.float64, device=latent.device
        )
        return WeightGrid.even(levels, self._step(1.0).detach(), len(latent))

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        end = float(grid.scale.flatten()[0]) * self.intervals
        self.scale.fill_(end)
        self.lower.fill_(-end)
        self.upper.fill_(end)
        latent.copy_(grid.values(owner).view_as(latent))

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        indices = (self._levels(weight.detach().float(), 1.0) + self.intervals) / 2
        levels = np.arange(-self.intervals, self.intervals + 1, 2, dtype=np.int8)
        scale = self._step(1.0).reshape(1).cpu().numpy()
        return Codebook(indices.to(torch.uint8).cpu().numpy(), levels, scale, self.bits)
