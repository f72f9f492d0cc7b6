"""Which share of the channels between two layers is there: the program computes no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.codebook import Codebook
from foundation.dimension import Dimension, Layer
from foundation.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

STEP = 8  # channels, the kernels' width
RAMP_END = 0.4  # progress of training at which all channels that are to go are gone
ALL = 1.0


class KeptChannels(Dimension):
    """A share in (0, 1) of the input channels, in whole eights: those whose weights here have the largest sums of squares. The
    others are read by nobody, so whatever makes them leaves them out; only layers whose input comes from one layer and goes
    nowhere else have it. More and more go over the first part of training. Absent: all are there. Instead of blocks."""

    values = (None, 0.75, 0.5)
    on_request = True
    after = ("bits", "kept_blocks")
    excludes = ("kept_blocks",)
    title = "Channels"
    noun = "share of input channels"
    most = 1

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if not isinstance(value, float) or not 0 < value < ALL:
            raise UserError(
                f"{cls.name} {value!r}: give a share above 0 and below 1, or leave it out for all"
            )

    @classmethod
    def typed(cls, text: str) -> Any:
        found = super().typed(text)
        return None if found == ALL else found

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return "all" if value is None else f"{100 * value:.0f} %"

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return bool(layer.producers) and len(layer.weight_shape) == 4 and layer.weight_shape[1] > STEP

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float]:
        return [value for value in self.values if value is not None]

    @classmethod
    def partway(cls, value: float, progress: float) -> float:
        left = max(0.0, 1 - progress / RAMP_END)
        return value + (ALL - value) * left**3

    @classmethod
    def apply(cls, weight: Tensor, value: float) -> Tensor:
        count = channels_kept(weight.shape[1], value)
        if count == weight.shape[1]:
            return weight
        sums = weight.detach().float().square().transpose(0, 1).flatten(1).sum(1)
        kept = weight.new_zeros(len(sums))
        kept[sums.topk(count).indices] = 1
        return weight * kept.reshape(1, -1, *[1] * (weight.ndim - 2))

    @classmethod
    def synthesize(
        cls, book: Codebook, weight: NDArray[np.float32], value: float, generator: np.random.Generator
    ) -> Codebook:
        """The channels that are not kept at the zero level."""
        zero, count = np.flatnonzero(book.levels == 0), channels_kept(weight.shape[1], value)
        if not len(zero):
            return book
        sums = np.square(weight).swapaxes(0, 1).reshape(weight.shape[1], -1).sum(1)
        gone = np.argsort(-sums, kind="stable")[count:]
        indices = book.indices.copy()
        indices[:, gone] = zero[0]
        return Codebook(indices, book.levels, book.scale, book.bits)


def channels_kept(channels: int, value: float) -> int:
    """How many of so many channels a share is."""
    return min(channels, max(STEP, round(value * channels / STEP) * STEP))
