"""What is known of plans' errors before any training: what each choice of each layer adds, alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from foundation.errors import UserError
from foundation.files import json_text
from foundation.plan import LayerPlan, Plan

PENALTY = 3.0  # how much worse an error by weights that become zero is than one by weights that move


class Harm(NamedTuple):
    """What a layer's plan does to the layer before training.

    Attributes:
        quantization, pruning: what it adds to the divergence from the fp32 network, in nats: by weights that move, and by weights
            that become zero. Short training mends the first better than the second.
        zeros: share of the weights that are zero.
        entropy: bits of an index where it is coded as short as can be.
    """

    quantization: float
    pruning: float
    zeros: float = 0.0
    entropy: float = 8.0


@dataclass(frozen=True)
class Sensitivity:
    """A ranking of plans by the error to be expected: ``sensitivity(plan)`` is a sampler's ``Prior.proxy``.

    Attributes:
        harms: of each layer's plans.
        penalty: weight of the pruning part.
        images: how many images it is from.
    """

    harms: Mapping[str, Mapping[LayerPlan, Harm]]
    penalty: float = PENALTY
    images: int = 0

    def __call__(self, plan: Plan) -> float:
        """The sum over the layers; NaN where a layer has a plan that was not looked at."""
        return math.fsum(self.of(name, layer) for name, layer in plan.layers.items())

    def of(self, name: str, layer: LayerPlan) -> float:
        """One layer's part."""
        harm = self.harms.get(name, {}).get(layer)
        return math.nan if harm is None else harm.quantization + self.penalty * harm.pruning

    def gentlest(self, name: str) -> dict[int, LayerPlan]:
        """For each bit-width, most bits first, the plan of a layer that adds least."""
        found: dict[int, LayerPlan] = {}
        for layer in self.harms[name]:
            if layer.bits not in found or self.of(name, layer) < self.of(name, found[layer.bits]):
                found[layer.bits] = layer
        return dict(sorted(found.items(), reverse=True))

    def to_json(self) -> str:
        """One line for each layer's plan, so that a person may read it."""
        return json_text(
            {
                "images": self.images,
                "penalty": self.penalty,
                "unit": "nats",
                "layers": {
                    name: [{"plan": layer.record(), **harm._asdict()} for layer, harm in harms.items()]
                    for name, harms in self.harms.items()
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """The inverse of ``to_json``.

        Raises:
            UserError: it is none.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            harms = {
                name: {
                    LayerPlan.from_record(row["plan"]): Harm(*(float(row[key]) for key in Harm._fields))
                    for row in rows
                }
                for name, rows in record["layers"].items()
            }
            return cls(harms, float(record["penalty"]), int(record["images"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this is no sensitivity ({error})") from error
