"""Successive halving over several objectives: who goes on at a rung. Numbers in, decisions out.

Asynchronous, as in ASHA (Li et al. 2020, arXiv:1810.05934): a trial is judged when it reaches a rung, against all that
reached it before. Trials are ordered by what each adds to the volume that all dominate together; those that others dominate come
after, by how far they are from not being dominated. A trial with the least error, and one that dominates another that goes on, is
never held back. It is off unless asked for: that it finds the same front for half of the training has not been shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundation.errors import UserError
from pipeline.study.pareto import Point, dominates, front, hypervolume

Decision = Literal["go on", "stop"]


@dataclass(frozen=True)
class Rungs:
    """The ends of stages, at which trials are compared.

    Attributes:
        places: the ends of a trial's stages (``Rung.place``), in order; at the last nothing is decided any more.
        compared: at so many of them, counted from the last, trials are compared; None: at all.
        eta: at each rung the best 1/eta go on.
        at_least: so many always go on at a rung, so that a small study keeps a front to choose from.
    """

    places: tuple[tuple[str, float], ...]
    compared: int | None = None
    eta: int = 3
    at_least: int = 4

    def __post_init__(self) -> None:
        if not self.places or len(set(self.places)) < len(self.places):
            raise UserError(f"rungs {self.places}: give at least one, each once")
        if self.eta < 2 or self.at_least < 1:
            raise UserError(
                f"eta {self.eta}, at least {self.at_least}: eta must be 2 or more, at_least 1 or more"
            )

    def keeps(self, count: int) -> int:
        """How many of ``count`` trials at a rung go on."""
        return max(self.at_least, math.ceil(count / self.eta))

    def compares(self, rung: int) -> bool:
        """Whether anything is decided at ``rung``."""
        left = len(self.places) - 1 - rung
        return left > 0 and (self.compared is None or left < self.compared)

    def decide(
        self, rung: int, candidate: Point, others: Sequence[Point], stopped: Sequence[Point] = ()
    ) -> Decision:
        """Whether the candidate goes on from ``rung`` (index into ``places``).

        Args:
            candidate: its objectives at this rung: the error there, with its known latency and size.
            others: the objectives that earlier trials which went on had at this same rung.
            stopped: likewise of those that did not.
        """
        if not self.compares(rung):
            return "go on"
        if any(math.isnan(value) for value in candidate):
            return "stop"
        others, stopped = (  # nobody is compared with what is no number
            [point for point in points if not any(map(math.isnan, point))] for points in (others, stopped)
        )
        everyone = [*others, *stopped, candidate]
        if all(candidate[0] < other[0] for other in everyone[:-1]):
            return "go on"
        if any(dominates(candidate, other) for other in others):
            return "go on"
        *before, mine = standings(everyone)
        # Ties go to the earlier trial: it has had its decision already.
        better = sum(standing >= mine for standing in before)
        return "go on" if better < self.keeps(len(everyone)) else "stop"


def standings(points: Sequence[Point]) -> list[float]:
    """How much each point is worth among all, objectives in units of their range.

    Of one that no other dominates, the volume that it alone dominates, within a corner a tenth beyond the worst of each
    objective. Of another, less than 0: how far it is, on average over the objectives, behind a point that dominates it.
    """
    columns = list(zip(*points))
    low, span = [min(c) for c in columns], [max(c) - min(c) or 1.0 for c in columns]
    scaled = [tuple((v - b) / s for v, b, s in zip(point, low, span)) for point in points]
    best = set(front(scaled))
    members = [scaled[i] for i in sorted(best)]
    corner = (1.1,) * len(low)
    whole = hypervolume(members, corner)
    found = []
    for index, point in enumerate(scaled):
        if index in best:
            others = list(members)
            others.remove(point)
            found.append(max(0.0, whole - hypervolume(others, corner)))
        else:
            # Of all that dominate it, one that nothing dominates is farthest ahead.
            above = [other for other in members if dominates(other, point)]
            found.append(-max(sum(p - o for p, o in zip(point, other)) for other in above) / len(point))
    return found


def always(budget: int, warm_starts: int, halving: str) -> int:
    """How many trials go on at a rung whatever they show: all with ``halving`` off, else as many as there are warm starts."""
    return budget if halving == "off" else max(Rungs.at_least, warm_starts)
