"""How many bits an index takes in the file, where it is coded as short as can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension, Layer, SuggestsParameters
from foundation.errors import UserError

LESS = 0.5  # than the bits of an index in memory at least, in a search: else hardly any value is rare


class CodedBits(Dimension):
    """The entropy of the indices to start from, at most, above 0 and below ``bits``. The quantizer spaces its values evenly, so
    far apart that the nearest to each weight has this entropy: what most weights take costs less than ``bits`` in the file, and
    what few take more. For a squared error that is nearly the best that any code of so many bits can do (entropy-constrained
    scalar quantization: Gish and Pierce, "Asymptotically Efficient Quantizing", 1968). Absent: values are where the quantizer
    finds weights. Instead of a share of zeros."""

    values = (None, 1.5, 2.0, 2.5, 3.0)
    declared = True
    on_request = True
    after = ("bits", "zero_share")
    excludes = ("zero_share",)
    title = "Coded bits"
    noun = "bits of a coded index"
    most = 4

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if chosen["bits"] == 8:
            raise UserError("a layer of 8 bits is plain int8: leave coded_bits out")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < chosen["bits"]:
            raise UserError(
                f"coded_bits {value!r}: give a number above 0 and below the {chosen['bits']} bits of the layer, or leave it out"
            )

    @classmethod
    def record(cls, value: Any) -> float:
        return float(value)

    @classmethod
    def parse(cls, record: Any) -> Any:
        return record if isinstance(record, bool) else float(record)

    def applies(self, chosen: Mapping[str, Any], layer: Layer) -> bool:
        return bool(chosen["bits"] < 8)

    def choices(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float | None]:
        return [value for value in self.values if value is None or value <= chosen["bits"] - LESS]

    def suggest(self, trial: SuggestsParameters, name: str, chosen: Mapping[str, Any], layer: Layer) -> Any:
        return trial.suggest_categorical(f"{name}.{chosen['bits']}", self.choices(chosen, layer))

    def params(self, name: str, value: Any, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{name}.{chosen['bits']}": value}

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float]:
        return [value for value in self.choices(chosen, layer) if value is not None]
