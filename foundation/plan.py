"""What to do to a model: the plan, its canonical JSON and its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from foundation.dimension import DIMENSIONS
from foundation.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

BITS = (2, 3, 4, 8)
SHAPES = ("constant", "exponential", "cosine")
LAYERS_KEPT = 4096  # plans of layers that are kept, so that equal ones are read once


@dataclass(frozen=True, init=False)
class LayerPlan:
    """How one layer's weights become few values: a value for each of its dimensions (``foundation.dimension``).

    ``layer["bits"]`` or ``layer.bits`` is a value, None where it is absent; of dimensions from outside only the first will do.
    ``bits`` 8 means plain int8 without a mixture. ``components`` absent below 8 bits is for quantizers without that dimension.

    Attributes:
        values: those that are not absent, by the dimensions' names, sorted.

    Raises:
        UserError: a value that its dimension refuses, or two dimensions that exclude each other.
    """

    values: Mapping[str, Any]

    def __init__(
        self,
        bits: int | None = None,
        components: int | None = None,
        *,
        values: Mapping[str, Any] = MappingProxyType({}),
        **others: Any,
    ) -> None:
        """Values by their names, ``values`` first; so ``dataclasses.replace`` does what it should."""
        named = {"bits": bits, "components": components}
        given = {**values, **{name: value for name, value in named.items() if value is not None}, **others}
        if given.get("bits") is None:
            raise UserError(f"a layer without bits: give one of {', '.join(map(str, BITS))}")
        object.__setattr__(self, "values", _checked(given))

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return int(self.values["bits"])

    @property
    def components(self) -> int | None:
        """How many different values, where that is chosen."""
        return self.values.get("components")

    def __getitem__(self, name: str) -> Any:
        return self.values[name] if name in self.values else DIMENSIONS[name].default

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in DIMENSIONS:  # Python itself asks for many a name
            raise AttributeError(name)
        return self[name]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(self.values.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (LayerPlan.from_record, (self.record(),))  # a MappingProxyType does not pickle

    def replace(self, **changes: Any) -> LayerPlan:
        """The same with other values, as of a date."""
        changed: LayerPlan = dataclasses.replace(self, **changes)
        return changed

    def record(self) -> dict[str, Any]:
        """The values as JSON holds them."""
        return {name: DIMENSIONS[name].record(value) for name, value in self.values.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LayerPlan:
        """The inverse of ``record``.

        Raises:
            UserError: a value that its dimension refuses.
        """
        return cls(values=_parsed(record))

    def apply(self, weight: Tensor, progress: float = 1.0) -> Tensor:
        """The layer's float weight as its values want it, each dimension in turn; itself where they want nothing of it.

        ``progress`` is how much of the training lies behind, 0..1, for values that are reached gradually.
        """
        for name, value in self.values.items():
            dimension = DIMENSIONS[name]
            weight = dimension.apply(weight, dimension.partway(value, progress))
        return weight


def _named_layer(name: str, record: Mapping[str, Any]) -> LayerPlan:
    try:
        return _layer_of(repr(record), record)
    except UserError as error:
        raise UserError(f"layer {name!r}: {error}") from error


_layers: dict[str, LayerPlan] = {}  # by their records as text: thousands of plans hold few different layers


def _layer_of(text: str, record: Mapping[str, Any]) -> LayerPlan:
    if text not in _layers:
        if len(_layers) >= LAYERS_KEPT:
            _layers.clear()
        _layers[text] = LayerPlan.from_record(record)
    return _layers[text]


def _parsed(record: Mapping[str, Any], *, of_network: bool = False) -> dict[str, Any]:
    _check_scope(record, of_network=of_network)
    return {name: None if value is None else DIMENSIONS[name].parse(value) for name, value in record.items()}


def _check_scope(values: Mapping[str, Any], *, of_network: bool) -> None:
    for name, value in values.items():
        if DIMENSIONS[name].of_network != of_network:
            where = "each layer has its own" if of_network else "the network has one, its layers none"
            raise UserError(f"{name} {value!r}: {where}")


def _checked(values: Mapping[str, Any], *, of_network: bool = False) -> Mapping[str, Any]:
    """The values that are not absent, each seen by its dimension."""
    present = {name: value for name, value in sorted(values.items()) if value is not None}
    _check_scope(present, of_network=of_network)
    for name, value in present.items():
        others = {other: known for other, known in present.items() if other != name}
        DIMENSIONS[name].refuse(value, others)
        for other in DIMENSIONS[name].excludes:
            if other in others:
                raise UserError(
                    f"{name} {value!r} and {other} {others[other]!r} exclude each other: leave one out"
                )
    return MappingProxyType(present)


@cache
def _defaults() -> Mapping[str, Any]:
    """What every plan says of its network, by the project's own dimensions."""
    return {name: entry.default for name, entry in DIMENSIONS.sound() if entry.of_network}


