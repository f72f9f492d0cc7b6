"""Bits of an index into a layer's few values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension
from foundation.errors import UserError
from foundation.plan import BITS


class Bits(Dimension):
    """Bits of an index; 8 are plain int8, whatever the quantizer."""

    values = BITS
    after = ()
    title = "Bits"
    most = 8

    def __init__(self, values: Sequence[int] | None = None) -> None:
        super().__init__(values)
        for value in self.values:
            self.check(value, {})

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if value not in BITS:
            raise UserError(f"bits {value!r}: allowed are {', '.join(map(str, BITS))}")

    @classmethod
    def summary(cls, values: Sequence[int]) -> dict[str, int]:
        return {"bits_min": min(values, default=0), "bits_max": max(values, default=0)}
