"""How many bits an index takes in the file, where it is coded as short as can be."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension, Layer
from foundation.errors import UserError


class CodedBits(Dimension):
    """The entropy of the indices to start from, at most, above 0 and below ``bits``. The quantizer spaces its values evenly, so
    far apart that the nearest to each weight has this entropy: what most weights take costs less than ``bits`` in the file, and
    what few take more. For a squared error that is nearly the best that any code of so many bits can do (entropy-constrained
    scalar quantization: Gish and Pierce, "Asymptotically Efficient Quantizing", 1968). Absent: values are where the quantizer
    finds weights. Instead of a share of zeros. A search tries it with the most components that it has for the bits: the
    outermost of them hold few weights and cost next to nothing."""

    values: Sequence[float | None] = (None, 1.0, 1.5, 2.0, 2.5, 3.0)
    declared = True
    after = ("bits", "components", "zero_share")
    excludes = ("zero_share",)
    title = "Coded bits"
    noun = "bits of a coded index"
    most = 4

    def __init__(self, values: Sequence[float | None] | None = None) -> None:
        super().__init__(values)
        self._largest: Mapping[int, int] = {}  # number of components that is searched, by bits

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if chosen["bits"] == 8:
            raise UserError("a layer of 8 bits is plain int8: leave coded_bits out")
        if not _is_below(value, most := _most(chosen)):
            components = "" if chosen.get("components") is None else f" and {chosen['components']} components"
            raise UserError(
                f"coded_bits {value!r}: give a number above 0 and below {most:.3g}, the most that an index of {chosen['bits']} "
                f"bits{components} can have, or leave it out"
            )

    @classmethod
    def record(cls, value: Any) -> float:
        return float(value)

    @classmethod
    def parse(cls, record: Any) -> Any:
        return float(record) if isinstance(record, int) and _is_below(record, 8) else record

    def within(self, others: Mapping[str, Dimension]) -> CodedBits:
        """Those of the values that the bits searched leave; a person's own must each be one."""
        counts = getattr(others.get("components"), "counts", {})
        largest = {width: max(counts[width]) for width in counts}
        most = {
            width: _most({"bits": width, "components": largest.get(width)})
            for width in others["bits"].values
            if width < 8
        }
        fitting = [v for v in self.values if v is None or any(_is_below(v, bound) for bound in most.values())]
        if self.values != type(self).values and (wrong := [v for v in self.values if v not in fitting]):
            width = max(most, key=lambda each: most[each], default=8)
            components = {"components": largest[width]} if width in largest else {}
            self.check(wrong[0], {"bits": width, **components})
        kept = copy.copy(self)
        kept.values, kept._largest = tuple(fitting), largest
        return kept

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return any(value is not None for value in self.choices(chosen, layer))

    def choices(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float | None]:
        components = chosen.get("components")
        fewer = components is not None and components < self._largest.get(chosen["bits"], components)
        most = 0.0 if chosen["bits"] == 8 or fewer else _most(chosen)
        return [value for value in self.values if value is None or _is_below(value, most)]

    def parameter(self, name: str, chosen: Mapping[str, Any]) -> str:
        return f"{name}.{chosen['bits']}.{chosen.get('components')}"

    def describe(self) -> dict[str, Any]:
        """Nothing where nothing is to be chosen, as in studies from before this dimension was there."""
        if self.values == (None,):
            return {}
        # Once any number of components had it.
        return {**super().describe(), "coded_bits_of": "the most components"}


def _most(chosen: Mapping[str, Any]) -> float:
    """Bits that an index has where all values are as frequent."""
    components = chosen.get("components")
    return float(chosen["bits"]) if components is None else math.log2(components)


def _is_below(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < most