@dataclass(frozen=True)
class TemperatureSchedule:
    """The posterior's temperature over training progress 0..1, from ``start`` to ``end``.

    The default is for training that sees hard weights (``quantizers.mixture.forms``: straight), where a steady temperature came
    out ahead of falling ones (``benchmarks/results/cotuning_ablations.csv``).
    """

    start: float = 0.5
    end: float = 0.5
    shape: str = "constant"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UserError(f"temperature shape {self.shape!r}: allowed are {', '.join(SHAPES)}")
        if not (self.start > 0 and self.end > 0):
            raise UserError(f"temperature {self.start} to {self.end}: both must be above 0")

    def at(self, progress: float) -> float:
        """Temperature at ``progress`` in 0..1 (clipped)."""
        p = min(max(progress, 0.0), 1.0)
        if self.shape == "constant":
            return self.start
        if self.shape == "exponential":
            return self.start * float((self.end / self.start) ** p)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * p))


@dataclass(frozen=True, init=False)
class Plan:
    """A whole network's plan. Equal plans have equal ``hash``, whatever order their layers were given in.

    Attributes:
        layers: by name, sorted.
        quantizer: of the layers below 8 bits.
        values: of the network's own dimensions, by their names.

    Raises:
        UserError: a value that its dimension refuses.
    """

    layers: Mapping[str, LayerPlan]
    quantizer: str
    values: Mapping[str, Any]

    def __init__(
        self,
        layers: Mapping[str, LayerPlan],
        quantizer: str = "gaussian_mixture",
        *,
        values: Mapping[str, Any] = MappingProxyType({}),
        **named: Any,
    ) -> None:
        """The network's values by their names, ``values`` first; so ``dataclasses.replace`` does what it should."""
        given = {name: value for name, value in {**values, **named}.items() if value is not None}
        object.__setattr__(self, "layers", MappingProxyType(dict(sorted(layers.items()))))
        object.__setattr__(self, "quantizer", quantizer)
        object.__setattr__(self, "values", _checked({**_defaults(), **given}, of_network=True))

    @property
    def temperature(self) -> TemperatureSchedule:
        """Of mixtures, over training."""
        found: TemperatureSchedule = self["temperature"]
        return found

    @property
    def activation_bits(self) -> int:
        """Of every quantized activation but the network's input."""
        return int(self["activation_bits"])

    def __getitem__(self, name: str) -> Any:
        return self.values[name] if name in self.values else DIMENSIONS[name].default

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Plan.from_json, (self.to_json(),))  # a MappingProxyType does not pickle

    def replace(self, **changes: Any) -> Plan:
        """The same with other values, as of a date."""
        changed: Plan = dataclasses.replace(self, **changes)
        return changed

    @classmethod
    def uniform(cls, names: Iterable[str], layer: LayerPlan, **rest: Any) -> Plan:
        """The same layer plan for every layer."""
        return cls(dict.fromkeys(names, layer), **rest)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, absent values left out."""
        record = {
            **{name: DIMENSIONS[name].record(value) for name, value in self.values.items()},
            "layers": {name: layer.record() for name, layer in self.layers.items()},
            "quantizer": self.quantizer,
        }
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan. Dimensions from outside are imported, wherever it is read.

        Raises:
            UserError: not JSON, or not a plan; the message says where. A dimension that cannot be found.
        """
        try:
            return cls.from_record(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise UserError(f"this is not a plan ({error}); a plan is JSON like {EXAMPLE}") from error

    @classmethod
    def from_record(cls, values: Any) -> Plan:
        """A plan of what its JSON holds; ``values`` stay as they are. Raises as ``from_json``."""
        try:
            record = dict(values)
            layers = {name: _named_layer(name, layer) for name, layer in record.pop("layers").items()}
            rest = {key: record.pop(key) for key in ("quantizer",) if key in record}
            return cls(layers, **rest, values=_parsed(record, of_network=True))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"this is not a plan ({error}); a plan is JSON like {EXAMPLE}") from error

    @cached_property
    def hash(self) -> str:
        """The plan's name: the first 12 hex digits of the SHA-256 of its canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


EXAMPLE = '{"layers":{"conv1":{"bits":8},"fc":{"bits":4,"components":16}},"activation_bits":8}'
