"""Weight clustering by attention (DKM: Cho et al., "DKM: Differentiable K-Means Clustering Layer for Neural Network
Compression", ICLR 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import COMPONENTS, TEMPERATURE
from quantizers.core.base import QUANTIZERS, WeightQuantizer
from quantizers.core.levels import integer_levels
from quantizers.mixture.kmeans import kmeans

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, TemperatureSchedule

ITERATIONS = 5  # at most, in a step; the paper stops at 5 on its large networks (section 4)
CONVERGED = 1e-4  # largest move of a centre, in units of the weights' standard deviation


def attention(weight: Tensor, centres: Tensor, temperature: Tensor) -> Tensor:
    """Soft membership [N, K] of weights [N] in clusters [K]: softmax of ``-|w - c| / temperature`` (section 3.2)."""
    return torch.softmax(-(weight[:, None] - centres).abs() / temperature, dim=1)


@QUANTIZERS.register("differentiable_kmeans")
class DifferentiableKMeans(WeightQuantizer):
    """Weights as mixtures of cluster centres, the centres found anew in each step by soft k-means through which the
    gradient flows; they are no parameters. In evaluation a weight is its nearest centre, as an int8 level times one scale.

    The temperature is the plan's, in units of the weights' standard deviation at the start: the paper tunes it by network.
    Untrained, this is k-means with a rounded codebook.
    """

    dimensions = frozenset({COMPONENTS, TEMPERATURE})

    centres: Tensor
    unit: Tensor
    temperature: Tensor

    def __init__(self, components: int, bits: int, schedule: TemperatureSchedule) -> None:
        super().__init__()
        self.bits, self.schedule = bits, schedule
        self.register_buffer("centres", torch.linspace(-1, 1, components))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("temperature", torch.tensor(schedule.at(0.0)))

    @classmethod
    def for_layer(
        cls,
        weight: Tensor,
        layer: LayerPlan,
        temperature: TemperatureSchedule,
        form: str,
        *,
        initialise: bool,
    ) -> DifferentiableKMeans:
        if layer.components is None:
            raise UserError("k-means needs components; 8 bits are plain int8")
        quantizer = cls(layer.components, layer.bits, temperature)
        if initialise:
            found = kmeans(weight.detach().cpu().numpy(), layer.components).centres
            spare = np.full(layer.components - len(found), found.max())
            quantizer.centres.copy_(torch.from_numpy(np.concatenate([found, spare])))
            quantizer.unit.fill_(float(weight.detach().std(correction=0)) or 1.0)
        return quantizer.to(weight.device)

    def set_progress(self, progress: float) -> None:
        self.temperature.fill_(self.schedule.at(progress))

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

    def mixture_parameters(self) -> list[nn.Parameter]:
        return []
