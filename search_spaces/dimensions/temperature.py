"""How a mixture's temperature moves over training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.dimension import Dimension, Layer, SuggestsParameters
from foundation.errors import UserError
from foundation.plan import SHAPES, TemperatureSchedule
from search_spaces.parameters import Grid

STARTS, ENDS = Grid(0.25, 1.0, 0.25), Grid(0.05, 0.2, 0.05)


class Temperature(Dimension):
    """A schedule: its start and, unless it is constant, its end on a grid each, and the shape between them."""

    of_network = True
    declared = True
    after = ()
    default = TemperatureSchedule()
    title = "Temperature"

    def __init__(
        self,
        shapes: Sequence[str] | None = None,
        start: Grid = STARTS,
        end: Grid = ENDS,
    ) -> None:
        self.shapes = tuple(SHAPES if shapes is None else shapes)
        if not self.shapes or len(set(self.shapes)) < len(self.shapes) or not set(self.shapes) <= set(SHAPES):
            given = ", ".join(map(str, self.shapes)) or "none"
            raise UserError(f"temperature shapes {given}: choose some of {', '.join(SHAPES)}, each once")
        self.start, self.end = start, end
        super().__init__(
            [
                TemperatureSchedule(first, last, shape)
                for shape in self.shapes
                for first in start
                for last in ([first] if shape == "constant" else end)
            ]
        )

    @classmethod
    def check(cls, value: Any, chosen: Mapping[str, Any]) -> None:
        if not isinstance(value, TemperatureSchedule):
            raise UserError(f"temperature {value!r}: give a TemperatureSchedule")

    @classmethod
    def record(cls, value: TemperatureSchedule) -> dict[str, Any]:
        return dataclasses.asdict(value)

    @classmethod
    def parse(cls, record: Any) -> TemperatureSchedule:
        return TemperatureSchedule(**record)

    @classmethod
    def typed(cls, text: str) -> Any:
        raise UserError(f"temperature {text}: a schedule cannot be typed here; leave the values out")

    @classmethod
    def say(cls, value: TemperatureSchedule, chosen: Mapping[str, Any]) -> str:
        if value.shape == "constant":
            return f"constant {value.start:g}"
        return f"{value.start:g} to {value.end:g}, {value.shape}"

    @classmethod
    def summary(cls, values: Sequence[TemperatureSchedule]) -> dict[str, Any]:
        return {f"temperature_{key}": getattr(values[0], key) for key in ("start", "end", "shape")}

    def plain(self, chosen: Mapping[str, Any], layer: Layer) -> TemperatureSchedule:
        shape, start = self.shapes[0], self.start.snap(0.5)
        return TemperatureSchedule(start, start if shape == "constant" else self.end.snap(0.05), shape)

    def suggest(
        self, trial: SuggestsParameters, name: str, chosen: Mapping[str, Any], layer: Layer
    ) -> TemperatureSchedule:
        shape = trial.suggest_categorical(f"{name}.shape", self.shapes)
        start = end = self.start.suggest(trial, f"{name}.start")
        if shape != "constant":
            end = self.end.suggest(trial, f"{name}.end")
        return TemperatureSchedule(start, end, shape)

    def params(self, name: str, value: TemperatureSchedule, chosen: Mapping[str, Any]) -> dict[str, Any]:
        constant = value.shape == "constant"
        ends = [(self.start, value.start)] if constant else [(self.start, value.start), (self.end, value.end)]
        if any(grid.snap(point) != point for grid, point in ends) or (constant and value.end != value.start):
            raise UserError(f"temperature {self.say(value, {})} lies between this search's steps")
        found = {f"{name}.shape": value.shape, f"{name}.start": value.start}
        return found if constant else {**found, f"{name}.end": value.end}

    def describe(self) -> dict[str, Any]:
        grids = {"start": self.start, "end": self.end}
        return {
            "temperature": {name: [grid.low, grid.high, grid.step] for name, grid in grids.items()},
            "temperature_shapes": list(self.shapes),
        }
