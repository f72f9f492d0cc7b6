"""The space of plans: what may be chosen for each layer and for the network, and how to draw from it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from foundation.dimension import DIMENSIONS, Dimension, Layer, SuggestsParameters, usual_dimensions
from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.parameters import FixedParameters, RandomParameters

NETWORK = Layer("the network")  # where the network's own values are chosen
UNIFORM = (8, 4, 3, 2)  # bits of all layers in the first plans
BETWEEN = (4, 2)  # bits of the layers between 8-bit ends in the next; further values are tried with the last
Chosen = dict[str, Any]
Choosing = Callable[
    [Dimension, str, Chosen, Layer], Any
]  # dimension, parameter, what was chosen before, where


class Space:
    """All plans for some layers.

    A parameter exists only where it means something: ``components`` of a layer only below 8 bits, a temperature's end only
    when its shape is not constant. A dimension that the quantizer has not declared is no parameter and stays out of the plans. So
    no two draws that differ give the same plan.

    >>> space = Space(["conv1", "fc"], bits=(4, 8), zero_share=(None, 0.5), coded_bits=(None, 2.0))
    >>> space.size() == (1 + 3 * 2 + 1) ** 2 * 2 * 36
    True
    """

    def __init__(
        self,
        layers: Sequence[str | Layer],
        *,
        quantizer: str = "gaussian_mixture",
        declared: Collection[str] | None = None,
        dimensions: Iterable[Dimension] = (),
        **choices: Any,
    ) -> None:
        """A space of the project's dimensions and of further ones.

        Args:
            layers: in the model's order. Dimensions that look at shapes need ``Layer``s (``layers_of``) instead of names.
            declared: dimensions that the quantizer has; None: all there are.
            dimensions: further ones, or ones with other values than usual.
            choices: the values to choose from, by the name of a dimension of the project.

        Raises:
            UserError: no layers, values that are none, or a dimension that this quantizer has not.
        """
        if not layers:
            raise UserError("the model has no convolution or linear layer to compress")
        known = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
        self.places = tuple(
            dataclasses.replace(layer, index=index, count=len(known)) for index, layer in enumerate(known)
        )
        self.quantizer = quantizer
        chosen = {dimension.name: dimension for dimension in dimensions}
        chosen |= {name: DIMENSIONS[name](values) for name, values in choices.items()}
        for name in usual_dimensions():
            if name not in chosen and (not DIMENSIONS[name].declared or declared is None or name in declared):
                chosen[name] = DIMENSIONS[name]()
        self.dimensions: Mapping[str, Dimension] = {}
        for dimension in in_order(chosen.values()):
            if dimension.declared and declared is not None and dimension.name not in declared:
                if dimension.values == (None,):  # which asks for nothing
                    continue
                raise UserError(f"{quantizer} has no {dimension.noun}: leave {dimension.name} out")
            self.dimensions[dimension.name] = dimension.within(self.dimensions)
        self._check_values()

    def _check_values(self) -> None:
        """Refuse a value that is none of its dimension's now, not when it is drawn."""
        seen = set()
        for tree in (self._network, *{id(tree): tree for tree in self._choices}.values()):
            for values in tree:
                for place, (name, value) in enumerate(values):
                    chosen = {other: known for other, known in values[:place] if known is not None}
                    case = (name, value, *(chosen.get(other) for other in self[name].after))
                    if value is not None and case not in seen:
                        seen.add(case)
                        self[name].refuse(value, chosen)

    def __getitem__(self, name: str) -> Dimension:
        """The dimension of this name, with the values that are chosen from.

        Raises:
            KeyError: this space has none.
        """
        return self.dimensions[name]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers' names."""
        return tuple(place.name for place in self.places)

    def suggest(self, trial: SuggestsParameters) -> Plan:
        """Draw a plan, define-by-run."""

        def draw(dimension: Dimension, name: str, chosen: Chosen, place: Layer) -> Any:
            return dimension.suggest(trial, name, chosen, place)

        network = self._walk(NETWORK, "", draw)
        layers = {place.name: LayerPlan(**self._walk(place, f"{place.name}.", draw)) for place in self.places}
        return Plan(layers, self.quantizer, **network)

    def params(self, plan: Plan) -> dict[str, Any]:
        """The parameters that make ``suggest`` return ``plan``.

        Raises:
            UserError: the plan lies outside this space; the message names the parameter.
        """
        params = self._answers(plan)
        if (found := self.suggest(FixedParameters(params))) != plan:
            raise UserError(f"plan {plan.hash} asks for what {self._surplus(plan, found)}")
        return params

    def without_surplus(self, plan: Plan) -> Plan:
        """The plan without the dimensions that this space has not.

        Raises:
            UserError: it lies outside this space all the same.
        """
        return self.suggest(FixedParameters(self._answers(plan)))

    def _answers(self, plan: Plan) -> dict[str, Any]:
        """The parameters of a plan, as far as this space has them."""
        if set(plan.layers) != set(self.layers) or plan.quantizer != self.quantizer:
            raise UserError(f"plan {plan.hash} is for other layers or another quantizer than this search")
        params: dict[str, Any] = {}

        def ask(values: Plan | LayerPlan) -> Choosing:
            def answer(dimension: Dimension, name: str, chosen: Chosen, place: Layer) -> Any:
                value = values[dimension.name]
                try:
                    params.update(dimension.params(name, value, chosen))
                except UserError as error:
                    raise UserError(f"plan {plan.hash}: {error}") from error
                return value

            return answer

        self._walk(NETWORK, "", ask(plan))
        for place in self.places:
            self._walk(place, f"{place.name}.", ask(plan.layers[place.name]))
        return params

    def _surplus(self, plan: Plan, found: Plan) -> str:
        """What a plan asks for and this space has not."""
        pairs = [("the network", plan.values, found.values)]
        pairs += [(name, layer.values, found.layers[name].values) for name, layer in plan.layers.items()]
        for where, wanted, had in pairs:
            for name, value in wanted.items():
                if had.get(name) != value:
                    has = (
                        self.quantizer
                        if DIMENSIONS[name].declared and name not in self.dimensions
                        else "this search"
                    )
                    return f"{has} has not: {name} {value!r} of {where}"
        raise AssertionError("the plans are equal")

    def _walk(self, place: Layer, prefix: str, value_of: Choosing) -> Chosen:
        """The values of one layer, or of the network, each in turn by ``value_of``."""
        chosen: Chosen = {}
        for name, dimension in self.dimensions.items():
            if dimension.of_network == (place is NETWORK) and self._applies(dimension, chosen, place):
                chosen[name] = value_of(dimension, f"{prefix}{name}", dict(chosen), place)
        return chosen

    def _applies(self, dimension: Dimension, chosen: Chosen, place: Layer) -> bool:
        present = [self.dimensions[name] for name, value in chosen.items() if value is not None]
        excluded = any(
            other.name in dimension.excludes or dimension.name in other.excludes for other in present
        )
        return not excluded and dimension.applies(chosen, place)

    @cached_property
    def _network(self) -> list[tuple[tuple[str, Any], ...]]:
        return self._tree(NETWORK)

    @cached_property
    def _choices(self) -> list[list[tuple[tuple[str, Any], ...]]]:
        """By layer, every combination of values. Layers that have the same share one list."""
        seen: dict[tuple[tuple[tuple[str, Any], ...], ...], list[tuple[tuple[str, Any], ...]]] = {}
        return [seen.setdefault(tuple(tree), tree) for tree in map(self._tree, self.places)]

    def _tree(self, place: Layer) -> list[tuple[tuple[str, Any], ...]]:
        """Every combination of values of one layer, or of the network."""
        found: list[tuple[tuple[str, Any], ...]] = [()]
        for name, dimension in self.dimensions.items():
            if dimension.of_network != (place is NETWORK):
                continue
            longer = []
            for values in found:
                chosen = dict(values)
                if self._applies(dimension, chosen, place):
                    longer += [(*values, (name, value)) for value in dimension.choices(chosen, place)]
                else:
                    longer.append(values)
            found = longer
        return found

    def size(self) -> int:
        """The exact number of plans; the temperature's numbers are counted by their grid."""
        return math.prod(map(len, self._choices)) * len(self._network)

    def plan_at(self, index: int) -> Plan:
        """The plan with this index in 0..size()-1; each plan has exactly one.

        Raises:
            IndexError: no such index.
        """
        if not 0 <= index < self.size():
            raise IndexError(index)
        index, own = divmod(index, len(self._network))
        layers = {}
        for name, choices in zip(self.layers, self._choices):
            index, choice = divmod(index, len(choices))
            layers[name] = LayerPlan(**dict(choices[choice]))
        return Plan(layers, self.quantizer, **dict(self._network[own]))

    def layer_plans(self) -> dict[str, list[LayerPlan]]:
        """Every plan of each layer, in the order of ``plan_at``. Layers that have the same share one list."""
        seen: dict[int, list[LayerPlan]] = {}
        for choices in self._choices:
            if id(choices) not in seen:
                seen[id(choices)] = [LayerPlan(**dict(values)) for values in choices]
        return {name: seen[id(choices)] for name, choices in zip(self.layers, self._choices)}

    def random(self, rng: random.Random) -> Plan:
        """A plan drawn choice by choice, each uniformly: so bits are equally frequent, whatever hangs on them."""
        return self.suggest(RandomParameters(rng))

    def warm_starts(self) -> list[Plan]:
        """Plans worth trying first: all layers alike, first and last layer in 8 bits, and those whose layers between have a value
        that its dimension wants tried (so many zeros that they pay in time); each once, and only those in this space."""
        plans: dict[str, Plan] = {}
        network = self._walk(NETWORK, "", lambda d, _, chosen, place: d.plain(chosen, place))
        for proposal in self._proposals():
            layers = {name: layer for name, layer in proposal.items() if layer is not None}
            if len(layers) == len(self.layers):
                plan = Plan(layers, self.quantizer, **network)
                plans.setdefault(plan.hash, plan)
        return list(plans.values())

    def _proposals(self) -> Iterator[dict[str, LayerPlan | None]]:
        for bits in UNIFORM:
            yield {place.name: self._wanted(place, bits=bits) for place in self.places}
        between: list[Chosen] = [{"bits": bits} for bits in BETWEEN]
        for name, dimension in self.dimensions.items():
            if not dimension.of_network:
                values = {
                    value: None for place in self.places[1:-1] for value in self._starts(dimension, place)
                }
                between += [{"bits": BETWEEN[-1], name: value} for value in values]
        for wanted in between:
            inner = {place.name: self._wanted(place, **wanted) for place in self.places[1:-1]}
            yield {place.name: self._wanted(place, bits=8) for place in self.places} | inner

    def _starts(self, dimension: Dimension, place: Layer) -> Sequence[Any]:
        """The values of one dimension that a layer of the fewest bits should be tried with."""
        fewest = self._wanted(place, bits=BETWEEN[-1])
        chosen = {} if fewest is None else {n: v for n, v in fewest.values.items() if n in dimension.after}
        return dimension.starts(chosen, place) if chosen else ()

    def _wanted(self, place: Layer, **wanted: Any) -> LayerPlan | None:
        """The plainest plan of a layer with these values; one that does not apply there is left out. None: not in this space."""
        missing = []

        def pick(dimension: Dimension, _: str, chosen: Chosen, place: Layer) -> Any:
            if dimension.name not in wanted:
                return dimension.plain(chosen, place)
            if wanted[dimension.name] not in dimension.choices(chosen, place):
                missing.append(dimension.name)
            return wanted[dimension.name]

        if wanted["bits"] not in self["bits"].values:
            return None
        values = self._walk(place, "", pick)
        return None if missing else LayerPlan(**values)

    def describe(self) -> dict[str, Any]:
        """Plain values that name the space: two spaces with equal descriptions are the same."""
        record: dict[str, Any] = {"layers": list(self.layers), "quantizer": self.quantizer}
        for dimension in self.dimensions.values():
            record |= dimension.describe()
        return record


def nearest_choice(wanted: LayerPlan, own: Sequence[LayerPlan]) -> LayerPlan:
    """The plan of a layer that was wanted, or the first of its own that shares most values with it, bits before all else."""
    if wanted in own:
        return wanted
    return max(own, key=lambda o: (o.bits == wanted.bits, len(wanted.values.items() & o.values.items())))


def in_order(dimensions: Iterable[Dimension]) -> list[Dimension]:
    """Each after those that it looks at, else by name.

    Raises:
        UserError: some look at each other in a circle.
    """
    left = {dimension.name: dimension for dimension in dimensions}
    ordered: list[Dimension] = []
    while left:
        ready = [name for name, one in left.items() if not set(one.after) & left.keys() - {name}]
        if not ready:
            raise UserError(f"the dimensions {', '.join(sorted(left))} are each chosen after another of them")
        ordered.append(left.pop(min(ready)))
    return ordered
