"""A sampler: a Metropolis walk through the plans (Metropolis et al., 1953).

python -m pipeline.search --sampler metropolis:Metropolis --modules examples/extending
"""

from __future__ import annotations

import dataclasses
import math
import random

from foundation.plan import Plan
from search_spaces.samplers.base import Sampler

TEMPERATURE = (
    0.1  # a step that makes the product of all objectives a tenth larger is taken in about a third of cases
)
TRIES = 64


class Metropolis(Sampler):
    """Each proposal is the plan where the walk stands, with another choice for one layer; on from there while that is known."""

    def propose(self) -> Plan | None:
        plan = self.walked()
        if plan is None:
            return self.context.space.random(self.rng)
        known = {record.plan.hash for record in self.context.records()}
        for _ in range(TRIES):
            other, changed = self.context.space.random(self.rng), self.rng.choice(sorted(plan.layers))
            plan = dataclasses.replace(plan, layers={**plan.layers, changed: other.layers[changed]})
            if plan.hash not in known:
                break
        return plan

    def incumbent(self) -> Plan | None:
        """With ``--inherit-weights on`` a trial may start from the weights of the plan that it is a neighbour of."""
        return self.walked()

    def walked(self) -> Plan | None:
        """Where the walk stands after the trials that ended: it goes to a better plan always, to a worse one sometimes. Chance
        depends on seed and step alone, so that a search that goes on finds itself at the same place."""
        here, height = None, math.inf
        for step, (plan, objectives) in enumerate(self.context.finished()):
            there = sum(math.log(max(value, 1e-4)) for value in objectives)
            chance = random.Random(f"{self.context.seed}/{step}").random()
            if there <= height or chance < math.exp((height - there) / TEMPERATURE):
                here, height = plan, there
        return here
