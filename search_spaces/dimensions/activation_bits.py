"""Bits of the activations between layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension
from foundation.errors import UserError


class ActivationBits(Dimension):
    """Bits of every quantized activation but the network's input."""

    values = (8, 7)
    of_network = True
    after = ()
    default = 8
    title = "Activation bits"
    noun = "activations"

    def __init__(self, values: Sequence[int] | None = None) -> None:
        super().__init__(values)
        for value in self.values:
            self.check(value, {})

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if value not in ActivationBits.values:
            raise UserError(f"activation_bits {value!r}: allowed are 8 and 7")

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return f"{value}-bit"

    def plain(self, chosen: Mapping[str, Any], layer: Any) -> int:
        return int(self.values[0])
