"""Few parameters for many layers: neighbouring layers share a choice, of those that no other choice is better than."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import optuna

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.programme import ChoiceTable, measures_of
from search_spaces.samplers.by_optuna import OptunaSampler
from search_spaces.space import nearest_choice

GROUPS = 5


class TiedSampler(OptunaSampler):
    """Proposes plans whose layers are tied in groups, about as many in each: the first, the last, and those between by depth.

    What is one choice in the network is plain (a temperature's schedule), and so are activation bits where they change no cost.
    A plan of someone else's, whose groups are not of one choice, is taken for the nearest that is: the choice that most weights
    of a group have.
    """

    def suggest(self, trial: optuna.Trial) -> Plan:
        layers: dict[str, LayerPlan] = {}
        for number, group in enumerate(self._groups):
            choices = self._choices[number]
            chosen = choices[trial.suggest_categorical(f"group {number}", list(range(len(choices))))]
            layers |= dict.fromkeys(group, chosen)
        plan = self._base.replace(layers=layers)
        if len(self._activation_bits) > 1:
            bits = trial.suggest_categorical("activation bits", list(self._activation_bits))
            plan = plan.replace(activation_bits=bits)
        return self._as_it_applies(plan)

    def params(self, plan: Plan) -> Mapping[str, Any]:
        self.context.space.params(plan)
        found: dict[str, Any] = {}
        for number, group in enumerate(self._groups):
            weights: Counter[LayerPlan] = Counter()
            for name in group:
                weights[plan.layers[name]] += self._weights.get(name, 1)
            known = [layer for layer, _ in weights.most_common() if layer in self._choices[number]]
            if not known:
                raise UserError(f"plan {plan.hash} has choices that others are better than")
            found[f"group {number}"] = self._choices[number].index(known[0])
        if len(self._activation_bits) > 1:
            found["activation bits"] = plan.activation_bits
        return found

    def _as_it_applies(self, plan: Plan) -> Plan:
        """With a layer's plainest plan of as many bits where the group's choice is none of its own; and the most activation bits
        that cost no more."""
        own = self.context.space.layer_plans()
        layers = {name: nearest_choice(layer, own[name]) for name, layer in plan.layers.items()}
        plan, cost = plan.replace(layers=layers), self.context.prior.cost
        if cost is not None and len(self._activation_bits) > 1:
            wide = plan.replace(activation_bits=max(self._activation_bits))
            return wide if cost(wide) == cost(plan) else plan
        return plan

    @cached_property
    def _base(self) -> Plan:
        return (self.context.space.warm_starts() or [self.context.space.random(self.rng)])[0]

    @cached_property
    def _activation_bits(self) -> tuple[int, ...]:
        space = self.context.space
        return tuple(space["activation_bits"].values) if "activation_bits" in space.dimensions else ()

    @cached_property
    def _weights(self) -> dict[str, int]:
        return {layer.name: layer.parameters for layer in self.context.prior.layers}

    @cached_property
    def _groups(self) -> list[list[str]]:
        first, *between, last = self.context.space.layers if len(self.context.space.layers) > 1 else ("", "")
        if not first:
            return [list(self.context.space.layers)]
        count = min(GROUPS - 2, len(between))
        groups: list[list[str]] = [[] for _ in range(count)]
        for index, name in enumerate(between):
            groups[index * count // len(between)].append(name)
        return [[first], *groups, [last]]

    @cached_property
    def _choices(self) -> list[list[LayerPlan]]:
        """Of each group, what some layer of it has and no other choice is better than."""
        plans = self._undominated()
        return [list(dict.fromkeys(plan for name in group for plan in plans[name])) for group in self._groups]

    def _undominated(self) -> dict[str, list[LayerPlan]]:
        space, cost = self.context.space, self.context.prior.cost
        measures = measures_of(self.context.prior.proxy, cost, sorted(cost(self._base)) if cost else ())
        if measures is None:
            return space.layer_plans()
        base = self._base
        if self._activation_bits:  # where choices differ in time most
            base = base.replace(activation_bits=min(self._activation_bits))
        table = ChoiceTable.of(space, base, measures).undominated()
        return dict(zip(base.layers, map(list, table.plans)))
