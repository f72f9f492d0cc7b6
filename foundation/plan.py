"""What to do to a model: the plan, its canonical JSON and its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from foundation.errors import UserError

BITS = (2, 3, 4, 8)
ACTIVATION_BITS = (8, 7)
SHAPES = ("constant", "exponential", "cosine")
COMPONENTS, ZERO_SHARE, TEMPERATURE = "components", "zero_share", "temperature"
DIMENSIONS = frozenset({COMPONENTS, ZERO_SHARE, TEMPERATURE})  # that a quantizer may have beside bits


@dataclass(frozen=True)
class LayerPlan:
    """How one layer's weights become few values.

    ``bits`` 8 means plain int8 without a mixture; then ``components`` and ``zero_share`` are None. ``components`` None below 8
    bits is for quantizers without that dimension. ``zero_share`` None means natural: whatever share the zero component
    captures; a number in [0, 1) is a target.
    """

    bits: int
    components: int | None = None
    zero_share: float | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UserError(f"bits {self.bits!r}: allowed are {', '.join(map(str, BITS))}")
        if self.bits == 8:
            if self.components is not None or self.zero_share is not None:
                raise UserError("a layer of 8 bits is plain int8: leave components and zero_share out")
            return
        if self.components is not None and not 2 <= self.components <= 2**self.bits:
            raise UserError(f"components {self.components!r}: {self.bits} bits allow 2 to {2**self.bits}")
        if self.zero_share is not None and not 0 <= self.zero_share < 1:
            raise UserError(
                f"zero_share {self.zero_share!r}: give a share in [0, 1), or leave it out for natural"
            )


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


@dataclass(frozen=True)
class Plan:
    """A whole network's plan. Equal plans have equal ``hash``, whatever order their layers were given in."""

    layers: Mapping[str, LayerPlan]
    temperature: TemperatureSchedule = field(default_factory=TemperatureSchedule)
    activation_bits: int = 8
    quantizer: str = "gaussian_mixture"

    def __post_init__(self) -> None:
        if self.activation_bits not in ACTIVATION_BITS:
            raise UserError(f"activation_bits {self.activation_bits!r}: allowed are 8 and 7")
        object.__setattr__(self, "layers", MappingProxyType(dict(sorted(self.layers.items()))))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return (Plan.from_json, (self.to_json(),))  # a MappingProxyType does not pickle

    @classmethod
    def uniform(cls, names: Iterable[str], layer: LayerPlan, **rest: Any) -> Plan:
        """The same layer plan for every layer."""
        return cls(dict.fromkeys(names, layer), **rest)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, absent values left out."""
        record = {
            "activation_bits": self.activation_bits,
            "layers": {
                name: {key: value for key, value in dataclasses.asdict(layer).items() if value is not None}
                for name, layer in self.layers.items()
            },
            "quantizer": self.quantizer,
            "temperature": dataclasses.asdict(self.temperature),
        }
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan.

        Raises:
            UserError: not JSON, or not a plan; the message says where.
        """
        try:
            record = json.loads(text)
            layers = {name: LayerPlan(**layer) for name, layer in record["layers"].items()}
            rest = {key: record[key] for key in ("activation_bits", "quantizer") if key in record}
            if "temperature" in record:
                rest["temperature"] = TemperatureSchedule(**record["temperature"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"this is not a plan ({error}); a plan is JSON like {EXAMPLE}") from error
        return cls(layers, **rest)

    @property
    def hash(self) -> str:
        """The plan's name: the first 12 hex digits of the SHA-256 of its canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


EXAMPLE = (
    '{"layers":{"conv1":{"bits":8},"fc":{"bits":4,"components":16,"zero_share":0.5}},"activation_bits":8}'
)
