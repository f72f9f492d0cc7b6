"""Even levels, chosen by distance and by what a coded index costs (ECQ and ECQx: Becking et al., "ECQx: Explainability-Driven
Quantization for Low-Bit and Sparse DNNs", 2021, arXiv 2109.04236).

A weight takes the level with the least ``distance**2 + price * information``, where a level's information is minus the binary
logarithm of the share of weights nearest to it. So frequent levels draw weights from rare ones, and of these zero draws most.
With relevance on, zero costs an important weight more and an unimportant one less (section 4.2). Gradients go straight through to
the latent weights, not times the signed level as in the released code, which sends negative weights uphill.

The price is not a setting where the plan asks for a share of zeros: it is the one that reaches the share, so that what a network
costs is known before it is trained.
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
from quantizers.core.levels import best_step
from quantizers.core.uncompiled import uncompiled
from quantizers.core.zero_ramp import share_at

ENTRIES = ("ecq", "ecqx")
LEAST_ZERO = 0.5  # share that zero counts with at least, so that it is never the dearer one (section 4.1)
FLOOR = 1 / 64  # of the first step: it gets no smaller
KEPT = 0.9  # of the relevance so far, when a batch adds its own


def information(nearest: Tensor, high: int) -> Tensor:
    """Bits of an index for the levels ``-high .. high``, float64 [2 high + 1], from each weight's nearest level. One weight is
    added to each level, so that all are finite."""
    counts = torch.bincount((nearest + high).flatten(), minlength=2 * high + 1).double() + 1
    share = counts / counts.sum()
    zero = share[high].clamp(min=LEAST_ZERO)
    others = (1 - zero) / (1 - share[high])
    share = share * others
    share[high] = zero
    return -share.log2()


def needed_price(position: Tensor, high: int, bits: Tensor, factor: Tensor | None = None) -> Tensor:
    """The least price at which each weight is zero: where ``factor * (position**2 + price * bits[0])`` is not above
    ``(position - q)**2 + price * bits[q]`` of any other level q; infinite where another level is never dearer. Where zero is the
    nearest, and so needs none, it is by how much, negative: who asks for fewer zeros takes the doubtful ones first.

    Args:
        position: weights in steps, any shape.
        high: levels are ``-high .. high``.
        bits: of each of them, as ``information``.
        factor: of the cost of zero, of each weight; None is 1.
    """
    own = bits[high] if factor is None else factor * bits[high]
    nothing = position.square() if factor is None else factor * position.square()
    needed = torch.full_like(position, -math.inf)
    for level in range(-high, high + 1):
        if level == 0:
            continue
        gain = nothing - (position - level).square()
        more = bits[level + high] - own
        price = torch.where(more > 0, gain / more, math.inf)
        needed = torch.maximum(needed, torch.where(gain > 0, price, gain))
    return needed


def price_for(needed: Tensor, share: float) -> float:
    """The price at which the share of zeros is the nearest that can be had to the wanted one."""
    flat, wanted = needed.flatten().sort().values, round(share * needed.numel())
    if wanted == 0:
        return -math.inf
    price = flat[wanted - 1]
    through = int((flat <= price).sum())
    before = int((flat < price).sum())
    if through - wanted > wanted - before:  # weights at one place go together
        return float(flat[before - 1]) if before else -math.inf
    return float(price)


class Ecq(WeightQuantizer):
    """The levels are ``step * (-(2**(bits - 1) - 1) .. 2**(bits - 1) - 1)``; the step starts where the squared error is least
    and is learned by the gradients of learned steps (LSQ, section 2.2). Buffers: ``natural_share`` (zeros of nearest levels),
    ``floor`` and ``progress``."""

    dimensions = frozenset({"zero_share"})

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        """How weights are chosen.

        Attributes:
            price: of a bit of an index, in squared steps, where the plan asks for no share of zeros.
            ramp_end: progress at which a wanted share of zeros is reached; 0 is from the first step on.
        """

        price: float = 0.05
        ramp_end: float = 0.4

        def __post_init__(self) -> None:
            if not 0 <= self.price < math.inf:
                raise UserError(f"price {self.price!r}: give a number of at least 0")
            if not 0 <= self.ramp_end <= 1:
                raise UserError(f"ramp_end {self.ramp_end!r}: give a number from 0 to 1")

    options: Options
    floor: Tensor
    natural_share: Tensor
    progress: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__(layer, shape, options)
        self.high = 2 ** (self.bits - 1) - 1
        self.zero_share: float | None = layer.zero_share
        self.step = nn.Parameter(torch.ones(()))
        for name, value in (("floor", FLOOR), ("natural_share", 0.0), ("progress", 0.0)):
            self.register_buffer(name, torch.tensor(value))
        self._hard: tuple[tuple[object, ...], Tensor] | None = None

    def start(self, weight: Tensor) -> None:
        step = best_step(weight, -self.high, self.high)
        self.step.fill_(step)
        self.floor.fill_(FLOOR * step)
        self.natural_share.fill_(float((self._nearest(weight / step) == 0).double().mean()))

    @property
    def zero_target(self) -> float | None:
        return self.zero_share

    def set_progress(self, progress: float) -> None:
        self.progress.fill_(progress)

    def factor(self) -> Tensor | None:
        """What multiplies the cost of zero, of each weight; None: nothing."""
        return None

    def _nearest(self, position: Tensor) -> Tensor:
        return position.round().clamp(-self.high, self.high).long()

    @torch.no_grad()
    def levels_of(self, weight: Tensor) -> Tensor:
        """The whole-numbered level of each weight, int64."""
        position = weight.detach().double() / self._step().double()
        bits = information(self._nearest(position), self.high)
        needed, factor = needed_price(position, self.high, bits), self.factor()
        price, wanted = self.options.price, self._wanted_share()
        if factor is not None:  # decides which weights are zero, not how many
            wanted = float((needed <= price).double().mean()) if wanted is None else wanted
            needed = needed_price(position, self.high, bits, factor.double())
        if wanted is not None:
            price = price_for(needed, wanted)
        best = torch.full_like(position, math.inf)
        chosen = torch.zeros_like(position, dtype=torch.int64)
        for level in range(-self.high, self.high + 1):
            if level != 0:
                cost = (position - level).square() + max(price, 0.0) * bits[level + self.high]
                chosen = torch.where(cost < best, level, chosen)
                best = torch.minimum(best, cost)
        return chosen.masked_fill(needed <= price, 0)

    def _wanted_share(self) -> float | None:
        """The share of zeros that is wanted at this progress; None leaves it to the price."""
        if self.zero_share is None:
            return None
        end, natural = self.options.ramp_end, float(self.natural_share)
        return share_at(float(self.progress), end, natural, self.zero_share)

    def _step(self) -> Tensor:
        return torch.maximum(self.step, self.floor)

    @uncompiled  # a compiled network calls it as it is
    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return self._deployed(weight)
        levels = self.levels_of(weight).to(weight.dtype)
        share = (weight.numel() * self.high) ** -0.5
        step = self._step()
        step = step * share + (step - step * share).detach()
        seen: Tensor = levels * step + (weight - weight.detach())
        return seen

    def _deployed(self, weight: Tensor) -> Tensor:
        """The deployed weight, computed once until something changes."""
        key = self.state_key(weight, *self.buffers(), *self.parameters())
        if self._hard is None or self._hard[0] != key:
            values = torch.from_numpy(self.codebook(weight.detach()).dequantize())
            self._hard = (key, values.to(weight.device, weight.dtype))
        return self._hard[1]

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        indices = (self.levels_of(weight) + self.high).to(torch.uint8).cpu().numpy()
        scale = self._step().detach().float().reshape(1).cpu().numpy()
        return Codebook(indices, np.arange(-self.high, self.high + 1, dtype=np.int8), scale, self.bits)

    def grid(self, latent: Tensor) -> WeightGrid:
        levels = torch.arange(-self.high, self.high + 1, dtype=torch.float64, device=latent.device)
        return WeightGrid.even(levels, self._step().detach(), len(latent))

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        self.step.fill_(float(grid.scale.flatten()[0]))
        self.floor.clamp_(max=float(self.step))
        latent.copy_(grid.values(owner).view_as(latent))
        self.natural_share.fill_(float((owner == grid.zero).double().mean()))

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding:
        return Rebuilding([latent, self.step])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hard": None}


class Ecqx(Ecq):
    """The same, with relevance: ``|w dL/dw|`` of the latent weight, relative to the layer's largest, a running mean over
    steps (buffer ``relevance``; what gradient times input is for a weight, of the loss). Zero's whole cost is multiplied by ``2 *
    relevance**beta``, where beta gives a weight of mean relevance the factor 1 (equation 10), at most 1. There are as many zeros
    as without relevance, or as the plan asks for; relevance decides which weights they are."""

    relevance: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Any) -> None:
        super().__init__(layer, shape, options)
        self.register_buffer("relevance", torch.zeros(shape))

    def factor(self) -> Tensor | None:
        largest = float(self.relevance.max())
        if not largest > 0:  # nothing was learned yet
            return None
        relative = self.relevance / largest
        mean = float(relative.double().mean())
        beta = min(1.0, math.log(0.5) / math.log(mean)) if mean < 1 else 1.0
        factor: Tensor = 2 * relative**beta
        return factor

    def forward(self, weight: Tensor) -> Tensor:
        seen = super().forward(weight)
        if self.training and seen.requires_grad:
            values = weight.detach()  # of the quantized one, who is zero would have none and stay so for ever
            seen.register_hook(lambda gradient: self._learn(values * gradient))
        return seen

    @torch.no_grad()
    def _learn(self, product: Tensor) -> None:
        new = product.abs().nan_to_num(0.0, 0.0)
        known = bool(self.relevance.any())
        self.relevance.mul_(KEPT if known else 0.0).add_(new, alpha=1 - KEPT if known else 1.0)


ecq, ecqx = Ecq, Ecqx
