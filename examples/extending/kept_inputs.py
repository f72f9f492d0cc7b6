"""A dimension: how many of a layer's input channels keep their weights. The others are zero, in training and in the program.

python -m pipeline.search --modules examples/extending --dimensions kept_inputs:KeptInputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foundation.dimension import Dimension, Layer
from foundation.errors import UserError


class KeptInputs(Dimension):
    """Share of the input channels, in (0, 1), the heaviest; absent: all. Instead of zeros anywhere in the layer."""

    values = (None, 0.75, 0.5)
    after = ("bits", "zero_share")
    excludes = ("zero_share",)
    title = "Inputs"
    noun = "share of input channels"
    most = 1

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if not isinstance(value, float) or not 0 < value < 1:
            raise UserError(
                f"{cls.name} {value!r}: give a share above 0 and below 1, or leave it out for all"
            )

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return "all" if value is None else f"{100 * value:.0f} %"

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return layer.kind in ("convolution", "linear") and not layer.first

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float]:
        return [value for value in self.values if value is not None]

    @classmethod
    def apply(cls, weight: Tensor, value: float) -> Tensor:
        heavy = weight.detach().abs().transpose(0, 1).flatten(1).sum(1)
        kept = torch.zeros_like(heavy)
        kept[heavy.topk(max(1, round(value * len(heavy)))).indices] = 1
        return weight * kept.reshape(1, -1, *[1] * (weight.ndim - 2))
