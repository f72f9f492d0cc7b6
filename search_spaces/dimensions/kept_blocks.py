"""Which share of a layer's blocks of weights is there: those that are not cost no time, on any core, at any bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.codebook import Codebook
from foundation.dimension import Layer
from search_spaces.kept_share import ALL, KeptShare

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

OUTS, INS = 4, 8  # channels of a block, of one tap


class KeptBlocks(KeptShare):
    """A share in (0, 1) of the blocks of 4 output x 8 input channels of one tap: those with the largest sums of squares. The
    others are zero, gradually more of them over the first part of training (Zhu and Gupta, 2017). Absent: all are there. Instead
    of zeros anywhere in the layer."""

    values = (None, 0.75, 0.6, 0.5)
    after = ("bits", "zero_share")
    excludes = ("zero_share",)
    title = "Blocks"
    noun = "share of blocks"

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        if layer.kind != "convolution" or layer.groups != 1:
            return False
        outs, ins, *_ = layer.weight_shape
        return outs % OUTS == 0 and ins % INS == 0

    @classmethod
    def apply(cls, weight: Tensor, value: float) -> Tensor:
        if value >= ALL:
            return weight
        sums = _sums(weight.detach().float(), weight.new_zeros)
        kept = weight.new_zeros(sums.numel())
        kept[sums.flatten().topk(_count(sums.numel(), value)).indices] = 1
        there: Tensor = _spread(kept.reshape(sums.shape), weight.shape)
        return weight * there

    @classmethod
    def synthesize(
        cls, book: Codebook, weight: NDArray[np.float32], value: float, generator: np.random.Generator
    ) -> Codebook:
        """The blocks that are not kept at the zero level."""
        zero = np.flatnonzero(book.levels == 0)
        if not len(zero):
            return book
        sums = _sums(weight, np.zeros)
        kept = np.zeros(sums.size, bool)
        kept[np.argsort(-sums, axis=None, kind="stable")[: _count(sums.size, value)]] = True
        there = _spread(kept.reshape(sums.shape), weight.shape)
        indices = np.where(there, book.indices, np.uint8(zero[0]))
        return dataclasses.replace(book, indices=indices)


def _count(blocks: int, value: float) -> int:
    return max(1, round(value * blocks))


def _sums(weight: Any, zeros: Any) -> Any:
    """Sums of squares of each block of a weight (out, in, ...), an array or tensor: [out / 4, in / 8, taps]. Channels that are no
    whole block are one with zeros beside them."""
    outs, ins = weight.shape[:2]
    quads, octets = -(-outs // OUTS), -(-ins // INS)
    taps = int(np.prod(weight.shape[2:]))
    whole = zeros((quads * OUTS, octets * INS, taps))
    whole[:outs, :ins] = weight.reshape(outs, ins, taps)
    return (whole * whole).reshape(quads, OUTS, octets, INS, taps).sum((1, 3))


def _spread(blocks: Any, shape: Sequence[int]) -> Any:
    """What is said of blocks [out / 4, in / 8, taps], for each weight of a shape."""
    outs, ins = np.arange(shape[0]) // OUTS, np.arange(shape[1]) // INS
    return blocks[outs][:, ins].reshape(tuple(shape))
