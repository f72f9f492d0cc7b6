"""Which share of the channels between two layers is there: the program computes no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.codebook import Codebook
from foundation.dimension import Layer
from search_spaces.kept_share import KeptShare

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

STEP = 8  # channels, the kernels' width


class KeptChannels(KeptShare):
    """A share in (0, 1) of the input channels, in whole eights: those whose weights here have the largest sums of squares. The
    others are read by nobody, so whatever makes them leaves them out; only layers whose input comes from one layer and goes
    nowhere else have it. More and more go over the first part of training. Absent: all are there. Instead of blocks."""

    values = (None, 0.75, 0.5)
    after = ("bits", "kept_blocks")
    excludes = ("kept_blocks",)
    title = "Channels"
    noun = "share of input channels"

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return bool(layer.producers) and len(layer.weight_shape) == 4 and layer.weight_shape[1] > STEP

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
        return dataclasses.replace(book, indices=indices)


def channels_kept(channels: int, value: float) -> int:
    """How many of so many channels a share is."""
    return min(channels, max(STEP, round(value * channels / STEP) * STEP))
