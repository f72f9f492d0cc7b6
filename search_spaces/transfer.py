"""What the trials of one search taught, for the search of another network: layers are matched by their kind and their depth, so
the other network needs not be of the same length."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foundation.dimension import Layer
from foundation.errors import UserError
from foundation.files import json_text
from foundation.plan import LayerPlan, Plan
from search_spaces.error_model import ErrorModel
from search_spaces.sensitivity import Sensitivity
from search_spaces.space import Space, nearest_choice

FORMAT = 1


@dataclass(frozen=True)
class Learned:
    """
    Attributes:
        layers: name and kind of each, in the network's order.
        errors: the rule from harm to error, by parts of the network; None where none could be fitted.
        costs: by objective, what share of a program's cost is no layer's, and the factor on the sum of layers.
        plans: of the front.
    """

    layers: tuple[tuple[str, str], ...]
    errors: ErrorModel | None = None
    costs: Mapping[str, tuple[float, float]] | None = None
    plans: tuple[Plan, ...] = ()

    def to_json(self) -> str:
        """For people and for ``from_json``."""
        errors = self.errors and {
            "floor": self.errors.floor,
            "mean": self.errors.mean.tolist(),
            "covariance": self.errors.covariance.tolist(),
        }
        plans = [json.loads(plan.to_json()) for plan in self.plans]
        record = {
            "format": FORMAT,
            "layers": self.layers,
            "errors": errors,
            "costs": self.costs,
            "plans": plans,
        }
        return json_text(record, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Learned:
        """The inverse of ``to_json``.

        Raises:
            UserError: it is none.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r}, this version reads {FORMAT}")
            errors = record["errors"] and ErrorModel(
                float(record["errors"]["floor"]),
                np.array(record["errors"]["mean"], dtype=np.float64),
                np.array(record["errors"]["covariance"], dtype=np.float64),
            )
            costs = record["costs"] and {
                str(name): (float(rest), float(factor)) for name, (rest, factor) in record["costs"].items()
            }
            layers = tuple((str(name), str(kind)) for name, kind in record["layers"])
            return cls(
                layers, errors, costs, tuple(Plan.from_json(json_text(plan)) for plan in record["plans"])
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this is not what a search has learned ({error})") from error


def kind_of(layer: Layer) -> str:
    """What two layers must share to be alike: ``convolution 3 x 3``."""
    return " ".join((layer.kind, " x ".join(map(str, layer.weight_shape[2:])))).strip()


def matched(theirs: Sequence[tuple[str, str]], ours: Sequence[Layer]) -> dict[str, str]:
    """For each of our layers the name of that of theirs which is of the same kind, where any is, and lies nearest in depth. The
    first and the last layer are at the same depth in every network."""

    def depth(place: int, count: int) -> float:
        return place / max(1, count - 1)

    at = [(name, kind, depth(place, len(theirs))) for place, (name, kind) in enumerate(theirs)]
    found = {}
    for place, layer in enumerate(ours):
        alike = [each for each in at if each[1] == kind_of(layer)] or at
        own = depth(place, len(ours))
        found[layer.name] = min(alike, key=lambda each: abs(each[2] - own))[0]
    return found


def moved(plan: Plan, match: Mapping[str, str], space: Space) -> Plan | None:
    """A plan of theirs on our layers, each with the choice of the layer that it matches, or the nearest that it has; None where
    the rest of the plan is not of our space."""
    own = space.layer_plans()
    if plan.quantizer != space.quantizer or not set(match.values()) <= plan.layers.keys():
        return None
    starts = space.warm_starts()
    if not starts:
        return None
    layers = {name: nearest_choice(plan.layers[match[name]], own[name]) for name in space.layers}
    bits = plan.activation_bits
    known = space["activation_bits"].values if "activation_bits" in space.dimensions else (bits,)
    found = starts[0].replace(layers=layers)
    return found.replace(activation_bits=bits) if bits in known else found


def moved_sensitivity(theirs: Sensitivity, match: Mapping[str, str], space: Space) -> Sensitivity:
    """Their harms for our layers: right in their order at best, which is what a ranking needs.

    Raises:
        UserError: a layer that ours match was not looked at there.
    """
    harms: dict[str, Mapping[LayerPlan, Any]] = {}
    for name, plans in space.layer_plans().items():
        known = theirs.harms.get(match[name])
        if not known:
            raise UserError(f"the earlier study knows nothing of its layer {match[name]}")
        own = list(known)
        harms[name] = {plan: known[nearest_choice(plan, own)] for plan in plans}
    return Sensitivity(harms, theirs.penalty, theirs.images)


def usable(model: ErrorModel | None) -> bool:
    """Whether a rule can be taken up: all its numbers are numbers, and its uncertainty is one."""
    if model is None or not math.isfinite(model.floor) or not np.isfinite(model.mean).all():
        return False
    shape = (len(model.mean), len(model.mean))
    if model.covariance.shape != shape or not np.isfinite(model.covariance).all():
        return False
    return bool(np.linalg.eigvalsh(model.covariance).min() > -1e-9)
