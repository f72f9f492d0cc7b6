"""A Metropolis walk through the plans (AMED, arXiv:2205.15437, as a walk over whole plans): a step changes one to three layers a
little, a better plan is always taken and a worse one sometimes, less and less often."""

from __future__ import annotations

import math
import random

from foundation.errors import UserError
from foundation.plan import LayerPlan, Plan
from search_spaces.samplers.base import Context, Sampler

BETA = 0.1  # what a time of 1/e of the first plan's is worth, in share of wrong answers
PENALTY = 10.0  # of the square of what an error is over its limit
TEMPERATURE = 0.02  # of the first step, in the same unit
STEPS = 50  # until the walk takes better plans alone
TRIES = 32


class Metropolis(Sampler):
    """Each proposal is a neighbour of the plan where the walk stands. Where that is follows from the records and the seed alone.

    A plan's height is its error, ``BETA`` times the logarithm of its other objectives relative to those of the first plan, on
    average, and a penalty where the error is over its limit; plans over a limit of cost are never walked to.

    The published walk evaluates the plan where it stands anew now and then, so that one lucky evaluation does not hold it for
    ever. Here its height would come out the same: a plan is evaluated once in a study, by a seed and on images that do not
    change.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ladders = {
            name: sorted(plans, key=_fineness) for name, plans in context.space.layer_plans().items()
        }

    def propose(self) -> Plan | None:
        records = self.context.records()
        known = {record.plan.hash for record in records}
        here = self.walked() or next(iter(self.context.space.warm_starts()), None)
        if here is None:
            return self.context.space.random(self.rng)
        rng = random.Random(f"{self.context.seed}/{len(records)}/{self.rng.random()}")
        plan = here
        for _ in range(TRIES):
            # From where the last try led, so that what is near and known is passed by.
            plan = self.step(plan, rng)
            if plan.hash not in known:
                return plan
        return self.context.space.random(self.rng)

    def incumbent(self) -> Plan | None:
        return self.walked()

    def walked(self) -> Plan | None:
        """Where the walk stands after the trials that ended."""
        here, height = None, math.inf
        first: tuple[float, ...] | None = None
        for step, (plan, objectives) in enumerate(self.context.finished()):
            first = first or objectives
            there = self._height(objectives, first)
            temperature = TEMPERATURE * max(0.0, 1 - step / STEPS)
            chance = random.Random(f"{self.context.seed}/{step}").random()
            falls = there <= height or (temperature and chance < math.exp((height - there) / temperature))
            if falls and self._has(plan):
                here, height = plan, there
        return here

    def _height(self, objectives: tuple[float, ...], first: tuple[float, ...]) -> float:
        found = dict(zip(self.context.objectives, objectives))
        limits = self.context.prior.limits
        if any(found[name] > limits[name] for name in found.keys() & limits.keys() - {"error"}):
            return math.inf
        error = found.pop("error", 0.0)
        before = dict(zip(self.context.objectives, first))
        logs = [math.log(max(value, 1e-9) / max(before[name], 1e-9)) for name, value in found.items()]
        over = max(0.0, error - limits.get("error", math.inf))
        return error + BETA * sum(logs) / max(1, len(logs)) + PENALTY * over**2

    def step(self, plan: Plan, rng: random.Random) -> Plan:
        """One layer, or two or three, a step up or down its ladder; at an end it turns round."""
        count = min(len(plan.layers), 1 + rng.getrandbits(1) + rng.getrandbits(1))
        layers = dict(plan.layers)
        for name in rng.sample(sorted(layers), count):
            ladder = self._ladders[name]
            place = ladder.index(layers[name]) + rng.choice((-1, 1))
            layers[name] = ladder[
                min(1, len(ladder) - 1) if place < 0 else place - 2 * (place == len(ladder))
            ]
        return plan.replace(layers=layers)

    def _has(self, plan: Plan) -> bool:
        try:
            self.context.space.params(plan)
        except UserError:
            return False
        return True


def _fineness(layer: LayerPlan) -> tuple[float, ...]:
    """From the coarsest choice of a layer to the finest: by bits, then fewer other demands, then components."""
    others = [value for name, value in layer.values.items() if name not in ("bits", "components")]
    share = sum(value for value in others if isinstance(value, int | float))
    return (layer.bits, -len(others), -share, layer.components or 0)
