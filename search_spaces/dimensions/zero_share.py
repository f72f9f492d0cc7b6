"""The share of a layer's weights that is to be exactly zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.codebook import Codebook
from foundation.dimension import Dimension, Layer
from foundation.errors import UserError
from foundation.show import show_percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAYING = 0.8  # zeros anywhere in a layer make programs faster from about here on, on cores without i8mm


class ZeroShare(Dimension):
    """A target in [0, 1). Absent is natural: whatever share the quantizer's zero captures."""

    values = (None, 0.5, 0.6, 0.7, 0.8, 0.9)
    declared = True
    title = "Zero share"
    noun = "share of zeros to aim at"
    most = 1
    measured = "zeros"

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if chosen["bits"] == 8:
            raise UserError("a layer of 8 bits is plain int8: leave zero_share out")
        if not 0 <= value < 1:
            raise UserError(f"zero_share {value!r}: give a share in [0, 1), or leave it out for natural")

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        if value is None:
            return "-" if chosen.get("bits") == 8 else "nat."
        return show_percent(value, digits=0)

    @classmethod
    def summary(cls, values: Sequence[float]) -> dict[str, float]:
        return {
            "zero_target_layers": len(values),
            "zero_target_mean": sum(values) / len(values) if values else 0,
        }

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return bool(chosen["bits"] < 8)

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float]:
        return [share for share in self.values if share is not None and share >= PAYING]

    def describe(self) -> dict[str, Any]:
        return {"zero_shares": list(self.values)}

    @classmethod
    def synthesize(
        cls, book: Codebook, weight: NDArray[np.float32], value: float, generator: np.random.Generator
    ) -> Codebook:
        """The smallest weights at the zero level and no others, but for those that another dimension has made zero."""
        indices = book.indices.flatten()
        zero = int(np.flatnonzero(book.levels == 0)[0])
        count = max(round(value * len(indices)), int((weight == 0).sum()))
        order = np.argsort(np.abs(weight).flatten(), kind="stable")
        others = np.setdiff1d(np.arange(len(book.levels)), zero).astype(np.uint8)
        freed = order[count:][indices[order[count:]] == zero]
        indices[freed] = generator.choice(others, len(freed))
        indices[order[:count]] = zero
        return dataclasses.replace(book, indices=indices.reshape(book.indices.shape))
