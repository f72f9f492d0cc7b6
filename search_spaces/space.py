"""The space of plans: what may be chosen for each layer and for the network, and how to draw from it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from foundation.errors import UserError
from foundation.plan import (
    ACTIVATION_BITS,
    BITS,
    COMPONENTS,
    DIMENSIONS,
    SHAPES,
    TEMPERATURE,
    ZERO_SHARE,
    LayerPlan,
    Plan,
    TemperatureSchedule,
)

COMPONENT_COUNTS: Mapping[int, tuple[int, ...]] = MappingProxyType({2: (3, 4), 3: (5, 6, 8), 4: (9, 12, 16)})
ZERO_SHARES = (None, 0.5, 0.6, 0.7, 0.8, 0.9)
PAYING_SHARE = (
    0.8  # of zeros anywhere in a layer: from about here on they make programs faster on cores without i8mm
)


class SuggestsParameters(Protocol):
    """What a space needs of a trial; Optuna's trials have it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None) -> float: ...


@dataclass(frozen=True)
class Grid:
    """Numbers from ``low`` to ``high`` inclusive in steps."""

    low: float
    high: float
    step: float

    def __len__(self) -> int:
        return round((self.high - self.low) / self.step) + 1

    def snap(self, value: float) -> float:
        """The nearest grid point, without the dust of binary fractions, so that equal plans have equal text."""
        index = min(max(round((value - self.low) / self.step), 0), len(self) - 1)
        return round(self.low + index * self.step, 9)

    def __getitem__(self, index: int) -> float:
        return round(self.low + index * self.step, 9)


