"""A weight tensor as few int8 values: indices into levels, and a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Codebook:
    """One layer's compressed weights: ``weight = scale * levels[indices]``.

    Attributes:
        indices: uint8, the weight's shape (out, in/groups, kh, kw) or (out, in).
        levels: int8 [K], ascending; 0 is among them for a mixture. For ``bits`` 8 it is -127..127.
        scale: float32 [1] (per tensor) or [out] (per output channel).
        bits: index width in the packed program: 2, 3, 4, or 8 for plain int8.
    """

    indices: NDArray[np.uint8]
    levels: NDArray[np.int8]
    scale: NDArray[np.float32]
    bits: int

    def __post_init__(self) -> None:
        if self.levels.dtype != np.int8 or self.indices.dtype != np.uint8 or self.scale.dtype != np.float32:
            raise ValueError(f"codebook dtypes {self.indices.dtype}, {self.levels.dtype}, {self.scale.dtype}")
        if len(self.levels) > 2**self.bits or (self.indices.size and self.indices.max() >= len(self.levels)):
            raise ValueError(f"{len(self.levels)} levels and {self.bits} bits do not fit the indices")
        if self.scale.shape not in ((1,), (self.indices.shape[0],)):
            raise ValueError(f"scale of shape {self.scale.shape} for {self.indices.shape[0]} output channels")

    @property
    def integers(self) -> NDArray[np.int8]:
        """int8 weights in the tensor's shape."""
        return self.levels[self.indices]

    @property
    def zeros(self) -> float:
        """Share of weights that are exactly zero."""
        return float(np.mean(self.integers == 0)) if self.indices.size else 0.0

    def dequantize(self) -> NDArray[np.float32]:
        """The float weights that the integers stand for."""
        scale = self.scale.reshape(-1, *([1] * (self.indices.ndim - 1)))
        return self.integers.astype(np.float32) * scale
