"""What dimensions have in common whose value is the share of a layer's structures that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension, Layer
from foundation.errors import UserError
from foundation.show import show_percent

ALL = 1.0
RAMP_END = 0.4  # progress of training at which all structures that are to go are gone


class KeptShare(Dimension):
    """A share in (0, 1). Absent: all are there. In training more and more go over its first part, fast at first (Zhu and Gupta,
    2017)."""

    on_request = True
    most = 1

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if not isinstance(value, float) or not 0 < value < ALL:
            raise UserError(
                f"{cls.name} {value!r}: give a share above 0 and below 1, or leave it out for all"
            )

    @classmethod
    def typed(cls, text: str) -> Any:
        found = super().typed(text)
        return None if found == ALL else found

    @classmethod
    def say(cls, value: Any, chosen: Mapping[str, Any]) -> str:
        return "all" if value is None else show_percent(value, digits=0)

    def starts(self, chosen: Mapping[str, Any], layer: Layer) -> Sequence[float]:
        return [value for value in self.values if value is not None]

    @classmethod
    def partway(cls, value: float, progress: float) -> float:
        left = max(0.0, 1 - progress / RAMP_END)
        return value + (ALL - value) * left**3