@dataclass(frozen=True)
class Space:
    """All plans for the layers named ``layers``.

    A parameter exists only where it means something: ``components`` and ``zero_share`` of a layer only below 8 bits, the
    temperature's end only when its shape is not constant. What the quantizer has no dimension for (``dimensions``) is no
    parameter and stays out of the plans. So no two draws that differ give the same plan.
    """

    layers: tuple[str, ...]
    bits: tuple[int, ...] = BITS
    activation_bits: tuple[int, ...] = ACTIVATION_BITS
    zero_shares: tuple[float | None, ...] = ZERO_SHARES
    components: Mapping[int, tuple[int, ...]] = field(default_factory=lambda: COMPONENT_COUNTS)
    temperature_start: Grid = Grid(0.25, 1.0, 0.25)
    temperature_end: Grid = Grid(0.05, 0.2, 0.05)
    temperature_shapes: tuple[str, ...] = ("constant", "exponential", "cosine")
    quantizer: str = "gaussian_mixture"
    dimensions: frozenset[str] = DIMENSIONS

    def __post_init__(self) -> None:
        for name, chosen, allowed in (
            ("bits", self.bits, BITS),
            ("activation bits", self.activation_bits, ACTIVATION_BITS),
            ("temperature shapes", self.temperature_shapes, SHAPES),
        ):
            if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
                given = ", ".join(map(str, chosen)) or "none"
                raise UserError(f"{name} {given}: choose some of {', '.join(map(str, allowed))}, each once")
        if not self.layers:
            raise UserError("the model has no convolution or linear layer to compress")
        if not self.zero_shares:
            raise UserError("zero shares: give at least one, or natural")
        for bits in self.bits:
            if bits == 8 or COMPONENTS not in self.dimensions:
                continue
            for components in self.components.get(bits, ()):
                LayerPlan(bits, components)
            if not self.components.get(bits):
                raise UserError(f"components for {bits} bits: give at least one number from 2 to {2**bits}")

    def suggest(self, trial: SuggestsParameters) -> Plan:
        """Draw a plan, define-by-run."""
        activation_bits = trial.suggest_categorical("activation_bits", self.activation_bits)
        schedule = self._suggest_schedule(trial) if TEMPERATURE in self.dimensions else TemperatureSchedule()
        layers = {}
        for name in self.layers:
            bits = trial.suggest_categorical(f"{name}.bits", self.bits)
            if bits == 8:
                layers[name] = LayerPlan(8)
                continue
            components = share = None
            if COMPONENTS in self.dimensions:
                components = trial.suggest_categorical(f"{name}.components.{bits}", self.components[bits])
            if ZERO_SHARE in self.dimensions:
                share = trial.suggest_categorical(f"{name}.zero_share", self.zero_shares)
            layers[name] = LayerPlan(bits, components, share)
        return Plan(layers, schedule, activation_bits, self.quantizer)

    def _suggest_schedule(self, trial: SuggestsParameters) -> TemperatureSchedule:
        shape = trial.suggest_categorical("temperature.shape", self.temperature_shapes)
        start = self.temperature_start.snap(_suggest(trial, "temperature.start", self.temperature_start))
        end = start
        if shape != "constant":
            end = self.temperature_end.snap(_suggest(trial, "temperature.end", self.temperature_end))
        return TemperatureSchedule(start, end, shape)

    def params(self, plan: Plan) -> dict[str, Any]:
        """The parameters that make ``suggest`` return ``plan``.

        Raises:
            UserError: the plan lies outside this space; the message names the parameter.
        """
        if set(plan.layers) != set(self.layers) or plan.quantizer != self.quantizer:
            raise UserError(f"plan {plan.hash} is for other layers or another quantizer than this search")
        schedule = plan.temperature
        params: dict[str, Any] = {"activation_bits": plan.activation_bits}
        if TEMPERATURE in self.dimensions:
            params["temperature.shape"] = schedule.shape
            params["temperature.start"] = schedule.start
            if schedule.shape != "constant":
                params["temperature.end"] = schedule.end
        for name in self.layers:
            layer = plan.layers[name]
            params[f"{name}.bits"] = layer.bits
            if layer.bits < 8:
                if COMPONENTS in self.dimensions:
                    params[f"{name}.components.{layer.bits}"] = layer.components
                if ZERO_SHARE in self.dimensions:
                    params[f"{name}.zero_share"] = layer.zero_share
        if self.suggest(FixedParameters(params)) != plan:
            if self.dimensions != DIMENSIONS:
                raise UserError(f"plan {plan.hash} asks for what {self.quantizer} has not")
            raise UserError(f"plan {plan.hash} has a temperature between this search's steps")
        return params

    def layer_choices(self) -> list[LayerPlan]:
        """Every layer plan there is."""
        choices = []
        for bits in self.bits:
            if bits == 8:
                choices.append(LayerPlan(8))
                continue
            pairs = itertools.product(self._component_counts(bits), self._shares())
            choices += [LayerPlan(bits, components, share) for components, share in pairs]
        return choices

    def schedules(self) -> list[TemperatureSchedule]:
        """Every temperature schedule there is."""
        if TEMPERATURE not in self.dimensions:
            return [TemperatureSchedule()]
        starts = [self.temperature_start[i] for i in range(len(self.temperature_start))]
        ends = [self.temperature_end[i] for i in range(len(self.temperature_end))]
        return [
            TemperatureSchedule(start, end, shape)
            for shape in self.temperature_shapes
            for start in starts
            for end in ([start] if shape == "constant" else ends)
        ]

    def size(self) -> int:
        """The exact number of plans; the temperature's numbers are counted by their grid."""
        layers: int = len(self.layer_choices()) ** len(self.layers)
        return layers * len(self.schedules()) * len(self.activation_bits)

    def plan_at(self, index: int) -> Plan:
        """The plan with this index in 0..size()-1; each plan has exactly one.

        Raises:
            IndexError: no such index.
        """
        if not 0 <= index < self.size():
            raise IndexError(index)
        choices, schedules = self.layer_choices(), self.schedules()
        index, activation = divmod(index, len(self.activation_bits))
        index, schedule = divmod(index, len(schedules))
        layers = {}
        for name in self.layers:
            index, choice = divmod(index, len(choices))
            layers[name] = choices[choice]
        return Plan(layers, schedules[schedule], self.activation_bits[activation], self.quantizer)

    def random(self, rng: random.Random) -> Plan:
        """A plan drawn choice by choice, each uniformly: so bits are equally frequent, whatever hangs on them."""
        return self.suggest(_RandomParameters(rng))

    def warm_starts(self) -> list[Plan]:
        """Plans worth trying first: all layers alike, first and last layer in 8 bits, and those with so many zeros between
        that they pay in time; each once, and only those that lie in this space."""
        inner = self.layers[1:-1]
        ends = {name: self._plain(8) for name in self.layers}
        between: list[tuple[int, float | None]] = [(4, None), (2, None)]
        between += [(2, share) for share in self._shares() if share is not None and share >= PAYING_SHARE]
        proposals: list[Mapping[str, LayerPlan | None]] = [
            {name: self._plain(bits) for name in self.layers} for bits in (8, 4, 3, 2)
        ]
        proposals += [{**ends, **{name: self._plain(*kind) for name in inner}} for kind in between]
        plans: dict[str, Plan] = {}
        for proposal in proposals:
            layers = {name: layer for name, layer in proposal.items() if layer is not None}
            if len(layers) == len(self.layers):
                plan = Plan(layers, self._schedule(), self.activation_bits[0], self.quantizer)
                plans.setdefault(plan.hash, plan)
        return list(plans.values())

    def describe(self) -> dict[str, Any]:
        """Plain values that name the space: two spaces with equal descriptions are the same."""
        record: dict[str, Any] = {
            "layers": list(self.layers),
            "bits": list(self.bits),
            "activation_bits": list(self.activation_bits),
            "quantizer": self.quantizer,
        }
        if COMPONENTS in self.dimensions:
            record["components"] = {str(bits): list(self.components[bits]) for bits in self.bits if bits < 8}
        if ZERO_SHARE in self.dimensions:
            record["zero_shares"] = list(self.zero_shares)
        if TEMPERATURE in self.dimensions:
            grids = {"start": self.temperature_start, "end": self.temperature_end}
            record["temperature"] = {name: [grid.low, grid.high, grid.step] for name, grid in grids.items()}
            record["temperature_shapes"] = list(self.temperature_shapes)
        return record

    def _component_counts(self, bits: int) -> tuple[int | None, ...]:
        return self.components[bits] if COMPONENTS in self.dimensions else (None,)

    def _shares(self) -> tuple[float | None, ...]:
        return self.zero_shares if ZERO_SHARE in self.dimensions else (None,)

    def _plain(self, bits: int, share: float | None = None) -> LayerPlan | None:
        if bits not in self.bits:
            return None
        if bits == 8:
            return LayerPlan(8)
        if share is None and None not in self._shares():
            share = self.zero_shares[0]
        counts = self._component_counts(bits)
        return LayerPlan(bits, max((c for c in counts if c is not None), default=None), share)

    def _schedule(self) -> TemperatureSchedule:
        if TEMPERATURE not in self.dimensions:
            return TemperatureSchedule()
        shape = self.temperature_shapes[0]
        start = self.temperature_start.snap(0.5)
        return TemperatureSchedule(
            start, start if shape == "constant" else self.temperature_end.snap(0.05), shape
        )


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


class _RandomParameters:
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


def _suggest(trial: SuggestsParameters, name: str, grid: Grid) -> float:
    return trial.suggest_float(name, grid.low, grid.high, step=grid.step)
