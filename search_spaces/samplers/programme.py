"""The next plan by expected gain: plans from integer programmes over what each choice adds, judged by what trials came to.

What a layer's choices do to the error (``Prior.proxy``) and cost (``Prior.cost``) is known before any trial; the pool holds the
plans that are best at some price of time and bytes. After each result the rule from harm to error is fitted anew, and the plan
whose expected gain in hypervolume is largest is next, once a programme has been solved for the best plan of its time and bytes.
While that is evaluated the same is done for those that come next, one programme at a time.
Where nothing is known beforehand, neighbours of the best plans so far are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.ahead import Ahead
from search_spaces.error_model import ErrorModel, chance_in
from search_spaces.hypervolume import expected_gain
from search_spaces.misfit import Misfit
from search_spaces.programme import HARM, ChoiceTable, Picks, measures_of, solve, sweep
from search_spaces.samplers.base import Context, Record, Sampler

PARTS = 4  # of the network, by depth, that may matter more or less than harms say
PLAIN = {"bits", "components"}  # dimensions of a choice whose harm is all by weights that move
IMAGES = 300  # that an error is taken to be of, where nobody knows
UNFINISHED = 0.25  # weight of an error at a rung beside one at the end
BEYOND = 4  # deviations of chance below fp32's error at which a trial says that harm is no loss beside fp32
WORST = 0.15  # more errors than fp32 than that are hardly of use, unless 2 bits make as many
AHEAD = 4  # programmes that are solved while a trial goes on
NODES = 20  # of each one's search tree: a proposal is not worth waiting seconds for
NEIGHBOURS = 64  # looked at where the pool holds nothing new
TRIES = 32
ROUNDS = 4

Floats = NDArray[np.float64]


class Programme(Sampler):
    """Proposes what is expected to gain most."""

    starts_from_prior = True  # from the pool, which also holds the prior's plans

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pool: dict[str, Plan] = {}
        self._harms: dict[str, Floats | None] = {}
        self._costs: dict[str, dict[str, float]] = {}
        self._ahead: Ahead[list[Plan]] = Ahead()

    def propose(self) -> Plan | None:
        records = self.context.records()
        known = {record.plan.hash for record in records}
        self._costs.clear()  # what is known of them has grown
        if not self._tables:
            return self._neighbour(records, known)
        if not self._pool:
            for table in self._tables:
                self._add(table.plan(chosen) for chosen in sweep(table, self._priced))
            self._add(plan for plan in self.context.prior.plans if self._fits(plan))
        self._add(itertools.chain.from_iterable(self._ahead.take() or ()))
        model = self._model(records)
        ranked = self._ranked(model, records, known)
        if ranked:
            before = len(self._pool)
            self._add(self._solved(ranked[0], model.rule))
            if len(self._pool) > before:
                ranked = self._ranked(model, records, known)
        for _ in range(ROUNDS):
            if ranked:
                break
            before = len(self._pool)  # whatever programmes find is known
            self._add(self._neighbour(records, known) for _ in range(NEIGHBOURS))
            if len(self._pool) == before:  # and so is what is near
                break
            ranked = self._ranked(model, records, known)
        if not ranked:
            return self._neighbour(records, known)
        best, *later = ranked[: 1 + AHEAD]
        self._ahead.start(self._solved(plan, model.rule) for plan in later)
        return best

    # ---- what is known beforehand

    @cached_property
    def _priced(self) -> list[str]:
        """The objectives beside the error that follow from a plan."""
        return [name for name in self.context.objectives if name != "error"]

    @cached_property
    def _tables(self) -> list[ChoiceTable]:
        """What choices add, for each number of activation bits; none where that is not known."""
        space, starts = self.context.space, self.context.space.warm_starts()
        measures = measures_of(self.context.prior.proxy, self.context.prior.cost, self._priced)
        if measures is None or not starts or "error" not in self.context.objectives:
            return []
        found = []
        bits = space["activation_bits"].values if "activation_bits" in space.dimensions else ()
        for base in [starts[0].replace(activation_bits=b) for b in bits] or starts[:1]:
            table = ChoiceTable.of(space, base, measures)
            if not all(np.isfinite(v).all() for values in table.added.values() for v in values):
                return []
            found.append(table)
        return found

    @cached_property
    def _harm_of(self) -> dict[tuple[str, LayerPlan], float]:
        """Of every choice, beside the least harm of its layer."""
        table = self._tables[0]
        return {
            (name, plan): float(value - values.min())
            for name, plans, values in zip(table.base.layers, table.plans, table.added[HARM])
            for plan, value in zip(plans, values)
        }

    @cached_property
    def _part_of(self) -> dict[str, int]:
        """Which part of the network a layer is of: about as many layers in each."""
        layers = self.context.space.layers
        parts = min(PARTS, len(layers))
        return {name: index * parts // len(layers) for index, name in enumerate(layers)}

    def _features(self, plan: Plan) -> Floats | None:
        """A plan's harms by parts, those by weights that move apart from others; None for a plan of another space."""
        if plan.hash not in self._harms:
            parts = max(self._part_of.values()) + 1
            harms: Floats | None = np.zeros(2 * parts)
            for name, layer in plan.layers.items():
                harm = self._harm_of.get((name, layer))
                if harm is None:
                    harms = None
                    break
                assert harms is not None
                harms[self._part_of[name] + parts * bool(layer.values.keys() - PLAIN)] += harm
            self._harms[plan.hash] = harms
        return self._harms[plan.hash]

    def _known_features(self, plan: Plan) -> Floats:
        """Of a plan of this space."""
        found = self._features(plan)
        assert found is not None
        return found

    # ---- what trials came to

    def learned(self) -> ErrorModel | None:
        """The rule from harm to error as trials have it by now; None where harms are not known."""
        return self._model(self.context.records()).rule if self._tables else None

    def _model(self, records: Sequence[Record]) -> Misfit:
        """The rule, and where trials were off it; those that run as if they came to what is expected of them."""
        plans, errors, images, running = [], [], [], []
        for record in records:
            found = record.figures.objectives(("error",))
            if self._features(record.plan) is None or record.status == "failed":
                continue
            if found is not None and math.isfinite(found[0]):
                plans.append(record.plan)
                errors.append(found[0])
                weight = 1.0 if record.status == "finished" else UNFINISHED
                images.append(weight * (self.context.prior.images or IMAGES))
            elif record.status == "running":
                running.append(record.plan)
        floor = least_error(self.context.prior.error, np.array(errors), np.array(images))
        parts, layers = self._harms_of(plans)
        like = self.context.prior.errors
        known = like if like is not None and len(like.mean) == 2 + parts.shape[1] else None
        rule = ErrorModel.fit(parts, np.array(errors), np.array(images), floor, known)
        model = Misfit.fit(rule, parts, layers, np.array(errors), np.array(images))
        return model.believing(self._harms_of(running)[1])

    def _harms_of(self, plans: Sequence[Plan]) -> tuple[Floats, Floats]:
        """Of plans of this space, by parts [n, K] and by layer [n, L]."""
        parts = [self._known_features(plan) for plan in plans]
        layers = [[self._harm_of[name, layer] for name, layer in plan.layers.items()] for plan in plans]
        count = len(self.context.space.layers)
        width = 2 * (max(self._part_of.values()) + 1)
        return np.array(parts).reshape(-1, width), np.array(layers).reshape(-1, count)

    def _ranked(self, model: Misfit, records: Sequence[Record], known: set[str]) -> list[Plan]:
        """The plans of the pool that are new and of use, that with the largest expected gain first."""
        prior = self.context.prior
        plans = [plan for name, plan in self._pool.items() if name not in known and self._allowed(plan)]
        if not plans:
            return []
        costs = np.array([[self._cost(plan)[name] for name in self._priced] for plan in plans])
        errors, deviations = model.predict(*self._harms_of(plans))
        front, floor = self._front(model, records), model.rule.floor
        scale = np.max(np.concatenate([costs, front[:, 1:]]), 0)
        uniform = model.rule.predict(self._harshest[None])[0][0]
        worst = prior.limits.get("error", floor + max(WORST, uniform - floor))
        unit = max(worst - min(floor, *front[:, 0], *errors), 1e-3)
        reference = np.array([worst / unit, *np.full(len(scale), 1.05)])
        over = np.array([unit, *scale])
        gains = expected_gain(front / over, reference, errors / unit, deviations / unit, costs / scale)
        gains[_shut_out(front, costs, floor)] = 0.0
        return [plans[place] for place in np.argsort(-gains, kind="stable") if gains[place] > 0]

    @cached_property
    def _harshest(self) -> Floats:
        """The harms of all layers in the fewest bits."""
        space = self.context.space
        last = [p for p in space.warm_starts() if len(set(p.layers.values())) == 1]
        return self._known_features(last[-1] if last else space.warm_starts()[-1])

    def _front(self, model: Misfit, records: Sequence[Record]) -> Floats:
        """What ended, and what runs as if it had come to what is expected of it, [n, objectives], the error first."""
        names = ("error", *self._priced)
        rows = [r.figures.objectives(names) for r in records if r.status == "finished"]
        running = [r.plan for r in records if r.status == "running" and self._features(r.plan) is not None]
        for plan, error in zip(running, model.predict(*self._harms_of(running))[0]):
            rows.append((float(error), *(self._cost(plan)[name] for name in self._priced)))
        return np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, len(names))

    # ---- the pool

    def _add(self, plans: Iterable[Plan]) -> None:
        for plan in map(self._tied, plans):
            if self._features(plan) is not None:
                self._pool.setdefault(plan.hash, plan)

    def _tied(self, plan: Plan) -> Plan:
        """With as many activation bits as change nothing else: fewer of them are for kernels that not every plan has."""
        for table in self._tables:
            other = plan.replace(activation_bits=table.base.activation_bits)
            if self._cost(other) == self._cost(plan):
                return other
        return plan

    def _solved(self, plan: Plan, model: ErrorModel) -> list[Plan]:
        """The best plan of this one's costs, as harms are by now; none where none was found. Changes nothing: it may go on in
        another thread."""
        table = next(t for t in self._tables if t.base.activation_bits == plan.activation_bits)
        parts = max(self._part_of.values()) + 1
        weights = [
            np.array(
                [
                    self._harm_of[name, choice]
                    * model.factors[self._part_of[name] + parts * bool(choice.values.keys() - PLAIN)]
                    for choice in plans
                ]
            )
            for name, plans in zip(table.base.layers, table.plans)
        ]
        place = table.chosen(plan)
        limits = {name: table.total(name, place) * (1 + 1e-6) for name in self._priced}
        table = table.weighted(weights).undominated()
        chosen: Picks | None = solve(table, limits, nodes=NODES)
        return [] if chosen is None else [table.plan(chosen)]

    def _cost(self, plan: Plan) -> dict[str, float]:
        if plan.hash not in self._costs:
            assert self.context.prior.cost is not None
            self._costs[plan.hash] = dict(self.context.prior.cost(plan))
        return self._costs[plan.hash]

    def _allowed(self, plan: Plan) -> bool:
        """Whether it costs no more than a person allows."""
        cost, limits = self._cost(plan), self.context.prior.limits
        return all(cost[name] <= limits[name] for name in self._priced if name in limits)

    def _neighbour(self, records: Sequence[Record], known: set[str]) -> Plan:
        """One of the best plans with other choices for one to three layers; a plan not seen yet, where one is found."""
        space = self.context.space
        ended = [(plan, found) for plan, found in self.context.finished()]
        front = [p for p, a in ended if not any(_dominates(b, a) for _, b in ended)]
        plan = space.random(self.rng)
        for _ in range(TRIES):
            plan = space.random(self.rng)
            if front:
                here = self.rng.choice(front)
                count = min(len(here.layers), 1 + self.rng.getrandbits(1) + self.rng.getrandbits(1))
                changed = self.rng.sample(sorted(here.layers), count)
                plan = here.replace(layers={**here.layers, **{name: plan.layers[name] for name in changed}})
            plan = self._tied(plan) if self._tables and self._fits(plan) else plan
            if plan.hash not in known and self._fits(plan):
                break
        return plan

    def _fits(self, plan: Plan) -> bool:
        """Whether this space has it, which neighbours of an older space's plans are not."""
        try:
            self.context.space.params(plan)
        except (UserError, KeyError):
            return False
        return True


def least_error(fp32: float | None, errors: Floats, images: Floats) -> float:
    """What plans that do no harm come to: fp32's error, or the least of the trials' where nobody knows fp32's, or where trials
    are below it by more than chance, as those of a network that had not learned its data are.

    Args:
        fp32: the fp32 network's error.
        errors: of trials, [n].
        images: how many images each error is of, [n].
    """
    least = float(errors.min(initial=np.inf))
    if fp32 is None:
        return least if len(errors) else 0.0
    below = (errors < fp32 - BEYOND * np.sqrt(chance_in(errors, images))).any()
    return least if below else float(fp32)


def _shut_out(front: Floats, costs: Floats, floor: float) -> NDArray[np.bool_]:
    """Which of candidates [m, d] cost as much as a point of the front that has the least error anyone hopes for."""
    best = min([floor, *front[:, 0]])
    sure = front[front[:, 0] <= best, 1:]
    found: NDArray[np.bool_] = np.any(np.all(costs[:, None] >= sure[None], axis=2), axis=1)
    return found


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b)) and any(x < y for x, y in zip(a, b))
