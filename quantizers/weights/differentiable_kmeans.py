"""Weight clustering by attention (DKM: Cho et al., "DKM: Differentiable K-Means Clustering Layer for Neural Network
Compression", ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import LayerPlan, TemperatureSchedule
from quantizers.core.base import WeightQuantizer
from quantizers.core.grid import WeightGrid
from quantizers.core.levels import integer_levels
from quantizers.mixture.kmeans import kmeans

ITERATIONS = 5  # at most, in a step; the paper stops at 5 on its large networks (section 4)
CONVERGED = 1e-4  # largest move of a centre, in units of the weights' standard deviation


def attention(weight: Tensor, centres: Tensor, temperature: Tensor) -> Tensor:
    """Soft membership [N, K] of weights [N] in clusters [K]: softmax of ``-|w - c| / temperature`` (section 3.2)."""
    return torch.softmax(-(weight[:, None] - centres).abs() / temperature, dim=1)


class DifferentiableKMeans(WeightQuantizer):
    """Weights as mixtures of cluster centres, the centres found anew in each step by soft k-means through which the
    gradient flows; they are no parameters. In evaluation a weight is its nearest centre, as an int8 level times one scale.

    The temperature is the plan's, in units of the weights' standard deviation at the start: the paper tunes it by network.
    Untrained, this is k-means with a rounded codebook.
    """

    dimensions = frozenset({"components", "temperature"})

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        temperature: TemperatureSchedule = TemperatureSchedule()

    options: Options
    centres: Tensor
    unit: Tensor
    temperature: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Options) -> None:
        super().__init__(layer, shape, options)
        if layer.components is None:
            raise UserError("k-means needs components; 8 bits are plain int8")
        self.register_buffer("centres", torch.linspace(-1, 1, layer.components))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("temperature", torch.tensor(options.temperature.at(0.0)))

    def start(self, weight: Tensor) -> None:
        found = kmeans(weight.cpu().numpy(), len(self.centres)).centres
        spare = np.full(len(self.centres) - len(found), found.max())
        self.centres.copy_(torch.from_numpy(np.concatenate([found, spare])))
        self.unit.fill_(float(weight.std(correction=0)) or 1.0)

    def set_progress(self, progress: float) -> None:
        self.temperature.fill_(self.options.temperature.at(progress))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            with torch.no_grad():
                levels, scale, nearest = self._hard(weight)
                return (levels.float() * scale)[nearest].to(weight.dtype)
        # Autocast would multiply memberships by weights in bfloat16: the centres would be off by percents.
        with torch.autocast(weight.device.type, enabled=False):
            return self._soft(weight.float().flatten()).reshape(weight.shape).to(weight.dtype)

    def _soft(self, values: Tensor) -> Tensor:
        """Weights [N] as mixtures of centres, which move."""
        centres, temperature = self.centres, self.temperature * self.unit
        for _ in range(ITERATIONS):
            share = attention(values, centres, temperature)
            moved = (share.T @ values) / share.sum(0).clamp_min(1e-12)
            # A cluster that no weight belongs to keeps its place.
            moved = torch.where(share.sum(0) > 1e-6, moved, centres)
            far = (moved.detach() - centres.detach()).abs().max() > CONVERGED * self.unit
            centres = moved
            if not far:
                break
        self.centres.copy_(centres.detach())
        return attention(values, centres, temperature) @ centres

    def grid(self, latent: Tensor) -> WeightGrid:
        scale = torch.ones(1, len(latent), dtype=torch.float64, device=latent.device)
        return WeightGrid(self.centres.double(), scale, "levels").sorted()[0]

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        self.centres.copy_(grid.levels)
        latent.copy_(self.centres[owner].view_as(latent))

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        levels, scale, nearest = self._hard(weight.detach())
        unique, place = torch.unique(levels, return_inverse=True)
        return Codebook(
            place[nearest].to(torch.uint8).cpu().numpy(),
            unique.to(torch.int8).cpu().numpy(),
            scale.reshape(1).cpu().numpy(),
            self.bits,
        )

    def _hard(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integer level of each centre, the scale, and each weight's nearest centre."""
        order = self.centres.sort()
        middles = (order.values[1:] + order.values[:-1]) / 2
        nearest = order.indices[torch.bucketize(weight.float().contiguous(), middles)]
        counts = torch.bincount(nearest.flatten(), minlength=len(self.centres))
        return *integer_levels(self.centres, counts), nearest
