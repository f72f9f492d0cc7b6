"""How many different values a layer's weights become, where the quantizer has a choice."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from foundation.dimension import Dimension, Layer
from foundation.errors import UserError

COUNTS: Mapping[int, tuple[int, ...]] = MappingProxyType({2: (3, 4), 3: (5, 6, 8), 4: (9, 12, 16)})


class Components(Dimension):
    """Components of a mixture: from 2 to as many as the bits have indices. Absent at 8 bits, which have no mixture.

    Args:
        values: counts by bits; a sequence of counts goes to the bits that hold them and not half of them.
    """

    values = tuple(count for counts in COUNTS.values() for count in counts)
    declared = True
    harmless = True
    title = "Components"

    def __init__(self, values: Mapping[int, Sequence[int]] | Sequence[int] | None = None) -> None:
        given = COUNTS if values is None else values
        if not isinstance(given, Mapping):
            given = {bits: [c for c in given if 2 ** (bits - 1) < c <= 2**bits] for bits in COUNTS}
        self.counts = {bits: tuple(counts) for bits, counts in given.items()}
        super().__init__(sorted({count for counts in self.counts.values() for count in counts}))

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        bits = chosen["bits"]
        if bits == 8:
            raise UserError("a layer of 8 bits is plain int8: leave components out")
        if not isinstance(value, int) or not 2 <= value <= 2**bits:
            raise UserError(f"components {value!r}: {bits} bits allow 2 to {2**bits}")

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return "int8" if chosen.get("bits") == 8 else super().say(value, chosen)

    @classmethod
    def summary(cls, values: Sequence[int]) -> dict[str, float]:
        return {"components_mean": sum(values) / len(values) if values else 0}

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return bool(chosen["bits"] < 8)

    def choices(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[int]:
        return self.counts[chosen["bits"]]

    def plain(self, chosen: Mapping[str, Any], layer: Layer) -> int:
        return max(self.choices(chosen, layer))

    def parameter(self, name: str, chosen: Mapping[str, Any]) -> str:
        return f"{name}.{chosen['bits']}"

    def within(self, others: Mapping[str, Dimension]) -> Components:
        """The counts of the bits that are searched."""
        kept = copy.copy(self)
        kept.counts = {bits: self.counts.get(bits, ()) for bits in others["bits"].values if bits < 8}
        for bits, counts in kept.counts.items():
            if not counts:
                raise UserError(f"components for {bits} bits: give at least one number from 2 to {2**bits}")
            for count in counts:
                self.check(count, {"bits": bits})
        return kept

    def describe(self) -> dict[str, Any]:
        return {"components": {str(bits): list(counts) for bits, counts in self.counts.items()}}
