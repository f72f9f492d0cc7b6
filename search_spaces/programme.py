"""Plans by integer programming: of each layer one choice, so that harm is least within limits of time and bytes.

Harm, time and bytes of a plan are taken to be sums over layers, so what a choice adds is known from changing a layer of one plan.
(HAWQ-V3, arXiv:2011.10680, section 3.2, has this programme with bits as the choices.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from foundation.plan import LayerPlan, Plan
from search_spaces.hypervolume import undominated
from search_spaces.space import Space

HARM = "harm"
GAP = 1e-3  # relative, at which a programme counts as solved
NODES = 200  # of the search tree; a programme that wants more is left where it is
SECONDS = 20.0  # and one that takes longer
PRICES = (0.0, *np.logspace(-3, 3, 13))  # of what is saved, in units of the ranges of harm and of it

Measures = Mapping[str, Callable[[Plan], float]]
Picks = tuple[int, ...]


def measures_of(
    proxy: Callable[[Plan], float] | None,
    cost: Callable[[Plan], Mapping[str, float]] | None,
    costs: Sequence[str],
) -> Measures | None:
    """The harm of a plan and these of its costs, where they are known beforehand; else None."""
    if proxy is None or cost is None:
        return None

    last: list[tuple[Plan, Mapping[str, float]]] = []

    def priced(name: str, plan: Plan) -> float:
        if not last or last[0][0] is not plan:  # asked for one measure after the other
            last[:] = [(plan, cost(plan))]
        return last[0][1][name]

    return {HARM: proxy, **{name: partial(priced, name) for name in costs}}


@dataclass(frozen=True)
class ChoiceTable:
    """What every choice of every layer adds.

    Attributes:
        base: the plan whose layers are changed.
        plans: of each layer, in the base's order.
        added: by measure, of each layer an array over its plans: relative to the base's own.
        totals: by measure, of the base.
    """

    base: Plan
    plans: tuple[tuple[LayerPlan, ...], ...]
    added: Mapping[str, tuple[NDArray[np.float64], ...]]
    totals: Mapping[str, float]

    @classmethod
    def of(cls, space: Space, base: Plan, measures: Measures) -> ChoiceTable:
        """Every plan of every layer of ``space``, put into ``base`` one at a time."""
        plans = space.layer_plans()
        totals = {name: float(measure(base)) for name, measure in measures.items()}
        added: dict[str, list[NDArray[np.float64]]] = {name: [] for name in measures}
        for layer in base.layers:
            changed = [base.replace(layers={**base.layers, layer: plan}) for plan in plans[layer]]
            rows = np.array([[measure(plan) for measure in measures.values()] for plan in changed])
            for name, values in zip(measures, rows.T):
                added[name].append(values - totals[name])
        return cls(
            base,
            tuple(tuple(plans[layer]) for layer in base.layers),
            {name: tuple(values) for name, values in added.items()},
            totals,
        )

    def undominated(self) -> ChoiceTable:
        """Without choices that another of the same layer is nowhere worse than; of equal ones the first stays."""
        kept = [undominated(np.stack(values, 1)) for values in zip(*self.added.values())]
        return ChoiceTable(
            self.base,
            tuple(tuple(plans[i] for i in keep) for plans, keep in zip(self.plans, kept)),
            {name: tuple(v[keep] for v, keep in zip(values, kept)) for name, values in self.added.items()},
            self.totals,
        )

    def weighted(self, weights: Sequence[NDArray[np.float64]]) -> ChoiceTable:
        """The same with other harms, of each layer's plans in turn."""
        return ChoiceTable(self.base, self.plans, {**self.added, HARM: tuple(weights)}, self.totals)

    def plan(self, chosen: Sequence[int]) -> Plan:
        """The plan of these choices."""
        layers = {name: plans[i] for name, plans, i in zip(self.base.layers, self.plans, chosen)}
        return self.base.replace(layers=layers)

    def chosen(self, plan: Plan) -> Picks:
        """The choices of a plan.

        Raises:
            ValueError: a layer's is none of the table's.
        """
        return tuple(plans.index(plan.layers[name]) for name, plans in zip(self.base.layers, self.plans))

    def total(self, measure: str, chosen: Sequence[int]) -> float:
        """A measure of a plan of these choices."""
        return self.totals[measure] + sum(float(v[i]) for v, i in zip(self.added[measure], chosen))

    def reach(self, measure: str) -> tuple[float, float]:
        """The least and the most of a measure that any plan has."""
        low, high = (sum(float(pick(v)) for v in self.added[measure]) for pick in (np.min, np.max))
        return self.totals[measure] + low, self.totals[measure] + high


def solve(
    table: ChoiceTable, limits: Mapping[str, float], goal: str = HARM, *, nodes: int = NODES
) -> Picks | None:
    """The choices with the least ``goal`` whose other measures are within ``limits``; None where no plan is, or none was found.

    By HiGHS (``scipy.optimize.milp``), to within ``GAP``, or the best that is found in so many nodes of the search tree.
    """
    sizes = [len(plans) for plans in table.plans]
    count, owner = sum(sizes), np.repeat(np.arange(len(sizes)), sizes)
    aim = np.concatenate(table.added[goal])
    one_each = csr_matrix((np.ones(count), (owner, np.arange(count))), shape=(len(sizes), count))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for name, limit in limits.items():
        low, _ = table.reach(name)
        if low > limit:
            return None
        unit = max(limit - low, 1e-9 * max(abs(limit), 1e-12))
        least = np.repeat([v.min() for v in table.added[name]], sizes)
        over = (np.concatenate(table.added[name]) - least) / unit
        constraints.append(LinearConstraint(over[None], -np.inf, (limit - low) / unit))
    found = milp(
        aim / (np.abs(aim).max() or 1.0),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": GAP, "node_limit": nodes, "time_limit": SECONDS},
    )
    if found.x is None:
        return None
    ends = np.cumsum(sizes)
    return tuple(int(np.argmax(found.x[end - size : end])) for end, size in zip(ends, sizes))


def sweep(table: ChoiceTable, costs: Sequence[str]) -> Iterator[Picks]:
    """The plans that are best at some price of each cost, each once: corners of what programmes find, in no time.

    At a price a plan's best choices are every layer's own (Lagrange's relaxation), so this is a table look-up.
    """
    ranges = {name: max(high - low, 1e-12) for name in (HARM, *costs) for low, high in [table.reach(name)]}
    seen: set[Picks] = set()
    for prices in itertools.product(PRICES, repeat=len(costs)):
        units = [price * ranges[HARM] / ranges[name] for price, name in zip(prices, costs)]
        chosen = tuple(
            int(
                np.argmin(
                    table.added[HARM][layer]
                    + sum(u * table.added[name][layer] for u, name in zip(units, costs))
                )
            )
            for layer in range(len(table.plans))
        )
        if chosen not in seen:
            seen.add(chosen)
            yield chosen
