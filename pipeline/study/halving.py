"""Successive halving over several objectives: who goes on at a rung. Numbers in, decisions out.

Asynchronous, as in ASHA (Li et al. 2020, arXiv:1810.05934): a trial is judged when it reaches a rung, against all that
reached it before. Trials are ordered by non-domination rank, then by crowding distance (as in MO-ASHA, Schmucker et al.
2021, arXiv:2106.12639), so the least trained of the front's crowded middle go first and its extremes stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundation.errors import UserError
from pipeline.study.pareto import Point, crowding, ranks

Decision = Literal["go on", "stop"]


@dataclass(frozen=True)
class Rungs:
    """The budgets at which trials are compared.

    Attributes:
        budgets: epochs of co-tuning, ascending; the last is the full budget, where nothing is decided any more.
        eta: at each rung the best 1/eta go on.
        at_least: so many always go on at a rung, so that a small study keeps a front to choose from.
    """

    budgets: tuple[float, ...]
    eta: int = 3
    at_least: int = 4

    def __post_init__(self) -> None:
        if (
            not self.budgets
            or self.budgets[0] <= 0
            or any(a >= b for a, b in zip(self.budgets, self.budgets[1:]))
        ):
            raise UserError(f"rungs {self.budgets}: give ascending numbers of epochs above 0")
        if self.eta < 2 or self.at_least < 1:
            raise UserError(
                f"eta {self.eta}, at least {self.at_least}: eta must be 2 or more, at_least 1 or more"
            )

    def keeps(self, count: int) -> int:
        """How many of ``count`` trials at a rung go on."""
        return max(self.at_least, math.ceil(count / self.eta))

    def decide(self, rung: int, candidate: Point, others: Sequence[Point]) -> Decision:
        """Whether the candidate goes on from ``rung`` (index into ``budgets``).

        Args:
            candidate: its objectives at this rung: the error there, with its known latency and size.
            others: the objectives that earlier trials had at this same rung, stopped ones included.
        """
        if rung >= len(self.budgets) - 1:
            return "go on"
        if any(math.isnan(value) for value in candidate):
            return "stop"
        everyone = [*others, candidate]
        rank = ranks(everyone)
        distance = [0.0] * len(everyone)
        for level in set(rank):
            members = [i for i, r in enumerate(rank) if r == level]
            for i, value in zip(members, crowding([everyone[i] for i in members])):
                distance[i] = value
        mine = len(everyone) - 1
        # Ties go to the earlier trial: it has had its decision already.
        better = sum((rank[i], -distance[i]) <= (rank[mine], -distance[mine]) for i in range(mine))
        return "go on" if better < self.keeps(len(everyone)) else "stop"


def rung_budgets(epochs: float, eta: int = 3, count: int = 3) -> tuple[float, ...]:
    """``count`` budgets that end at ``epochs``, each ``eta`` times the one before.

    >>> rung_budgets(9.0, 3, 3)
    (1.0, 3.0, 9.0)
    """
    if epochs <= 0 or count < 1 or eta < 2:
        raise UserError(
            f"{epochs} epochs in {count} rungs with eta {eta}: all must be positive and eta 2 or more"
        )
    return tuple(epochs / eta ** (count - 1 - i) for i in range(count))
