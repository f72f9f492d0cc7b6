"""The first plans of a search, where what choices add is known: uniform ones to compare with, and what programmes find."""

from __future__ import annotations

from foundation.plan import Plan
from search_spaces.programme import ChoiceTable, measures_of, solve
from search_spaces.samplers.base import Prior
from search_spaces.space import Space

UNIFORM = (8, 4, 2)  # what a person knows; what lies between them follows
COSTS = ("latency", "size")
BUDGETS = ((0.6, 0.4), (0.3, 0.3), (0.3, 0.6), (0.1, 0.1))  # how far from the least to 8 bits, of each cost


def uniform_starts(space: Space) -> list[Plan]:
    """All layers alike in 8, 4 and 2 bits, as far as the space has them; its first warm start where it has none."""
    plans = space.warm_starts()
    alike = [plan for plan in plans if len({layer.bits for layer in plan.layers.values()}) == 1]
    found: dict[int, Plan] = {}
    for plan in alike:
        found.setdefault(next(iter(plan.layers.values())).bits, plan)
    return [found[bits] for bits in UNIFORM if bits in found] or plans[:1]


def programme_starts(space: Space, prior: Prior) -> list[Plan]:
    """The least harmful plans of a few budgets of time and bytes; none where that is not known."""
    starts, measures = space.warm_starts(), measures_of(prior.proxy, prior.cost, COSTS)
    if measures is None or not starts:
        return []
    table = ChoiceTable.of(space, starts[0], measures).undominated()
    plans: dict[str, Plan] = {}
    for shares in BUDGETS:
        limits = {}
        for name, share in zip(COSTS, shares):
            low, _ = table.reach(name)
            limits[name] = min(low + share * (table.totals[name] - low), prior.limits.get(name, float("inf")))
        chosen = solve(table, limits)
        if chosen is not None:
            plan = table.plan(chosen)
            plans.setdefault(plan.hash, plan)
    return list(plans.values())
