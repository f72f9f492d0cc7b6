"""Even levels for each output channel, and 8 bits for the middle tap of a window where it is far larger than its neighbours
(CFWS, coarse and fine weight splitting: arXiv 2312.10588, 2023).

Where branches of 1 x 1 and of the input itself are fused into a 3 x 3 convolution, all add to the middle tap, whose range then
decides the step of the others. The published split makes two convolutions: a coarse one of 1 x 1, quantized without error at a
step of its own, and a fine one of 3 x 3 with the neighbours and what the coarse one leaves of the middle tap.

Here both have one step, the neighbours'. Then nothing is left of the middle tap but its rounding, and the sum of both is one
convolution of whole numbers: no second one is computed, and no second sum is rounded. With 8 bits the middle tap reaches 127
steps: 18 times as far as 4-bit neighbours do, 42 times with 3 bits. Where that is too little for a channel, its step grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import LayerPlan
from quantizers.core.base import Rebuilding, WeightQuantizer
from quantizers.core.grid import WeightGrid

HIGH = 127
CLIPS = torch.linspace(
    0.3, 1.0, 36
)  # shares of a channel's largest magnitude that are tried as its range's end


def middle_of(weight: Tensor) -> Tensor:
    """The weights [O, I, 1, 1] of the middle tap, a view."""
    height, width = weight.shape[2:]
    return weight[:, :, height // 2 : height // 2 + 1, width // 2 : width // 2 + 1]


def without_middle(weight: Tensor) -> Tensor:
    """A copy with zeros in the middle tap."""
    others = weight.clone()
    middle_of(others).zero_()
    return others


def stands_out(weight: Tensor, ratio: float) -> bool:
    """Whether weights have a middle tap whose largest is above ``ratio`` times the largest of its neighbours."""
    if (
        weight.ndim != 4
        or weight.shape[2] * weight.shape[3] == 1
        or not weight.shape[2] % 2 == weight.shape[3] % 2 == 1
    ):
        return False
    return float(middle_of(weight).abs().max()) > ratio * float(without_middle(weight).abs().max())


class CoarseFine(WeightQuantizer):
    """``step * clamp(round(w / step), -q, q)`` with ``q = 2**(bits - 1) - 1``; in the middle tap of a layer that is split with
    ``q = 127``. A layer is split whose middle tap stands out by ``Options.ratio`` when training begins. The step is each output
    channel's own, the one with the least squared error of those that end between 0.3 and 1 times the largest weight; a split
    layer's is the neighbours', and no smaller than the middle tap needs. Gradients go straight through to the latent weights.
    Only layers that are not split are solved from a few images.

    Buffers: ``split``; ``step`` [O] of a solved layer, else 0.
    """

    split: Tensor
    step: Tensor

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        """What is split.

        Attributes:
            ratio: of the middle tap's largest weight to the largest of its neighbours, above which a layer is split.
            clip: whether steps are those of the least squared error; else the largest weight of a channel decides.
        """

        ratio: float = 2.0
        clip: bool = True

        def __post_init__(self) -> None:
            if not 0 <= self.ratio <= math.inf:
                raise UserError(f"ratio {self.ratio!r}: give a number of at least 0")
            if not isinstance(self.clip, bool):
                raise UserError(f"clip {self.clip!r}: give true or false")

    options: Options

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__(layer, shape, options)
        self.high = 2 ** (self.bits - 1) - 1
        self.register_buffer("split", torch.tensor(data=False))
        self.register_buffer("step", torch.zeros(shape[0]))

    def start(self, weight: Tensor) -> None:
        self.split.fill_(stands_out(weight, self.options.ratio))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            integers, step = self._integers(weight)
            rounded = integers * step
        if not self.training:
            return rounded.to(weight.dtype)
        return weight + (rounded - weight).detach()

    def codebook(self, weight: Tensor) -> Codebook:
        integers, step = self._integers(weight.detach())
        fine, middle = integers, None
        if self.split:
            fine, middle = without_middle(integers), middle_of(integers).to(torch.int8).cpu().numpy()
        indices = (fine + self.high).to(torch.uint8).cpu().numpy()
        levels = np.arange(-self.high, self.high + 1, dtype=np.int8)
        return Codebook(indices, levels, step.flatten().cpu().numpy(), self.bits, middle)

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding | None:
        return None

    def grid(self, latent: Tensor) -> WeightGrid | None:
        if self.split:
            return None
        levels = torch.arange(-self.high, self.high + 1, dtype=torch.float64, device=latent.device)
        return WeightGrid(levels, self._integers(latent)[1].reshape(1, -1).double(), "rows", zero=self.high)

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        self.step.copy_(grid.scale.flatten())
        integers = grid.levels[owner].reshape(latent.shape).to(latent.dtype)
        latent.copy_(integers * self.step.reshape(-1, *[1] * (latent.ndim - 1)))

    @torch.no_grad()
    def _integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers as float32, and the step, broadcastable."""
        weight = weight.float()
        steps = self._steps(without_middle(weight) if self.split else weight)
        if self.split:
            steps = torch.maximum(steps, middle_of(weight).abs().flatten(1).amax(1) / HIGH)
        step = torch.where(self.step > 0, self.step, steps).reshape(-1, *[1] * (weight.ndim - 1))
        integers = (weight / step).round()
        fine = integers.clamp(-self.high, self.high)
        if self.split:
            middle_of(fine).copy_(middle_of(integers).clamp(-HIGH, HIGH))
        return fine, step

    def _steps(self, weight: Tensor) -> Tensor:
        """The step of each output channel, [O]."""
        rows, tiny = weight.flatten(1), torch.finfo(torch.float32).tiny
        largest: Tensor = (rows.abs().amax(1) / self.high).clamp(min=tiny)
        if not self.options.clip:
            return largest
        tried = (largest[:, None] * CLIPS.to(rows)).clamp(min=tiny)  # [O, clips]
        errors = [
            ((rows / step).round().clamp(-self.high, self.high) * step - rows).square().sum(1)
            for step in tried.T[:, :, None]
        ]
        best: Tensor = tried.gather(1, torch.stack(errors, 1).argmin(1, keepdim=True))
        return best.flatten()
