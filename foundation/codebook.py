"""A weight tensor as few int8 values: indices into levels, and a scale; perhaps with all of 8 bits for the middle of windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def entropy(counts: NDArray[np.integer] | NDArray[np.floating]) -> float:
    """Bits that an index has on average where it is coded as short as can be, from how often each occurs."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum())


@dataclass(frozen=True)
class Codebook:
    """One layer's compressed weights: ``weight = scale * levels[indices]``, or ``scale * middle`` in the middle of the window.

    Attributes:
        indices: uint8, the weight's shape (out, in/groups, kh, kw) or (out, in).
        levels: int8 [K], ascending; 0 is among them wherever zeros are wanted. For ``bits`` 8 it is -127..127.
        scale: float32 [1] (per tensor) or [out] (per output channel).
        bits: index width in the packed program: 2, 3, 4, or 8 for plain int8.
        middle: int8, the shape of ``indices`` with windows of one tap: weights of the middle tap, whose indices then mean
            nothing; None where they are as the others.
    """

    indices: NDArray[np.uint8]
    levels: NDArray[np.int8]
    scale: NDArray[np.float32]
    bits: int
    middle: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.levels.dtype != np.int8 or self.indices.dtype != np.uint8 or self.scale.dtype != np.float32:
            raise ValueError(f"codebook dtypes {self.indices.dtype}, {self.levels.dtype}, {self.scale.dtype}")
        if len(self.levels) > 2**self.bits or (self.indices.size and self.indices.max() >= len(self.levels)):
            raise ValueError(f"{len(self.levels)} levels and {self.bits} bits do not fit the indices")
        if self.scale.shape not in ((1,), (self.indices.shape[0],)):
            raise ValueError(f"scale of shape {self.scale.shape} for {self.indices.shape[0]} output channels")

        if self.middle is not None:
            sides = zip(self.indices.shape, self.middle.shape, strict=True)
            fits = all(whole == part or (part == 1 and whole % 2 == 1) for whole, part in sides)
            if self.middle.dtype != np.int8 or not fits or self.bits == 8:
                raise ValueError(
                    f"a middle {self.middle.dtype} {self.middle.shape} of {self.bits}-bit weights {self.indices.shape}"
                )

    @property
    def integers(self) -> NDArray[np.int8]:
        """int8 weights in the tensor's shape."""
        integers = self.levels[self.indices]
        if self.middle is not None:
            sides = zip(self.indices.shape, self.middle.shape, strict=True)
            integers[tuple(slice((whole - part) // 2, (whole + part) // 2) for whole, part in sides)] = (
                self.middle
            )
        return integers

    def transposed(self, axes: Sequence[int]) -> Codebook:
        """The same weights with their axes in another order, contiguous in memory; output channels stay the first."""
        middle = None if self.middle is None else np.ascontiguousarray(self.middle.transpose(axes))
        return dataclasses.replace(
            self, indices=np.ascontiguousarray(self.indices.transpose(axes)), middle=middle
        )

    @property
    def zeros(self) -> float:
        """Share of weights that are exactly zero."""
        return float(np.mean(self.integers == 0)) if self.indices.size else 0.0

    def dequantize(self) -> NDArray[np.float32]:
        """The float weights that the integers stand for."""
        scale = self.scale.reshape(-1, *([1] * (self.indices.ndim - 1)))
        return self.integers.astype(np.float32) * scale
