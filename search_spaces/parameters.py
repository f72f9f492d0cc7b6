"""Where the answers to a space's questions come from, beside Optuna: given, or drawn. And numbers in steps."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.dimension import SuggestsParameters
from foundation.errors import UserError


@dataclass(frozen=True)
class Grid:
    """Numbers from ``low`` to ``high`` inclusive in steps."""

    low: float
    high: float
    step: float

    def __len__(self) -> int:
        return round((self.high - self.low) / self.step) + 1

    def __iter__(self) -> Iterator[float]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> float:
        return round(self.low + index * self.step, 9)

    def snap(self, value: float) -> float:
        """The nearest grid point, without the dust of binary fractions, so that equal plans have equal text."""
        index = min(max(round((value - self.low) / self.step), 0), len(self) - 1)
        return self[index]

    def suggest(self, trial: SuggestsParameters, name: str) -> float:
        """Draw one of them."""
        return self.snap(trial.suggest_float(name, self.low, self.high, step=self.step))


class FixedParameters:
    """A trial whose answers are given; a missing or foreign answer is the user's mistake."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._params.get(name)
        if name not in self._params or value not in choices:
            raise UserError(f"{name} {value!r}: allowed are {', '.join(map(str, choices))}")
        return value

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None) -> float:
        value = self._params.get(name, math.nan)
        if not low <= value <= high:
            raise UserError(f"{name} {value!r}: allowed are numbers from {low} to {high}")
        return float(value)


class RandomParameters:
    """A trial whose answers are drawn, each uniformly."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._rng.choice(choices)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None) -> float:
        return (
            self._rng.uniform(low, high)
            if step is None
            else low + step * self._rng.randrange(round((high - low) / step) + 1)
        )
